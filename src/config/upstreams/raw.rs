//! The keys of `upstreams.yaml`: the file, its hosts and paths.

use serde_json::{Value, json};

use super::{raw_auth::Auth, raw_pool::*};
use crate::{
    config::{
        fault::Check,
        read::{HeaderLine, Network, Url},
        shape::{At, Definitions, Entries, Of, Several, Shape, Size, Switch, Time, Within, Word, Words, integer, mismatch, section},
        tree::{Kind, Node},
    },
    model::ingress::pool::{Server, ServicePort},
};

section! {
    /// `upstreams.yaml`: which request goes where, and what it must pass. What stands at the top holds for all paths that do not say otherwise.
    struct Upstreams {
        ..policy: Policy,
        /// Where servers come from if a path does not say: file, consul, or kubernetes, whose Ingresses are routes then. Default file.
        provider: Word<Provider>,
        /// The hosts, by name; *.name is one label more, DEFAULT or * is every other.
        upstreams: Entries<Host>,
        /// The agents of Consul, and services as paths.
        consul: Consul,
        /// The cluster of Kubernetes, and services as paths.
        kubernetes: Kubernetes,
        refused "globals": "it never meant anything; what holds for all paths stands at the top of the file",
    }
}

section! {
    /// A host. What it says holds for all its paths that do not say otherwise.
    struct Host {
        ..policy: Policy,
        /// The paths, each with all below it; the longest one decides.
        paths: Entries<PathRoute>,
    }
}

section! {
    /// A path with all below it.
    struct PathRoute {
        ..policy: Policy,
        ..place: RouteKeys,
        /// The servers: "host:port", "[v6]:port", "http://", "https://", "h2c://", "grpc://", "grpcs://", "unix:/path", or maps with address.
        servers: Vec<At<RawServer>>,
        /// A service of Consul instead of servers.
        consul: ConsulService,
        /// A Service of Kubernetes instead of servers.
        kubernetes: KubernetesService,
    }
}

section! {
    /// What only a path can have.
    struct RouteKeys {
        /// Where clients are sent instead: a URL; path and query of the request follow.
        redirect_to: Of<Url>,
        /// The status of the redirect: 301, 302, 303, 307 or 308. Default 301.
        redirect_status: Within<301, 308>,
        /// Whether redirect_to is the whole new location. Default false.
        redirect_exact: bool,
        /// A folder whose files are served instead.
        files: Files,
        /// What takes the place of the path at the beginning of requests to servers. Default: nothing changes.
        rewrite: String,
        /// Whether the path is taken off the beginning of requests. Default false.
        strip_prefix: bool,
        /// Whether a server may be the config API itself. Default false.
        allow_api: bool,
    }
}

section! {
    /// What holds for all paths, for those of a host, or for one; a path goes before its host, a host before the file. Headers add up.
    struct Policy {
        ..pool: PoolPolicy,
        /// Headers of answers, "Name: value"; each replaces what the server sent.
        headers ["client_headers"]: Vec<At<Of<HeaderLine>>>,
        /// Headers of requests to servers, "Name: value"; each replaces what the client sent.
        server_headers: Vec<At<Of<HeaderLine>>>,
        /// More rules for headers of requests.
        request_headers: HeaderRules,
        /// More rules for headers of answers.
        response_headers: HeaderRules,
        /// Requests a second and client, or a map; false for none. Default: none.
        rate_limit: Switch<RawRate>,
        /// Who may come; false for everybody. Default: everybody.
        authorization: Switch<Auth>,
        /// Networks that may come; empty is all. Default: all.
        allow: Several<Of<Network>>,
        /// Networks that may not come. Default: none.
        deny: Several<Of<Network>>,
        /// Whether requests in clear are sent to https. Default false.
        to_https: bool,
        /// Cross-origin rules; false for none. Default: none.
        cors: Switch<Cors>,
        /// Most bytes of a request's body; false for no limit. Default: no limit.
        body_limit: Switch<Size>,
        /// Whether answers are compressed; a number from 1 to 9 is how much. Default false.
        compression: Switch<Within<1, 9>>,
        /// How long a request may take in all; false for no limit. Default: no limit.
        timeout: Switch<Time>,
        /// How long a request may stand still; false for no limit. Default 60s.
        idle_timeout: Switch<Time>,
        /// How often a failed request is tried again on another server, or a map; false for what is always safe. Default: what is always safe.
        retries: Switch<RawRetries>,
        refused "x4xx_limit": "it would shut out everybody behind the address of one guesser; authorization.failures bounds guessing",
    }
}

