//! Pools over time: names that move, servers that die, routings that come.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use aralez_integration::{
    apps::{h2c_echo, http_echo, https_echo},
    dns::Dns,
    net::Address,
    web_pki::WebCa,
};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{pool, quick, routing, saying, server};
use crate::{
    control::{
        ingress::{
            self,
            keys::Keys,
            pools::{PATIENCE, Pools, Settings},
        },
        reconciler,
    },
    model::{
        cluster::Endpoint,
        ingress::{
            IngressListeners, PoolSource,
            pool::{HealthCheck, Pool, Scheme, Server, ServerTls},
        },
        listener::{Address as Listens, Bind, Role},
        secret::Secret,
    },
    snapshot::{self, Snapshot, Subscriber},
};

/// What must come within the bounds of this room comes within this.
const SOON: Duration = Duration::from_secs(20);

/// Pools with a reconciler behind them.
pub struct Bench {
    pub pools: Pools,
    keys: Keys,
    feed: reconciler::IngressFeed,
    snapshots: Subscriber,
}

impl Bench {
    pub fn start(settings: Settings) -> Self {
        let (feed, reconciler) = reconciler::channel();
        let (publisher, snapshots) = snapshot::channel();
        tokio::spawn(reconciler.run(publisher, CancellationToken::new()));
        let feed = feed.ingress();
        feed.send(reconciler::IngressChange::Listeners(Arc::new(IngressListeners {
            http: Some(Bind { address: Listens::Tcp(([127, 0, 0, 1], 80).into()), mode: None }),
            tls: None,
            files: None,
            client: Arc::default(),
            access_log: Arc::default(),
            tracing: Default::default(),
            sealing: Secret::new("s"),
        })));
        Self { pools: Pools::new(feed.clone(), settings, Arc::default()), keys: Keys::new(feed.clone(), Arc::default()), feed, snapshots }
    }

    fn asking(dns: &Dns) -> Self {
        Self::start(Settings { dns_servers: vec![dns.address], ..Settings::default() })
    }

    pub async fn load(&mut self, pools: Vec<Pool>) {
        ingress::replace(Arc::new(routing(pools)), &mut self.pools, &mut self.keys, &self.feed).await;
        self.feed.published().await.unwrap();
    }

    /// Waits for a snapshot for which `wanted` holds.
    pub async fn until(&mut self, what: &str, mut wanted: impl FnMut(&Seen) -> bool) {
        let end = Instant::now() + SOON;
        loop {
            let seen = Seen::of(&self.snapshots.current());
            if wanted(&seen) {
                return;
            }
            let next = timeout_at(end, self.snapshots.next()).await;
            assert!(next.is_ok(), "{what}: {seen:?}");
        }
    }

    pub fn now(&self) -> Seen {
        Seen::of(&self.snapshots.current())
    }
}

/// What a snapshot says of pools.
#[derive(Debug)]
pub struct Seen {
    pub pools: BTreeMap<String, Vec<Arc<Endpoint>>>,
    problems: Vec<String>,
}

impl Seen {
    fn of(snapshot: &Snapshot) -> Self {
        let clusters = snapshot.listeners.values().flat_map(|listener| match &listener.role {
            Role::Ingress(ingress) => ingress.clusters.clone(),
            _ => Vec::new(),
        });
        let pools = clusters.map(|cluster| (cluster.target.to_string(), cluster.endpoints.to_vec())).collect();
        let problems = snapshot.problems.iter().map(|p| format!("{}: {}; {}", p.path, p.why, p.advice)).collect();
        Self { pools, problems }
    }

    pub fn ids(&self, pool: &str) -> Vec<&str> {
        self.pools[pool].iter().map(|endpoint| &*endpoint.id).collect()
    }

    pub fn healthy(&self, pool: &str) -> usize {
        self.pools[pool].iter().filter(|endpoint| endpoint.is_healthy()).count()
    }

    fn scheme(&self, pool: &str) -> Scheme {
        self.pools[pool][0].dial.as_ref().unwrap().scheme
    }

