//! What a sidecar would meet at the agent, asked once: everything that is wrong at once, for `aralez check -sidecar-for`.
//!
//! Each question goes to the agent as the watches ask it, and is read by the same decoders, so that a finding here is what the sidecar would log. A question
//! that is not answered is a finding of its own, with the right that the token lacks; what does not depend on it is asked all the same.

mod intentions;
mod upstream;

use std::fmt::Display;

use consul_api_types::{AgentServiceById, ConfigEntry, DiscoveryChain, EnvoyExtension, Mesh, Meta, ProxyDefaults, Query, ServiceDefaults};

use super::{
    RunError, Unfound,
    client::{Answer, At, Client},
    decode, default_policy,
    error::Error,
    inquiry,
    names::Names,
    registration, roots,
};
use crate::{
    config::agent::ProxySelector,
    model::{
        credentials::{Leaf, Roots},
        finding::Report,
        identity::{ServiceName, SpiffeId, TrustDomain},
        intention::DefaultPolicy,
        listener::Protocol,
        moment::unix_now,
        registration::Registration,
    },
    snapshot,
};

/// A leaf with less of its life left than this share is one that the agent should have renewed: Consul renews between 60 and 90 %.
const RENEWED_BY: f64 = 0.95;

const RESTART: &str = "see that the agent runs and answers at this address; -http-addr or CONSUL_HTTP_ADDR names another";

/// Asks everything that the selected sidecar would watch, and notes what is found in `report`; what was found before an abort stays. `fallback` is the default
/// intention policy that holds where the agent cannot tell.
pub async fn survey(client: &Client, selector: &ProxySelector, fallback: Option<DefaultPolicy>, report: &mut Report) {
    let mut survey = Survey { client, names: Names::new(), report };
    let Some(registration) = survey.registration(selector).await else { return };
    let service = &registration.service;
    let roots = survey.roots().await;
    let leaf = survey.leaf(service, roots.as_ref()).await;
    let default = survey.default_policy(&registration, fallback).await;
    if let Some(mesh) = survey.ask_if_any(&ConfigEntry::<Mesh>::new("mesh", inquiry::in_partition(client)), "mesh entry", "").await
        && let Err(why) = decode::mesh::mesh(&mesh)
    {
        survey.report.error("mesh entry", why, "correct the entry; its last good form holds until then");
    }
    let caller = match (leaf, &roots) {
        (Some(leaf), _) => Some(leaf.id),
        (None, Some(roots)) => Some(SpiffeId::service(roots.trust_domain.clone(), service.clone(), &registration.datacenter)),
        (None, None) => None,
    };
    survey.protocol(&registration).await;
    survey.for_envoy_alone(service).await;
    if let Some(caller) = &caller {
        survey.inbound(&registration, &caller.trust_domain, default).await;
    }
    for config in &registration.upstreams {
        survey.upstream(config, &registration, caller.as_ref(), default).await;
    }
}

/// A survey on its way.
struct Survey<'a> {
    client: &'a Client,
    names: Names,
    report: &'a mut Report,
}

/// `service "NAME" { policy = "ACCESS" }`, as a rule of a policy says it.
fn service_right(name: &str, access: &str) -> String {
    format!("service {name:?} {{ policy = {access:?} }}")
}

/// What to do where a question was not answered for want of a right, written as a rule of an ACL policy.
fn advice(error: &Error, right: &str) -> String {
    match error {
        Error::Connect(_) | Error::Timeout(_) | Error::Broken(_) => RESTART.to_owned(),
        Error::TokenFile { .. } => "name a file with a token as -token-file or CONSUL_HTTP_TOKEN_FILE".to_owned(),
        Error::Status { status: 403, text } if text.contains("ACL not found") => {
            "the agent does not know the token: take one that exists".to_owned()
        }
        Error::Status { status: 401 | 403, .. } if !right.is_empty() => format!("give the token the right {right}"),
        Error::Status { status: 404, text } if text.contains("Query not found") => {
            "create a prepared query of this name (PUT /v1/query), or correct DestinationName".to_owned()
        }
        Error::Status { status: 429, .. } => "raise limits.http_max_conns_per_client of the agent".to_owned(),
        Error::Status { .. } => "the agent's own log says more".to_owned(),
        Error::Decode(_) | Error::TooLarge => "see that the address is that of a Consul agent".to_owned(),
    }
}

