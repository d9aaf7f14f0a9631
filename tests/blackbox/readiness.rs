//! Nothing listens before the first complete snapshot, and `/ready` says what it waits for.

use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::wait::eventually;

use crate::support::fake_agent::{Endpoint, FakeAgent, Fault, Instance, upstream};
use crate::support::mesh::{RECOVERY, answering, web};
use crate::support::sidecar::{Aralez, Launch};

/// `web-1` and its upstream `api`, known to an agent.
struct Waiting {
    agent: FakeAgent,
    public: Address,
    entry: Address,
}

impl Waiting {
    async fn new() -> Waiting {
        let agent = FakeAgent::start().await;
        let entry = free_port().unwrap();
        let sidecar = web(vec![upstream("api", entry, "http")]);
        agent.register(&sidecar);
        agent.set_instances("api", vec![Instance::new("api-1-sidecar-proxy", free_port().unwrap())]);
        Waiting { agent, public: Address::port(sidecar.public_port), entry: Address::port(entry) }
    }

    async fn assert_nothing_listens(&self) {
        for address in [&self.public, &self.entry] {
            assert!(address.connect().await.is_err(), "{address:?} listens before the first complete snapshot");
        }
    }

    async fn assert_all_listen(&self, web: &mut Aralez) {
        web.ready().await;
        for address in [&self.public, &self.entry] {
            address.connect().await.unwrap();
        }
    }
}

/// `/ready` names the part whose endpoint fails with `fault`, and only that one of the seven.
async fn names_the_missing(endpoint: Endpoint, word: &str, fault: Fault) {
    const ALL: [&str; 7] = ["registration", ": leaf", "roots", ": intentions", "default intention policy", "mesh entry", "upstream api"];
    let waiting = Waiting::new().await;
    waiting.agent.fail(endpoint, fault);
    let mut web = Launch::sidecar_for(&waiting.agent, "web-1").spawn();
    let others: Vec<&str> = ALL.into_iter().filter(|other| *other != word).collect();
    let only_this = eventually("only one part to be missing", RECOVERY, async || {
        let text = web.not_ready_for(&[word]).await;
        // Without its registration a sidecar cannot ask for anything else by name.
        let named = others.iter().find(|other| endpoint != Endpoint::Registration && text.contains(**other));
        named.map_or(Ok(()), |other| Err(anyhow::anyhow!("{other} is missing too: {text}")))
    });
    only_this.await.unwrap();
    waiting.assert_nothing_listens().await;
    web.assert_alive().await;
    waiting.agent.heal(endpoint);
    waiting.assert_all_listen(&mut web).await;
}

macro_rules! each_part {
    ($($name:ident: $endpoint:ident $word:literal,)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let failing = names_the_missing(Endpoint::$endpoint, $word, Fault::Status(500));
            let hanging = names_the_missing(Endpoint::$endpoint, $word, Fault::Hang);
            tokio::join!(failing, hanging);
        }
    )*};
}

each_part! {
    a_missing_registration_is_named: Registration "registration",
    a_missing_leaf_is_named: Leaf ": leaf",
    missing_roots_are_named: Roots "roots",
    missing_intentions_are_named: Intentions ": intentions",
    a_missing_default_policy_is_named: Authorize "default intention policy",
    a_missing_mesh_entry_is_named: Mesh "mesh entry",
    a_missing_chain_is_named: Chain "upstream api",
}

// An upstream whose instances cannot be read is a problem of that upstream: it serves nothing and holds nothing back. One whose
// instances have not been told yet is awaited.
#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_were_not_told_yet_are_named() {
    names_the_missing(Endpoint::Health, "upstream api", Fault::Hang).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_roots_are_not_any_roots() {
    let waiting = Waiting::new().await;
    waiting.agent.hide_roots(true);
    let mut web = Launch::sidecar_for(&waiting.agent, "web-1").spawn();
    web.not_ready_for(&["roots"]).await;
    waiting.assert_nothing_listens().await;
    waiting.agent.hide_roots(false);
    waiting.assert_all_listen(&mut web).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_started_before_its_agent_waits_for_it() {
    let mut waiting = Waiting::new().await;
    waiting.agent.kill().await;
    let mut web = Launch::sidecar_for(&waiting.agent, "web-1").spawn();
    web.not_ready_for(&[]).await;
    waiting.assert_nothing_listens().await;
    waiting.agent.revive().await;
    waiting.assert_all_listen(&mut web).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_search_for_the_sidecar_is_repeated() {
    for fault in [Fault::Status(500), Fault::Status(403), Fault::Html, Fault::Reset] {
        let waiting = Waiting::new().await;
        waiting.agent.fail(Endpoint::Services, fault);
        let mut web = Launch::sidecar_for(&waiting.agent, "web-1").spawn();
        let met = eventually("a search that fails", RECOVERY, async || {
            anyhow::ensure!(waiting.agent.met(Endpoint::Services) > 0);
            Ok(())
        });
        met.await.unwrap();
        web.not_ready_for(&["web-1"]).await;
        waiting.assert_nothing_listens().await;
        waiting.agent.heal(Endpoint::Services);
        waiting.assert_all_listen(&mut web).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_finds_itself_by_proxy_id_as_well_and_over_a_unix_socket() {
    let mut waiting = Waiting::new().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("agent.sock");
    waiting.agent.listen_unix(&socket);
    let address = format!("unix://{}", socket.display());
    let mut web = Launch::connect(&["-proxy-id", "web-1-sidecar-proxy"]).env("CONSUL_HTTP_ADDR", &address).start().await;
    waiting.assert_all_listen(&mut web).await;
    assert!(waiting.agent.calls_of(Endpoint::Services).is_empty(), "an id needs no search");
    // Nobody is behind the instance: an answer of our own, but one that shows the way is there.
    assert!(answering(&waiting.entry).await.unwrap_err().to_string().starts_with("503"));
}