    pub fn complains(&self, of: &str) -> bool {
        self.problems.iter().any(|problem| problem.contains(of))
    }
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

#[tokio::test]
async fn all_addresses_of_a_name_are_used_and_followed() {
    let dns = Dns::start().await.unwrap();
    dns.set("shop.test", &ips(&["127.0.0.2", "127.0.0.1", "::1"]), 1);
    let mut bench = Bench::asking(&dns);
    let unprobed = Pool { health: None, ..pool("/", &[&"shop.test:8080"]) };
    bench.load(vec![unprobed]).await;
    assert_eq!(bench.now().ids("/"), ["shop.test:8080/127.0.0.1", "shop.test:8080/127.0.0.2", "shop.test:8080/::1"]);
    let endpoint = bench.now().pools["/"][0].clone();
    assert_eq!((endpoint.address.to_string().as_str(), &*endpoint.dial.as_ref().unwrap().name), ("127.0.0.1:8080", "shop.test"));
    dns.set("shop.test", &ips(&["127.0.0.3"]), 1);
    bench.until("the new address", |seen| seen.ids("/") == ["shop.test:8080/127.0.0.3"]).await;
    dns.fail("shop.test");
    bench.until("a problem", |seen| seen.complains("shop.test: it does not resolve") && seen.complains("last addresses stay")).await;
    assert_eq!(bench.now().healthy("/"), 1, "the last good answer stays");
    dns.set("shop.test", &ips(&["127.0.0.4"]), 1);
    bench.until("an end of it", |seen| seen.problems.is_empty() && seen.ids("/") == ["shop.test:8080/127.0.0.4"]).await;
}

/// H5: one bad name took the original's process with it.
#[tokio::test]
async fn a_bad_name_hurts_no_other_and_holds_a_load_back_for_a_moment_only() {
    let dns = Dns::start().await.unwrap();
    dns.set("good.test", &ips(&["127.0.0.1"]), 60);
    dns.silence("mute.test");
    let mut bench = Bench::asking(&dns);
    let unprobed = |id: &str, server: &str| Pool { health: None, ..pool(id, &[&server]) };
    let begun = Instant::now();
    bench.load(vec![unprobed("/good", "good.test:80"), unprobed("/none", "none.test:80"), unprobed("/mute", "mute.test:80")]).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let seen = bench.now();
    assert_eq!((seen.healthy("/good"), seen.healthy("/none"), seen.healthy("/mute")), (1, 0, 0));
    bench.until("words on both", |seen| seen.complains("none.test: it does not resolve") && seen.complains("mute.test: it does not")).await;
    dns.set("none.test", &ips(&["127.0.0.1"]), 60);
    bench.until("the name that came", |seen| seen.healthy("/none") == 1).await;
}

#[tokio::test]
async fn the_hosts_file_counts() {
    let mut bench = Bench::start(Settings::default());
    let app = http_echo("app").await.unwrap();
    let port = app.address.to_string().rsplit_once(':').unwrap().1.to_owned();
    bench.load(vec![pool("/", &[&format!("localhost:{port}")])]).await;
    let seen = bench.now();
    assert!(seen.ids("/").contains(&format!("localhost:{port}/127.0.0.1").as_str()), "{seen:?}");
    assert_eq!(seen.healthy("/"), 1, "of several addresses the one that answers");
}

#[tokio::test]
async fn a_server_leaves_and_returns_by_its_probes() {
    let [one, two] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap()];
    let mut bench = Bench::start(Settings::default());
    let stern = HealthCheck { healthy_after: 2, unhealthy_after: 2, ..quick() };
    bench.load(vec![Pool { health: Some(stern), ..pool("/", &[&one.address, &two.address]) }]).await;
    assert_eq!(bench.now().healthy("/"), 2);
    one.answer_next([503]);
    let asked = one.requests();
    eventually(|| one.requests() > asked + 2).await;
    assert_eq!(bench.now().healthy("/"), 2, "once is never");
    one.answer_always(500);
    bench.until("one that is left", |seen| seen.healthy("/") == 1).await;
    let health: BTreeMap<String, f64> = bench.pools.health()().into_iter().collect();
    assert_eq!((health[&one.address.to_string()], health[&two.address.to_string()]), (0.0, 1.0));
    one.answer_always(200);
    bench.until("both again", |seen| seen.healthy("/") == 2).await;
}

