//! `aralez -c main.yaml`: the reverse proxy.

pub(super) mod api;

use std::{process::ExitCode, sync::Arc};

use openssl::sha::sha256;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{Around, Failure, Outside, life, serve};
use crate::{
    cli::{ProcessOptions, SCRAPE_PATH, ServeOptions},
    config::{changes, fault::Faults, main_file::MainFile, shown, upstreams},
    control::{
        ingress::{
            acme, certificates,
            keys::Keys,
            pools::{Pools, Settings},
            reload::{self, Files, Loaded, Reread, Routes},
        },
        reconciler::{IngressChange, IngressFeed},
        watches::Watches,
    },
    model::{ingress::Certificates, metrics::Compat},
    telemetry::Telemetry,
};

/// Wishes to read everything anew that may wait for whoever is still at the one before.
const WAITING_WISHES: usize = 4;

/// Serves what the file says until a signal.
///
/// # Errors
/// [`Failure::Configuration`] with everything that is wrong in the files.
pub(super) fn run(options: ServeOptions) -> Result<ExitCode, Failure> {
    let wrong = |faults: Faults| Failure::Configuration(faults.into());
    let mut main = MainFile::load(&options.conf).map_err(wrong)?;
    let routes = load(&main, None).map_err(wrong)?;
    api::check(&main).map_err(wrong)?;
    main.process.upgrade = options.upgrade;
    main.process.daemon |= options.daemon;
    let process = ProcessOptions { admin: options.admin, settings: main.process.clone() };
    life::enter(&process, |standing, log| {
        let telemetry = Arc::new(Telemetry::start()?);
        match main.compat {
            Some(Compat::Envoy) => telemetry.metrics.export_envoy(),
            None => {}
        }
        let outside = Outside { ready: None, scrape_path: SCRAPE_PATH.to_owned() };
        let watches = Arc::new(Watches::default());
        let known = watches.clone();
        let counted = watches.clone();
        telemetry.metrics.watch_failures_from(move || counted.snapshot().into_iter().map(|watch| (watch.name, watch.failures)).collect());
        let told = Arc::new(move || serde_json::json!(watches.snapshot()));
        serve(&process, standing, outside, telemetry.clone(), log, told, |feed, around, stop| {
            Source { main: Arc::new(main), feed: feed.ingress(), telemetry, watches: known, stop }.run(routes, around)
        })
    })
}

/// What feeds the data plane.
struct Source {
    main: Arc<MainFile>,
    feed: IngressFeed,
    telemetry: Arc<Telemetry>,
    watches: Arc<Watches>,
    stop: CancellationToken,
}

impl Source {
    /// Feeds what the files say, and what is pushed, until the end.
    async fn run(self, routes: Loaded, around: Around) -> Result<(), Failure> {
        let Self { main, feed, telemetry, watches, stop } = &self;
        let (wishes, heard) = broadcast::channel(WAITING_WISHES);
        self.certificates(heard.resubscribe()).await;
        let own = main.process.listen.iter().map(|bind| bind.address.clone()).collect();
        let kubernetes = routes.kubernetes.as_ref().map(|kubernetes| kubernetes.cluster.clone());
        let settings = Settings { dns_servers: main.dns_servers.clone(), consul: routes.consul.clone(), kubernetes, own };
        let pools = Pools::new(feed.clone(), settings, watches.clone());
        telemetry.metrics.server_health_from(pools.health());
        let keys = Keys::new(feed.clone(), watches.clone());
        feed.send(IngressChange::Listeners(Arc::new(main.listeners.clone())));
        let read = main.clone();
        let files = Files {
            main: main.upstreams.clone(),
            folder: main.routes_folder(),
            load: Arc::new(move |pushed| load(&read, pushed).map_err(|faults| faults.0.iter().map(Into::into).collect())),
        };
        let (routes, pushes) = Routes::new(files, routes, pools, keys, feed.clone(), telemetry.clone());
        tokio::spawn(routes.run(heard, stop.clone()));
        let Around { mut reloads, snapshots, bindings, sockets, alone } = around;
        api::start(&main.api, &sockets, api::Behind { pushes, snapshots, bindings, telemetry: telemetry.clone() }, &alone)?;
        while let Some(Some(wish)) = stop.run_until_cancelled(reloads.recv()).await {
            self.compare_main();
            // Nobody listens only when all is about to end.
            let _ = wishes.send(Arc::new(wish));
        }
        stop.cancelled().await;
        Ok(())
    }

    /// Says what of `main.yaml` is not what this process was started with: it is not read anew.
    fn compare_main(&self) {
        let (path, file) = (&self.main.path, self.main.path.display());
        // A pipe can be read only once.
        if path.exists() && !path.is_file() {
            return;
        }
        match MainFile::load(path) {
            Ok(now) => match changes::between(&self.main.shown, &now.shown).join("; ") {
                changes if changes.is_empty() => {}
                changes => tracing::warn!(%file, changes, "is read at a start only: restart, or let a new process take over with -upgrade"),
            },
            Err(faults) => tracing::warn!(%file, why = %faults, "is not what this process was started with: a restart would fail"),
        }
    }

    /// Reads the folder of certificates and goes on following it, and orders those that an ACME server issues.
    async fn certificates(&self, wishes: broadcast::Receiver<Reread>) {
        let Self { main, feed, telemetry, stop, .. } = self;
        let Some(folder) = &main.certificates else { return };
        let (path, default) = (folder.clone(), main.default_certificate.clone());
        let load: reload::certificates::Load = Arc::new(move |last| {
            let (certificates, problems) = certificates::load(&path, last);
            (Certificates { default: default.clone().or(certificates.default), ..certificates }, problems)
        });
        let (first, problems) = load(&Certificates::default());
        let first = Arc::new(first);
        feed.send(IngressChange::Problems { source: reload::certificates::SOURCE.into(), problems });
        feed.send(IngressChange::Certificates(first.clone()));
        let following = reload::certificates::run(folder.clone(), load, first, feed.clone(), telemetry.clone(), wishes, stop.clone());
        tokio::spawn(following);
        if let Some(settings) = main.acme.clone() {
            tokio::spawn(acme::run(settings, feed.clone(), stop.clone()));
        }
    }
}

/// What the routes' files say, without secrets.
///
/// # Errors
/// [`Faults`] with each file that cannot be read.
pub(super) fn shown(main: &MainFile) -> Result<String, Faults> {
    Ok(shown::shown(&upstreams::texts(main, None)?))
}

/// Reads the routes' files, with a pushed text in the place of the first, and checks them.
fn load(main: &MainFile, pushed: Option<&str>) -> Result<Loaded, Faults> {
    let texts = upstreams::texts(main, pushed)?;
    let upstreams::Upstreams { routing, consul, kubernetes, also_read } = upstreams::parse(&texts, main)?;
    let shown = shown::shown(&texts);
    // Of what is shown: a digest that anybody may see must not hold a password.
    let version: String = sha256(shown.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Ok(Loaded { routing: Arc::new(routing), consul, kubernetes, also_read, shown: shown.into(), version: version.into() })
}
