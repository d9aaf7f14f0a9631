//! Host names where Consul usually has IP addresses: resolved, IPv4 first, again every 10 s, the last good answer kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures_util::future::join_all;
use hickory_resolver::{TokioResolver, config::LookupIpStrategy};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use crate::control::dns;

/// How often names are resolved again, and the longest that an answer is cached: the refresh of Consul's Envoy path.
const REFRESH: Duration = Duration::from_secs(10);

/// Resolves host names by the system's configuration (`/etc/hosts` included).
#[derive(Debug)]
pub struct Names {
    resolver: Result<TokioResolver, String>,
    last: Mutex<BTreeMap<String, IpAddr>>,
}

/// The addresses of host names at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved(BTreeMap<String, Result<IpAddr, String>>);

impl Resolved {
    /// The address that a text is or names.
    ///
    /// # Errors
    /// Why the name has none, in words.
    pub fn ip(&self, host: &str) -> Result<IpAddr, String> {
        match host.parse() {
            Ok(ip) => Ok(ip),
            Err(_) => self.0.get(host).cloned().unwrap_or_else(|| Err("it is not an IP address".to_owned())),
        }
    }
}

impl<const N: usize> From<[(&str, IpAddr); N]> for Resolved {
    fn from(known: [(&str, IpAddr); N]) -> Self {
        Self(known.into_iter().map(|(host, ip)| (host.to_owned(), Ok(ip))).collect())
    }
}

impl Names {
    /// A resolver of the system's configuration. Where there is none, names do not resolve and say why.
    pub fn new() -> Self {
        let resolver = dns::resolver(&[], |options| {
            options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
            options.positive_max_ttl = Some(REFRESH);
            options.negative_max_ttl = Some(REFRESH);
        });
        Self { resolver, last: Mutex::default() }
    }

    /// Resolves all `hosts` at once.
    pub async fn resolve(&self, hosts: BTreeSet<String>) -> Resolved {
        let answers = join_all(hosts.iter().map(|host| self.lookup(host))).await;
        Resolved(hosts.iter().cloned().zip(answers).collect())
    }

    /// One address of a host: the one it had before if that is still among its addresses, so that the order of a DNS
    /// answer moves nothing.
    async fn lookup(&self, host: &str) -> Result<IpAddr, String> {
        let found = match &self.resolver {
            Ok(resolver) => resolver.lookup_ip(host).await.map_err(|e| e.to_string()),
            Err(why) => Err(why.clone()),
        };
        let mut known = self.last.lock();
        let last = known.get(host).copied();
        let chosen = found.and_then(|found| {
            let mut all = found.iter();
            let first = all.next().ok_or_else(|| "it has no address".to_owned())?;
            Ok(last.filter(|last| *last == first || all.any(|ip| ip == *last)).unwrap_or(first))
        });
        match (chosen, last) {
            (Ok(ip), _) => {
                known.insert(host.to_owned(), ip);
                Ok(ip)
            }
            (Err(_), Some(last)) => Ok(last),
            (Err(why), None) => Err(format!("it does not resolve: {why}")),
        }
    }
}

/// Hands each new value to `emit` with the addresses of its `hosts`, and again whenever these have changed.
///
/// Ends when no more values can come.
pub async fn follow<T: Clone>(
    names: &Names,
    mut values: watch::Receiver<Option<T>>,
    hosts: impl Fn(&T) -> BTreeSet<String>,
    mut emit: impl FnMut(&T, &Resolved),
) {
    let mut emitted: Option<Resolved> = None;
    loop {
        let value = values.borrow_and_update().clone();
        let Some(value) = value else {
            if values.changed().await.is_err() {
                return;
            }
            continue;
        };
        let wanted = hosts(&value);
        let fixed = wanted.is_empty();
        let resolved = names.resolve(wanted).await;
        if emitted.as_ref() != Some(&resolved) {
            emit(&value, &resolved);
            emitted = Some(resolved);
        }
        let changed = values.changed();
        let ended = if fixed {
            changed.await.map(|()| emitted = None).is_err()
        } else {
            match timeout(REFRESH, changed).await {
                Ok(changed) => changed.map(|()| emitted = None).is_err(),
                Err(_) => false,
            }
        };
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {

    use std::sync::Arc;

    use tokio::sync::{Notify, watch};

    use super::*;

    #[test]
    fn addresses_need_no_resolution_and_unknown_names_say_so() {
        let resolved = Resolved::from([("db.internal", [10, 0, 0, 1].into())]);
        assert_eq!(resolved.ip("::1"), Ok("::1".parse().unwrap()));
        assert_eq!(resolved.ip("db.internal"), Ok([10, 0, 0, 1].into()));
        assert!(resolved.ip("other.internal").is_err() && resolved.ip("").is_err());
    }

    #[tokio::test]
    async fn the_hosts_file_counts_and_ipv4_comes_first() {
        let resolved = Names::new().resolve(["localhost".to_owned()].into()).await;
        assert_eq!(resolved.ip("localhost"), Ok([127, 0, 0, 1].into()));
    }

    #[tokio::test]
    async fn the_last_good_answer_outlives_a_failure() {
        let names = Names { resolver: Err("no resolver".to_owned()), last: Mutex::default() };
        let host = || BTreeSet::from(["db.internal".to_owned()]);
        assert!(names.resolve(host()).await.ip("db.internal").unwrap_err().contains("no resolver"));
        names.last.lock().insert("db.internal".to_owned(), [10, 0, 0, 1].into());
        assert_eq!(names.resolve(host()).await.ip("db.internal"), Ok([10, 0, 0, 1].into()));
    }

    #[tokio::test(start_paused = true)]
    async fn values_are_handed_on_at_once_and_again_when_a_name_moves() {
        let names = Arc::new(Names { resolver: Err("no resolver".to_owned()), last: Mutex::default() });
        let (sender, receiver) = watch::channel(Some("db.internal"));
        let (seen, told) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let following = tokio::spawn({
            let (names, seen, told) = (names.clone(), seen.clone(), told.clone());
            async move {
                let hosts = |host: &&str| BTreeSet::from([(*host).to_owned()]);
                follow(&names, receiver, hosts, |host, resolved| {
                    seen.lock().push((*host, resolved.ip(host).is_ok()));
                    told.notify_one();
                })
                .await;
            }
        });
        told.notified().await;
        names.last.lock().insert("db.internal".to_owned(), [10, 0, 0, 1].into());
        told.notified().await;
        sender.send_replace(Some("127.0.0.1"));
        told.notified().await;
        drop(sender);
        following.await.unwrap();
        assert_eq!(*seen.lock(), [("db.internal", false), ("db.internal", true), ("127.0.0.1", true)]);
    }
}