/// H15: hanging servers counted as alive, and held up the probes of all others.
#[tokio::test]
async fn a_server_that_hangs_is_down_and_holds_up_no_other() {
    let (mute, _task) = saying(None).await;
    let good = http_echo("good").await.unwrap();
    let mut bench = Bench::start(Settings::default());
    let slow = HealthCheck { timeout: Duration::from_millis(500), ..quick() };
    bench.load(vec![Pool { health: Some(slow), ..pool("/", &[&mute, &good.address]) }]).await;
    let asked = good.requests();
    eventually(|| good.requests() > asked + 3).await;
    bench
        .until("the mute one out", |seen| {
            seen.pools["/"].iter().all(|e| e.is_healthy() == (e.address.to_string() == good.address.to_string()))
        })
        .await;
}

#[tokio::test]
async fn what_is_dead_at_the_start_is_known_before_the_first_request() {
    let dead = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let good = http_echo("good").await.unwrap();
    let mut bench = Bench::start(Settings::default());
    bench.load(vec![pool("/", &[&dead, &good.address])]).await;
    assert_eq!(bench.now().healthy("/"), 1);
}

#[tokio::test]
async fn whoever_does_not_answer_at_the_start_counts_as_healthy_until_it_is_known() {
    let (mute, _task) = saying(None).await;
    let mut bench = Bench::start(Settings::default());
    let patient = HealthCheck { timeout: Duration::from_secs(30), ..quick() };
    bench.load(vec![Pool { health: Some(patient), ..pool("/", &[&mute]) }]).await;
    assert_eq!(bench.now().healthy("/"), 1);
}

/// As `file_server_address`, which the documents of the users name as a server.
#[tokio::test]
async fn nobody_waits_for_what_this_process_serves_itself() {
    let (own, _task) = saying(None).await;
    let mut bench = Bench::start(Settings { own: vec![Listens::Tcp(own)], ..Settings::default() });
    let patient = HealthCheck { timeout: Duration::from_secs(30), ..quick() };
    let begun = Instant::now();
    bench.load(vec![Pool { health: Some(patient), ..pool("/", &[&own]) }]).await;
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert_eq!(bench.now().healthy("/"), 1);
}

/// Issue 33 of the original: probes went to servers that asked for none.
#[tokio::test]
async fn without_a_check_nothing_ever_connects() {
    let app = http_echo("app").await.unwrap();
    let probed = http_echo("probed").await.unwrap();
    let mut bench = Bench::start(Settings::default());
    bench.load(vec![Pool { health: None, ..pool("/off", &[&app.address]) }, pool("/on", &[&probed.address])]).await;
    let asked = probed.requests();
    eventually(|| probed.requests() > asked + 2).await;
    assert_eq!((app.connections(), bench.now().scheme("/off"), bench.now().healthy("/off")), (0, Scheme::Http, 1));
}

#[tokio::test]
async fn what_is_spoken_is_found_out_and_again_when_it_changes() {
    let port = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap() };
    let grpc = h2c_echo("grpc").await.unwrap();
    let mut bench = Bench::start(Settings::default());
    bench.load(vec![pool("/grpc", &[&grpc.address]), pool("/", &[&port])]).await;
    assert_eq!((bench.now().scheme("/grpc"), bench.now().healthy("/")), (Scheme::H2c, 0));
    let (first, task) = relay(port, &grpc.address).await;
    bench.until("HTTP/2 where nobody was", |seen| seen.healthy("/") == 1 && seen.scheme("/") == Scheme::H2c).await;
    assert_eq!(first, port);
    task.abort();
    drop(task.await);
    // Nothing but HTTP/1.1: what still speaks HTTP/2 goes on as it is.
    let (plain, _server) = saying(Some("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
    let (_, _task) = relay(port, &Address::Tcp(plain)).await;
    bench.until("HTTP/1.1 in its place", |seen| seen.healthy("/") == 1 && seen.scheme("/") == Scheme::Http).await;
}

/// Forwards connections from a port to an app, so that another app can take the same place.
async fn relay(at: SocketAddr, to: &Address) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    let (listener, to) = (socket.listen(16).unwrap(), to.clone());
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let to = to.clone();
            connections.spawn(async move {
                let mut app = to.connect().await.unwrap();
                // How a connection ends is the server's and the client's business.
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut app).await;
            });
        }
    });
    (at, task)
}

