//! `aralez -c main.yaml`: the reverse proxy.

mod api;

use std::{process::ExitCode, sync::Arc};

use openssl::sha::sha256;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{Around, Failure, Outside, life, serve};
use crate::{
    cli::{ProcessOptions, SCRAPE_PATH, ServeOptions},
    config::{fault::Faults, main_file::MainFile, shown::shown, upstreams},
    control::{
        ingress::{
            self,
            keys::Keys,
            pools::{Pools, Settings},
            reload::{Files, Loaded, Routes, certificates},
        },
        reconciler::IngressFeed,
        watches::Watches,
    },
    telemetry::Telemetry,
};

/// Wishes to read files anew that may wait to be heard.
const WAITING_WISHES: usize = 4;

/// Serves what the file says until a signal.
///
/// # Errors
/// [`Failure::Configuration`] with everything that is wrong in the files.
pub(super) fn run(options: ServeOptions) -> Result<ExitCode, Failure> {
    let wrong = |faults: Faults| Failure::Configuration(faults.into());
    let mut main = MainFile::load(&options.conf).map_err(wrong)?;
    let routes = load(&main, None).map_err(wrong)?;
    main.process.upgrade = options.upgrade;
    main.process.daemon |= options.daemon;
    let process = ProcessOptions { admin: options.admin, settings: main.process.clone() };
    life::enter(&main.process.clone(), |standing, log| {
        let telemetry = Arc::new(Telemetry::start()?);
        let outside = Outside { ready: None, scrape_path: SCRAPE_PATH.to_owned() };
        let watches = Arc::new(Watches::default());
        let known = watches.clone();
        let shown = Arc::new(move || serde_json::json!(watches.snapshot()));
        serve(&process, standing, outside, telemetry.clone(), log, shown, |feed, around, stop| {
            source(Arc::new(main), routes, Sinks { feed: feed.ingress(), telemetry, watches: known }, around, stop)
        })
    })
}

/// Where the source tells what it finds.
struct Sinks {
    feed: IngressFeed,
    telemetry: Arc<Telemetry>,
    watches: Arc<Watches>,
}

/// Feeds what the files say, and what is pushed, until `stop`.
async fn source(main: Arc<MainFile>, routes: Loaded, sinks: Sinks, around: Around, stop: CancellationToken) -> Result<(), Failure> {
    let Sinks { feed, telemetry, watches } = sinks;
    let (wishes, heard) = broadcast::channel(WAITING_WISHES);
    if let Some(folder) = main.certificates.clone().filter(|_| main.listeners.tls.is_some()) {
        tokio::spawn(certificates::run(folder, feed.clone(), telemetry.clone(), wishes.subscribe(), stop.clone()));
    }
    let settings = Settings { consul: routes.consul.clone(), ..Settings::default() };
    let mut pools = Pools::new(feed.clone(), settings, watches.clone());
    let mut keys = Keys::new(feed.clone(), watches);
    ingress::start(Arc::new(main.listeners.clone()), routes.routing.clone(), &mut pools, &mut keys, &feed).await;
    let read = main.clone();
    let files = Files {
        main: main.upstreams.clone(),
        folder: main.routes_folder(),
        load: Arc::new(move |pushed| load(&read, pushed).map_err(|faults| faults.0.iter().map(Into::into).collect())),
    };
    let (routes, pushes) = Routes::new(files, routes, pools, keys, feed, telemetry.clone());
    tokio::spawn(routes.run(heard, stop.clone()));
    let Around { mut reloads, snapshots, bindings, sockets, alone } = around;
    api::start(&main.api, &sockets, api::Behind { pushes, snapshots, bindings, telemetry }, &alone)?;
    while let Some(Some(wish)) = stop.run_until_cancelled(reloads.recv()).await {
        // Nobody listens only when all is about to end.
        let _ = wishes.send(Arc::new(wish));
    }
    stop.cancelled().await;
    Ok(())
}

/// Reads the routes' files, with a pushed text in the place of the first, and checks them.
fn load(main: &MainFile, pushed: Option<&str>) -> Result<Loaded, Faults> {
    let texts = upstreams::texts(main, pushed)?;
    let upstreams::Upstreams { routing, consul, also_read } = upstreams::parse(&texts, main)?;
    let shown = shown(&texts);
    // Of what is shown: a digest that anybody may see must not hold a password.
    let version: String = sha256(shown.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(Loaded { routing: Arc::new(routing), consul, also_read, shown: shown.into(), version: version.into() })
}
