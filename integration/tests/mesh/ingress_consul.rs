//! Servers of the reverse proxy that a real Consul agent knows.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use aralez_integration::apps::{App, http_echo};
use aralez_integration::clients::{self, Response};
use aralez_integration::components;
use aralez_integration::consul::{Agent, Options};
use aralez_integration::load::Load;
use aralez_integration::net::Address;
use aralez_integration::ports::free_port;
use aralez_integration::process::Process;
use aralez_integration::wait::eventually;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::{PATIENCE, unique};

/// A running reverse proxy.
pub struct Edge {
    process: Process,
    /// Its listener.
    pub http: Address,
    admin: Address,
    _folder: TempDir,
}

impl Edge {
    /// With these agents and this token; `paths` are lines of a map. Waits until it is ready.
    pub async fn start(agents: &[String], token: Option<&str>, paths: &[String]) -> Edge {
        let edge = Edge::spawn(agents, token, paths);
        edge.ready().await;
        edge
    }

    /// The same, without waiting.
    pub fn spawn(agents: &[String], token: Option<&str>, paths: &[String]) -> Edge {
        let (folder, http, admin) = (tempfile::tempdir().unwrap(), free_port().unwrap(), free_port().unwrap());
        let token = token.map_or_else(String::new, |token| format!(", token: {token}"));
        let routes = format!(
            "provider: file\nconsul: {{servers: {agents:?}{token}}}\nupstreams:\n  DEFAULT:\n    paths:\n      {}\n",
            paths.join("\n      ")
        );
        std::fs::write(folder.path().join("upstreams.yaml"), routes).unwrap();
        let main = folder.path().join("main.yaml");
        std::fs::write(&main, format!("proxy_address_http: 127.0.0.1:{http}\nupstreams_conf: upstreams.yaml\nhc_interval: 1\n")).unwrap();
        let mut command = Command::new(components::aralez().unwrap());
        command.arg("-c").arg(&main).args(["-admin-bind", &format!("127.0.0.1:{admin}")]);
        let process = Process::start("aralez -c", command, Duration::ZERO).unwrap();
        Edge { process, http: Address::port(http), admin: Address::port(admin), _folder: folder }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        eventually("a ready proxy", PATIENCE, async || {
            let answer = clients::get(&self.admin, "/ready").await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            Ok(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.process.log()));
    }

    /// What a page of its admin API says, once that is there.
    pub async fn admin(&self, path: &str) -> String {
        let page = eventually("the admin API", PATIENCE, async || Ok(clients::get(&self.admin, path).await?.text()));
        page.await.unwrap()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    pub async fn get(&self, path: &str) -> Response {
        clients::get(&self.http, path).await.unwrap()
    }

    /// Waits until twenty requests are answered by exactly these apps.
    pub async fn answered_by(&self, path: &str, wanted: &[&str]) {
        eventually(&format!("answers of {wanted:?}"), PATIENCE, async || {
            let mut names = Vec::new();
            for _ in 0..20 {
                let answer = clients::get(&self.http, path).await?;
                names.push(answer.headers.get("x-app").map_or_else(|| answer.status.to_string(), |name| name.to_str().unwrap().to_owned()));
            }
            names.sort();
            names.dedup();
            ensure!(names == wanted, "{names:?}");
            Ok(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.process.log()));
    }

    async fn complains(&self, of: &str) {
        eventually(&format!("{of:?} among the problems"), PATIENCE, async || {
            let text = clients::get(&self.admin, "/snapshot").await?.text();
            ensure!(text.contains(of), "{text}");
            Ok(())
        })
        .await
        .unwrap();
    }
}

/// Registers an app as an instance with a check that the test sets.
async fn register(agent: &Agent, name: &str, id: &str, app: &App, tags: &[&str]) {
    let Address::Tcp(address) = &app.address else { panic!("an address") };
    let check = json!({"CheckID": format!("{id}-check"), "Name": "running", "TTL": "1h", "Status": "passing"});
    let body = json!({"Name": name, "ID": id, "Address": "127.0.0.1", "Port": address.port(), "Tags": tags, "Checks": [check]});
    agent.put("/v1/agent/service/register", &body).await.unwrap();
    // Only a reported state is kept on disk.
    set(agent, id, "pass").await;
}

async fn set(agent: &Agent, id: &str, state: &str) {
    agent.put(&format!("/v1/agent/check/{state}/{id}-check"), &Value::Null).await.unwrap();
}

fn load(edge: &Edge, path: &'static str) -> Load {
    let http = edge.http.clone();
    Load::start(4, move |_: Option<()>| {
        let http = http.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let answer = clients::get(&http, path).await?;
            ensure!(answer.status == 200, "{}", answer.status);
            Result::Ok(())
        }
    })
}

/// H10: the original served unhealthy instances, and lost all routes with the agent.
#[tokio::test(flavor = "multi_thread")]
async fn h10_instances_follow_their_checks_and_outlive_the_agent() {
    let mut agent = Agent::start(Options { persistent: true, ..Options::default() }).await.unwrap();
    let [one, two, file] = [http_echo("one").await.unwrap(), http_echo("two").await.unwrap(), http_echo("file").await.unwrap()];
    let web = unique("web");
    register(&agent, &web, "one", &one, &["blue", "v2"]).await;
    register(&agent, &web, "two", &two, &["blue"]).await;
    let paths = [
        format!("/: {{consul: {{service: {web}}}}}"),
        format!("/v2: {{consul: {{service: {web}, tags: [blue, v2]}}}}"),
        format!("/file: {{servers: ['{}']}}", file.address),
        format!("/far: {{consul: {{service: {web}, datacenter: nowhere}}}}"),
    ];
    // Nobody listens at the first address.
    let agents = [format!("127.0.0.1:{}", free_port().unwrap()), agent.http_addr()];
    let edge = Edge::start(&agents, None, &paths).await;
    edge.answered_by("/", &["one", "two"]).await;
    edge.answered_by("/v2", &["one"]).await;
    edge.answered_by("/file", &["file"]).await;
    assert_eq!(edge.get("/far").await.status, 503);
    edge.complains("No path to datacenter").await;

    let requests = load(&edge, "/");
    requests.progress(50, PATIENCE).await.unwrap();
    set(&agent, "two", "fail").await;
    edge.answered_by("/", &["one"]).await;
    set(&agent, "two", "warn").await;
    edge.answered_by("/", &["one", "two"]).await;
    set(&agent, "two", "pass").await;
    agent.kill().unwrap();
    edge.answered_by("/", &["one", "two"]).await;
    requests.progress(200, PATIENCE).await.unwrap();
    agent.restart().await.unwrap();
    agent.deregister("two").await.unwrap();
    eventually("only the other", 4 * PATIENCE, async || {
        for _ in 0..10 {
            let answer = clients::get(&edge.http, "/").await?;
            ensure!(answer.headers["x-app"] == "one");
        }
        Ok(())
    })
    .await
    .unwrap_or_else(|error| panic!("{error:#}\n{}", edge.process.log()));
    requests.stop().await.unwrap().flawless(250).unwrap();
}

/// H10: the original read its token and never sent it.
#[tokio::test(flavor = "multi_thread")]
async fn h10_the_token_is_sent_and_its_lack_shows() {
    let agent = Agent::start(Options::acl()).await.unwrap();
    let app = http_echo("app").await.unwrap();
    let web = unique("web");
    register(&agent, &web, "one", &app, &[]).await;
    let token = agent.service_token(&web).await.unwrap();
    let path = [format!("/: {{consul: {{service: {web}}}}}")];
    let agents = [agent.http_addr()];
    let edge = Edge::start(&agents, Some(&token), &path).await;
    edge.answered_by("/", &["app"]).await;
    let without = Edge::start(&agents, None, &path).await;
    assert_eq!(without.get("/").await.status, 503);
    let wrong = Edge::start(&agents, Some("6c1d4a52-6f43-4c1c-9d6e-000000000000"), &path).await;
    assert_eq!(wrong.get("/").await.status, 503);
    wrong.complains("ACL not found").await;
}
