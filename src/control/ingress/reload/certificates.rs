//! The folder of certificates.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::broadcast, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    control::{
        ingress::{
            reload::{Reread, some},
            watch::{Place, Watch},
        },
        reconciler::{IngressChange, IngressFeed},
    },
    model::{ingress::Certificates, registration::Unusable},
    telemetry::{
        Telemetry,
        metrics::{ReloadOf, Reloaded},
    },
};

/// What the problems of the folder are filed under.
pub const SOURCE: &str = "certificates";

/// The endings of files that belong to a pair.
const ENDINGS: &[&str] = &["crt", "pem", "key", "ocsp"];

/// Reads the folder, and keeps of the certificates before it those whose files cannot be used now; with all that is wrong.
pub type Load = Arc<dyn Fn(&Certificates) -> (Certificates, Vec<Unusable>) + Send + Sync>;

/// How often the folder is read although nothing in it changed: what it holds grows old.
const AGES: Duration = Duration::from_secs(3600);

/// How long to wait before looking for what has grown old: until the first stapled answer ends, at most [`AGES`].
fn fresh_for(known: &Certificates) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ends = known.pairs.iter().filter_map(|pair| u64::try_from(pair.ocsp.as_ref()?.until).ok());
    ends.filter_map(|end| Duration::from_secs(end).checked_sub(now)).min().map_or(AGES, |first| first.min(AGES))
}

/// Follows the folder, and wishes to read it anew, until `stop`. A pair that cannot be used holds no other back.
pub async fn run(
    folder: PathBuf,
    load: Load,
    first: Arc<Certificates>,
    feed: IngressFeed,
    telemetry: Arc<Telemetry>,
    mut wishes: broadcast::Receiver<Reread>,
    stop: CancellationToken,
) {
    let mut known = first;
    let mut watch = Watch::new([Place::Folder { path: folder, endings: ENDINGS }]);
    loop {
        let _fulfilled = tokio::select! {
            () = stop.cancelled() => return,
            () = watch.changed() => None,
            Ok(wish) = wishes.recv() => Some(wish),
            () = sleep(fresh_for(&known)) => None,
        };
        let (load, last) = (load.clone(), known.clone());
        let (certificates, problems) = watch.read(move || load(&last)).await;
        let changes = certificates != *known;
        telemetry.metrics.reloaded(
            ReloadOf::Certificates,
            match (problems.is_empty(), changes) {
                (false, _) => Reloaded::Refused(&problems),
                (true, true) => Reloaded::Applied,
                (true, false) => Reloaded::Unchanged,
            },
        );
        feed.send(IngressChange::Problems { source: SOURCE.into(), problems });
        if changes {
            info!(pairs = certificates.pairs.len(), changes = some(&certificates.changes_since(&known)), "new certificates");
            known = Arc::new(certificates);
            feed.send(IngressChange::Certificates(known.clone()));
        }
    }
}