impl Survey<'_> {
    /// An answer with what its headers say; none after a finding was noted.
    async fn send<Q: Query>(&mut self, query: &Q, path: &str, right: &str) -> Option<(Option<Q::Reply>, Meta)> {
        match self.client.send(query, &At::Now).await {
            Ok(Answer { value, meta }) => Some((value, meta)),
            Err(error) => {
                self.report.error(path, error.to_string(), advice(&error, right));
                None
            }
        }
    }

    /// An answer to a question whose thing may be absent.
    async fn ask_if_any<Q: Query>(&mut self, query: &Q, path: &str, right: &str) -> Option<Q::Reply> {
        self.send(query, path, right).await?.0
    }

    /// An answer to a question whose thing is always there.
    async fn ask<Q: Query>(&mut self, query: &Q, path: &str, right: &str) -> Option<Q::Reply> {
        let (value, _) = self.send(query, path, right).await?;
        if value.is_none() {
            self.report.error(path, "the agent has none", "see that the address is that of a Consul agent with Connect on");
        }
        value
    }

    /// What is decoded, or none after a finding was noted.
    fn read<T>(&mut self, path: &str, decoded: Result<T, impl Display>, advice: &str) -> Option<T> {
        decoded.map_err(|why| self.report.error(path, why.to_string(), advice)).ok()
    }

    /// Finds the registration and reads it; its problems and what is ignored in it are findings.
    async fn registration(&mut self, selector: &ProxySelector) -> Option<Registration> {
        const PATH: &str = "registration";
        let id = match registration::look(self.client, selector).await {
            Ok(id) => id,
            Err(why) => {
                let advice = match &why {
                    Unfound::Agent(error) => advice(error, "service_prefix \"\" { policy = \"read\" }"),
                    Unfound::NoSidecar(service) => match selector {
                        ProxySelector::NomadTask { .. } => {
                            "NOMAD_ALLOC_ID and NOMAD_GROUP_NAME name a group with a connect block whose services are registered \
                             at this very agent; to see them the token needs service_prefix \"\" { policy = \"read\" }"
                                .to_owned()
                        }
                        _ => format!(
                            "-sidecar-for takes the id of a service registered at this very agent with connect {{ sidecar_service {{}} }}; \
                             to see both the token needs {} and {}",
                            service_right(service, "read"),
                            service_right(&format!("{service}-sidecar-proxy"), "read")
                        ),
                    },
                    Unfound::NoProxy(_) => "-proxy-id takes the id of a registration of kind connect-proxy at this very agent".to_owned(),
                    Unfound::Several(RunError::SeveralSidecars { .. }) => String::new(),
                };
                self.report.error(PATH, why.to_string(), advice);
                return None;
            }
        };
        let query = AgentServiceById { id: id.to_string(), tenancy: self.client.tenancy().clone() };
        let wire = self.ask(&query, PATH, "service_prefix \"\" { policy = \"read\" }").await?;
        let names = self.names.resolve(decode::registration::hosts(&wire)).await;
        let advice = "correct the registration: nothing of it can be served";
        let registration = self.read(PATH, decode::registration::registration(&wire, &names), advice)?;
        for problem in &registration.problems {
            self.report.error(&problem.path, &problem.why, &problem.advice);
        }
        for ignored in &registration.ignored {
            self.report.warning(&ignored.path, ignored.why, "it has no effect");
        }
        let Registration { proxy_id, service, protocol, bind, app, .. } = &registration;
        let fact = format!("proxy {proxy_id} of {service} ({}): listens at {}, its app is at {app}", protocol.as_str(), bind.address);
        self.report.facts.push(fact);
        Some(registration)
    }

    async fn roots(&mut self) -> Option<Roots> {
        let wire = self.ask(&consul_api_types::Roots, "roots", "").await?;
        self.read("roots", roots::decode(&wire), "see that Connect is on: connect { enabled = true } at the servers")
    }

    /// The leaf, and whether it can be used.
    async fn leaf(&mut self, service: &ServiceName, roots: Option<&Roots>) -> Option<Leaf> {
        const PATH: &str = "leaf";
        const RENEW: &str = "the agent renews it: its log says why it did not";
        let query = consul_api_types::Leaf { service: service.name.to_string(), tenancy: super::tenancy(service) };
        let wire = self.ask(&query, PATH, &service_right(&service.name, "write")).await?;
        let leaf = self.read(PATH, Leaf::parse(&wire.cert_pem, wire.private_key_pem.expose()), "check the agent's Connect CA")?;
        if let Some(roots) = roots {
            self.read(PATH, snapshot::leaf_fits(&leaf, roots, service), "check the agent's Connect CA");
        }
        let now = unix_now();
        let until = time::OffsetDateTime::from_unix_timestamp(leaf.not_after).map(|time| time.to_string()).unwrap_or_default();
        let lived = (now - leaf.not_before) as f64 / (leaf.not_after - leaf.not_before).max(1) as f64;
        if now < leaf.not_before {
            self.report.error(PATH, "it is not valid yet", "see that the clocks of this host and of Consul's servers agree");
        } else if now >= leaf.not_after {
            self.report.error(PATH, format!("it has ended at {until}"), RENEW);
        } else if lived > RENEWED_BY {
            self.report.warning(PATH, format!("it ends at {until} and was not renewed"), RENEW);
        } else {
            self.report.facts.push(format!("leaf of {} until {until}", leaf.id));
        }
        Some(leaf)
    }

    async fn default_policy(&mut self, registration: &Registration, fallback: Option<DefaultPolicy>) -> DefaultPolicy {
        const PATH: &str = "default intention policy";
        let service = &registration.service;
        let policy = match default_policy::once(self.client, service, &registration.datacenter).await {
            Ok(policy) => policy,
            Err(error) => {
                self.report.error(PATH, error.to_string(), advice(&error, ""));
                DefaultPolicy::Unknown
            }
        };
        match (policy, fallback) {
            (DefaultPolicy::Unknown, None) => {
                let advice =
                    format!("give the token the right {}, or say -default-intention-policy", service_right(&service.name, "write"));
                self.report.warning(PATH, "the agent does not tell it: callers that no intention names are denied", advice);
                policy
            }
            (DefaultPolicy::Unknown, Some(fallback)) => fallback,
            _ => policy,
        }
    }

    /// Whether we speak what our own config entries say we speak.
    async fn protocol(&mut self, registration: &Registration) {
        let name = &registration.service.name;
        let Some(said) = self.chain_protocol(&registration.service, None, "protocol").await else { return };
        if said != registration.protocol {
            let why = format!(
                "the sidecar is registered with protocol {}, the config entries of {name} say {}: its callers speak {1} with it",
                registration.protocol.as_str(),
                said.as_str()
            );
            self.report.warning(
                "protocol",
                why,
                format!("let Protocol of service-defaults {name} say it, and take protocol out of the registration's config"),
            );
        }
    }

    /// What config entries ask of Envoy alone: the registration that the agent merges with them has nothing of it.
    async fn for_envoy_alone(&mut self, service: &ServiceName) {
        // The right is that of the chain, and what is wrong with the agent was told: that there is no answer is no finding of its own.
        let own = ConfigEntry::<ServiceDefaults>::new(&*service.name, super::tenancy(service));
        let own = self.quietly(&own).await;
        let all = ConfigEntry::<ProxyDefaults>::new("global", inquiry::in_partition(self.client));
        let all = self.quietly(&all).await;
        let entry = format!("service-defaults {}", service.name);
        self.extensions(&entry, &own.envoy_extensions);
        self.extensions("proxy-defaults", &all.envoy_extensions);
        let (entry, mode) = match own.mutual_tls_mode.as_str() {
            "" => ("proxy-defaults", &all.mutual_tls_mode),
            _ => (&*entry, &own.mutual_tls_mode),
        };
        if mode == "permissive" {
            let why = "MutualTLSMode permissive: callers without a certificate are refused all the same";
            self.report.warning(entry, why, "let them call through sidecars of their own, or the app's port");
        }
    }

    /// What an entry says; nothing where there is none, or no answer.
    async fn quietly<Q: Query<Reply: Default>>(&self, query: &Q) -> Q::Reply {
        self.client.send(query, &At::Now).await.ok().and_then(|answer| answer.value).unwrap_or_default()
    }

    /// Extensions of Envoy that an entry has. One that is required keeps an Envoy from serving without it; we serve.
    fn extensions(&mut self, entry: &str, extensions: &[EnvoyExtension]) {
        for EnvoyExtension { name, required, .. } in extensions {
            let path = format!("{entry}, EnvoyExtensions {name}");
            if *required {
                self.report.error(
                    path,
                    "it is required, and has no effect: there is no Envoy here",
                    "take it out, or keep Envoy for this service",
                );
            } else {
                self.report.warning(path, "it has no effect: there is no Envoy here", "take it out, or keep Envoy for this service");
            }
        }
    }

    /// The protocol that config entries give a service, with nothing overridden.
    async fn chain_protocol(&mut self, service: &ServiceName, datacenter: Option<&str>, path: &str) -> Option<Protocol> {
        let query = DiscoveryChain {
            name: service.name.to_string(),
            tenancy: super::tenancy(service),
            compile_dc: datacenter.unwrap_or_default().to_owned(),
            ..DiscoveryChain::default()
        };
        let chain = self.ask(&query, path, &service_right(&service.name, "read")).await?.chain;
        Some(Protocol::parse(&chain.protocol).unwrap_or_default())
    }
}
