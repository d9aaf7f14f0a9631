//! What can be changed: by `POST` or `PUT` only, so that no link and no picture of a page does it.

use axum::{
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::AdminState;
use crate::telemetry::log::Level;

/// The query of `/log`.
#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    #[serde(default)]
    level: String,
}

pub(super) async fn level(State(state): State<AdminState>, Query(wanted): Query<Wanted>) -> Response {
    let level = match wanted.level.parse::<Level>() {
        Ok(level) => level,
        Err(why) => return (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    };
    match state.log.set(level) {
        Ok(()) => {
            tracing::info!(%level, "log level changed by the admin API");
            format!("{level}\n").into_response()
        }
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")).into_response(),
    }
}

pub(super) async fn drain(State(state): State<AdminState>) -> Response {
    (state.drain)();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}
