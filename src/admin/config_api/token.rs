//! `POST /jwt`: tokens. The master key is in the body, where both known forms have it; guesses count as those elsewhere do.

use axum::{
    body::Bytes,
    extract::{ConnectInfo, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::{ConfigApi, Peer, key::Refusal};

pub(super) async fn issue(State(api): State<ConfigApi>, ConnectInfo(Peer(peer)): ConnectInfo<Peer>, body: Bytes) -> Response {
    if !api.enabled {
        return (StatusCode::FORBIDDEN, "tokens are off: main.yaml says config_api_enabled: false\n").into_response();
    }
    let (status, answer) = (api.issue)(&body);
    if let Err(refusal @ Refusal::TooMany(_)) = api.key.count(peer, status != StatusCode::FORBIDDEN) {
        return refusal.into_response();
    }
    (status, [(CONTENT_TYPE, "application/json")], answer).into_response()
}
