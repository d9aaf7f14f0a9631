//! `POST /jwt`: tokens. The master key is in the body, where both known forms have it; guesses count as those elsewhere do.

use std::net::SocketAddr;

use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::{ConfigApi, key::Refusal};

/// The most bytes of a request for a token.
pub(super) const MOST_BYTES: usize = 64 << 10;

pub(super) async fn issue(
    State(api): State<ConfigApi>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !api.enabled {
        return (StatusCode::FORBIDDEN, "tokens are off: main.yaml says config_api_enabled: false\n").into_response();
    }
    let (status, answer) = (api.issue)(&body, headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()));
    if let Err(refusal @ Refusal::TooMany(_)) = api.key.count(peer.ip().to_canonical(), status != StatusCode::FORBIDDEN) {
        return refusal.into_response();
    }
    (status, Json(answer)).into_response()
}
