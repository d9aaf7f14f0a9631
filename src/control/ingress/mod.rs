//! The reverse proxy's side of the control plane: its files, its servers, its certificates.
//!
//! A routing is handed over only together with the endpoints of all its pools and the keys of its token issuers, so that a reload never meets a
//! route whose servers are not known.

pub mod acme;
pub mod certificates;
pub mod keys;
pub mod pools;
pub mod reload;
pub mod running;
pub mod watch;

use std::sync::Arc;

use self::{keys::Keys, pools::Pools};
use super::reconciler::{IngressChange, IngressFeed};
use crate::model::ingress::Routing;

/// Hands a routing over that takes the place of the one before.
pub async fn replace(routing: Arc<Routing>, pools: &mut Pools, keys: &mut Keys, feed: &IngressFeed) {
    let ((endpoints, services), ()) = tokio::join!(pools.prepare(&routing), keys.adopt(&routing));
    feed.send(IngressChange::Routing { routing: routing.clone(), endpoints, services });
    pools.adopt(&routing);
}
