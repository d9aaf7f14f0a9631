//! How to reach a cluster of Kubernetes, and what to look for in it.

use std::{path::PathBuf, sync::Arc};

use crate::model::{
    ingress::{Filters, Pool},
    route::Route,
};

/// The controller whose IngressClasses are ours if the file does not say.
pub const CONTROLLER: &str = "aralez/ingress-controller";

/// A cluster, and what its Ingresses become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The cluster.
    pub cluster: ClusterConfig,
    /// What routes of Ingresses are made of: what the file says for all paths.
    pub template: Arc<RouteTemplate>,
}

/// A cluster and what is watched in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where the API server is.
    pub access: Access,
    /// The namespaces that are looked at; empty is all.
    pub namespaces: Vec<String>,
    /// Which Ingresses are routes; `None` if none is.
    pub ingresses: Option<IngressConfig>,
}

/// Where the API server is, and what it wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// As a kubeconfig file says, or the cluster that this runs in.
    Usual {
        /// The kubeconfig file; `None` is `$KUBECONFIG`, `~/.kube/config`, else the service account of the pod.
        kubeconfig: Option<PathBuf>,
        /// Its context; `None` is the current one.
        context: Option<String>,
    },
    /// By its address, with a token.
    Server {
        /// `https://host:port`.
        url: http::Uri,
        /// The file of the token.
        token_file: PathBuf,
        /// The file of its CAs, PEM.
        ca_file: PathBuf,
    },
}

/// Which Ingresses are ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressConfig {
    /// `spec.controller` of our IngressClasses.
    pub controller: Arc<str>,
    /// The addresses and names that are written to their status; empty writes nothing.
    pub status: Vec<Arc<str>>,
}

/// What the routes of Ingresses are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTemplate {
    /// Timeouts, retries, headers, hashing; its name, path and legs are still to come.
    pub route: Route,
    /// What a request must pass.
    pub filters: Arc<Filters>,
    /// Balancing, limits and TLS; without probes, since the cluster has its own. Its id and source are still to come.
    pub pool: Pool,
}
