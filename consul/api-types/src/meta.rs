//! What the response headers of the agent say about an answer.

use std::time::Duration;

/// The header part of an answer. Header names arrive as Go writes them (`X-Consul-Contenthash`): look them up without
/// regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// `X-Consul-Index`: ask with `index=` of it to wait for a change. Only that of a 200 may be used, and of a 404 to a
    /// query whose absence is a value: a 429 was seen to carry `1`.
    pub index: Option<u64>,
    /// `X-Consul-ContentHash`: ask with `hash=` of it to wait for a change.
    pub content_hash: Option<String>,
    /// `X-Consul-KnownLeader`. Always false on answers of the streaming backend, which is no outage.
    pub known_leader: Option<bool>,
    /// `X-Consul-LastContact`: how long ago the answering server heard from the leader (milliseconds on the wire).
    pub last_contact: Option<Duration>,
    /// `X-Consul-Default-ACL-Policy`: `allow` or `deny`, on every answer.
    pub default_acl_policy: Option<String>,
    /// `X-Consul-Results-Filtered-By-ACLs`: the token could not see all of the result.
    pub filtered_by_acls: bool,
    /// `Age`: how old an answer from the agent's cache is (seconds on the wire).
    pub cache_age: Option<Duration>,
    /// `X-Consul-Query-Backend` is `streaming`: see [`Meta::known_leader`].
    pub streaming: bool,
}

impl Meta {
    /// Reads the headers through `header`, which finds a value by name without regard to case. A value that does not
    /// parse counts as missing.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let number = |name| header(name).and_then(|value| value.trim().parse::<u64>().ok());
        let flag = |name| header(name).and_then(|value| value.trim().parse::<bool>().ok());
        let text = |name| header(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        Self {
            index: number("x-consul-index"),
            content_hash: text("x-consul-contenthash"),
            known_leader: flag("x-consul-knownleader"),
            last_contact: number("x-consul-lastcontact").map(Duration::from_millis),
            default_acl_policy: text("x-consul-default-acl-policy"),
            filtered_by_acls: flag("x-consul-results-filtered-by-acls") == Some(true),
            cache_age: number("age").map(Duration::from_secs),
            streaming: text("x-consul-query-backend").as_deref() == Some("streaming"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &'static str)]) -> Meta {
        Meta::read(|name| headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value))
    }

    #[test]
    fn every_header_has_its_field() {
        let meta = read(&[
            ("X-Consul-Index", "42"),
            ("X-Consul-Contenthash", "2b7247120f118afa"),
            ("X-Consul-Knownleader", "true"),
            ("X-Consul-Lastcontact", "15"),
            ("X-Consul-Default-Acl-Policy", "deny"),
            ("X-Consul-Results-Filtered-By-Acls", "true"),
            ("Age", "7"),
            ("X-Consul-Query-Backend", "streaming"),
        ]);
        let expected = Meta {
            index: Some(42),
            content_hash: Some("2b7247120f118afa".to_owned()),
            known_leader: Some(true),
            last_contact: Some(Duration::from_millis(15)),
            default_acl_policy: Some("deny".to_owned()),
            filtered_by_acls: true,
            cache_age: Some(Duration::from_secs(7)),
            streaming: true,
        };
        assert_eq!(meta, expected);
    }

    #[test]
    fn what_is_missing_or_unreadable_is_none() {
        assert_eq!(read(&[("X-Consul-Index", "soon"), ("X-Consul-KnownLeader", "")]), Meta::default());
    }
}
