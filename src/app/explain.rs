//! `aralez explain`: asks the agent as a sidecar does, serves nothing, and says what would become of one request.

use std::{
    fmt::{self, Display},
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use http::header::HOST;
use pingora_http::RequestHeader;
use serde::Serialize;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::{
    cli::{ExplainOptions, Question, Request},
    config::agent::ProxySelector,
    control::{
        consul::{self, Client, Inquiry, Unfound},
        reconciler,
        watches::Watches,
    },
    explain::{Inbound, Outbound, Token},
    model::{
        identity::{ServiceName, SpiffeId},
        intention::{DefaultPolicy, Intentions},
        jwt::Providers,
        listener::{Role, Upstream},
    },
    proxy::{filter::jwt::Verifier, gate, headers, refusal::Refusal},
    snapshot::{self, Snapshot, Subscriber},
};

/// How often it is looked whether the snapshot is complete: what is missing has no wake-up of its own.
const LOOK: Duration = Duration::from_millis(20);

/// Explains, prints, and says whether the request would be served.
pub(super) fn run(options: ExplainOptions) -> Result<ExitCode, Failure> {
    let ExplainOptions { question, agent, default_policy, request, json, timeout } = options;
    let tenancy = (agent.namespace.clone(), agent.partition.clone());
    let client = Client::new(agent).map_err(|problem| Failure::Configuration(problem.into()))?;
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let served = runtime.block_on(async {
        match question {
            Question::Outbound { selector, upstream } => {
                let found = complete(client, selector, default_policy, timeout).await?;
                outbound(&found, upstream.as_deref(), &request, json)
            }
            Question::Inbound { from, to } => {
                let [from, to] = [from, to].map(|name| in_tenancy(&name, &tenancy));
                let inquiry = Inquiry::about(&client, &to, default_policy);
                let inquiry =
                    tokio::time::timeout(timeout, inquiry).await.map_err(|_| anyhow!("the agent did not answer within {timeout:?}"));
                inbound(&inquiry?.map_err(anyhow::Error::from)?, &from, &to, &request, json)
            }
        }
    });
    served.map(|served| if served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_tenancy(name: &str, (namespace, partition): &(Option<String>, Option<String>)) -> ServiceName {
    let local = ServiceName::local(name);
    ServiceName {
        namespace: namespace.as_deref().map_or(local.namespace, Into::into),
        partition: partition.as_deref().map_or(local.partition, Into::into),
        name: local.name,
    }
}

fn print(shown: &(impl Serialize + Display), json: bool) -> Result<(), Failure> {
    let text = if json { serde_json::to_string_pretty(shown).context("it has no JSON form")? } else { shown.to_string() };
    match writeln!(io::stdout(), "{text}") {
        // Who reads has read enough: `| head`.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written.context("cannot write")?),
    }
}

/// A request that is refused before any route or intention looks at it.
#[derive(Serialize)]
struct Refused {
    status: u16,
    why: String,
}

impl Refused {
    fn of(refusal: &Refusal) -> Self {
        let to = if let Refusal::Redirect(path) = refusal { format!(" {path}") } else { String::new() };
        Self { status: refusal.status(), why: format!("{refusal}{to}") }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: {} {}", self.status, self.why)
    }
}

/// The first snapshot that lacks nothing.
async fn complete(
    client: Client,
    selector: ProxySelector,
    fallback: Option<DefaultPolicy>,
    patience: Duration,
) -> Result<Arc<Snapshot>, Failure> {
    let end = Instant::now() + patience;
    let looked =
        timeout(patience, consul::look(&client, &selector)).await.map_err(|_| anyhow!("the agent did not answer within {patience:?}"))?;
    let id = looked.map_err(|why| match why {
        Unfound::Several(_) => Failure::Configuration(why.into()),
        _ => Failure::Running(why.into()),
    })?;
    let (publisher, subscriber) = snapshot::channel();
    let (feed, reconciler) = reconciler::channel();
    let watches = Arc::new(Watches::default());
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    tokio::spawn(reconciler.run(publisher, stop.clone()));
    tokio::spawn(consul::run(client, ProxySelector::ProxyId(id.to_string()), fallback, feed, watches.clone(), stop));
    while Instant::now() < end {
        if subscriber.status().missing.is_empty() {
            return Ok(subscriber.current());
        }
        sleep(LOOK).await;
    }
    Err(incomplete(&subscriber, &watches, patience).into())
}

/// What is missing, and what the agent said about it.
fn incomplete(subscriber: &Subscriber, watches: &Watches, patience: Duration) -> anyhow::Error {
    let errors = watches.snapshot().into_iter().filter_map(|watch| Some(format!("{}: {}", watch.name, watch.last_error?)));
    let errors: Vec<String> = errors.collect();
    let missing = subscriber.status().missing.join(", ");
    anyhow!("not known after {patience:?}: {missing}{}{}", if errors.is_empty() { "" } else { "; " }, errors.join("; "))
}

fn outbound(snapshot: &Snapshot, wanted: Option<&str>, request: &Request, json: bool) -> Result<bool, Failure> {
    let upstreams = snapshot.listeners.values().filter_map(|listener| match &listener.role {
        Role::Upstream(upstream) => Some((listener, upstream)),
        Role::Inbound(_) | Role::Exposed(_) | Role::Ingress(_) => None,
    });
    let is_wanted = |upstream: &Upstream| wanted.is_none_or(|name| *upstream.destination.name == *name);
    let chosen: Vec<_> = upstreams.filter(|(_, upstream)| is_wanted(upstream)).collect();
    let named = |path: &str| path.starts_with(&format!("upstream {}", wanted.unwrap_or_default()));
    for problem in snapshot.problems.iter().filter(|problem| named(&problem.path)) {
        eprintln!("aralez: {problem}");
    }
    if chosen.is_empty() {
        return Err(Failure::Running(match wanted {
            Some(name) => anyhow!("the sidecar has no usable upstream {name}"),
            None => anyhow!("the sidecar has no usable upstream"),
        }));
    }
    let mut served = true;
    for (listener, upstream) in chosen {
        let name = listener.key.name.strip_prefix("upstream:").unwrap_or(&listener.key.name);
        let explained = if listener.protocol.is_http() {
            let head = head(request, &upstream.destination)?;
            if let Err(refusal) = admit(&head, request) {
                print(&Refused::of(&refusal), json)?;
                return Ok(false);
            }
            Outbound::new(name, listener.protocol, upstream, Some(&gate::view(&head)))
        } else {
            Outbound::new(name, listener.protocol, upstream, None)
        };
        served &= explained.is_served();
        print(&explained, json)?;
    }
    Ok(served)
}

fn inbound(inquiry: &Inquiry, from: &ServiceName, to: &ServiceName, request: &Request, json: bool) -> Result<bool, Failure> {
    let caller = SpiffeId::service(inquiry.trust_domain.clone(), from.clone(), &inquiry.datacenter);
    let mut head = head(request, to)?;
    if inquiry.protocol.is_http()
        && let Err(refusal) = admit(&head, request).and_then(|()| gate::normalize(&mut head, &inquiry.normalization))
    {
        print(&Refused::of(&refusal), json)?;
        return Ok(false);
    }
    let (providers, tokens) = providers(inquiry);
    let view = gate::view(&head);
    let verified = Verifier::default().verify(&providers, &view, SystemTime::now());
    let under = |default| {
        let intentions = Intentions::new(inquiry.trust_domain.clone(), default, inquiry.protocol, inquiry.intentions.clone());
        Inbound::new(&caller, (to, inquiry.protocol), &intentions, inquiry.protocol.is_http().then_some(&view), &verified)
    };
    let mut explained = under(inquiry.default_policy);
    let sent = request.target.split('?').next().unwrap_or_default();
    explained.normalised = Some(view.path.to_owned()).filter(|path| inquiry.protocol.is_http() && *path != sent);
    let outcome = |provider: &Arc<str>| verified.why(provider).map_or_else(|| "it stands".to_owned(), ToString::to_string);
    explained.tokens =
        tokens.into_iter().map(|(provider, why)| Token { outcome: why.unwrap_or_else(|| outcome(&provider)), provider }).collect();
    if inquiry.default_policy == DefaultPolicy::Unknown {
        let [allow, deny] = [DefaultPolicy::Allow, DefaultPolicy::Deny].map(|default| under(default).verdict());
        explained.otherwise = if allow == deny { Vec::new() } else { vec![allow, deny] };
    }
    print(&explained, json)?;
    Ok(explained.allowed)
}

/// An issuer that is asked for, and why it cannot verify, if it cannot.
type Asked = (Arc<str>, Option<String>);

/// The issuers that can verify, and all that are asked for.
fn providers(inquiry: &Inquiry) -> (Providers, Vec<Asked>) {
    let mut providers = Providers::new();
    let mut outcomes = Vec::new();
    for name in &inquiry.tokens.required {
        let why = match inquiry.tokens.provider(name) {
            Some(Ok(provider)) => {
                providers.insert(name.clone(), Arc::new(provider));
                None
            }
            Some(Err(why)) => Some(why.to_owned()),
            None => Some("its entry was not read".to_owned()),
        };
        outcomes.push((name.clone(), why));
    }
    (providers, outcomes)
}

/// The request's head as a sidecar receives it.
fn head(request: &Request, to: &ServiceName) -> Result<RequestHeader, Failure> {
    let wrong = |_| Failure::Configuration(anyhow!("{:?} is no request target", request.target));
    let mut head = RequestHeader::build(request.method.clone(), request.target.as_bytes(), None).map_err(wrong)?;
    for (name, value) in &request.headers {
        head.append_header(name.clone(), value.clone()).map_err(|e| Failure::Configuration(anyhow!("header {name}: {e}")))?;
    }
    if !head.headers.contains_key(HOST) {
        head.insert_header(HOST, &*to.name).map_err(|e| Failure::Configuration(anyhow!("{e}")))?;
    }
    headers::drop_controls(&mut head);
    Ok(head)
}

/// The strict gate, before anything else looks at the request: as it reads the head on the wire.
fn admit(head: &RequestHeader, request: &Request) -> Result<(), Refusal> {
    let mut raw = format!("{} {} HTTP/1.1\r\n", request.method, request.target).into_bytes();
    for (name, value) in &head.headers {
        raw.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    raw.extend(b"\r\n");
    gate::head::check(&raw).map(drop)
}
