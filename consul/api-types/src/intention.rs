//! Who may call: `GET /v1/connect/intentions/match?by=destination&name=<service>`.
//!
//! Keys a newer agent may add to a rule are kept in `unknown`, so that a reader can refuse a condition it does not
//! understand: left out, it would make an `allow` wider.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::query::{Blocking, Query, Tenancy};
use crate::wire::{null_lists, wire};

/// Asks for the intentions that have a service as destination, L7 permissions, JWT and peer sources included. Needs
/// intentions:read on it, which `service:read` implies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct IntentionMatch {
    /// The destination service's name.
    pub destination: String,
    /// Where the destination lives.
    pub tenancy: Tenancy,
}

impl Query for IntentionMatch {
    type Reply = IntentionMatches;

    fn path(&self) -> String {
        "/v1/connect/intentions/match".to_owned()
    }

    fn params(&self) -> Vec<(&'static str, String)> {
        let mut params = vec![("by", "destination".to_owned()), ("name", self.destination.clone())];
        self.tenancy.append(&mut params);
        params
    }

    fn blocking(&self) -> Blocking {
        Blocking::Index
    }
}

/// The matching intentions by the name asked for, highest precedence first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentionMatches(
    /// One list for each name asked for; no list at all for a name is no answer about it.
    #[serde(deserialize_with = "null_lists")]
    pub BTreeMap<String, Vec<Intention>>,
);

wire! {
    /// One intention. The first whose source matches decides; it has an action or permissions, never both.
    pub struct Intention {
        /// UUID; empty for those written as config entries.
        #[serde(rename = "ID")]
        pub id: String,
        /// Free-form text.
        pub description: String,
        /// The source service's name; `*` means any of that peer, partition and namespace.
        pub source_name: String,
        /// The source's namespace; `*` means any.
        #[serde(rename = "SourceNS")]
        pub source_ns: String,
        /// The source's admin partition; it never wildcards.
        pub source_partition: String,
        /// Local name of the peer the source comes from; empty means our own cluster. It never wildcards.
        pub source_peer: String,
        /// The sameness group of the source (Enterprise).
        pub source_sameness_group: String,
        /// `consul`: the source is a service.
        pub source_type: String,
        /// The destination service's name or `*`.
        pub destination_name: String,
        /// The destination's namespace or `*`.
        #[serde(rename = "DestinationNS")]
        pub destination_ns: String,
        /// The destination's admin partition.
        pub destination_partition: String,
        /// `allow` or `deny`; empty when there are permissions.
        pub action: String,
        /// L7 rules, in order: the first that matches decides, and none matching leaves it to the default policy.
        pub permissions: Vec<Permission>,
        /// Token requirement for every source of this destination, on top of those of permissions.
        #[serde(rename = "JWT")]
        pub jwt: Option<JwtRequirement>,
        /// 9 (exact source), 8 (any source), 6 and 5 (the same for destination `*`); the rest are Enterprise's.
        pub precedence: u32,
        /// Free-form metadata.
        pub meta: BTreeMap<String, String>,
        /// RFC 3339.
        pub created_at: String,
        /// RFC 3339.
        pub updated_at: String,
        /// Raft index of creation.
        pub create_index: u64,
        /// Raft index of the last change.
        pub modify_index: u64,
        /// All other keys: `Hash`, `DefaultAddr` and `DefaultPort`, which decide nothing, and what a newer agent adds.
        #[serde(flatten)]
        pub unknown: Map<String, Value>,
    }

    /// One L7 rule.
    pub struct Permission {
        /// `allow` or `deny`.
        pub action: String,
        /// What the request must look like; absent means any request.
        #[serde(rename = "HTTP")]
        pub http: Option<HttpPermission>,
        /// The token it must carry, on top of the intention's requirement.
        #[serde(rename = "JWT")]
        pub jwt: Option<JwtRequirement>,
        /// Keys unknown here.
        #[serde(flatten)]
        pub unknown: Map<String, Value>,
    }

    /// What a request must look like: every part given must match. At most one of the paths is given; the path is
    /// compared normalised, without the query string, case-sensitively.
    pub struct HttpPermission {
        /// The whole path.
        pub path_exact: String,
        /// How the path begins.
        pub path_prefix: String,
        /// RE2 expression that matches the whole path.
        pub path_regex: String,
        /// Header tests, all of which must hold.
        pub header: Vec<HeaderPermission>,
        /// Methods, upper case, one of which must be the request's; empty means any.
        pub methods: Vec<String>,
        /// Keys unknown here.
        #[serde(flatten)]
        pub unknown: Map<String, Value>,
    }

    /// One header test: exactly one of `present`, `exact`, `prefix`, `suffix`, `contains` and `regex`. A header that is
    /// absent fails every test that is not inverted.
    pub struct HeaderPermission {
        /// Header name, in any case.
        pub name: String,
        /// It is there.
        pub present: bool,
        /// The whole value.
        pub exact: String,
        /// How the value begins.
        pub prefix: String,
        /// How the value ends.
        pub suffix: String,
        /// What the value holds.
        pub contains: String,
        /// RE2 expression that matches the whole value.
        pub regex: String,
        /// The test must fail instead.
        pub invert: bool,
        /// Compare without regard to case; not with `present` and `regex`.
        pub ignore_case: bool,
        /// Keys unknown here.
        #[serde(flatten)]
        pub unknown: Map<String, Value>,
    }

    /// A token of any one of these providers.
    pub struct JwtRequirement {
        /// The providers.
        pub providers: Vec<JwtRequiredProvider>,
        /// Keys unknown here.
        #[serde(flatten)]
        pub unknown: Map<String, Value>,
    }

    /// A provider and what its token must claim.
    pub struct JwtRequiredProvider {
        /// Name of a `jwt-provider` config entry.
        pub name: String,
        /// Claims, all of which must hold.
        pub verify_claims: Vec<VerifyClaim>,
        /// Keys unknown here.
        #[serde(flatten)]
        pub unknown: Map<String, Value>,
    }

    /// One claim.
    pub struct VerifyClaim {
        /// Where it is in the token: keys from the outermost on.
        pub path: Vec<String>,
        /// The value it has, or has among others if it is a list.
        pub value: String,
        /// Keys unknown here.
        #[serde(flatten)]
        pub unknown: Map<String, Value>,
    }
}
