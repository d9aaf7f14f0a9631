//! `aralez -c main.yaml`: the reverse proxy.

use std::{process::ExitCode, sync::Arc};

use super::{Failure, Outside, life, serve};
use crate::{
    cli::{ProcessOptions, SCRAPE_PATH, ServeOptions},
    config::{main_file::MainFile, upstreams},
    control::{
        ingress::{
            self,
            keys::Keys,
            pools::{Pools, Settings},
        },
        watches::Watches,
    },
    telemetry::Telemetry,
};

/// Serves what the file says until a signal.
///
/// # Errors
/// [`Failure::Configuration`] with everything that is wrong in the files.
pub(super) fn run(options: ServeOptions) -> Result<ExitCode, Failure> {
    let mut main = MainFile::load(&options.conf).map_err(|faults| Failure::Configuration(faults.into()))?;
    let routes = upstreams::load(&main).map_err(|faults| Failure::Configuration(faults.into()))?;
    main.process.upgrade = options.upgrade;
    main.process.daemon |= options.daemon;
    let process = ProcessOptions { admin: options.admin, settings: main.process };
    life::enter(&process, |standing, log| {
        let telemetry = Arc::new(Telemetry::start()?);
        let outside = Outside { ready: None, scrape_path: SCRAPE_PATH.to_owned() };
        let watches = Arc::new(Watches::default());
        let (known, metrics) = (watches.clone(), telemetry.clone());
        let shown = Arc::new(move || serde_json::json!(watches.snapshot()));
        serve(&process, standing, outside, telemetry, log, shown, |feed, _, stop| async move {
            let feed = feed.ingress();
            let mut pools = Pools::new(feed.clone(), Settings::default(), known.clone());
            metrics.metrics.server_health_from(pools.health());
            let mut keys = Keys::new(feed.clone(), known);
            ingress::start(Arc::new(main.listeners), Arc::new(routes.routing), &mut pools, &mut keys, &feed).await;
            stop.cancelled().await;
            Ok(())
        })
    })
}
