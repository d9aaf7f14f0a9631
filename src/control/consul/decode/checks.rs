//! What an exposed check asks of the app.
//!
//! The agent does not publish a check's definition: its port is told, its path only stands in the output of its last run.

use std::{collections::BTreeMap, sync::Arc};

use consul_api_types::HealthCheck;

use crate::model::{listener::Protocol, registration::ExposedCheck};

/// What gRPC health checks call (the gRPC health checking protocol).
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";

/// The exposed checks whose path is known.
pub fn checks(checks: &BTreeMap<String, HealthCheck>) -> Vec<ExposedCheck> {
    checks.values().filter_map(check).collect()
}

fn check(check: &HealthCheck) -> Option<ExposedCheck> {
    let port = u16::try_from(check.exposed_port).ok().filter(|port| *port > 0)?;
    let (path, protocol): (Arc<str>, _) = match check.kind.as_str() {
        "http" => (path(&check.output)?.into(), Protocol::Http),
        "grpc" => (GRPC_CHECK.into(), Protocol::Http2),
        _ => return None,
    };
    Some(ExposedCheck { port, path, protocol })
}

/// The path of the URL in the output of an HTTP check, without its query: `HTTP GET http://host:port/path: 200 OK …` after an answer,
/// `Get "http://host:port/path": …` without one.
fn path(output: &str) -> Option<&str> {
    let (_, url) = output.split_once("://")?;
    let end = url.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(url.len());
    let url = url.get(..end)?;
    let url = url.strip_suffix(':').unwrap_or(url);
    let path = url.find('/').and_then(|at| url.get(at..)).unwrap_or("/");
    path.split(['?', '#']).next()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exposed(kind: &str, port: i64, output: &str) -> Vec<(u16, String)> {
        let wire = json!({"service:web-1": {"CheckID": "service:web-1", "Type": kind, "ExposedPort": port, "Output": output}});
        let found = checks(&serde_json::from_value(wire).unwrap());
        found.into_iter().map(|check| (check.port, check.path.to_string())).collect()
    }

    #[test]
    fn the_path_is_read_out_of_the_output() {
        for (output, path) in [
            ("Get \"http://:19100/health\": dial tcp :19100: connect: connection refused", "/health"),
            ("HTTP GET http://127.0.0.1:21500/debug: 200 OK Output: see http://other/x", "/debug"),
            ("HTTP POST http://127.0.0.1:21500/a/b?c=d: 503 Service Unavailable Output: ", "/a/b"),
            ("Get \"http://[::1]:21500\": EOF", "/"),
        ] {
            assert_eq!(exposed("http", 21500, output), [(21500, path.to_owned())], "{output}");
        }
        assert_eq!(exposed("grpc", 21501, ""), [(21501, GRPC_CHECK.to_owned())]);
    }

    #[test]
    fn what_is_not_exposed_or_not_known_yet_is_left_out() {
        assert_eq!(exposed("http", 21500, ""), []);
        assert_eq!(exposed("http", 0, "HTTP GET http://127.0.0.1:8080/debug: 200 OK"), []);
        assert_eq!(exposed("tcp", 21500, "TCP connect 127.0.0.1:8080: Success"), []);
    }
}
