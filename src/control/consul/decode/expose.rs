//! Paths of the app that are served in clear: `Proxy.Expose` of our registration.

use std::net::IpAddr;

use consul_api_types::ExposePath;

use crate::model::{
    listener::{Address, Bind, Protocol},
    registration::{ExposedPath, Unusable},
};

/// Decodes `Proxy.Expose.Paths`. They are served on the address of the public listener, `own`, and lead to the host of the `app`.
pub fn paths(paths: &[ExposePath], own: &Bind, app: &Address, problems: &mut Vec<Unusable>) -> Vec<ExposedPath> {
    paths.iter().enumerate().filter_map(|(at, wire)| path(wire, own, app).map_err(|bad| problems.push(bad.at(at))).ok()).collect()
}

/// A field of an exposed path that cannot be used.
struct Bad {
    field: &'static str,
    why: String,
}

impl Bad {
    fn at(self, at: usize) -> Unusable {
        Unusable {
            path: format!("Proxy.Expose.Paths[{at}].{}", self.field),
            why: self.why,
            advice: "this path is not exposed; the others are".to_owned(),
        }
    }
}

fn path(wire: &ExposePath, own: &Bind, app: &Address) -> Result<ExposedPath, Bad> {
    let bad = |field, why| Bad { field, why };
    if !wire.path.starts_with('/') {
        return Err(bad("Path", format!("{:?} does not begin with /", wire.path)));
    }
    let port = |field, port: i64| match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(bad(field, format!("{port} is not 1 to 65535"))),
    };
    let protocol = match wire.protocol.as_str() {
        "" => Protocol::Http,
        text => Protocol::parse(text)
            .filter(|protocol| protocol.is_http())
            .ok_or_else(|| bad("Protocol", format!("{text:?} is neither http nor http2")))?,
    };
    let on = |address: &Address, port: u16| host(address).map(|ip| Address::Tcp((ip, port).into()));
    let bind = on(&own.address, port("ListenerPort", wire.listener_port)?);
    let bind = bind.ok_or_else(|| bad("ListenerPort", "the public listener has no IP address".to_owned()))?;
    let app = on(app, port("LocalPathPort", wire.local_path_port)?).unwrap_or_else(|| loopback(wire));
    Ok(ExposedPath { bind: Bind { address: bind, mode: None }, path: wire.path.as_str().into(), app, protocol, near_only: false })
}

/// An app whose own port is a Unix socket has its other ports on loopback.
fn loopback(wire: &ExposePath) -> Address {
    let port = u16::try_from(wire.local_path_port).unwrap_or_default();
    Address::Tcp((std::net::Ipv4Addr::LOCALHOST, port).into())
}

fn host(address: &Address) -> Option<IpAddr> {
    match address {
        Address::Tcp(address) => Some(address.ip()),
        Address::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn decode(list: Value, app: Address) -> (Vec<ExposedPath>, Vec<Unusable>) {
        let own = Bind { address: Address::Tcp("10.0.0.7:21000".parse().unwrap()), mode: None };
        let mut problems = Vec::new();
        let wire: Vec<ExposePath> = serde_json::from_value(list).unwrap();
        (paths(&wire, &own, &app, &mut problems), problems)
    }

    fn tcp(text: &str) -> Address {
        Address::Tcp(text.parse().unwrap())
    }

    #[test]
    fn a_path_is_served_on_the_proxys_address_and_leads_to_the_apps() {
        let list = json!([
            {"Path": "/health", "LocalPathPort": 8080, "ListenerPort": 21500},
            {"Path": "/grpc.health.v1.Health/Check", "LocalPathPort": 8079, "ListenerPort": 21501, "Protocol": "http2"},
        ]);
        let (found, problems) = decode(list, tcp("127.0.0.2:9000"));
        assert_eq!(problems, []);
        let [health, grpc] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((&health.bind.address, &health.app, health.protocol), (&tcp("10.0.0.7:21500"), &tcp("127.0.0.2:8080"), Protocol::Http));
        assert_eq!((&*grpc.path, grpc.protocol, grpc.near_only), ("/grpc.health.v1.Health/Check", Protocol::Http2, false));
        let (found, _) = decode(json!([{"Path": "/x", "LocalPathPort": 1, "ListenerPort": 2}]), Address::Unix("/run/app.sock".into()));
        assert_eq!(found[0].app, tcp("127.0.0.1:1"));
    }

    #[test]
    fn what_cannot_be_exposed_is_named_and_the_rest_lives() {
        let list = json!([
            {"Path": "health", "LocalPathPort": 1, "ListenerPort": 2},
            {"Path": "/a", "LocalPathPort": 0, "ListenerPort": 2},
            {"Path": "/b", "LocalPathPort": 1, "ListenerPort": 70000},
            {"Path": "/c", "LocalPathPort": 1, "ListenerPort": 2, "Protocol": "tcp"},
            {"Path": "/d", "LocalPathPort": 1, "ListenerPort": 2},
        ]);
        let (found, problems) = decode(list, tcp("127.0.0.1:9000"));
        assert_eq!(found.len(), 1);
        let fields: Vec<_> = problems.iter().map(|p| p.path.as_str()).collect();
        let field = |at, name| format!("Proxy.Expose.Paths[{at}].{name}");
        assert_eq!(fields, [field(0, "Path"), field(1, "LocalPathPort"), field(2, "ListenerPort"), field(3, "Protocol")]);
    }
}
