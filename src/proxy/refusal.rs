//! Every "no" of the data plane: what the client sees, what the log says.

use std::error::Error;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use pingora_core::{ErrorSource, ErrorType, Result, protocols::http::ServerSession};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::guard::Overflow;
use crate::{
    model::{intention::Denied, path::Rejected},
    telemetry::record::Flag,
};

/// A request that is not served, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request is not one that may be passed on.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// The same, with a status that says more than 400.
    #[error("bad request: {why}")]
    Malformed {
        /// The HTTP status.
        status: u16,
        /// What is wrong.
        why: &'static str,
    },
    /// What came is no HTTP, of no version: it is not answered.
    #[error("it is no HTTP")]
    NotHttp,
    /// The head of the request did not come in time.
    #[error("request header timeout")]
    HeadTimeout,
    /// The head of the request is too long, or has too many fields.
    #[error("Request Header Fields Too Large")]
    HeadTooLong,
    /// The request has no form that could be compared.
    #[error("bad request: {0}")]
    NoForm(Rejected),
    /// The request's path had another form: the client is sent to the one form that it has here.
    #[error("moved to its normalised form")]
    Redirect(String),
    /// No route takes the request.
    #[error("no route")]
    NoRoute,
    /// Intentions refused the caller.
    #[error("RBAC: access denied")]
    Denied(Denied),
    /// No endpoint is healthy.
    #[error("no healthy upstream")]
    NoHealthyEndpoint,
    /// The cluster has as much in flight as its limits allow.
    #[error("upstream overflow: {}", .0.details())]
    Overflow(Overflow),
    /// No endpoint could be connected to.
    #[error("upstream connect error: {0}")]
    Connect(String),
    /// The endpoint closed the connection before it answered.
    #[error("upstream closed the connection before it answered: {0}")]
    Closed(String),
    /// The endpoint did not answer in time.
    #[error("upstream request timeout")]
    Timeout,
    /// The endpoint's answer was not HTTP.
    #[error("upstream protocol error: {0}")]
    Protocol(String),
    /// A filter of the ingress role has the answer.
    #[error("{}", .0.reason)]
    Answer(Box<Answer>),
    /// Our own fault.
    #[error("internal error: {0}")]
    Internal(String),
}

/// An answer that a filter gives itself, good or bad.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Stable words for the log's `response_code_details`.
    pub reason: &'static str,
    /// Fields of its head; each is added.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body; plain text unless the head says otherwise.
    pub body: Bytes,
}

impl Answer {
    /// An answer without fields and body of its own.
    pub fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason, headers: Vec::new(), body: Bytes::new() }
    }

    /// Adds a field; a value that no header can have is left out.
    pub fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        self.headers.extend(value.try_into().ok().map(|value| (name, value)));
        self
    }

    /// Gives it a body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn grpc_status(&self) -> u16 {
        // The mapping of gRPC over HTTP (doc/http-grpc-status-mapping.md), except that a limit is told as one (RESOURCE_EXHAUSTED), so that nobody tries
        // at once again as after "unavailable".
        match self.status {
            400 => 13,
            401 => 16,
            403 => 7,
            404 => 12,
            413 | 429 => 8,
            502..=504 => 14,
            _ => 2,
        }
    }

    fn flag(&self) -> Flag {
        match self.status {
            401 | 403 => Flag::Unauthorized,
            429 => Flag::RateLimited,
            _ => Flag::None,
        }
    }
}