#[tokio::test]
async fn tls_that_nobody_vouches_for_is_a_problem_with_a_way_out() {
    let ca = WebCa::new();
    let pair = ca.issue(&["127.0.0.1"]);
    let app = https_echo("tls", &pair.crt, &pair.key).await.unwrap();
    let mut bench = Bench::start(Settings::default());
    let with = |tls: ServerTls| Pool { tls: Arc::new(tls), ..pool("/", &[&app.address]) };
    bench.load(vec![with(ServerTls::default())]).await;
    bench
        .until("advice", |seen| {
            seen.complains("its certificate cannot be verified") && seen.complains("tls_ca") && seen.complains("tls_verify: false")
        })
        .await;
    assert_eq!((bench.now().scheme("/"), bench.now().healthy("/")), (Scheme::Https, 0));
    let roots = crate::model::credentials::certificates("root", &ca.root_pem()).unwrap();
    bench.load(vec![with(ServerTls { roots, ..ServerTls::default() })]).await;
    bench.until("no problem any more", |seen| seen.healthy("/") == 1 && seen.problems.is_empty()).await;
    bench.load(vec![with(ServerTls { verify: false, ..ServerTls::default() })]).await;
    assert_eq!((bench.now().scheme("/"), bench.now().healthy("/")), (Scheme::Https, 1));
}

#[tokio::test]
async fn a_reload_neither_waits_for_known_servers_nor_forgets_them() {
    let [up, down] = [http_echo("up").await.unwrap(), http_echo("down").await.unwrap()];
    down.answer_always(500);
    let mut bench = Bench::start(Settings::default());
    let slow = HealthCheck { interval: Duration::from_secs(600), ..quick() };
    let both = |id: &str| Pool { health: Some(slow.clone()), ..pool(id, &[&up.address, &down.address]) };
    bench.load(vec![both("/a")]).await;
    bench.until("one out", |seen| seen.healthy("/a") == 1).await;
    let asked = (up.requests(), down.requests());
    bench.load(vec![both("/a"), both("/b"), Pool { connect_timeout: Duration::from_secs(1), ..both("/c") }]).await;
    let seen = bench.now();
    assert_eq!((seen.healthy("/a"), seen.healthy("/b"), seen.healthy("/c")), (1, 1, 1));
    bench.load(vec![both("/b")]).await;
    assert_eq!((up.requests(), down.requests()), asked, "servers are probed once for all pools, whatever is loaded");
    assert_eq!(bench.now().pools.len(), 1);
}

#[tokio::test]
async fn a_pool_that_is_gone_is_no_longer_probed() {
    let [kept, gone] = [http_echo("kept").await.unwrap(), http_echo("gone").await.unwrap()];
    let mut bench = Bench::start(Settings::default());
    bench.load(vec![pool("/kept", &[&kept.address]), pool("/gone", &[&gone.address])]).await;
    bench.load(vec![pool("/kept", &[&kept.address])]).await;
    let asked = (kept.requests(), gone.requests());
    eventually(|| kept.requests() > asked.0 + 3).await;
    // One probe may have been under way.
    assert!(gone.requests() <= asked.1 + 1);
}

#[tokio::test]
async fn a_server_that_is_new_beside_healthy_ones_waits_for_its_first_answer() {
    let dns = Dns::start().await.unwrap();
    let app = http_echo("app").await.unwrap();
    let port = app.address.to_string().rsplit_once(':').unwrap().1.to_owned();
    dns.set("app.test", &ips(&["127.0.0.1"]), 1);
    let mut bench = Bench::asking(&dns);
    bench.load(vec![pool("/", &[&format!("app.test:{port}")])]).await;
    assert_eq!(bench.now().healthy("/"), 1);
    dns.set("app.test", &ips(&["127.0.0.1", "127.0.0.9"]), 1);
    let mut most = 0;
    bench
        .until("the new address", |seen| {
            most = most.max(seen.healthy("/"));
            seen.pools["/"].len() == 2
        })
        .await;
    assert_eq!(most, 1, "nobody listens at the new address");
}

#[tokio::test]
async fn weights_stand_and_add_up() {
    let mut bench = Bench::start(Settings::default());
    let weighted = |text: &str, weight| Server { weight, ..server(text) };
    let source = PoolSource::Servers(vec![weighted("127.0.0.1:1", 3), weighted("127.0.0.1:2", 100), weighted("127.0.0.1:2", 100)]);
    bench.load(vec![Pool { health: None, source, ..pool("/", &[]) }]).await;
    assert_eq!(bench.now().pools["/"].iter().map(|e| e.weight).collect::<Vec<_>>(), [3, 128]);
}

async fn eventually(is: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < end, "it never came to be");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