section! {
    /// Rules for headers.
    struct HeaderRules {
        /// Headers that replace what is there.
        set: Entries<String>,
        /// Headers that are added beside what is there.
        add: Entries<String>,
        /// Headers that are taken away.
        remove: Several<Of<http::HeaderName>>,
    }
}

section! {
    /// Cross-origin resource sharing.
    struct Cors {
        /// The origins: https://shop.example, https://*.shop.example, or * for all.
        origins: Several<String>,
        /// The methods. Default GET, HEAD, POST.
        methods: Several<String>,
        /// The headers of requests. Default: those that are asked for.
        headers: Several<Of<http::HeaderName>>,
        /// The headers of answers that scripts may read. Default: none.
        expose: Several<Of<http::HeaderName>>,
        /// Whether cookies may come along; not with origin *. Default false.
        credentials: bool,
        /// How long browsers may remember the answer. Default: as they like.
        max_age: Time,
    }
}

section! {
    /// A folder whose files are served.
    struct Files {
        /// The folder.
        root: String,
        /// What a folder is answered with. Default index.html.
        index: Several<String>,
        /// Whether folders without an index are listed. Default false.
        listing: bool,
        /// Whether NAME.br, NAME.zst and NAME.gz are sent to clients that take them. Default false.
        precompressed: bool,
        /// Cache-Control of the answers. Default: none.
        cache_control: String,
    }
}

section! {
    /// A limit on requests.
    struct Rate {
        /// Requests a second, in the long run.
        rate: Within<1, 4_294_967_295>,
        /// Requests at once. Default: rate.
        burst: Within<1, 4_294_967_295>,
        /// Who shares a counter: client, source (the SPIFFE ID of its certificate), header:NAME or claim:NAME. Default client.
        by: String,
    }
}

/// A limit: a number, or a map.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawRate(pub(in crate::config) Rate);

impl Shape for RawRate {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Map(_) => Rate::read(node, check).map(Self),
            _ if integer(node).is_some() => Some(Self(Rate { rate: Some(At::read(node, check)?), ..Rate::default() })),
            _ => mismatch(node, "a limit (requests a second, or a map with rate)", check),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"anyOf": [Within::<1, 4_294_967_295>::schema(definitions), Rate::schema(definitions)]})
    }
}

section! {
    /// When a failed request is tried again.
    struct Retries {
        /// Most repetitions. Default 1.
        attempts: Within<1, 10>,
        /// On what: connect-failure, reset, refused-stream, gateway-error, 5xx, retriable-4xx, and gRPC's cancelled, deadline-exceeded, internal,
        /// resource-exhausted, unavailable. Default connect-failure, refused-stream.
        on: Several<String>,
        /// Statuses of answers that are tried again. Default: none.
        statuses: Several<Within<400, 599>>,
    }
}

/// Retries: a number, or a map.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawRetries(pub(in crate::config) Retries);

impl Shape for RawRetries {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Map(_) => Retries::read(node, check).map(Self),
            _ if integer(node).is_some() => Some(Self(Retries { attempts: Some(At::read(node, check)?), ..Retries::default() })),
            _ => mismatch(node, "retries (how many, or a map)", check),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"anyOf": [Within::<1, 10>::schema(definitions), Retries::schema(definitions)]})
    }
}

section! {
    /// A server with its share.
    struct ServerKeys {
        /// host:port, with or without a scheme.
        address: Of<Server>,
        /// Its share of the requests, 1 to 128. Default 1.
        weight: Within<1, 128>,
        /// Whether it serves only when the others cannot. Default false.
        backup: bool,
    }
}

/// A server: a text, or a map.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawServer(pub(in crate::config) ServerKeys);

impl Shape for RawServer {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Map(_) => ServerKeys::read(node, check).map(Self),
            Kind::Text { .. } => Some(Self(ServerKeys { address: Some(At::read(node, check)?), ..ServerKeys::default() })),
            _ => mismatch(node, "a server (\"host:port\", or a map with address)", check),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"anyOf": [{"type": "string"}, ServerKeys::schema(definitions)]})
    }
}

section! {
    /// The agents of Consul, and services as paths.
    struct Consul {
        /// The agents' addresses; the first that answers is asked. Default 127.0.0.1:8500.
        servers ["addresses", "address"]: Several<String>,
        /// The ACL token. Default: none.
        token: String,
        /// A file that holds the token; read again when it changes.
        token_file: String,
        /// Whom to trust when an agent is asked by https, a PEM file. Default: the system's roots.
        ca_file: String,
        /// Services that are paths of hosts.
        services: Vec<At<ConsulPath>>,
        /// Whether services are called through their sidecars unless they say otherwise. Default false.
        connect: bool,
        /// Who this proxy is in the mesh: the service whose certificate it shows to sidecars, and that intentions name as their source. Default aralez.
        service: String,
    }
}

