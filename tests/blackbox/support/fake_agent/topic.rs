//! What can be asked of the agent, and the index each answer carries.

use std::collections::HashMap;

/// The kind of a call; faults are set and calls are counted per endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `/v1/agent/services`
    Services,
    /// `/v1/agent/service/:id`, blocking by content hash.
    Registration,
    /// `/v1/agent/connect/ca/leaf/:service`
    Leaf,
    /// `/v1/agent/connect/ca/roots`
    Roots,
    /// `/v1/connect/intentions/match?by=destination`
    Intentions,
    /// `POST /v1/agent/connect/authorize`
    Authorize,
    /// `/v1/config/mesh/mesh`
    Mesh,
    /// `/v1/config/proxy-defaults/global`
    ProxyDefaults,
    /// `/v1/config/service-defaults/<service>`
    ServiceDefaults,
    /// `/v1/config/jwt-provider`
    JwtProviders,
    /// `/v1/discovery-chain/:name`
    Chain,
    /// `/v1/health/connect/:service`
    Health,
    /// `/v1/health/service/:service`
    Bare,
}

/// One watchable thing: an endpoint and the name asked for (empty where there is only one).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topic {
    /// Which call.
    pub endpoint: Endpoint,
    /// Proxy id, service or chain name.
    pub name: String,
}

impl Topic {
    /// `endpoint` asked for `name`.
    pub fn new(endpoint: Endpoint, name: &str) -> Topic {
        Topic { endpoint, name: name.to_owned() }
    }

    /// The topic that a request addresses; `None` for a path that no sidecar may need.
    pub fn of(path: &str, query: &HashMap<String, String>) -> Option<Topic> {
        let named = [
            ("/v1/agent/service/", Endpoint::Registration),
            ("/v1/agent/connect/ca/leaf/", Endpoint::Leaf),
            ("/v1/discovery-chain/", Endpoint::Chain),
            ("/v1/health/connect/", Endpoint::Health),
            ("/v1/health/service/", Endpoint::Bare),
            ("/v1/config/service-defaults/", Endpoint::ServiceDefaults),
        ];
        for (prefix, endpoint) in named {
            if let Some(name) = path.strip_prefix(prefix) {
                return Some(Topic::new(endpoint, name));
            }
        }
        match path {
            "/v1/agent/services" => Some(Topic::new(Endpoint::Services, "")),
            "/v1/agent/connect/ca/roots" => Some(Topic::new(Endpoint::Roots, "")),
            "/v1/agent/connect/authorize" => Some(Topic::new(Endpoint::Authorize, "")),
            "/v1/config/jwt-provider" => Some(Topic::new(Endpoint::JwtProviders, "")),
            "/v1/config/mesh/mesh" => Some(Topic::new(Endpoint::Mesh, "")),
            "/v1/config/proxy-defaults/global" => Some(Topic::new(Endpoint::ProxyDefaults, "")),
            "/v1/connect/intentions/match" => {
                let destination = query.get("by").is_some_and(|by| by == "destination");
                let name = query.get("name").filter(|_| destination)?;
                Some(Topic::new(Endpoint::Intentions, name))
            }
            _ => None,
        }
    }
}

/// Where a topic stands.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// What `X-Consul-Index` says; may be set back.
    pub index: u64,
    /// Counts every change; never goes back, so that a blocked call notices a rewind too.
    pub version: u64,
}

/// The positions of all topics. Each topic counts for itself.
#[derive(Default)]
pub struct Positions(HashMap<Topic, Position>);

/// Where an untouched topic stands.
const FIRST: Position = Position { index: 100, version: 0 };

impl Positions {
    /// Where `topic` stands now.
    pub fn of(&self, topic: &Topic) -> Position {
        self.0.get(topic).copied().unwrap_or(FIRST)
    }

    /// One step on.
    pub fn advance(&mut self, topic: &Topic) {
        let position = self.0.entry(topic.clone()).or_insert(FIRST);
        position.index += 1;
        position.version += 1;
    }

    /// Back to a low index, as after a restored snapshot.
    pub fn rewind(&mut self, topic: &Topic) {
        let position = self.0.entry(topic.clone()).or_insert(FIRST);
        position.index = 2;
        position.version += 1;
    }
}
