//! What the agent knows, and the JSON it says it in (shapes as Consul 1.20.1 sends them).

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::topic::{Endpoint, Topic};
use crate::support::ca::{Authority, Leaf, LeafRequest};

/// The trust domain of every fake cluster.
pub const TRUST_DOMAIN: &str = "11111111-2222-3333-4444-555555555555.consul";

/// The agent's data: plain values, changed only through `FakeAgent`.
pub struct Catalog {
    /// All trusted roots, oldest first; the last one signs.
    pub roots: Vec<Authority>,
    /// A root that is listed first and signs nothing here.
    pub other_root: Option<Authority>,
    /// Say `"Roots": []`.
    pub hide_roots: bool,
    /// The new root, certified by the one before: sent with new leaves while set.
    pub cross_signed: Option<String>,
    /// By service.
    pub leaves: HashMap<String, Leaf>,
    /// Leaves issued so far; the next serial number.
    pub issued: u32,
    /// Service registrations by service ID.
    pub registrations: BTreeMap<String, Value>,
    /// By destination service, sorted by precedence.
    pub intentions: HashMap<String, Vec<Value>>,
    /// The mesh config entry.
    pub mesh: Option<Value>,
    /// The defaults of all proxies and of services, by their topic.
    pub defaults: HashMap<Topic, Value>,
    /// The jwt-provider config entries.
    pub jwt_providers: Vec<Value>,
    /// By service; a service without one has its default chain.
    pub chains: HashMap<String, ChainSpec>,
    /// Whole chains as the agent compiles them, by service; they win over `chains`.
    pub compiled: HashMap<String, Value>,
    /// By service.
    pub instances: HashMap<String, Vec<Instance>>,
    /// By service: those without a sidecar.
    pub bare: HashMap<String, Vec<Instance>>,
    /// `X-Consul-Default-ACL-Policy`: `allow` or `deny`.
    pub acl_default: &'static str,
    /// `default_intention_policy` of the agent's configuration.
    pub intention_default: Option<&'static str>,
    /// The only token with any right; without one ACLs are off.
    pub token: Option<String>,
}

/// A resolver chain.
#[derive(Clone, Debug)]
pub struct ChainSpec {
    /// The service of the first target.
    pub target: String,
    /// The services of the further targets, in order.
    pub failover: Vec<String>,
    /// Go duration, such as `5s`.
    pub connect_timeout: String,
}

impl ChainSpec {
    /// The chain of a service without config entries.
    pub fn default_for(service: &str) -> ChainSpec {
        ChainSpec { target: service.to_owned(), failover: Vec::new(), connect_timeout: "5s".to_owned() }
    }
}

/// One sidecar of a service, as health lists it.
#[derive(Clone, Debug)]
pub struct Instance {
    /// ID of the proxy registration.
    pub id: String,
    /// Where its public listener is.
    pub port: u16,
    /// `passing`, `warning` or `critical`.
    pub status: &'static str,
    /// `Weights.Passing`.
    pub weight: u32,
}

impl Instance {
    /// A passing instance of weight 1 on loopback.
    pub fn new(id: &str, port: u16) -> Instance {
        Instance { id: id.to_owned(), port, status: "passing", weight: 1 }
    }
}

/// What a topic holds: 200 with JSON, or the plain text of an error.
pub type Content = Result<Value, (u16, String)>;

impl Catalog {
    /// One root, no services, default allow.
    pub fn new() -> Catalog {
        Catalog {
            roots: vec![Authority::new("root-1", TRUST_DOMAIN)],
            other_root: None,
            hide_roots: false,
            cross_signed: None,
            leaves: HashMap::new(),
            issued: 10,
            registrations: BTreeMap::new(),
            intentions: HashMap::new(),
            mesh: None,
            defaults: HashMap::new(),
            jwt_providers: Vec::new(),
            chains: HashMap::new(),
            compiled: HashMap::new(),
            instances: HashMap::new(),
            bare: HashMap::new(),
            acl_default: "allow",
            intention_default: None,
            token: None,
        }
    }

    /// The root that signs.
    pub fn signer(&self) -> Authority {
        self.roots.last().unwrap().clone()
    }

    /// A new leaf for `service`, in place of the one before.
    pub fn issue(&mut self, service: &str) -> Leaf {
        self.issued += 1;
        let signer = self.signer();
        let request = LeafRequest::new(signer.service_uri(service), self.issued);
        let leaf = signer.issue(&request, self.cross_signed.as_deref().unwrap_or(""));
        self.leaves.insert(service.to_owned(), leaf.clone());
        leaf
    }

