//! Service registrations, in the words of `PUT /v1/agent/service/register`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::net::Address;
use crate::ports::free_port;

/// A service with a sidecar. Everything is on 127.0.0.1; the sidecar's port is given, because Consul's own choice starts at 21000.
#[derive(Clone, Debug)]
pub struct Service {
    /// Name: what others call, and the identity of the leaf.
    pub name: String,
    /// ID, unique on the agent. The sidecar's is `<id>-sidecar-proxy`.
    pub id: String,
    /// Where the app listens.
    pub app: Address,
    /// Port of the sidecar's public (mTLS) listener.
    pub sidecar_port: u16,
    /// `Proxy.Config`. What is absent means what central configuration says.
    pub config: Map<String, Value>,
    /// `Proxy.Expose`; `null` is none.
    pub expose: Value,
    /// Checks of the app itself.
    pub app_checks: Vec<Value>,
    /// `Weights` of the sidecar, the share it gets: while all checks pass, and while one warns.
    pub weights: [u32; 2],
    /// `Meta`, which the agent copies to the sidecar.
    pub meta: BTreeMap<String, String>,
    /// What the service calls.
    pub upstreams: Vec<Upstream>,
    /// How Consul learns that the sidecar is up.
    pub check: Check,
}

/// The health check of a sidecar.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// Consul connects to the public listener every second (its shortest interval), as its default check does every ten.
    Tcp,
    /// Passing for an hour, across a restart of the agent too. (A restarting agent sets a TCP check back to critical, and gives a
    /// nested sidecar its two default checks anew, seen with Consul 1.20.1; so this sidecar is registered by itself.)
    Ttl,
}

/// One upstream of a [`Service`].
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Name of the called service.
    pub destination: String,
    /// Where the sidecar listens for the app.
    pub bind: Bind,
    /// `Config`; absent as in [`Service::config`].
    pub config: Map<String, Value>,
    /// `DestinationType`: `service` or `prepared_query`.
    pub kind: &'static str,
}

/// Where a sidecar listens for an upstream.
#[derive(Clone, Debug)]
pub enum Bind {
    /// `LocalBindPort` on 127.0.0.1.
    Port(u16),
    /// `LocalBindSocketPath` with `LocalBindSocketMode` (octal, as Consul takes it).
    Socket(PathBuf, String),
}

