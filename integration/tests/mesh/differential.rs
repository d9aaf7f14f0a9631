//! Envoy as the reference: two instances of one service under the same generated intentions, one behind Envoy, one behind Aralez.
//! The same bytes go to both public listeners; both must refuse, redirect or pass them, and hand the app the same path.

mod generate;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use aralez_integration::apps::{self, App};
use aralez_integration::certs::{self, Identity, Leaf};
use aralez_integration::consul::{Agent, Options};
use aralez_integration::net::Address;
use aralez_integration::registration::Service;
use aralez_integration::wait::eventually;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use self::generate::{Probe, SOURCES};
use crate::mixed::{Kind, Running};
use crate::scene::PATIENCE;

/// A caller whose permissions name the round, so that its answers show which intentions are in force.
const MARKER: &str = "marker";
/// `DIFFERENTIAL_SEED` overrides it.
const SEED: u64 = 20_261_122;
/// Changes of the intentions under each setting of the mesh entry.
const ROUNDS: usize = 5;
/// Requests under each of them.
const PROBES: usize = 20;

/// Where the two differ on purpose. Everything else is a fault.
const EXPLAINED: [Difference; 0] = [];

struct Difference {
    why: &'static str,
    applies: fn(&Probe, envoy: &Outcome, aralez: &Outcome) -> bool,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    /// The app was asked for this target.
    Passed(String),
    /// Sent elsewhere: status and `location`.
    Redirected(u16, String),
    Refused(u16),
    /// No answer at all.
    Closed,
}

impl Outcome {
    /// Judges by the head alone: Envoy keeps a connection that is to be closed for another second.
    fn of(head: &str) -> Result<Self> {
        let Some(status) = head.lines().next() else { return Ok(Self::Closed) };
        let status = status.split(' ').nth(1).context("no status")?.parse()?;
        let field = |wanted: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
        };
        Ok(match (field("x-target"), field("location")) {
            (Some(target), _) => Self::Passed(target),
            (None, Some(location)) => Self::Redirected(status, location),
            (None, None) => Self::Refused(status),
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Passed(_) => "passed".into(),
            Self::Redirected(status, _) | Self::Refused(status) => status.to_string(),
            Self::Closed => "closed".into(),
        }
    }
}

/// An agent with one default policy, the app behind both instances, and certificates of all callers.
struct Lab {
    app: App,
    callers: BTreeMap<&'static str, Identity>,
    rng: Rng,
    round: u32,
    tally: BTreeMap<String, usize>,
    faults: String,
    // Last, so that it outlives those who ask it.
    agent: Agent,
}

/// Public listeners of the two instances.
struct Twins {
    envoy: Address,
    aralez: Address,
    _running: [Running; 2],
}

impl Lab {
    async fn start(default_policy: &str) -> Self {
        let seed = std::env::var("DIFFERENTIAL_SEED").map_or(SEED, |seed| seed.parse().unwrap());
        eprintln!("default {default_policy}, seed {seed}");
        let config = json!({"default_intention_policy": default_policy});
        let agent = Agent::start(Options { config, ..Options::default() }).await.unwrap();
        let ca = agent.rotate_ca().await.unwrap();
        let mut callers = BTreeMap::new();
        for name in SOURCES.into_iter().chain([MARKER]) {
            callers.insert(name, ca.issue(&Leaf::of(agent.spiffe_id(name).await.unwrap())).unwrap());
        }
        agent.config_entry(json!({"Kind": "service-defaults", "Name": "db", "Protocol": "http"})).await.unwrap();
        let app = apps::target_echo().await.unwrap();
        Self { app, callers, rng: Rng::with_seed(seed), round: 0, tally: BTreeMap::new(), faults: String::new(), agent }
    }

    /// Starts both instances under these `RequestNormalization` settings.
    async fn twins(&self, settings: &Value) -> Twins {
        let http = json!({"Incoming": {"RequestNormalization": settings}});
        self.agent.config_entry(json!({"Kind": "mesh", "HTTP": http})).await.unwrap();
        let twin = |id: &str| Service::new("db", &self.app.address).unwrap().id(id).protocol("http");
        let (envoy, aralez) = (twin("db-envoy"), twin("db-aralez"));
        self.agent.register(&envoy).await.unwrap();
        self.agent.register(&aralez).await.unwrap();
        let running = [Kind::Envoy.start(&self.agent, &envoy).await, Kind::Aralez.start(&self.agent, &aralez).await];
        Twins { envoy: envoy.public(), aralez: aralez.public(), _running: running }
    }

