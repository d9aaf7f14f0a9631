//! Who somebody is in the mesh: the trust domain and the SPIFFE ID.
//!
//! Forms are Consul's (contract: leaf certificates carry exactly one URI SAN):
//! `spiffe://<trust-domain>[/ap/<partition>]/ns/<namespace>/dc/<datacenter>/svc/<service>` and
//! `spiffe://<trust-domain>[/ap/<partition>]/gateway/mesh/dc/<datacenter>`; `/ap/…` only for a partition other than `default`.

use std::{fmt, str::FromStr, sync::Arc};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Serialize, Serializer};

/// The name of the default partition and of the default namespace.
pub const DEFAULT: &str = "default";

/// SPIFFE IDs longer than this are refused (SPIFFE-ID specification, section 2.3).
const MAX_LENGTH: usize = 2048;

/// What Consul escapes in a segment: all but the unreserved characters and those that Go's `net/url` leaves alone in a path.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// The trust domain of a cluster, lower case, for example `11111111-2222-3333-4444-555555555555.consul`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain: lower-case letters, digits, `.`, `-` and `_` (SPIFFE-ID specification, section 2.1).
    ///
    /// # Errors
    /// [`IdentityError::TrustDomain`] when it is empty or holds another character.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(fine) {
            return Err(IdentityError::TrustDomain(text.to_owned()));
        }
        Ok(Self(text.into()))
    }

    /// The text of the trust domain.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A service of the mesh, wherever it runs: partition, namespace and name, all unescaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ServiceName {
    /// Admin partition; `default` in Consul CE.
    pub partition: Arc<str>,
    /// Namespace; `default` in Consul CE.
    pub namespace: Arc<str>,
    /// The service's name.
    pub name: Arc<str>,
}

