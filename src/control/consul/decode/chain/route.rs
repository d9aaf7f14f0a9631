//! The routes of a router.

use std::{sync::Arc, time::Duration};

use consul_api_types::{ChainRoute, GoDuration, HeaderMatch as WireHeader, HttpMatch, QueryParamMatch, RouteDestination};
use http::uri::PathAndQuery;

use super::{Next, Walk, edits};
use crate::model::{
    matching::{HeaderMatch, PathMatch, QueryMatch, Regex, TextMatch},
    route::{IDLE_TIMEOUT, RetryOn, RetryPolicy, Route, RouteMatch, TIMEOUT},
};

/// The routes in order. Consul appends one that takes the rest: it is called `default`.
pub(super) fn routes<'a>(walk: &mut Walk<'a>, wire: &'a [ChainRoute]) -> Result<Vec<Route>, String> {
    let mut routes = Vec::with_capacity(wire.len());
    for (at, route) in wire.iter().enumerate() {
        let name = if at + 1 == wire.len() { "default".to_owned() } else { format!("route {}", at + 1) };
        routes.push(one(walk, route, &name).map_err(|why| format!("{name}: {why}"))?);
    }
    Ok(routes)
}

fn one<'a>(walk: &mut Walk<'a>, wire: &'a ChainRoute, name: &str) -> Result<Route, String> {
    let Next { hash, legs } = walk.next(&wire.next_node)?;
    let mut route = Route { name: name.into(), hash, ..Route::to(legs) };
    let Some(definition) = &wire.definition else { return Ok(route) };
    if let Some(http) = definition.matches.as_ref().and_then(|matches| matches.http.as_ref()) {
        route.matches = matches(http)?;
    }
    if let Some(destination) = &definition.destination {
        let path = format!("{name}: Destination");
        route.rewrite = rewrite(&destination.prefix_rewrite)?;
        route.timeout = timeout(destination.request_timeout, TIMEOUT);
        route.idle_timeout = timeout(destination.idle_timeout, IDLE_TIMEOUT);
        route.retry = retry(walk, destination, &path);
        route.headers = edits::both(&destination.request_headers, &destination.response_headers, &path, &mut walk.problems);
    }
    Ok(route)
}

fn matches(wire: &HttpMatch) -> Result<RouteMatch, String> {
    let regex = |text: &str| Regex::parse(text).map(TextMatch::Regex).map_err(|why| format!("Match.HTTP.PathRegex: {why}"));
    let text = match wire {
        HttpMatch { path_exact, .. } if !path_exact.is_empty() => Some(TextMatch::Exact(path_exact.as_str().into())),
        // Every path begins with a slash, save the asterisk of OPTIONS, which the appended route should take, too.
        HttpMatch { path_prefix, .. } if path_prefix == "/" => None,
        HttpMatch { path_prefix, .. } if !path_prefix.is_empty() => Some(TextMatch::Prefix(path_prefix.as_str().into())),
        HttpMatch { path_regex, .. } if !path_regex.is_empty() => Some(regex(path_regex)?),
        _ => None,
    };
    let in_list = |list: &'static str, at: usize| move |why| format!("Match.HTTP.{list}[{at}]{why}");
    let headers = wire.header.iter().enumerate().map(|(at, wire)| header(wire).map_err(in_list("Header", at)));
    let query = wire.query_param.iter().enumerate().map(|(at, wire)| parameter(wire).map_err(in_list("QueryParam", at)));
    Ok(RouteMatch {
        path: text.map(|text| PathMatch { text, ignore_case: wire.case_insensitive }),
        headers: headers.collect::<Result<_, _>>()?,
        query: query.collect::<Result<_, _>>()?,
        methods: wire.methods.iter().map(|method| method.to_ascii_uppercase().into()).collect(),
    })
}

fn header(wire: &WireHeader) -> Result<HeaderMatch, String> {
    let value = match wire {
        WireHeader { exact, .. } if !exact.is_empty() => Some(TextMatch::Exact(exact.as_str().into())),
        WireHeader { regex, .. } if !regex.is_empty() => Some(expression(regex)?),
        WireHeader { prefix, .. } if !prefix.is_empty() => Some(TextMatch::Prefix(prefix.as_str().into())),
        WireHeader { suffix, .. } if !suffix.is_empty() => Some(TextMatch::Suffix(suffix.as_str().into())),
        WireHeader { present: true, .. } => None,
        _ => return Err(UNKNOWN_TEST.to_owned()),
    };
    Ok(HeaderMatch { name: wire.name.to_ascii_lowercase().into(), value, ignore_case: false, invert: wire.invert })
}

fn parameter(wire: &QueryParamMatch) -> Result<QueryMatch, String> {
    let value = match wire {
        QueryParamMatch { exact, .. } if !exact.is_empty() => Some(TextMatch::Exact(exact.as_str().into())),
        QueryParamMatch { regex, .. } if !regex.is_empty() => Some(expression(regex)?),
        QueryParamMatch { present: true, .. } => None,
        _ => return Err(UNKNOWN_TEST.to_owned()),
    };
    Ok(QueryMatch { name: wire.name.as_str().into(), value })
}

/// A newer Consul may have tests that are not known here; without its test the route would take too much.
const UNKNOWN_TEST: &str = ": it has no test that is known";

fn expression(text: &str) -> Result<TextMatch, String> {
    Regex::parse(text).map(TextMatch::Regex).map_err(|why| format!(".Regex: {why}"))
}

fn rewrite(text: &str) -> Result<Option<Arc<str>>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let fits = text.starts_with('/') && !text.contains('#') && text.parse::<PathAndQuery>().is_ok();
    if fits { Ok(Some(text.into())) } else { Err(format!("Destination.PrefixRewrite: {text:?} is no path")) }
}

/// Unset (zero) is `default`, negative is without limit.
fn timeout(wire: GoDuration, default: Duration) -> Option<Duration> {
    if wire.is_zero() { Some(default) } else { wire.to_std() }
}

/// Without a condition nothing is retried, whatever `NumRetries` says, as in Consul's Envoy path.
fn retry(walk: &mut Walk<'_>, wire: &RouteDestination, path: &str) -> Option<RetryPolicy> {
    let mut on = Vec::new();
    for (at, text) in wire.retry_on.iter().enumerate() {
        match RetryOn::parse(text) {
            Some(condition) if on.contains(&condition) => {}
            Some(condition) => on.push(condition),
            None => walk.problem(format!("{path}.RetryOn[{at}]"), format!("{text:?} is not known"), "the other conditions hold"),
        }
    }
    if wire.retry_on_connect_failure && !on.contains(&RetryOn::ConnectFailure) {
        on.push(RetryOn::ConnectFailure);
    }
    let statuses: Vec<u16> = wire.retry_on_status_codes.iter().filter_map(|status| u16::try_from(*status).ok()).collect();
    (!on.is_empty() || !statuses.is_empty()).then(|| RetryPolicy { retries: wire.num_retries.max(1), on, statuses })
}
