//! The folder of certificates, followed.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Reread;
use crate::{
    control::{
        ingress::{
            certificates::load,
            watch::{Place, Watch},
        },
        reconciler::{IngressChange, IngressFeed},
    },
    model::ingress::Certificates,
    telemetry::{
        Telemetry,
        metrics::{ReloadOf, Reloaded},
    },
};

/// What the problems of the folder are filed under.
const SOURCE: &str = "certificates";

/// The endings of files that belong to a pair.
const ENDINGS: &[&str] = &["crt", "pem", "key", "ocsp"];

/// Tells what the folder holds: at first, after each change, and when somebody wishes it read anew, until `stop`. A pair that cannot be used holds no other
/// back, and stays as it was.
pub async fn run(
    folder: PathBuf,
    feed: IngressFeed,
    telemetry: Arc<Telemetry>,
    mut wishes: broadcast::Receiver<Reread>,
    stop: CancellationToken,
) {
    let mut known = None::<Arc<Certificates>>;
    let mut watch = Watch::new([Place::Folder { path: folder.clone(), endings: ENDINGS }]);
    loop {
        let (folder, last) = (folder.clone(), known.clone().unwrap_or_default());
        let (certificates, problems) = watch.read(move || load(&folder, &last)).await;
        let changes = known.as_deref() != Some(&certificates);
        telemetry.metrics.reloaded(
            ReloadOf::Certificates,
            match (problems.is_empty(), changes) {
                (false, _) => Reloaded::Refused,
                (true, true) => Reloaded::Applied,
                (true, false) => Reloaded::Unchanged,
            },
        );
        feed.send(IngressChange::Problems { source: SOURCE.into(), problems });
        if changes {
            info!(pairs = certificates.pairs.len(), "new certificates");
            let certificates = Arc::new(certificates);
            feed.send(IngressChange::Certificates(certificates.clone()));
            known = Some(certificates);
        }
        let _fulfilled = tokio::select! {
            () = stop.cancelled() => return,
            () = watch.changed() => None,
            Ok(wish) = wishes.recv() => Some(wish),
        };
    }
}
