//! The addresses of a host name: asked for again as its TTL says, the last good answer kept.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::TokioResolver;
use tokio::time::sleep;
use tracing::info;

use super::{notes::Notes, observed::Observed};

/// A name is asked for at most this often, whatever its TTL …
const FLOOR: Duration = Duration::from_secs(1);
/// … and at least this often: a name that moves is followed, however long its TTL.
const CEILING: Duration = Duration::from_secs(30);

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// All its addresses, in order of their numbers: answers come in any order.
    pub list: Arc<[IpAddr]>,
    /// Whether there was an answer, or a failure.
    pub settled: bool,
}

/// Keeps the addresses of a name fresh until it is dropped.
pub async fn follow(resolver: Arc<Result<TokioResolver, String>>, name: Arc<str>, now: Arc<Observed<Addresses>>, notes: Arc<Notes>) {
    let note = notes.note("dns", &*name);
    let mut failures = 0_u32;
    loop {
        let pause = match look(&resolver, &name).await {
            Ok((list, valid)) => {
                failures = 0;
                note.clear();
                let before = now.get();
                if before.settled && before.list != list {
                    info!(name = &*name, addresses = ?list, "a name has other addresses");
                }
                now.set(Addresses { list, settled: true });
                valid.clamp(FLOOR, CEILING)
            }
            Err(why) => {
                failures = failures.saturating_add(1);
                let kept = now.get().list;
                let consequence = if kept.is_empty() { "requests for it are answered by 503" } else { "its last addresses stay in use" };
                note.set(format!("it does not resolve: {why}; {consequence}"), "correct the name, or see to the name servers");
                now.set(Addresses { list: kept, settled: true });
                (FLOOR * (1 << (failures - 1).min(5))).min(CEILING)
            }
        };
        // Names that were learned together are asked for apart.
        sleep(pause.mul_f64(1.0 + fastrand::f64() / 10.0)).await;
    }
}

/// All addresses of a name, and for how long they are valid.
async fn look(resolver: &Result<TokioResolver, String>, name: &str) -> Result<(Arc<[IpAddr]>, Duration), String> {
    let found = resolver.as_ref().map_err(Clone::clone)?.lookup_ip(name).await.map_err(|e| e.to_string())?;
    let mut list: Vec<IpAddr> = found.iter().collect();
    list.sort_unstable();
    list.dedup();
    if list.is_empty() {
        return Err("it has no address".to_owned());
    }
    Ok((list.into(), found.valid_until().saturating_duration_since(Instant::now())))
}
