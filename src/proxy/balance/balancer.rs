//! A cluster's balancer: its policy with the tables made for its endpoints.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Draw, Hosts, draw::Chances, least_request, maglev::Maglev, ring::Ring, round_robin::Turns, weighted::Weighted};
use crate::model::{balance::BalancePolicy, cluster::Endpoint, listener::Address};

/// Chooses among a cluster's endpoints.
#[derive(Debug)]
pub struct Balancer {
    policy: BalancePolicy,
    endpoints: Arc<[Arc<Endpoint>]>,
    tables: Arc<Tables>,
    /// Counts the turns taken; shared with the balancer's successors, so that a changed endpoint does not restart the round.
    taken: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Tables {
    weighted: Weighted,
    way: Way,
}

#[derive(Debug)]
enum Way {
    RoundRobin(Turns),
    LeastRequest(u32),
    Random,
    Ring(Ring),
    Maglev(Maglev),
}

impl Balancer {
    /// A balancer of the policy for a cluster's endpoints; unhealthy ones are never chosen. It goes on where `before`, the cluster's last one,
    /// stands, or at a random turn, so that many sidecars started together do not call one endpoint at once. Where neither addresses nor
    /// weights nor the policy changed, it takes over the tables too.
    pub fn new(policy: BalancePolicy, endpoints: &Arc<[Arc<Endpoint>]>, before: Option<&Self>) -> Self {
        let tables = match before.filter(|b| b.policy == policy && same(&b.endpoints, endpoints)) {
            Some(before) => before.tables.clone(),
            None => Arc::new(Tables::new(policy, endpoints)),
        };
        let taken = before.map(|b| b.taken.clone()).unwrap_or_else(|| Arc::new(AtomicU64::new(fastrand::u64(..))));
        Self { policy, endpoints: endpoints.clone(), tables, taken }
    }

    /// Whether there is nothing to choose from.
    pub fn is_empty(&self) -> bool {
        self.tables.weighted.choices().is_empty()
    }

    /// What the next pick depends on: the only part of it that is not pure. `hash` is the request's hash, for the policies that choose by it or
    /// of a sticky cookie; `stuck` the place that a sticky cookie names.
    pub fn draw(&self, hash: Option<u64>, stuck: Option<usize>) -> Draw {
        // Only round robin needs turns, and a counter that all threads write to is not free.
        let turn = match self.policy {
            BalancePolicy::RoundRobin => self.taken.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        Draw { turn, random: fastrand::u64(..), hash, stuck }
    }

    /// The place of the endpoint to call: an available one as long as there is any, else `None`. Constant or logarithmic time, unless most
    /// endpoints are unavailable.
    pub fn pick(&self, draw: Draw, hosts: &impl Hosts) -> Option<usize> {
        let Tables { weighted, way } = &*self.tables;
        if let Some(stuck) = draw.stuck.filter(|place| hosts.available(*place)) {
            return Some(stuck);
        }
        let mut chances = Chances::new(draw.hash.unwrap_or(draw.random));
        let choice = match (way, draw.hash) {
            (Way::Ring(ring), Some(hash)) => ring.pick(hash, weighted, hosts),
            (Way::Maglev(maglev), Some(hash)) => maglev.pick(hash, weighted, hosts),
            (Way::RoundRobin(turns), None) => weighted.choose(turns.at(draw.turn, weighted), &mut chances, hosts),
            (Way::LeastRequest(choices), None) => least_request::pick(weighted, *choices, &mut chances, hosts),
            (Way::Random | Way::Ring(_) | Way::Maglev(_), None) | (_, Some(_)) => weighted.choose(None, &mut chances, hosts),
        };
        choice.map(|c| c.place)
    }
}

#[cfg(test)]
impl Balancer {
    /// Whether the tables of the other are this one's.
    pub(super) fn shares_tables(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tables, &other.tables)
    }

    /// Points of the ring, if the policy has one.
    pub(super) fn ring_points(&self) -> Option<usize> {
        if let Way::Ring(ring) = &self.tables.way { Some(ring.len()) } else { None }
    }
}

impl Tables {
    fn new(policy: BalancePolicy, endpoints: &[Arc<Endpoint>]) -> Self {
        let weights: Vec<u32> = endpoints.iter().map(|e| weight(e)).collect();
        let weighted = Weighted::new(&weights);
        let address = |place: usize| -> Option<&Address> { endpoints.get(place).map(|e| &e.address) };
        let way = match policy {
            BalancePolicy::RoundRobin => Way::RoundRobin(Turns::new(&weighted)),
            BalancePolicy::LeastRequest { choices } => Way::LeastRequest(choices),
            BalancePolicy::Random => Way::Random,
            BalancePolicy::RingHash { min, max } => Way::Ring(Ring::new(&weighted, address, min, max)),
            BalancePolicy::Maglev => Way::Maglev(Maglev::new(&weighted, address)),
        };
        Self { weighted, way }
    }
}

/// The share of an endpoint; none for an unhealthy one.
fn weight(endpoint: &Endpoint) -> u32 {
    if endpoint.is_healthy() { endpoint.weight } else { 0 }
}

/// Whether tables for the one are tables for the other.
fn same(one: &Arc<[Arc<Endpoint>]>, other: &Arc<[Arc<Endpoint>]>) -> bool {
    let alike = |a: &Arc<Endpoint>, b: &Arc<Endpoint>| Arc::ptr_eq(a, b) || (a.address == b.address && weight(a) == weight(b));
    Arc::ptr_eq(one, other) || (one.len() == other.len() && one.iter().zip(other.iter()).all(|(a, b)| alike(a, b)))
}