    /// Sends `bytes` on a connection of its own.
    async fn outcome(&self, address: &Address, source: &str, bytes: &[u8]) -> Result<Outcome> {
        let mut stream = certs::connect(address, self.callers.get(source)).await?;
        stream.write_all(bytes).await?;
        let mut head = Vec::new();
        let reading = async {
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
        };
        timeout(PATIENCE, reading).await.context("no whole head in time")?;
        Outcome::of(&String::from_utf8_lossy(&head))
    }

    /// New intentions, in force at both twins when this returns. They are returned for the report.
    async fn change(&mut self, twins: &Twins) -> Value {
        self.round += 1;
        let marker = format!("/marker-{}", self.round);
        let permissions = json!([{"Action": "allow", "HTTP": {"PathExact": marker}}, {"Action": "deny", "HTTP": {"PathPrefix": "/"}}]);
        let (any, mut sources) = (generate::wildcard_sources(&mut self.rng), generate::sources(&mut self.rng));
        let generated = json!({"*": any, "db": sources});
        sources.push(json!({"Name": MARKER, "Permissions": permissions}));
        // What shows the marker has seen the entry written before it.
        for (name, sources) in [("*", any), ("db", sources)] {
            self.agent.config_entry(json!({"Kind": "service-intentions", "Name": name, "Sources": sources})).await.unwrap();
        }
        for twin in [&twins.envoy, &twins.aralez] {
            eventually(&format!("round {} in force", self.round), PATIENCE, async || {
                for (path, wanted) in [(marker.as_str(), Outcome::Passed(marker.clone())), ("/", Outcome::Refused(403))] {
                    let request = format!("GET {path} HTTP/1.1\r\nhost: db\r\n\r\n");
                    let seen = self.outcome(twin, MARKER, request.as_bytes()).await?;
                    ensure!(seen == wanted, "{path}: {seen:?}");
                }
                Ok(())
            })
            .await
            .unwrap();
        }
        generated
    }

    async fn compare(&mut self, twins: &Twins, settings: &Value, intentions: &Value, probe: &Probe) {
        let asked =
            tokio::join!(self.outcome(&twins.envoy, probe.source, &probe.bytes), self.outcome(&twins.aralez, probe.source, &probe.bytes));
        let (envoy, aralez) = (asked.0.unwrap(), asked.1.unwrap());
        let verdict = match EXPLAINED.iter().find(|difference| (difference.applies)(probe, &envoy, &aralez)) {
            _ if envoy == aralez => envoy.name(),
            Some(difference) => format!("explained: {}", difference.why),
            None => {
                let request = String::from_utf8_lossy(&probe.bytes);
                let _: std::fmt::Result = writeln!(
                    self.faults,
                    "\nEnvoy: {envoy:?}\nAralez: {aralez:?}\n{} sends {request:?}\nunder {intentions}\nwith {settings}",
                    probe.source
                );
                "FAULT".into()
            }
        };
        *self.tally.entry(verdict).or_default() += 1;
    }
}

/// Runs all rounds under each of `settings`.
async fn agree(default_policy: &str, settings: &[Value]) {
    let mut lab = Lab::start(default_policy).await;
    for settings in settings {
        let twins = lab.twins(settings).await;
        for _ in 0..ROUNDS {
            let intentions = lab.change(&twins).await;
            for _ in 0..PROBES {
                let probe = generate::probe(&mut lab.rng);
                lab.compare(&twins, settings, &intentions, &probe).await;
            }
        }
    }
    eprintln!("{:#?}", lab.tally);
    assert!(lab.faults.is_empty(), "{}", lab.faults);
    // A generator that is always refused, or never, compares nothing.
    let compared = settings.len() * ROUNDS * PROBES;
    for verdict in ["passed", "403"] {
        assert!(lab.tally.get(verdict).is_some_and(|count| count * 6 > compared), "too few {verdict}: {:?}", lab.tally);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn default_allow() {
    let settings = [
        json!({}),
        json!({"MergeSlashes": true, "PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD", "HeadersWithUnderscoresAction": "REJECT_REQUEST"}),
        json!({"PathWithEscapedSlashesAction": "UNESCAPE_AND_REDIRECT"}),
        json!({"InsecureDisablePathNormalization": true, "PathWithEscapedSlashesAction": "KEEP_UNCHANGED"}),
    ];
    agree("allow", &settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn default_deny() {
    let settings = [
        json!({"HeadersWithUnderscoresAction": "ALLOW", "PathWithEscapedSlashesAction": "IMPLEMENTATION_SPECIFIC_DEFAULT"}),
        json!({"PathWithEscapedSlashesAction": "REJECT_REQUEST", "HeadersWithUnderscoresAction": "DROP_HEADER"}),
        json!({"MergeSlashes": true, "PathWithEscapedSlashesAction": "UNESCAPE_AND_REDIRECT"}),
        json!({"InsecureDisablePathNormalization": true, "MergeSlashes": true, "PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD"}),
    ];
    agree("deny", &settings).await;
}
