//! The configuration API, joined to what is behind it.

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    admin::{
        config_api::{Accepted, ConfigApi, InForce, Later, MasterKey, Pushed, Refused, tls::Identity},
        tokens,
    },
    config::{
        fault::{self, Fault, Faults},
        main_file::{ApiSettings, ApiTls, MainFile},
    },
    control::ingress::{
        reload::{NotTaken, Push, Pushes},
        watch::{Place, Watch},
    },
    model::listener::Bind,
    process::sockets::Sockets,
    proxy::bindings::Bindings,
    snapshot::Subscriber,
    telemetry::Telemetry,
};

/// What the API stands on.
pub(super) struct Behind {
    pub(super) pushes: Pushes,
    pub(super) snapshots: Subscriber,
    pub(super) bindings: Arc<Bindings>,
    pub(super) telemetry: Arc<Telemetry>,
}

/// Whether the certificate of `config_tls_address` can be used.
///
/// # Errors
/// [`Faults`] with why not.
pub(in crate::app) fn check(main: &MainFile) -> Result<(), Faults> {
    let Some(tls) = &main.api.tls else { return Ok(()) };
    let fault = |why| Fault {
        place: fault::Place::start(Some(main.path.display().to_string().into())),
        what: format!("config_tls_address cannot be served: {why:#}"),
        advice: "let config_tls_certificate and config_tls_key_file name PEM files that belong together".to_owned(),
    };
    Identity::load(&tls.certificate, &tls.key).map(drop).map_err(|why: anyhow::Error| Faults(vec![fault(why)]))
}

/// Starts the listeners that the settings name.
///
/// # Errors
/// When an address cannot be listened on, or the certificate cannot be used.
pub(super) fn start(settings: &ApiSettings, sockets: &Sockets, behind: Behind, stop: &CancellationToken) -> anyhow::Result<()> {
    let api = join(settings, behind);
    let listen = |bind: &Bind| -> anyhow::Result<TcpListener> {
        let socket =
            sockets.listen_for_good(bind).with_context(|| format!("cannot listen on {} for the configuration API", bind.address))?;
        tracing::info!(address = %bind.address, "configuration API");
        Ok(socket.into())
    };
    if let Some(bind) = &settings.address {
        tokio::spawn(api.clone().serve(listen(bind)?, stop.clone().cancelled_owned()));
    }
    if let Some(tls) = &settings.tls {
        let identity = Arc::new(Identity::load(&tls.certificate, &tls.key).context("config_tls_address cannot be served")?);
        tokio::spawn(follow(tls.clone(), identity.clone(), stop.clone()));
        tokio::spawn(api.serve_tls(listen(&tls.address)?, identity, stop.clone().cancelled_owned()));
    }
    Ok(())
}

fn join(settings: &ApiSettings, behind: Behind) -> ConfigApi {
    let Behind { pushes, snapshots, bindings, telemetry } = behind;
    let (shown, guards, key) = (pushes.clone(), bindings.clone(), settings.master_key.clone());
    ConfigApi {
        key: Arc::new(MasterKey::new(settings.master_key.as_ref())),
        enabled: settings.enabled,
        snapshots,
        telemetry,
        protection: Arc::new(move |listener, target| Some(serde_json::json!(guards.protection(listener, target)?))),
        push: Arc::new(move |pushed| push(pushes.clone(), bindings.clone(), pushed)),
        in_force: Arc::new(move || {
            let now = shown.in_force();
            InForce {
                shown: now.loaded.shown.clone(),
                version: now.loaded.version.clone(),
                pushed: now.pushed,
                since: now.since.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs(),
            }
        }),
        issue: Arc::new(move |body, media_type| tokens::issue(body, media_type, key.as_ref(), SystemTime::now())),
    }
}

/// Hands a configuration over and waits until the listeners follow it.
fn push(pushes: Pushes, bindings: Arc<Bindings>, Pushed { text, save, dry_run }: Pushed) -> Later<Result<Accepted, Refused>> {
    Box::pin(async move {
        let taken = pushes.push(Push { text, save, dry_run }).await.map_err(|why| match why {
            NotTaken::Wrong(problems) => Refused::Wrong(problems),
            why => Refused::Failed(why.to_string()),
        })?;
        if let Some(generation) = taken.generation {
            bindings.applied(generation).await;
        }
        Ok(Accepted { version: taken.version, changes: taken.changes })
    })
}

/// Shows clients the certificate that the files hold.
async fn follow(ApiTls { certificate, key, .. }: ApiTls, identity: Arc<Identity>, stop: CancellationToken) {
    let mut watch = Watch::new([Place::File(certificate.clone()), Place::File(key.clone())]);
    while stop.run_until_cancelled(watch.changed()).await.is_some() {
        if let Err(why) = identity.reload(&certificate, &key) {
            tracing::warn!(why = format!("{why:#}"), "the certificate of the configuration API stays as it was");
        }
    }
}
