//! Two instances of one service under the same intentions, one behind Envoy, one behind Aralez. The same bytes go to both public
//! listeners; both must refuse, redirect or pass them, and hand the app the same path.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use aralez_integration::apps::{self, App};
use aralez_integration::certs::{self, Identity, Leaf};
use aralez_integration::consul::{Agent, Options};
use aralez_integration::net::Address;
use aralez_integration::registration::Service;
use aralez_integration::wait::eventually;
use fastrand::Rng;
use serde_json::{Value, json};

use super::generate::{self, Request, SOURCES};
use super::{Report, ask, field, seeded, status};
use crate::mixed::{Kind, Running};
use crate::scene::PATIENCE;

/// A caller whose permissions name the round, so that its answers show which intentions are in force.
const MARKER: &str = "marker";
/// Changes of the intentions under each setting of the mesh entry.
const ROUNDS: usize = 8;
/// Requests under each of them.
const PROBES: usize = 16;

/// Where the two differ on purpose (docs/intentions.md, docs/routing.md). Everything else is a fault.
const EXPLAINED: [Difference; 6] = [
    Difference {
        why: "explained: Envoy lets a lower precedence allow, or deny, as well",
        applies: |case| {
            let named = |destination: &str, source: &str| {
                let sources = case.intentions[destination].as_array();
                sources.is_some_and(|sources| sources.iter().any(|entry| entry["Name"] == source))
            };
            named("*", case.source) && named("db", "*") && !named("db", case.source)
        },
    },
    Difference { why: "explained: Pingora escapes blanks and control bytes", applies: |case| case.request.is_escaped_by_pingora() },
    Difference { why: "explained: asterisk", applies: |case| case.request.is_asterisk() && case.aralez == Outcome::Refused(404) },
    Difference {
        why: "explained: no URI, or a whole one",
        applies: |case| (case.request.is_no_uri() || case.request.is_absolute()) && case.aralez == Outcome::Refused(400),
    },
    Difference {
        why: "explained: Envoy does not merge a path of slashes only",
        applies: |case| {
            let merges = case.settings["MergeSlashes"] == json!(true);
            let only = |outcome: &Outcome, path| outcome.target().is_some_and(|target| target.split('?').next() == Some(path));
            merges && (only(&case.envoy, "//") || only(&case.aralez, "/"))
        },
    },
    Difference {
        why: "explained: Envoy does not read dots with parameters that an escape or a backslash hides",
        applies: |case| {
            let target = case.request.target.replace("%2e", ".").replace("%2E", ".");
            target.contains(".;") && case.request.target.contains(['%', '\\'])
        },
    },
];

struct Difference {
    why: &'static str,
    applies: fn(&Case<'_>) -> bool,
}

/// One comparison.
struct Case<'a> {
    settings: &'a Value,
    intentions: &'a Value,
    source: &'a str,
    request: &'a Request,
    envoy: Outcome,
    aralez: Outcome,
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
    fn of(answer: &str) -> Self {
        let target = field(answer, "x-head").and_then(|head| head.split(" | ").nth(1)?.split(' ').nth(1));
        match (status(answer), target, field(answer, "location")) {
            (None, ..) => Self::Closed,
            (Some(_), Some(target), _) => Self::Passed(target.to_owned()),
            (Some(status), None, Some(location)) => Self::Redirected(status, location.to_owned()),
            (Some(status), None, None) => Self::Refused(status),
        }
    }

    /// What the app was asked for, or the client is to ask for.
    fn target(&self) -> Option<&str> {
        match self {
            Self::Passed(target) | Self::Redirected(_, target) => Some(target),
            Self::Refused(_) | Self::Closed => None,
        }
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
    report: Report,
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
        let rng = seeded(&format!("authorization, default {default_policy}"));
        let config = json!({"default_intention_policy": default_policy});
        let agent = Agent::start(Options { config, ..Options::default() }).await.unwrap();
        let ca = agent.rotate_ca().await.unwrap();
        let mut callers = BTreeMap::new();
        for name in SOURCES.into_iter().chain([MARKER]) {
            callers.insert(name, ca.issue(&Leaf::of(agent.spiffe_id(name).await.unwrap())).unwrap());
        }
        agent.config_entry(json!({"Kind": "service-defaults", "Name": "db", "Protocol": "http"})).await.unwrap();
        let app = apps::head_echo("db").await.unwrap();
        Self { app, callers, rng, round: 0, report: Report::default(), agent }
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
        let stream = certs::connect(address, self.callers.get(source)).await?;
        Ok(Outcome::of(&ask(stream, bytes).await?))
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

    async fn compare(&mut self, twins: &Twins, settings: &Value, intentions: &Value) {
        let (source, request) = (generate::caller(&mut self.rng), generate::request(&mut self.rng));
        let envoy = self.outcome(&twins.envoy, source, &request.bytes);
        let aralez = self.outcome(&twins.aralez, source, &request.bytes);
        let (envoy, aralez) = tokio::try_join!(envoy, aralez).unwrap();
        if envoy == aralez {
            return self.report.count(&envoy.name());
        }
        let case = Case { settings, intentions, source, request: &request, envoy, aralez };
        match EXPLAINED.iter().find(|difference| (difference.applies)(&case)) {
            Some(difference) => self.report.count(difference.why),
            None => {
                let sent = format!("{source} sends {:?}", String::from_utf8_lossy(&request.bytes));
                let seen = format!("Envoy: {:?}\nAralez: {:?}", case.envoy, case.aralez);
                self.report.faults.push(format!("\n{seen}\n{sent}\nunder {intentions}\nwith {settings}"));
            }
        }
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
                lab.compare(&twins, settings, &intentions).await;
            }
        }
    }
    lab.report.conclude(&["passed", "403"], 0.05);
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