impl From<Answer> for Refusal {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

impl Refusal {
    /// What Pingora's error means. `None`: the client is gone, there is nobody to answer.
    pub fn of(error: &pingora_core::Error) -> Option<Self> {
        use ErrorType::*;
        let why = error.root_cause().to_string();
        Some(match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, WriteError | ReadError | ConnectionClosed | H2Error) => return None,
            (ErrorSource::Downstream, _) => Self::BadRequest("it is not valid HTTP"),
            (_, ConnectTimedout | ConnectRefused | ConnectNoRoute | ConnectError | ConnectProxyFailure) => Self::Connect(why),
            (_, TLSHandshakeFailure | TLSHandshakeTimedout | TLSWantX509Lookup | HandshakeError | InvalidCert) => Self::Connect(why),
            (ErrorSource::Upstream, ReadTimedout | WriteTimedout) => Self::Timeout,
            (ErrorSource::Upstream, InvalidHTTPHeader | InvalidH2 | H2Error | H2Downgrade) => Self::Protocol(why),
            (ErrorSource::Upstream, _) => Self::Closed(why),
            _ => Self::Internal(why),
        })
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Self::Redirect(_) => 307,
            Self::Malformed { status, .. } => *status,
            // None is sent.
            Self::NotHttp => 0,
            Self::HeadTimeout => 408,
            Self::HeadTooLong => 431,
            Self::BadRequest(_) | Self::NoForm(_) => 400,
            Self::Denied(_) => 403,
            Self::NoRoute => 404,
            Self::NoHealthyEndpoint | Self::Overflow(_) | Self::Connect(_) | Self::Closed(_) => 503,
            Self::Timeout => 504,
            Self::Protocol(_) => 502,
            Self::Answer(answer) => answer.status,
            Self::Internal(_) => 500,
        }
    }

    /// The `grpc-status` that goes with it.
    fn grpc_status(&self) -> u16 {
        match self {
            Self::BadRequest(_) | Self::Malformed { .. } | Self::NotHttp | Self::HeadTimeout | Self::HeadTooLong => 13,
            Self::NoForm(_) | Self::Redirect(_) | Self::Internal(_) => 13,
            Self::Denied(_) => 7,
            Self::Timeout => 4,
            Self::NoRoute => 12,
            Self::Answer(answer) => answer.grpc_status(),
            Self::NoHealthyEndpoint | Self::Overflow(_) | Self::Connect(_) | Self::Closed(_) | Self::Protocol(_) => 14,
        }
    }

    /// The flag for log and metrics.
    pub fn flag(&self) -> Flag {
        match self {
            Self::BadRequest(_) | Self::Malformed { .. } | Self::NotHttp | Self::NoForm(_) | Self::HeadTimeout | Self::HeadTooLong => {
                Flag::DownstreamProtocolError
            }
            Self::Denied(_) => Flag::Unauthorized,
            Self::NoHealthyEndpoint => Flag::NoHealthyUpstream,
            Self::Connect(_) => Flag::UpstreamConnectionFailure,
            Self::Closed(_) => Flag::UpstreamConnectionTermination,
            Self::Timeout => Flag::UpstreamTimeout,
            Self::Protocol(_) => Flag::UpstreamProtocolError,
            Self::NoRoute => Flag::NoRoute,
            Self::Answer(answer) => answer.flag(),
            Self::Overflow(_) => Flag::Overflow,
            Self::Redirect(_) | Self::Internal(_) => Flag::None,
        }
    }

    /// Stable words for the log's `response_code_details`.
    pub fn details(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::Malformed { .. } => "bad_request",
            Self::NotHttp => "not_http",
            Self::HeadTimeout => "request_header_timeout",
            Self::HeadTooLong => "request_headers_too_large",
            Self::NoForm(_) => "path_normalization_failed",
            Self::Denied(denied) => denied.reason(),
            Self::Redirect(_) => "path_normalized",
            Self::NoRoute => "route_not_found",
            Self::Answer(answer) => answer.reason,
            Self::Overflow(overflow) => overflow.details(),
            Self::NoHealthyEndpoint => "no_healthy_upstream",
            Self::Connect(_) => "upstream_connect_failure",
            Self::Closed(_) => "upstream_closed",
            Self::Timeout => "response_timeout",
            Self::Protocol(_) => "upstream_protocol_error",
            Self::Internal(_) => "internal_error",
        }
    }

    /// It in full, for people: of a denial, which rule decided.
    pub fn why(&self) -> &(dyn Error + Send + Sync) {
        match self {
            Self::Denied(denied) => denied,
            _ => self,
        }
    }

    /// Why connecting failed, for the log's `upstream_transport_failure_reason`.
    pub fn transport_failure(&self) -> Option<&str> {
        match self {
            Self::Connect(why) | Self::Closed(why) => Some(why),
            _ => None,
        }
    }

    /// The text that the client sees. What an endpoint's connection said stays in our log.
    pub fn body(&self) -> Bytes {
        let text = match self {
            Self::Answer(answer) => return answer.body.clone(),
            // Envoy's words, without an end of line: scripts compare them.
            Self::Connect(_) => reset("remote connection failure"),
            Self::Closed(_) => reset("connection termination"),
            Self::Overflow(_) => reset("overflow"),
            Self::Protocol(_) => reset("protocol error"),
            Self::Internal(_) => "internal error\n".to_owned(),
            Self::Denied(_) | Self::NoHealthyEndpoint | Self::Timeout | Self::NotHttp | Self::HeadTimeout | Self::HeadTooLong => {
                self.to_string()
            }
            Self::Redirect(_) => String::new(),
            Self::BadRequest(_) | Self::Malformed { .. } | Self::NoForm(_) | Self::NoRoute => format!("{self}\n"),
        };
        text.into()
    }

    /// Answers the client: a plain text, or for gRPC a trailers-only response (status 200 and `grpc-status`, gRPC over HTTP/2).
    ///
    /// `edit` has the last word on the head: routes edit the answers that we give ourselves too, as with Envoy.
    ///
    /// # Errors
    /// When the client cannot be written to.
    pub async fn answer(&self, session: &mut Session, edit: impl FnOnce(&RequestHeader, &mut ResponseHeader) -> Result<()>) -> Result<()> {
        let body = self.body();
        if is_grpc(session) {
            let mut head = ResponseHeader::build(200, Some(4))?;
            head.insert_header(CONTENT_TYPE, "application/grpc")?;
            head.insert_header(HeaderName::from_static("grpc-status"), self.grpc_status().to_string())?;
            head.insert_header(HeaderName::from_static("grpc-message"), body.trim_ascii_end())?;
            edit(session.req_header(), &mut head)?;
            // Pingora's own call tells only its modules that the answer ends here; gRPC wants one frame that ends the stream (Trailers-Only).
            if let ServerSession::H2(http2) = session.as_downstream_mut() {
                return http2.write_response_header(Box::new(head), true);
            }
            return session.write_response_header(Box::new(head), true).await;
        }
        let mut head = ResponseHeader::build(self.status(), Some(4))?;
        head.insert_header(CONTENT_TYPE, "text/plain")?;
        head.insert_header(http::header::CONTENT_LENGTH, body.len().to_string())?;
        match self {
            Self::Answer(answer) => {
                for (name, value) in &answer.headers {
                    if *name == CONTENT_TYPE {
                        head.insert_header(CONTENT_TYPE, value)?;
                    } else {
                        head.append_header(name, value)?;
                    }
                }
            }
            Self::Redirect(location) => head.insert_header(http::header::LOCATION, location)?,
            // Envoy's word for "do not try again at once".
            Self::Overflow(_) => head.insert_header(HeaderName::from_static("x-envoy-overloaded"), "true")?,
            _ => {}
        }
        edit(session.req_header(), &mut head)?;
        let head_only = session.req_header().method == http::Method::HEAD;
        let done = head_only || body.is_empty();
        session.write_response_header(Box::new(head), done).await?;
        if !done {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }
}

fn reset(reason: &str) -> String {
    format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}")
}

/// Whether the request is a gRPC call.
pub fn is_grpc(session: &Session) -> bool {
    let kind = session.req_header().headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_status_that_grpc_maps_theirs_to() {
        let mapped = [200, 301, 400, 401, 403, 404, 405, 413, 429, 500, 502, 503, 504]
            .map(|status| Refusal::from(Answer::new(status, "test")).grpc_status());
        assert_eq!(mapped, [2, 2, 13, 16, 7, 12, 2, 8, 8, 2, 14, 14, 14]);
    }
}