    /// The answer of an agent whose server has applied nothing of its log yet (as Consul 1.20.1 says it): what it keeps itself it has, but
    /// for what the server adds to a registration.
    pub fn early_content(&mut self, topic: &Topic, body: &Value) -> Content {
        match topic.endpoint {
            Endpoint::Leaf => Err((500, "CA is uninitialized and unable to sign certificates yet: provider is nil".to_owned())),
            Endpoint::Registration => {
                let mut content = self.content(topic, body)?;
                content["Proxy"]["Config"] = Value::Null;
                Ok(content)
            }
            Endpoint::Services | Endpoint::Authorize | Endpoint::Roots => self.content(topic, body),
            _ => Catalog { roots: Vec::new(), ..Catalog::new() }.content(topic, &Value::Null),
        }
    }

    /// The answer for `topic`. `body` is the request's.
    pub fn content(&mut self, topic: &Topic, body: &Value) -> Content {
        let name = topic.name.as_str();
        match topic.endpoint {
            Endpoint::Services => Ok(json!(self.registrations)),
            Endpoint::Registration => match self.registrations.get(name) {
                Some(service) => Ok(service.clone()),
                None => Err((404, format!("unknown service ID: {name}"))),
            },
            Endpoint::Leaf => Ok(self.leaf(name)),
            Endpoint::Roots => Ok(self.roots()),
            // A destination without intentions has null, not an empty list.
            Endpoint::Intentions => Ok(json!({ name: self.intentions.get(name).filter(|list| !list.is_empty()) })),
            Endpoint::Authorize => Ok(self.authorize()),
            Endpoint::Mesh => match &self.mesh {
                Some(entry) => Ok(entry.clone()),
                None => Err((404, r#"Config entry not found for "mesh" / "mesh""#.to_owned())),
            },
            Endpoint::ProxyDefaults | Endpoint::ServiceDefaults => match self.defaults.get(topic) {
                Some(entry) => Ok(entry.clone()),
                None => Err((404, format!("Config entry not found for {topic:?}"))),
            },
            // A kind without entries is an empty list, not an absent one.
            Endpoint::JwtProviders => Ok(json!(self.jwt_providers)),
            Endpoint::Chain => Ok(self.chain(name, body)),
            Endpoint::Health => Ok(health(name, self.instances.get(name))),
            Endpoint::Bare => Ok(health(name, self.bare.get(name))),
        }
    }

    fn leaf(&mut self, service: &str) -> Value {
        let leaf = match self.leaves.get(service) {
            Some(leaf) => leaf.clone(),
            None => self.issue(service),
        };
        json!({
            "SerialNumber": format!("{:02x}", leaf.serial),
            "Service": service,
            "ServiceURI": leaf.uri,
            "CertPEM": leaf.cert_pem,
            "PrivateKeyPEM": leaf.key_pem,
            "ValidAfter": rfc3339(leaf.not_before.into()),
            "ValidBefore": rfc3339(leaf.not_after.into()),
            "CreateIndex": leaf.serial,
            "ModifyIndex": leaf.serial,
        })
    }

    fn roots(&self) -> Value {
        let active = self.signer().id;
        let now = OffsetDateTime::now_utc();
        let roots: Vec<Value> = self
            .other_root
            .iter()
            .chain(&self.roots)
            .filter(|_| !self.hide_roots)
            .map(|root| {
                let is_active = root.id == active;
                json!({
                    "ID": root.id,
                    "Name": "Consul CA Root Cert",
                    "SerialNumber": 1,
                    "SigningKeyID": "aa:bb",
                    "ExternalTrustDomain": root.trust_domain.trim_end_matches(".consul"),
                    "NotBefore": rfc3339(now - time::Duration::hours(1)),
                    "NotAfter": rfc3339(now + time::Duration::days(300)),
                    "RootCert": root.root_pem(),
                    "IntermediateCerts": self.cross_signed.as_ref().filter(|_| is_active).map(|pem| [pem]),
                    "Active": is_active,
                    "PrivateKeyType": "ec",
                    "PrivateKeyBits": 256,
                    "CreateIndex": 11,
                    "ModifyIndex": 11,
                })
            })
            .collect();
        json!({"ActiveRootID": active, "TrustDomain": TRUST_DOMAIN, "Roots": roots})
    }

    /// The verdict for a source that no intention can name.
    fn authorize(&self) -> Value {
        match self.intention_default {
            Some(policy) => {
                json!({"Authorized": policy == "allow", "Reason": "Default intention policy"})
            }
            None => json!({
                "Authorized": true,
                "Reason": "Default behavior configured by ACLs",
            }),
        }
    }

    fn chain(&self, service: &str, overrides: &Value) -> Value {
        if let Some(chain) = self.compiled.get(service) {
            return json!({ "Chain": chain });
        }
        let spec = match self.chains.get(service) {
            Some(spec) => spec.clone(),
            None => ChainSpec::default_for(service),
        };
        let timeout = overrides["OverrideConnectTimeout"].as_str().unwrap_or(&spec.connect_timeout);
        let id = |service: &str| format!("{service}.default.default.dc1");
        let mut targets = serde_json::Map::new();
        for service in std::iter::once(&spec.target).chain(&spec.failover) {
            let target = json!({
                "ID": id(service),
                "Service": service,
                "Namespace": "default",
                "Partition": "default",
                "Datacenter": "dc1",
                "MeshGateway": {},
                "Subset": {},
                "ConnectTimeout": timeout,
                "TransparentProxy": {},
                "SNI": format!("{service}.default.dc1.internal.{TRUST_DOMAIN}"),
                "Name": format!("{service}.default.dc1.internal.{TRUST_DOMAIN}"),
            });
            targets.insert(id(service), target);
        }
        let failover: Vec<String> = spec.failover.iter().map(|service| id(service)).collect();
        let mut resolver = json!({"ConnectTimeout": timeout, "Target": id(&spec.target)});
        if failover.is_empty() {
            resolver["Default"] = json!(true);
        } else {
            resolver["Failover"] = json!({"Targets": failover});
        }
        let start = format!("resolver:{}", id(&spec.target));
        json!({"Chain": {
            "ServiceName": service,
            "Namespace": "default",
            "Partition": "default",
            "Datacenter": "dc1",
            "Protocol": overrides["OverrideProtocol"].as_str().unwrap_or("tcp"),
            "CustomizationHash": "",
            "StartNode": start,
            "Nodes": { start.clone(): {
                "Type": "resolver",
                "Name": id(&spec.target),
                "Resolver": resolver,
            }},
            "Targets": targets,
        }})
    }
}

/// The answer of the health API.
fn health(service: &str, instances: Option<&Vec<Instance>>) -> Value {
    let instances = instances.map(Vec::as_slice).unwrap_or_default();
    let entry = |instance: &Instance| {
        // A probe that has not run yet is critical without an output; these have run.
        let output = match instance.status {
            "critical" => "dial tcp: connect: connection refused",
            _ => "TCP connect: Success",
        };
        let check = |id: &str, of: &str, status: &str| {
            json!({
                "Node": "node-1", "CheckID": id, "Name": id, "Status": status, "Notes": "",
                "Output": output, "ServiceID": of, "ServiceName": "", "ServiceTags": [], "Type": "tcp",
                "Interval": "10s", "Timeout": "", "ExposedPort": 0, "Definition": {},
                "CreateIndex": 20, "ModifyIndex": 20,
            })
        };
        json!({
            "Node": {
                "ID": "7a5e9b3e-0000-0000-0000-000000000001", "Node": "node-1",
                "Address": "127.0.0.1", "Datacenter": "dc1",
                "TaggedAddresses": {"lan": "127.0.0.1", "wan": "127.0.0.1"},
                "Meta": {"consul-network-segment": ""}, "CreateIndex": 13, "ModifyIndex": 15,
            },
            "Service": {
                "Kind": "connect-proxy", "ID": instance.id,
                "Service": format!("{service}-sidecar-proxy"), "Tags": [], "Address": "",
                "Meta": {}, "Port": instance.port,
                "Weights": {"Passing": instance.weight, "Warning": 1},
                "EnableTagOverride": false,
                "Proxy": {
                    "DestinationServiceName": service,
                    "DestinationServiceID": format!("{}-app", instance.id),
                    "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 1,
                    "Mode": "", "MeshGateway": {}, "Expose": {},
                },
                "Connect": {}, "PeerName": "", "CreateIndex": 20, "ModifyIndex": 20,
            },
            "Checks": [
                check("serfHealth", "", "passing"),
                check(&format!("service:{}:1", instance.id), &instance.id, instance.status),
            ],
        })
    };
    json!(instances.iter().map(entry).collect::<Vec<_>>())
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap()
}
