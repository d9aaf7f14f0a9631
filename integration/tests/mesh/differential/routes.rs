//! Two instances of one caller under the same `service-router`, one behind Envoy, one behind Aralez. The same bytes go to both upstream
//! listeners; both must send them to the same service, with the same path and header edits, and give back the same.

use anyhow::{Result, ensure};
use aralez_integration::apps;
use aralez_integration::consul::{Agent, Options};
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::registration::{Service, Upstream};
use aralez_integration::wait::eventually;
use serde_json::{Value, json};

use super::{Report, ask, field, generate, seeded, status};
use crate::mixed::{Kind, Running};
use crate::scene::PATIENCE;

/// Changes of the routes.
const ROUNDS: u32 = 20;
/// Requests under each of them.
const PROBES: usize = 20;
/// Request headers that are compared; the rest is each sidecar's own affair. `cookie` too: Aralez joins its lines, as HTTP/1.1 wants it.
const SEEN: [&str; 6] = ["host", "x-one", "x-two", "x_one", "x-new", "x-forwarded-proto"];

/// What the app saw and what the client got, as text: status, app, request line, its headers by name, edited response headers.
fn outcome(answer: &str) -> String {
    let Some(status) = status(answer) else { return "closed".into() };
    let Some(head) = field(answer, "x-head") else { return format!("{status} sidecar") };
    let mut parts = head.split(" | ");
    let mut outcome = format!("{status} {} {}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let fields = |lines: Vec<&str>, names: &[&str]| {
        let fields =
            lines.iter().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        let mut fields: Vec<_> = fields.filter(|(name, _)| names.contains(&name.as_str())).collect();
        // Stable: the lines of one name keep their order.
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        fields
    };
    outcome += &format!(" {:?}", fields(parts.collect(), &SEEN));
    outcome + &format!(" -> {:?}", fields(answer.lines().collect(), &["x-app", "x-new"]))
}

struct Lab {
    envoy: Address,
    aralez: Address,
    _running: Vec<Running>,
    // Last, so that it outlives those who ask it.
    agent: Agent,
}

impl Lab {
    /// The called services are behind Envoys that leave the path alone: the app sees what the callers send.
    async fn start() -> (Self, [apps::App; 2]) {
        let agent = Agent::start(Options::default()).await.unwrap();
        let untouched = json!({"Incoming": {"RequestNormalization": {"InsecureDisablePathNormalization": true}}});
        agent.config_entry(json!({"Kind": "mesh", "HTTP": untouched})).await.unwrap();
        agent.config_entry(json!({"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http"}})).await.unwrap();
        let apps = [apps::head_echo("db").await.unwrap(), apps::head_echo("alt").await.unwrap()];
        let mut running = Vec::new();
        for (name, app) in ["db", "alt"].into_iter().zip(&apps) {
            let service = Service::new(name, &app.address).unwrap();
            agent.register(&service).await.unwrap();
            running.push(Kind::Envoy.start(&agent, &service).await);
            agent.healthy(name, 1).await.unwrap();
        }
        let nobody = Address::port(free_port().unwrap());
        let mut callers = Vec::new();
        for (kind, id) in [(Kind::Envoy, "web-envoy"), (Kind::Aralez, "web-aralez")] {
            let web = Service::new("web", &nobody).unwrap().id(id).upstream(Upstream::new("db").unwrap());
            agent.register(&web).await.unwrap();
            running.push(kind.start(&agent, &web).await);
            callers.push(web.upstreams[0].address());
        }
        let [envoy, aralez] = <[Address; 2]>::try_from(callers).unwrap();
        (Self { envoy, aralez, _running: running, agent }, apps)
    }

    /// New routes, in force at both callers when this returns.
    async fn change(&self, round: u32, generated: &[Value]) {
        let marker = format!("/marker-{round}");
        let mark = json!({"Set": {"x-marker": marker}});
        // One for each destination, so that neither caller ever drops one and has to find it again.
        let mut routes = vec![
            json!({"Match": {"HTTP": {"PathExact": marker}}, "Destination": {"ResponseHeaders": mark}}),
            json!({"Match": {"HTTP": {"PathExact": format!("{marker}/alt")}}, "Destination": {"Service": "alt", "ResponseHeaders": mark}}),
        ];
        routes.extend_from_slice(generated);
        self.agent.config_entry(json!({"Kind": "service-router", "Name": "db", "Routes": routes})).await.unwrap();
        for caller in [&self.envoy, &self.aralez] {
            eventually(&format!("round {round} in force"), PATIENCE, async || {
                for (path, app) in [(marker.clone(), "db"), (format!("{marker}/alt"), "alt")] {
                    let answer = ask(caller.connect().await?, format!("GET {path} HTTP/1.1\r\nhost: db\r\n\r\n").as_bytes()).await?;
                    ensure!(field(&answer, "x-marker") == Some(&marker) && field(&answer, "x-app") == Some(app), "{answer}");
                }
                Ok(())
            })
            .await
            .unwrap();
        }
    }

    async fn outcomes(&self, request: &[u8]) -> Result<(String, String)> {
        let envoy = async { ask(self.envoy.connect().await?, request).await };
        let aralez = async { ask(self.aralez.connect().await?, request).await };
        let (envoy, aralez) = tokio::try_join!(envoy, aralez)?;
        Ok((outcome(&envoy), outcome(&aralez)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes() {
    let mut rng = seeded("routes");
    let (lab, _apps) = Lab::start().await;
    let mut report = Report::default();
    for round in 0..ROUNDS {
        let routes: Vec<_> = (0..rng.usize(2..=6)).map(|_| generate::route(&mut rng)).collect();
        lab.change(round, &routes).await;
        for _ in 0..PROBES {
            let request = generate::request(&mut rng);
            let (envoy, aralez) = lab.outcomes(&request.bytes).await.unwrap();
            if envoy == aralez {
                let verdict: Vec<_> = envoy.split(' ').take(2).collect();
                report.count(&verdict.join(" "));
            } else if request.is_escaped_by_pingora() {
                report.count("explained: Pingora escapes");
            } else if request.is_asterisk() && aralez == "404 sidecar" {
                report.count("explained: asterisk");
            } else if (request.is_no_uri() || request.is_absolute()) && aralez == "400 sidecar" {
                report.count("explained: no URI, or a whole one");
            } else {
                let sent = String::from_utf8_lossy(&request.bytes);
                let routes = Value::from(routes.clone());
                report.faults.push(format!("\nEnvoy: {envoy}\nAralez: {aralez}\nsent {sent:?}\nunder {routes}"));
            }
        }
    }
    report.conclude(&["200 db", "200 alt"], 0.15);
}
