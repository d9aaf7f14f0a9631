use consul_api_types::{AgentServiceById, Authorize, ConfigEntry, IntentionMatch, Mesh, Roots};
use futures_util::FutureExt as _;
use tokio::sync::Notify;

use super::{
    super::testing::{Agent, Reply, config},
    *,
};

fn plain(status: u16, text: &str) -> Reply {
    Reply::Now(status, vec![("content-type", "text/plain".to_owned())], text.to_owned())
}

async fn answering(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> (Agent, Client) {
    let agent = Agent::start(move |_| {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Reply::Now(status, headers, body.to_owned())
    });
    let agent = agent.await;
    let client = Client::new(AgentConfig { token: Some(Secret::new("s3cret")), ..config(&agent.address) }).unwrap();
    (agent, client)
}

fn web() -> AgentServiceById {
    AgentServiceById { id: "web/1".to_owned(), ..AgentServiceById::default() }
}

#[tokio::test]
async fn a_question_is_sent_with_its_position_token_and_body() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    let agent = Agent::start(move |question| {
        notes.lock().push(question.clone());
        plain(500, "")
    });
    let agent = agent.await;
    let address = format!("http://{}/behind/", agent.address);
    let client = AgentConfig { token: Some(Secret::new("s3cret")), wait: Some(Duration::from_secs(90)), ..config(&address) };
    let client = Client::new(client).unwrap();
    let authorize = Authorize { target: "web".into(), client_cert_uri: "spiffe://x".into(), client_cert_serial: String::new() };
    let _ = client.send(&web(), &At::Hash("a b".to_owned())).await;
    let _ = client.send(&IntentionMatch::default(), &At::Index(7)).await;
    let _ = client.send(&authorize, &At::Now).await;
    let seen = seen.lock();
    assert_eq!(seen[0].line, "GET /behind/v1/agent/service/web%2F1");
    assert_eq!((seen[0].params["hash"].as_str(), seen[0].params["wait"].as_str()), ("a b", "90000ms"));
    assert_eq!((seen[1].params["index"].as_str(), seen[1].params["by"].as_str()), ("7", "destination"));
    assert!(seen[2].line.starts_with("POST ") && seen[2].body.contains("spiffe://x"));
    assert!(seen[2].params.keys().eq(["consistent"]) && !seen[1].params.contains_key("consistent"));
    assert!(seen.iter().all(|question| question.token.as_deref() == Some("s3cret")));
}