impl ServiceName {
    /// A service of the default partition and namespace.
    pub fn local(name: &str) -> Self {
        Self { partition: DEFAULT.into(), namespace: DEFAULT.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if &*self.partition != DEFAULT {
            write!(f, "{}/", self.partition)?;
        }
        if &*self.partition != DEFAULT || &*self.namespace != DEFAULT {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// What a SPIFFE ID names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Workload {
    /// A service instance's proxy (or a connect-native service) in a datacenter.
    Service {
        /// The service represented.
        service: ServiceName,
        /// The datacenter that signed the leaf. Intentions ignore it.
        datacenter: Arc<str>,
    },
    /// A mesh gateway of a datacenter.
    MeshGateway {
        /// Admin partition of the gateway.
        partition: Arc<str>,
        /// Its datacenter.
        datacenter: Arc<str>,
    },
}

/// A parsed SPIFFE ID in canonical form: two IDs are equal exactly when their texts are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// The trust domain, the host part of the URI.
    pub trust_domain: TrustDomain,
    /// What is named in it.
    pub workload: Workload,
}

/// Why a text is not an identity that Aralez accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The trust domain is empty or holds a character that a trust domain may not hold.
    #[error("{0:?} is not a trust domain (lower-case letters, digits, '.', '-' and '_')")]
    TrustDomain(String),
    /// Not a SPIFFE ID of a service or a mesh gateway, in canonical form.
    #[error("{uri:?} is not the SPIFFE ID of a service or mesh gateway: {why}")]
    SpiffeId {
        /// The text as received.
        uri: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl SpiffeId {
    /// The ID of a service.
    pub fn service(trust_domain: TrustDomain, service: ServiceName, datacenter: &str) -> Self {
        Self { trust_domain, workload: Workload::Service { service, datacenter: datacenter.into() } }
    }

    /// The service that is named, or `None` for a gateway.
    pub fn as_service(&self) -> Option<&ServiceName> {
        match &self.workload {
            Workload::Service { service, .. } => Some(service),
            Workload::MeshGateway { .. } => None,
        }
    }

    /// The datacenter that signed it.
    pub fn datacenter(&self) -> &str {
        match &self.workload {
            Workload::Service { datacenter, .. } | Workload::MeshGateway { datacenter, .. } => datacenter,
        }
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    /// Parses strictly: lower-case scheme, no port, user, query or fragment, no empty or extra segment, canonical escapes.
    /// What does not print back to the same text is refused, so that no two texts mean one identity.
    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let refuse = |why| IdentityError::SpiffeId { uri: uri.chars().take(MAX_LENGTH).collect(), why };
        if uri.len() > MAX_LENGTH {
            return Err(refuse("longer than 2048 bytes"));
        }
        let rest = uri.strip_prefix("spiffe://").ok_or_else(|| refuse("it does not begin with spiffe://"))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| refuse("it has no path"))?;
        let trust_domain = TrustDomain::parse(domain).map_err(|_| refuse("its trust domain is not valid"))?;
        let raw: Vec<&str> = path.split('/').collect();
        let segments = raw.iter().map(|s| unescape(s)).collect::<Option<Vec<_>>>();
        let segments = segments.ok_or_else(|| refuse("a segment is empty or holds a character that a name may not hold"))?;
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (partition, words) = match words.as_slice() {
            ["ap", partition, words @ ..] => (*partition, words),
            words => (DEFAULT, words),
        };
        let workload = match words {
            ["ns", namespace, "dc", datacenter, "svc", service] => Workload::Service {
                service: ServiceName { partition: partition.into(), namespace: (*namespace).into(), name: (*service).into() },
                datacenter: (*datacenter).into(),
            },
            ["gateway", "mesh", "dc", datacenter] => {
                Workload::MeshGateway { partition: partition.into(), datacenter: (*datacenter).into() }
            }
            _ => return Err(refuse("its path is neither …/ns/…/dc/…/svc/… nor …/gateway/mesh/dc/…")),
        };
        let id = Self { trust_domain, workload };
        if id.to_string() != uri {
            return Err(refuse("it is not in canonical form"));
        }
        Ok(id)
    }
}

/// A segment without its escapes; `None` when it is empty, not UTF-8, or holds a slash or a control character.
fn unescape(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?;
    let fine = !text.is_empty() && !text.chars().any(|c| c == '/' || c.is_control());
    fine.then(|| text.into_owned())
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |text| utf8_percent_encode(text, ESCAPED);
        write!(f, "spiffe://{}", self.trust_domain)?;
        let partition = match &self.workload {
            Workload::Service { service, .. } => &service.partition,
            Workload::MeshGateway { partition, .. } => partition,
        };
        if &**partition != DEFAULT {
            write!(f, "/ap/{}", escape(partition))?;
        }
        match &self.workload {
            Workload::Service { service, datacenter } => {
                write!(f, "/ns/{}/dc/{}/svc/{}", escape(&service.namespace), escape(datacenter), escape(&service.name))
            }
            Workload::MeshGateway { datacenter, .. } => write!(f, "/gateway/mesh/dc/{}", escape(datacenter)),
        }
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TD: &str = "11111111-2222-3333-4444-555555555555.consul";

    #[test]
    fn a_service_id_prints_back_to_its_text() {
        let text = format!("spiffe://{TD}/ns/default/dc/dc1/svc/web");
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.as_service(), Some(&ServiceName::local("web")));
        assert_eq!(id.to_string(), text);
    }

    #[test]
    fn partitions_and_gateways_are_known() {
        let id: SpiffeId = format!("spiffe://{TD}/ap/blue/ns/team/dc/dc1/svc/web").parse().unwrap();
        assert_eq!(id.as_service().unwrap().to_string(), "blue/team/web");
        let id: SpiffeId = format!("spiffe://{TD}/gateway/mesh/dc/dc1").parse().unwrap();
        assert_eq!(id.as_service(), None);
    }

    #[test]
    fn what_only_looks_like_an_id_is_refused() {
        for text in [
            "",
            "spiffe://",
            "SPIFFE://td.consul/ns/default/dc/dc1/svc/web",
            "spiffe://TD.consul/ns/default/dc/dc1/svc/web",
            "spiffe://user@td.consul/ns/default/dc/dc1/svc/web",
            "spiffe://td.consul:80/ns/default/dc/dc1/svc/web",
            "spiffe://td.consul/ns/default/dc/dc1/svc/web?x",
            "spiffe://td.consul/ns/default/dc/dc1/svc/web#x",
            "spiffe://td.consul/ns/default/dc/dc1/svc/web/",
            "spiffe://td.consul//ns/default/dc/dc1/svc/web",
            "spiffe://td.consul/ns/default/dc/dc1/svc/",
            "spiffe://td.consul/ns/default/dc/dc1/svc/a%2Fb",
            "spiffe://td.consul/ns/default/dc/dc1/svc/%77eb",
            "spiffe://td.consul/ns/default/dc/dc1/svc/web%00",
            "spiffe://td.consul/ap/default/ns/default/dc/dc1/svc/web",
            "spiffe://td.consul/agent/client/dc/dc1/id/node",
            "spiffe://td.consul/ns/default/dc/dc1/svc/web/extra/segment",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
        }
        assert!(format!("spiffe://td.consul/ns/default/dc/dc1/svc/{}", "a".repeat(2048)).parse::<SpiffeId>().is_err());
    }

    proptest! {
        #[test]
        fn any_name_survives_the_text(name in "[^/\\p{Cc}]{1,40}") {
            let id = SpiffeId::service(TrustDomain::parse(TD).unwrap(), ServiceName::local(&name), "dc1");
            prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        }

        #[test]
        fn parsing_never_panics_and_is_canonical(text in "(spiffe://)?[a-z./%0-9]{0,60}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
