//! What the agent says about who may call a service, asked once: for explanations, where no sidecar of that service need run.

use std::{collections::BTreeSet, fmt, sync::Arc};

use consul_api_types::{ConfigEntries, ConfigEntry, DiscoveryChain, IntentionMatch, JwtProvider, Mesh, Query, Roots, Tenancy};

use super::{
    client::{At, Client},
    decode, default_policy,
    error::Error,
};
use crate::{
    control::keys,
    model::{
        identity::{ServiceName, TrustDomain},
        intention::{DefaultPolicy, Intention},
        jwt::KeySource,
        listener::Protocol,
        path::Normalization,
    },
    snapshot::TokenInputs,
};

/// All that decides about calls of one service.
#[derive(Debug)]
pub struct Inquiry {
    /// The trust domain of the mesh.
    pub trust_domain: TrustDomain,
    /// The agent's datacenter.
    pub datacenter: String,
    /// The service's protocol by its config entries, as the discovery chain has it. What its own registration says is not asked for.
    pub protocol: Protocol,
    /// The intentions towards it.
    pub intentions: Vec<Intention>,
    /// What happens to callers that no intention names; unknown where the token lacks `service:write` on the service.
    pub default_policy: DefaultPolicy,
    /// How its requests are brought into their one form.
    pub normalization: Normalization,
    /// The token issuers that the intentions name, with keys.
    pub tokens: TokenInputs,
}

/// A question that was not answered.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}: {why}")]
pub struct Unanswered {
    /// What was asked for.
    what: String,
    /// Why there is no answer, or none that can be used.
    why: String,
}

fn unanswered<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Unanswered {
    move |why| Unanswered { what: what.to_string(), why: why.to_string() }
}

/// The answer to a question whose thing always exists.
async fn ask<Q: Query>(client: &Client, query: &Q) -> Result<Q::Reply, String> {
    answer(client, query).await.map_err(|e| e.to_string())?.ok_or_else(|| "the agent has none".to_owned())
}

async fn answer<Q: Query>(client: &Client, query: &Q) -> Result<Option<Q::Reply>, Error> {
    Ok(client.send(query, &At::Now).await?.value)
}

impl Inquiry {
    /// Asks all questions, one after the other. `fallback` is the default policy that holds while the agent cannot tell.
    ///
    /// # Errors
    /// The first question that was not answered.
    pub async fn about(client: &Client, service: &ServiceName, fallback: Option<DefaultPolicy>) -> Result<Self, Unanswered> {
        let name = &service.name;
        let roots = ask(client, &Roots).await.map_err(unanswered("the roots"))?;
        let trust_domain = TrustDomain::parse(&roots.trust_domain).map_err(unanswered("the trust domain"))?;
        let chain = DiscoveryChain { name: name.to_string(), tenancy: super::tenancy(service), ..DiscoveryChain::default() };
        let chain = ask(client, &chain).await.map_err(unanswered(format_args!("the discovery chain of {name}")))?.chain;
        let protocol = Protocol::parse(&chain.protocol).unwrap_or_default();
        let query = IntentionMatch { destination: name.to_string(), tenancy: super::tenancy(service) };
        let wrong = || unanswered(format!("the intentions towards {name}"));
        let matches = ask(client, &query).await.map_err(wrong())?;
        let intentions = decode::intentions::intentions(&matches, name).map_err(wrong())?;
        let default_policy = default_policy::once(client, service, &chain.datacenter).await;
        let default_policy = default_policy.map_err(unanswered("the default intention policy"))?;
        let mesh = ConfigEntry::<Mesh>::new("mesh", in_partition(client));
        let mesh = answer(client, &mesh).await.map_err(unanswered("the mesh entry"))?;
        let mesh = mesh.map(|mesh| decode::mesh::mesh(&mesh)).transpose().map_err(unanswered("the mesh entry"))?.unwrap_or_default();
        Ok(Self {
            trust_domain,
            datacenter: chain.datacenter,
            protocol,
            default_policy: fallback.filter(|_| default_policy == DefaultPolicy::Unknown).unwrap_or(default_policy),
            normalization: mesh.normalization,
            tokens: tokens(client, decode::jwt_provider::required(&matches, name)).await,
            intentions,
        })
    }
}

/// The issuers with their keys, fetched as a sidecar fetches them. What cannot be had closes only what asks for it.
pub(super) async fn tokens(client: &Client, required: BTreeSet<Arc<str>>) -> TokenInputs {
    if required.is_empty() {
        return TokenInputs::default();
    }
    let entries = ask(client, &ConfigEntries::<JwtProvider>::new(in_partition(client))).await;
    let entries = entries.map(|list| list.iter().map(decode::jwt_provider::entry).map(Arc::new).collect::<Vec<_>>());
    let mut tokens = TokenInputs { required, entries: Some(entries), ..TokenInputs::default() };
    let entries = tokens.entries.clone().into_iter().flatten().flatten();
    for entry in entries.filter(|entry| tokens.required.contains(&entry.name)) {
        if let KeySource::Place(place) = &entry.keys {
            tokens.keys.insert(place.clone(), keys::once(place).await.map(Arc::new));
        }
    }
    tokens
}

/// Mesh-wide entries live in the default namespace of our partition.
pub(super) fn in_partition(client: &Client) -> Tenancy {
    Tenancy { namespace: String::new(), ..client.tenancy().clone() }
}