impl Service {
    /// A tcp service without upstreams, with its name as its ID and a free port for its sidecar.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new(name: impl Into<String>, app: &Address) -> Result<Self> {
        let name = name.into();
        Ok(Self {
            id: name.clone(),
            name,
            app: app.clone(),
            sidecar_port: free_port()?,
            config: Map::new(),
            expose: Value::Null,
            app_checks: Vec::new(),
            weights: [1, 1],
            meta: BTreeMap::new(),
            upstreams: Vec::new(),
            check: Check::Tcp,
        })
    }

    /// Another instance of a service: the same name, its own ID.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Sets the protocol of the service.
    pub fn protocol(self, protocol: &str) -> Self {
        self.config("protocol", protocol)
    }

    /// Sets a key of `Proxy.Config`.
    pub fn config(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// Sets `Proxy.Expose`.
    pub fn expose(mut self, expose: Value) -> Self {
        self.expose = expose;
        self
    }

    /// Adds a check of the app itself.
    pub fn app_check(mut self, check: Value) -> Self {
        self.app_checks.push(check);
        self
    }

    /// Sets the weights: while all checks pass, and while one warns.
    pub fn weights(mut self, passing: u32, warning: u32) -> Self {
        self.weights = [passing, warning];
        self
    }

    /// Adds a `Meta` value.
    pub fn meta(mut self, key: &str, value: &str) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }

    /// Adds an upstream.
    pub fn upstream(mut self, upstream: Upstream) -> Self {
        self.upstreams.push(upstream);
        self
    }

    /// Sets how Consul learns that the sidecar is up.
    pub fn check(mut self, check: Check) -> Self {
        self.check = check;
        self
    }

    /// ID of the sidecar's own registration.
    pub fn proxy_id(&self) -> String {
        format!("{}-sidecar-proxy", self.id)
    }

    /// Address of the public listener.
    pub fn public(&self) -> Address {
        Address::port(self.sidecar_port)
    }

    /// The request bodies: the service with a nested sidecar, or the service and then its sidecar.
    pub fn bodies(&self) -> Vec<Value> {
        let upstreams: Vec<_> = self.upstreams.iter().map(Upstream::body).collect();
        let mut proxy = json!({"Config": self.config, "Expose": self.expose, "Upstreams": upstreams});
        let mut service = json!({
            "Name": self.name, "ID": self.id, "Address": "127.0.0.1", "Meta": self.meta, "Checks": self.app_checks,
        });
        let weights = json!({"Passing": self.weights[0], "Warning": self.weights[1]});
        match &self.app {
            Address::Tcp(address) => service["Port"] = json!(address.port()),
            Address::Unix(path) => service["SocketPath"] = json!(path),
        }
        match self.check {
            Check::Tcp => {
                let check = json!({"Name": "listening", "TCP": format!("127.0.0.1:{}", self.sidecar_port), "Interval": "1s"});
                let sidecar = json!({"Port": self.sidecar_port, "Checks": [check], "Weights": weights, "Proxy": proxy});
                service["Connect"] = json!({"SidecarService": sidecar});
                vec![service]
            }
            Check::Ttl => {
                let check = json!({"Name": "running", "CheckID": self.ttl_check(), "TTL": "1h", "Status": "passing"});
                proxy["DestinationServiceName"] = json!(self.name);
                proxy["DestinationServiceID"] = json!(self.id);
                proxy["LocalServicePort"] = service["Port"].clone();
                let sidecar = json!({
                    "Kind": "connect-proxy", "Name": format!("{}-sidecar-proxy", self.name), "ID": self.proxy_id(),
                    "Address": "127.0.0.1", "Port": self.sidecar_port, "Meta": self.meta, "Checks": [check],
                    "Weights": weights, "Proxy": proxy,
                });
                vec![service, sidecar]
            }
        }
    }

    /// ID of the check under [`Check::Ttl`].
    pub fn ttl_check(&self) -> String {
        format!("{}-running", self.proxy_id())
    }
}

impl Upstream {
    /// An upstream on a free port.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new(destination: impl Into<String>) -> Result<Self> {
        Ok(Self { destination: destination.into(), bind: Bind::Port(free_port()?), config: Map::new(), kind: "service" })
    }

    /// An upstream on a Unix socket with the given mode.
    pub fn socket(destination: impl Into<String>, path: impl Into<PathBuf>, mode: &str) -> Self {
        let bind = Bind::Socket(path.into(), mode.into());
        Self { destination: destination.into(), bind, config: Map::new(), kind: "service" }
    }

    /// The destination is the name of a prepared query.
    pub fn prepared_query(mut self) -> Self {
        self.kind = "prepared_query";
        self
    }

    /// Sets the protocol spoken to this upstream.
    pub fn protocol(self, protocol: &str) -> Self {
        self.config("protocol", protocol)
    }

    /// Sets a key of `Config`.
    pub fn config(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// Where the app dials.
    pub fn address(&self) -> Address {
        match &self.bind {
            Bind::Port(port) => Address::port(*port),
            Bind::Socket(path, _) => Address::Unix(path.clone()),
        }
    }

    fn body(&self) -> Value {
        let mut body = json!({"DestinationType": self.kind, "DestinationName": self.destination, "Config": self.config});
        match &self.bind {
            Bind::Port(port) => body["LocalBindPort"] = json!(port),
            Bind::Socket(path, mode) => {
                body["LocalBindSocketPath"] = json!(path);
                body["LocalBindSocketMode"] = json!(mode);
            }
        }
        body
    }
}