section! {
    /// A service of Consul that is the path of a host.
    struct ConsulPath {
        ..policy: Policy,
        ..place: RouteKeys,
        ..service: ConsulKeys,
        /// The service's name in Consul.
        service_name ["real", "upstream", "name"]: String,
        /// The host.
        hostname ["proxy", "host"]: String,
        /// The path. Default /.
        path: String,
    }
}

section! {
    /// A service of Consul.
    struct ConsulService {
        ..keys: ConsulKeys,
        /// The service's name in Consul.
        service ["name"]: String,
    }
}

section! {
    /// Which instances of a service, and how they are spoken to.
    struct ConsulKeys {
        /// Only instances with all of these tags. Default: all instances.
        tags ["tag"]: Several<String>,
        /// The datacenter. Default: the agent's.
        datacenter ["dc"]: String,
        /// The namespace (Enterprise). Default: none.
        namespace: String,
        /// What is spoken: http, https, h2c, grpc or grpcs. Default: it is found out.
        scheme: Word<crate::model::ingress::pool::Scheme>,
        /// Whether the service is called through its sidecars: mTLS with this proxy's own identity, under its intentions, by its discovery chain. Default: as consul: says.
        connect: bool,
    }
}

section! {
    /// The cluster of Kubernetes, and services as paths.
    struct Kubernetes {
        /// The API server's address. Default: as kubeconfig says, else the cluster that this runs in.
        server ["servers", "address"]: Several<String>,
        /// A file that holds the token for server; read again when it changes. Default: that of the pod's service account.
        token_file ["tokenpath"]: String,
        /// Whom to trust when server is asked, a PEM file. Default: that of the pod's service account.
        ca_file: String,
        /// A kubeconfig file. Default: $KUBECONFIG or ~/.kube/config if they are there, else the cluster that this runs in.
        kubeconfig: String,
        /// The context of the kubeconfig file. Default: its current one.
        context: String,
        /// The namespaces that are looked at. Default: all.
        namespaces ["namespace"]: Several<String>,
        /// Whose IngressClasses are ours, by their spec.controller. Default aralez/ingress-controller.
        controller: String,
        /// Addresses and names that are written to the status of our Ingresses. Default: none is written.
        status_address: Several<String>,
        /// Services that are paths of hosts.
        services: Vec<At<KubernetesPath>>,
    }
}

section! {
    /// A Service of Kubernetes that is the path of a host.
    struct KubernetesPath {
        ..policy: Policy,
        ..place: RouteKeys,
        ..service: KubernetesKeys,
        /// The Service's name.
        service_name ["real", "upstream", "name"]: String,
        /// The host.
        hostname ["proxy", "host"]: String,
        /// The path. Default /.
        path: String,
    }
}

section! {
    /// A Service of Kubernetes.
    struct KubernetesService {
        ..keys: KubernetesKeys,
        /// The Service's name.
        service ["name"]: String,
    }
}

section! {
    /// Which Service, and how its pods are spoken to.
    struct KubernetesKeys {
        /// The Service's namespace. Default: default.
        namespace: String,
        /// The Service's port, by name or number. Default: its only one.
        port: RawPort,
        /// What is spoken: http, https, h2c, grpc or grpcs. Default: it is found out.
        scheme: Word<crate::model::ingress::pool::Scheme>,
    }
}

/// A port of a Service: a number, or a name.
#[derive(Clone, Debug)]
pub(in crate::config) struct RawPort(pub(in crate::config) ServicePort);

impl Shape for RawPort {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let text = if let Kind::Text { text, .. } = &node.kind { text } else { "" };
        let number = integer(node).or_else(|| text.parse().ok());
        match number.map(u16::try_from) {
            Some(Ok(number @ 1..)) => Some(Self(ServicePort::Number(number))),
            None if !text.is_empty() => Some(Self(ServicePort::Name(text.into()))),
            _ => mismatch(node, "a port (its name, or 1 to 65535)", check),
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1, "maximum": 65_535}]})
    }
}

/// Where servers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Provider {
    File,
    Consul,
    Kubernetes,
}

impl Words for Provider {
    const WHAT: &'static str = "provider";
    const WORDS: &'static [(&'static str, Self)] = &[("file", Self::File), ("consul", Self::Consul), ("kubernetes", Self::Kubernetes)];
}
