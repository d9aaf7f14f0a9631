//! How a try at an endpoint ended, as passive health and retries see it.

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered.
    Answer {
        /// The answer's status.
        status: u16,
        /// Its `grpc-status`, if it stands in the head: trailers come too late for another try, and Envoy does not judge by them either.
        grpc: Option<u16>,
        /// Whether the answer carries `x-envoy-ratelimited`.
        ratelimited: bool,
    },
    /// An opaque connection was established.
    Connected,
    /// There was no connection, or it showed the wrong identity: nothing of the request was sent.
    ConnectFailure,
    /// The endpoint said that it did not process the request: HTTP/2 `REFUSED_STREAM` (RFC 9113 §8.7), or a GOAWAY whose last stream is an earlier one
    /// (§6.8).
    Unprocessed,
    /// The connection or stream broke before the answer's head was complete.
    Reset,
    /// There was no answer in time.
    Timeout,
}

impl Outcome {
    /// The HTTP status by which passive health judges it: what is no answer counts as Envoy counts it, and a gRPC status as the HTTP status that
    /// Envoy's router maps it to (`grpc-status` 12 is 501, hence a failure).
    pub fn status(self) -> u16 {
        match self {
            Self::Answer { grpc: Some(grpc), .. } => http_status(grpc),
            Self::Answer { status, .. } => status,
            Self::Connected => 200,
            Self::ConnectFailure | Self::Unprocessed | Self::Reset => 503,
            Self::Timeout => 504,
        }
    }
}

/// The HTTP status that stands for a gRPC status, as in google.rpc.Code; an unknown one counts as a failure of the server.
fn http_status(grpc: u16) -> u16 {
    match grpc {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}
