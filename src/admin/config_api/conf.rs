//! `/conf`: the configuration, taken and shown.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::{self, Body},
    extract::{Query, Request, State},
    http::{
        HeaderName, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::{Accepted, ConfigApi, MOST_BYTES, Pushed, Refused};
use crate::model::registration::Unusable;

/// Names the configuration in answers.
const VERSION: HeaderName = HeaderName::from_static("x-config-version");

/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// How long a configuration may take to be followed by the listeners before its sender is told to look for himself.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(30);

/// What stands in the place of a secret in what is shown.
const REDACTED: &str = "<redacted>";

pub(super) async fn show(State(api): State<ConfigApi>) -> Response {
    let now = (api.in_force)();
    ([(CONTENT_TYPE, "application/yaml"), (VERSION, &now.version)], now.shown.to_string()).into_response()
}

pub(super) async fn push(State(api): State<ConfigApi>, request: Request) -> Response {
    if !api.enabled {
        return (StatusCode::FORBIDDEN, "changes are off: main.yaml says config_api_enabled: false\n").into_response();
    }
    let query = Query::<BTreeMap<String, String>>::try_from_uri(request.uri()).map(|query| query.0).unwrap_or_default();
    let pushed = match wanted(&query) {
        Ok((save, dry_run)) => text(request).await.map(|text| Pushed { text, save, dry_run }),
        Err(why) => Err((StatusCode::BAD_REQUEST, why)),
    };
    let pushed = match pushed {
        Ok(pushed) => pushed,
        Err((status, why)) => return (status, format!("{why}\n")).into_response(),
    };
    let dry_run = pushed.dry_run;
    match timeout(IN_FORCE_WITHIN, (api.push)(pushed)).await {
        Ok(Ok(Accepted { version, changes })) if dry_run => ([(VERSION, &*version)], would_change(&changes)).into_response(),
        Ok(Ok(Accepted { version, .. })) => ([(VERSION, &*version)], "Config, conf file, updated !\n").into_response(),
        Ok(Err(Refused::Wrong(problems))) => (StatusCode::BAD_REQUEST, lines(&problems)).into_response(),
        Ok(Err(Refused::Failed(why))) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("Failed: {why}; nothing was changed\n")).into_response()
        }
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "taken, but not in force yet: look at GET /conf\n").into_response(),
    }
}

/// Whether to save and whether only to check. A misspelt word must not change what it was meant to spare.
fn wanted(query: &BTreeMap<String, String>) -> Result<(bool, bool), String> {
    let (mut save, mut dry_run) = (false, false);
    for (name, value) in query {
        let asked = match name.as_str() {
            "key" => continue,
            "save" => &mut save,
            "dry_run" => &mut dry_run,
            other => return Err(format!("{other:?} means nothing here: there are save, dry_run and key")),
        };
        *asked = match value.as_str() {
            "" | "1" | "true" | "yes" => true,
            "0" | "false" | "no" => false,
            _ => return Err(format!("{name} is true or false")),
        };
    }
    if save && dry_run {
        return Err("save and dry_run exclude each other".to_owned());
    }
    Ok((save, dry_run))
}

async fn text(request: Request<Body>) -> Result<String, (StatusCode, String)> {
    let too_large = || (StatusCode::PAYLOAD_TOO_LARGE, format!("a configuration has at most {MOST_BYTES} bytes"));
    let said = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|length| length > MOST_BYTES as u64) {
        return Err(too_large());
    }
    let read = timeout(BODY_WITHIN, body::to_bytes(request.into_body(), MOST_BYTES)).await;
    let bytes = read.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the body took too long".to_owned()))?.map_err(|_| too_large())?;
    let text = String::from_utf8(bytes.into()).map_err(|_| (StatusCode::BAD_REQUEST, "the body is not UTF-8".to_owned()))?;
    if text.contains(REDACTED) {
        let why = format!(
            "the body has {REDACTED}, as GET /conf shows in the place of a secret: put the secret there, or ${{NAME}} of the environment"
        );
        return Err((StatusCode::BAD_REQUEST, why));
    }
    Ok(text)
}

/// What a configuration that was only checked would change.
fn would_change(changes: &[String]) -> String {
    let lines = changes.iter().map(|change| format!("would change: {change}\n"));
    std::iter::once("Config is valid, nothing was changed\n".to_owned()).chain(lines).collect()
}

/// A line for each problem.
fn lines(problems: &[Unusable]) -> String {
    problems
        .iter()
        .map(
            |Unusable { path, why, advice }| {
                if advice.is_empty() { format!("{path}: {why}\n") } else { format!("{path}: {why}; {advice}\n") }
            },
        )
        .collect()
}
