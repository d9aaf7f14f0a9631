//! Another server decides (forward auth): it is shown the request's head, and nothing of the request goes on before it has answered 2xx.

use std::{sync::OnceLock, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LANGUAGE, CONTENT_TYPE, COOKIE, EXPECT, HOST, LOCATION,
        PROXY_AUTHORIZATION, RANGE, RETRY_AFTER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
    },
};
use pingora_core::Result as PingoraResult;
use pingora_http::RequestHeader;
use tokio::time::timeout;

use super::{Asking, attempts::Tries, single, unauthorized};
use crate::{
    model::ingress::auth::ForwardAuth,
    proxy::{filter::client::called, refusal::Answer},
};

/// The largest body of an auth server's answer that is passed on, bytes.
const LARGEST: usize = 1 << 20;

/// How long an idle connection to an auth server is kept: less than what servers keep theirs.
const IDLE: Duration = Duration::from_secs(30);

/// What speaks of the client's connection or body, or would change what a "yes" means. The auth server is not shown these.
const NOT_SHOWN: [HeaderName; 16] = [
    ACCEPT_ENCODING,
    CONNECTION,
    EXPECT,
    HOST,
    PROXY_AUTHORIZATION,
    RANGE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-forwarded-method"),
    HeaderName::from_static("x-forwarded-uri"),
];

/// What the auth server is shown of a request whatever it is to be shown beside; the last of these only as far as the client may say them.
const SHOWN: [HeaderName; 6] = [
    AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-proto"),
];

/// What the client gets of a "no".
const PASSED_ON: [HeaderName; 7] = [LOCATION, WWW_AUTHENTICATE, SET_COOKIE, CONTENT_TYPE, CONTENT_LANGUAGE, CACHE_CONTROL, RETRY_AFTER];

/// Connections to auth servers.
#[derive(Default)]
pub struct AuthServers {
    client: OnceLock<Result<reqwest::Client, String>>,
}

/// What an auth server said.
struct Said {
    status: StatusCode,
    headers: HeaderMap,
    /// `None`: it is larger than what is passed on.
    body: Option<Bytes>,
}

impl AuthServers {
    /// Asks the server; gives the fields of its answer that the request takes along. The client's own fields of these names are removed.
    ///
    /// # Errors
    /// The server's own answer when it is not 2xx; 503 when there is none in time: a request that nobody has judged goes nowhere.
    pub async fn check(
        &self,
        forward: &ForwardAuth,
        asking: &mut Asking<'_>,
        tries: &Tries<'_>,
    ) -> Result<Vec<(HeaderName, HeaderValue)>, Answer> {
        let names: Vec<HeaderName> = asking.request.headers.keys().filter(|name| is_given(forward, name)).cloned().collect();
        for name in names {
            asking.request.remove_header(&name);
        }
        let credentials = match single(&asking.request.headers, &AUTHORIZATION) {
            Ok(line) => line.map(<[u8]>::to_vec),
            Err(_) => return Err(unauthorized("auth_ambiguous", "Basic realm=\"aralez\"")),
        };
        if let Some(credentials) = &credentials {
            tries.begin(credentials)?;
        }
        let question = question(forward, asking).map_err(|e| unavailable(&e.to_string()))?;
        let said = timeout(forward.timeout, self.ask(forward, &asking.request.method, question)).await;
        let said = said.map_err(|_| unavailable("no answer in time"))?.map_err(|why| unavailable(&why))?;
        if said.status.is_success() {
            credentials.iter().for_each(|credentials| tries.stood(credentials));
            let fields = said.headers.iter().filter(|(name, _)| is_given(forward, name));
            return Ok(fields.map(|(name, value)| (name.clone(), value.clone())).collect());
        }
        if let (Some(credentials), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) = (&credentials, said.status) {
            tries.failed(credentials);
        }
        Err(said.refusal())
    }

    async fn ask(&self, forward: &ForwardAuth, method: &Method, headers: HeaderMap) -> Result<Said, String> {
        let client = self.client.get_or_init(|| client().map_err(|e| causes(&e))).clone()?;
        let method = if *method == Method::HEAD { Method::HEAD } else { Method::GET };
        let request = client.request(method, &*forward.url).headers(headers);
        let mut answer = request.send().await.map_err(|e| causes(&e))?;
        let (status, headers) = (answer.status(), std::mem::take(answer.headers_mut()));
        // An answer is read to its end or its connection is closed: what is left of one must never be taken for another.
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| causes(&e))? {
            if body.len() + chunk.len() > LARGEST {
                return Ok(Said { status, headers, body: None });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Said { status, headers, body: Some(body.freeze()) })
    }
}

/// One for all servers: it follows no redirect, since those are for the browser, and asks no proxy of the environment.
fn client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .http1_only()
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("aralez/", env!("CARGO_PKG_VERSION")))
        .build()
}

impl Said {
    /// Its "no", for the client.
    fn refusal(self) -> Answer {
        if self.status.is_informational() {
            return unavailable("it answered with an interim status");
        }
        let answer = Answer::new(self.status.as_u16(), "auth_refused").body(self.body.unwrap_or_default());
        self.headers
            .iter()
            .filter(|(name, _)| PASSED_ON.contains(name))
            .fold(answer, |answer, (name, value)| answer.header(name.clone(), value))
    }
}

/// Whether the server behind us gets a field of the auth server's answer. Some servers take `Remote_User` for `Remote-User`, so `_` counts as `-`.
fn is_given(forward: &ForwardAuth, name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    forward.response_headers.iter().any(|wanted| match wanted.strip_suffix('*') {
        Some(prefix) => name.starts_with(&prefix.replace('_', "-")),
        None => name == wanted.replace('_', "-"),
    })
}

/// The head of the question: the client's as far as it is to be shown, and what the client asked of whom.
fn question(forward: &ForwardAuth, asking: &Asking<'_>) -> PingoraResult<HeaderMap> {
    let mut head = RequestHeader::build(Method::GET, b"/", Some(asking.request.headers.len() + 8))?;
    let wanted = |name: &HeaderName| {
        let asked_for = || forward.request_headers.iter().any(|wanted| **wanted == *name.as_str());
        forward.request_headers.is_empty() || SHOWN.contains(name) || asked_for()
    };
    let about_body = |name: &HeaderName| name.as_str().starts_with("content-") || name.as_str().starts_with("if-");
    for (name, value) in &asking.request.headers {
        if wanted(name) && !NOT_SHOWN.contains(name) && !about_body(name) {
            head.append_header(name.clone(), value)?;
        }
    }
    asking.client.tell(&mut head, called(asking.request), asking.port, &asking.ingress.client)?;
    head.insert_header("x-forwarded-method", asking.request.method.as_str())?;
    head.insert_header("x-forwarded-uri", asking.request.uri.path_and_query().map_or("/", |target| target.as_str()))?;
    Ok(http::request::Parts::from(head).headers)
}

fn unavailable(why: &str) -> Answer {
    tracing::warn!("the auth server gives no answer, so the request is refused: {why}");
    Answer::new(503, "auth_unavailable").body("authentication is not available\n")
}

/// An error with its causes, which hold the useful part; without the URL, which may be secret.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if text.is_empty() { "it cannot be asked".to_owned() } else { text }
}