#[tokio::test]
async fn an_answer_comes_with_its_headers() {
    let (_agent, client) = answering(200, &[("X-Consul-Index", "42")], r#"{"TrustDomain": "td.consul"}"#).await;
    let answer = client.send(&Roots, &At::Now).await.unwrap();
    assert_eq!((answer.meta.index, answer.value.unwrap().trust_domain.as_str()), (Some(42), "td.consul"));
}

#[tokio::test]
async fn an_error_is_told_in_short_and_without_the_token() {
    let (_agent, client) = answering(403, &[], "Permission denied:\n token s3cret lacks service:read").await;
    let error = client.send(&Roots, &At::Now).await.unwrap_err();
    assert_eq!(error.to_string(), "the agent answered 403: Permission denied: token <redacted> lacks service:read");
    assert!(!format!("{client:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_404_is_absence_only_where_the_agent_says_so() {
    let mesh = ConfigEntry::<Mesh>::new("mesh", Tenancy::default());
    let (_agent, client) = answering(404, &[("X-Consul-Index", "3")], "Config entry not found").await;
    assert_eq!(client.send(&mesh, &At::Now).await.unwrap().value, None);
    assert!(matches!(client.send(&Roots, &At::Now).await, Err(Error::Status { status: 404, .. })));
    let (_agent, client) = answering(404, &[], "404 page not found").await;
    assert!(matches!(client.send(&mesh, &At::Now).await, Err(Error::Status { status: 404, .. })));
    assert!(matches!(client.send(&web(), &At::Now).await, Err(Error::Status { status: 404, .. })));
    let (_agent, client) = answering(404, &[], "unknown service ID: web/1. Ensure that the service ID is passed").await;
    assert_eq!(client.send(&web(), &At::Now).await.unwrap().value, None);
}

#[tokio::test]
async fn an_unreadable_answer_and_a_redirect_are_errors() {
    let (_agent, client) = answering(200, &[], "<html>").await;
    let Err(Error::Decode(why)) = client.send(&Roots, &At::Now).await else { panic!("it was read") };
    assert!(why.contains("/v1/agent/connect/ca/roots"), "{why}");
    let (_agent, client) = answering(301, &[("Location", "http://192.0.2.1/")], "").await;
    assert!(matches!(client.send(&Roots, &At::Now).await, Err(Error::Status { status: 301, .. })));
}

#[tokio::test]
async fn a_hung_agent_is_noticed() {
    let asked = Arc::new(Notify::new());
    let notify = asked.clone();
    let agent = Agent::start(move |_| {
        notify.notify_one();
        Reply::Held
    });
    let agent = agent.await;
    let client = Client::new(config(&agent.address)).unwrap();
    let question = tokio::spawn(async move { client.send(&Roots, &At::Index(7)).await });
    asked.notified().await;
    tokio::time::pause();
    let limit = WAIT + WAIT / 16 + MARGIN;
    assert_eq!(question.await.unwrap().unwrap_err(), Error::Timeout(limit));
}

#[tokio::test]
async fn the_token_file_wins_and_is_read_again() {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let notes = tokens.clone();
    let agent = Agent::start(move |question| {
        notes.lock().push(question.token.clone().unwrap_or_default());
        plain(200, "{}")
    });
    let agent = agent.await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let client = AgentConfig { token: Some(Secret::new("other")), token_file: Some(file.path().to_owned()), ..config(&agent.address) };
    let client = Client::new(client).unwrap();
    for token in ["first\n", "second"] {
        std::fs::write(file.path(), token).unwrap();
        client.send(&Roots, &At::Now).await.unwrap();
    }
    for unusable in ["", "to\u{7f}ken"] {
        std::fs::write(file.path(), unusable).unwrap();
        assert!(matches!(client.send(&Roots, &At::Now).await, Err(Error::TokenFile { .. })));
    }
    let waiting = tokio::spawn(async move { client.token_changed().await });
    while !waiting.is_finished() {
        std::fs::write(file.path(), format!("third-{}", fastrand::u64(..))).unwrap();
        tokio::time::sleep(TOKEN_LOOK).await;
    }
    assert_eq!(*tokens.lock(), ["first", "second"]);
}

#[tokio::test]
async fn a_unix_socket_is_dialled_and_the_agents_return_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("consul.sock");
    let config = config(&format!("unix://{}", socket.display()));
    let client = Client::new(AgentConfig { advice: Some("say where it is".to_owned()), ..config }).unwrap();
    let recoveries = client.recoveries();
    let advised = client.send(&Roots, &At::Now).await.unwrap_err();
    assert!(matches!(&advised, Error::Connect(why) if why.ends_with("; say where it is")), "{advised}");
    let agent = Agent::start_unix(&socket, |_| plain(200, "{}"));
    assert!(!recoveries.has_changed().unwrap());
    client.send(&Roots, &At::Now).await.unwrap();
    assert!(recoveries.has_changed().unwrap());
    drop(agent);
    let lost = client.send(&Roots, &At::Now).await.unwrap_err();
    assert!(!lost.to_string().contains("say where it is"), "advice on an address that was right: {lost}");
}

#[tokio::test]
async fn the_next_agent_is_asked_after_one_that_does_not_answer() {
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_first, first) = answering(200, &[("X-Consul-Index", "1")], "{}").await;
    let (_second, second) = answering(200, &[("X-Consul-Index", "2")], "{}").await;
    let dead = Client::new(config(&dead.to_string())).unwrap();
    let index = async |client: &Client| client.send(&Roots, &At::Now).await.map(|answer| answer.meta.index);
    let any = Client::of_any(&[dead.clone(), first, second]).unwrap();
    assert!(matches!(index(&any).await, Err(Error::Connect(_))));
    for _ in 0..3 {
        assert_eq!(index(&any).await, Ok(Some(1)), "as long as it answers, no other one is asked");
    }
    let two = Client::of_any(&[dead.clone(), dead]).unwrap();
    assert!(index(&two).await.is_err() && two.silent().now_or_never().is_none(), "the other one was not asked yet");
    assert!(index(&two).await.is_err() && two.silent().now_or_never().is_some());
    assert!(Client::of_any(&[]).is_none());
}
