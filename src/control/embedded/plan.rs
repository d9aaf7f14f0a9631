//! What runs where.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::Context as _;

use super::demo::DemoApp;
use crate::{
    config::mesh_file::{App, MeshFile, MeshIntention},
    model::{
        intention::{Action, DefaultPolicy},
        listener::Protocol,
    },
};

/// The addresses of a mesh. `Display` is what `aralez dev` prints: what runs where, and a command to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The services in the file's order.
    pub services: Vec<PlannedService>,
    /// Who may call whom.
    pub intentions: Vec<MeshIntention>,
    /// What holds where no intention speaks.
    pub default_policy: DefaultPolicy,
}

/// A service with its addresses, all on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedService {
    /// Its name.
    pub name: String,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where its app is.
    pub app: SocketAddr,
    /// Whether that is the demo app.
    pub demo: bool,
    /// Where its sidecar is called by others.
    pub sidecar: SocketAddr,
    /// What it calls.
    pub upstreams: Vec<PlannedUpstream>,
}

/// An upstream with its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedUpstream {
    /// The service called.
    pub destination: String,
    /// Where the app calls it.
    pub address: SocketAddr,
}

/// Chooses the addresses and binds the demo apps.
pub(super) fn make(file: MeshFile) -> anyhow::Result<(Plan, Vec<DemoApp>)> {
    let MeshFile { services: written, intentions, default_policy } = file;
    // All are held until all are chosen, so that no port is chosen twice. The data plane binds them right after.
    let mut held = Vec::new();
    let mut choose = |port: u16| match port {
        0 => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
            let address = listener.local_addr()?;
            held.push(listener);
            anyhow::Ok(address)
        }
        port => Ok(loopback(port)),
    };
    let (mut services, mut sockets) = (Vec::new(), Vec::new());
    for service in written {
        let (app, demo) = match service.app {
            App::Own(port) => (loopback(port), None),
            App::Demo(port) => {
                let listener = TcpListener::bind(loopback(port)).with_context(|| {
                    let name = &service.name;
                    format!(
                        "the demo app of {name} cannot listen on {}; choose another demo_port for {name} in a mesh file, or 0",
                        loopback(port)
                    )
                })?;
                (listener.local_addr()?, Some(listener))
            }
        };
        let upstreams = service.upstreams.into_iter();
        let planned = PlannedService {
            app,
            demo: demo.is_some(),
            sidecar: choose(service.sidecar_port)?,
            upstreams: upstreams
                .map(|u| anyhow::Ok(PlannedUpstream { address: choose(u.local_bind_port)?, destination: u.destination }))
                .collect::<Result<_, _>>()?,
            name: service.name,
            protocol: service.protocol,
        };
        sockets.extend(demo.map(|listener| (planned.clone(), listener)));
        services.push(planned);
    }
    let apps = sockets.into_iter().map(|(service, listener)| DemoApp::new(service, listener)).collect::<Result<_, _>>()?;
    Ok((Plan { services, intentions, default_policy }, apps))
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Plan {
    /// A URL that shows the most: a demo app that calls others, else the first upstream, else the first app.
    fn worth_trying(&self) -> Option<SocketAddr> {
        let calls_others = self.services.iter().find(|service| service.demo && !service.upstreams.is_empty()).map(|service| service.app);
        let upstream = || self.services.iter().flat_map(|service| &service.upstreams).next().map(|upstream| upstream.address);
        calls_others.or_else(upstream).or_else(|| self.services.first().map(|service| service.app))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.services.iter().map(|service| service.name.len()).max().unwrap_or(0);
        writeln!(f, "services")?;
        for PlannedService { name, protocol, app, demo, sidecar, upstreams } in &self.services {
            let kind = if *demo { "demo app" } else { "your app" };
            writeln!(f, "  {name:width$}  {:5}  {kind} {app}, sidecar {sidecar}", protocol.as_str())?;
            for PlannedUpstream { destination, address } in upstreams {
                writeln!(f, "  {:width$}         calls {destination} at {address}", "")?;
            }
        }
        let default = if self.default_policy == DefaultPolicy::Allow { "allow" } else { "deny" };
        writeln!(f, "intentions (default {default})")?;
        for MeshIntention { source, destination, action } in &self.intentions {
            let action = if *action == Action::Allow { "allow" } else { "deny" };
            writeln!(f, "  {source} -> {destination}: {action}")?;
        }
        if let Some(address) = self.worth_trying() {
            write!(f, "try\n  curl http://{address}/")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn planned(text: &str) -> Plan {
        make(MeshFile::parse(text).unwrap()).unwrap().0
    }

    #[tokio::test]
    async fn free_ports_are_chosen_and_all_differ() {
        let plan = planned("services: [{name: a, upstreams: [{destination: b, local_bind_port: 0}]}, {name: b}]");
        let addresses = plan.services.iter().flat_map(|s| [s.app, s.sidecar].into_iter().chain(s.upstreams.iter().map(|u| u.address)));
        let ports: std::collections::HashSet<u16> = addresses.map(|a| a.port()).collect();
        assert!(ports.len() == 5 && !ports.contains(&0), "{ports:?}");
    }

    #[tokio::test]
    async fn a_taken_demo_port_is_told_with_the_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let why = make(MeshFile::parse(&format!("services: [{{name: a, demo_port: {port}}}]")).unwrap()).unwrap_err();
        assert!(why.to_string().contains("choose another demo_port for a"), "{why}");
    }

    #[tokio::test]
    async fn the_plan_says_what_runs_where_and_what_to_try() {
        let plan = planned(
            "services: [{name: web, protocol: http, port: 1, sidecar_port: 2, upstreams: [{destination: db, local_bind_port: 3}]}, \
             {name: db, port: 4, sidecar_port: 5}]\nintentions: [{source: '*', destination: db, action: allow}]",
        );
        let expected = "\
services
  web  http   your app 127.0.0.1:1, sidecar 127.0.0.1:2
              calls db at 127.0.0.1:3
  db   tcp    your app 127.0.0.1:4, sidecar 127.0.0.1:5
intentions (default deny)
  * -> db: allow
try
  curl http://127.0.0.1:3/";
        assert_eq!(plan.to_string(), expected);
    }
}
