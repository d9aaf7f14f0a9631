//! Token issuers: `jwt-provider` entries, and which of them intentions ask for.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use consul_api_types::{IntentionMatches, JwtCluster, JwtLocation, JwtProvider, JwtRemoteKeys};
use http::{HeaderName, header::AUTHORIZATION};
use reqwest::Url;

use crate::model::{
    jwt::{Forwarding, KeyPlace, KeySet, KeySource, Location, ProviderEntry, RemoteKeys, Trust},
    secret::Secret,
};

/// The tolerance of an entry without one, as in Consul.
const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// How many tokens are remembered for an entry without `CacheConfig`.
const CACHE_SIZE: usize = 512;

/// The most that an entry can ask us to remember: some 100 MB.
const LARGEST_CACHE: usize = 1 << 16;

/// `RequestTimeoutMs` and `ConnectTimeout` when not set.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `CacheDuration` when not set.
const LIFETIME: Duration = Duration::from_secs(300);

/// The shortest time between two fetches of keys that have not been asked for.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);

/// `BaseInterval` when not set; `MaxInterval` is then ten times as long.
const BACK_OFF: Duration = Duration::from_secs(1);

/// The entries that the intentions towards `service` name, at any level.
pub fn required(matches: &IntentionMatches, service: &str) -> BTreeSet<Arc<str>> {
    let intentions = matches.0.get(service).into_iter().flatten();
    let requirements = intentions.flat_map(|i| i.jwt.iter().chain(i.permissions.iter().filter_map(|p| p.jwt.as_ref())));
    requirements.flat_map(|requirement| &requirement.providers).map(|provider| provider.name.as_str().into()).collect()
}

/// Decodes an entry. One that cannot be used has no keys, and says why: it closes only what asks for its tokens.
pub fn entry(wire: &JwtProvider) -> ProviderEntry {
    let (locations, forwarding) = (locations(&wire.locations), forwarding(wire));
    let wrong = locations.as_ref().err().or(forwarding.as_ref().err()).cloned();
    ProviderEntry {
        name: wire.name.as_str().into(),
        issuer: wire.issuer.as_str().into(),
        audiences: wire.audiences.iter().map(|audience| audience.as_str().into()).collect(),
        locations: locations.unwrap_or_default(),
        forwarding: forwarding.unwrap_or_default(),
        clock_skew: u64::try_from(wire.clock_skew_seconds).ok().filter(|s| *s > 0).map_or(CLOCK_SKEW, Duration::from_secs),
        cache_size: wire.cache_config.as_ref().map_or(CACHE_SIZE, |c| usize::try_from(c.size).unwrap_or_default().min(LARGEST_CACHE)),
        keys: wrong.map_or_else(|| keys(wire), Err).unwrap_or_else(|why| KeySource::Nowhere(why.into())),
    }
}

fn locations(wire: &[JwtLocation]) -> Result<Vec<Location>, String> {
    if wire.is_empty() {
        let bearer = Location::Header { name: AUTHORIZATION, prefix: "Bearer ".into(), forward: false };
        return Ok(vec![bearer, Location::Query("access_token".into())]);
    }
    let one = |(at, location): (usize, &JwtLocation)| match (&location.header, &location.query_param, &location.cookie) {
        (Some(header), ..) => Ok(Location::Header {
            name: header_name(&format!("Locations[{at}].Header.Name"), &header.name)?,
            prefix: header.value_prefix.as_str().into(),
            forward: header.forward,
        }),
        (_, Some(parameter), _) => Ok(Location::Query(parameter.name.as_str().into())),
        (_, _, Some(cookie)) => Ok(Location::Cookie(cookie.name.as_str().into())),
        (None, None, None) => Err(format!("Locations[{at}] is neither a header nor a query parameter nor a cookie")),
    };
    wire.iter().enumerate().map(one).collect()
}

fn forwarding(wire: &JwtProvider) -> Result<Option<Forwarding>, String> {
    let Some(forwarding) = &wire.forwarding else { return Ok(None) };
    let header = header_name("Forwarding.HeaderName", &forwarding.header_name)?;
    Ok(Some(Forwarding { header, padded: forwarding.pad_forward_payload_header }))
}

fn header_name(field: &str, name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{field} is {name:?}, which is not a header's name"))
}

fn keys(wire: &JwtProvider) -> Result<KeySource, String> {
    let set = wire.json_web_key_set.as_ref();
    match (set.and_then(|set| set.local.as_ref()), set.and_then(|set| set.remote.as_ref())) {
        (Some(local), _) if !local.jwks.is_empty() => {
            let text = BASE64_STANDARD.decode(&local.jwks).map_err(|_| "JSONWebKeySet.Local.JWKS is not base64")?;
            let keys = KeySet::parse(&text).map_err(|why| format!("JSONWebKeySet.Local.JWKS: {why}"))?;
            Ok(KeySource::Entry(Arc::new(keys)))
        }
        (Some(local), _) if !local.filename.is_empty() => Ok(KeySource::Place(KeyPlace::File(local.filename.as_str().into()))),
        (_, Some(remote)) => Ok(KeySource::Place(KeyPlace::Remote(Arc::new(self::remote(remote)?)))),
        _ => Err("JSONWebKeySet names no keys".to_owned()),
    }
}

fn remote(wire: &JwtRemoteKeys) -> Result<RemoteKeys, String> {
    let url = Url::parse(&wire.uri).map_err(|e| format!("JSONWebKeySet.Remote.URI: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err("JSONWebKeySet.Remote.URI is not one of http or https without a user".to_owned());
    }
    let set = |duration: Option<Duration>, default| duration.filter(|d| !d.is_zero()).unwrap_or(default);
    let policy = wire.retry_policy.as_ref();
    let back_off = policy.and_then(|policy| policy.retry_policy_back_off.as_ref());
    let shortest = set(back_off.and_then(|b| b.base_interval.to_std()), BACK_OFF);
    let longest = set(back_off.and_then(|b| b.max_interval.to_std()), shortest.saturating_mul(10));
    let cluster = wire.jwks_cluster.as_ref();
    Ok(RemoteKeys {
        shown: format!("{}{}", url.origin().ascii_serialization(), url.path()).into(),
        url: Secret::new(url),
        timeout: set(u64::try_from(wire.request_timeout_ms).ok().map(Duration::from_millis), TIMEOUT),
        connect_timeout: set(cluster.and_then(|c| c.connect_timeout.to_std()), TIMEOUT),
        lifetime: set(wire.cache_duration.to_std(), LIFETIME).max(SHORTEST_LIFETIME),
        asynchronous: wire.fetch_asynchronously,
        retries: policy.and_then(|policy| u32::try_from(policy.num_retries).ok()).unwrap_or_default(),
        back_off: (shortest, longest.max(shortest)),
        trust: trust(cluster)?,
    })
}

fn trust(cluster: Option<&JwtCluster>) -> Result<Trust, String> {
    const FIELD: &str = "JSONWebKeySet.Remote.JWKSCluster.TLSCertificates";
    let Some(certificates) = cluster.and_then(|cluster| cluster.tls_certificates.as_ref()) else { return Ok(Trust::System) };
    let Some(ca) = &certificates.trusted_ca else {
        return Err(format!("{FIELD} names a certificate provider of Envoy's bootstrap, which only Envoy has; name a TrustedCA"));
    };
    if !ca.filename.is_empty() {
        Ok(Trust::File(ca.filename.as_str().into()))
    } else if !ca.environment_variable.is_empty() {
        Ok(Trust::Variable(ca.environment_variable.clone()))
    } else if !ca.inline_string.is_empty() {
        Ok(Trust::Pem(ca.inline_string.clone().into_bytes()))
    } else if !ca.inline_bytes.is_empty() {
        BASE64_STANDARD.decode(&ca.inline_bytes).map(Trust::Pem).map_err(|_| format!("{FIELD}.TrustedCA.InlineBytes is not base64"))
    } else {
        Err(format!("{FIELD}.TrustedCA is empty"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KEYS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn decoded(wire: Value) -> ProviderEntry {
        entry(&serde_json::from_value(wire).unwrap())
    }

    fn remote(fields: Value) -> KeySource {
        let mut remote = json!({"URI": "https://issuer.example/keys?key=s3cret"});
        remote.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        decoded(json!({"Name": "okta", "JSONWebKeySet": {"Remote": remote}})).keys
    }

    fn why(keys: KeySource) -> String {
        let KeySource::Nowhere(why) = keys else { panic!("it can be used: {keys:?}") };
        why.to_string()
    }

    #[test]
    fn an_entry_without_settings_has_consuls_defaults() {
        let entry = decoded(json!({"Name": "okta", "Issuer": "i", "JSONWebKeySet": {"Local": {"JWKS": BASE64_STANDARD.encode(KEYS)}}}));
        let bearer = Location::Header { name: AUTHORIZATION, prefix: "Bearer ".into(), forward: false };
        assert_eq!(entry.locations, [bearer, Location::Query("access_token".into())]);
        assert_eq!((entry.clock_skew, entry.cache_size, &entry.forwarding), (CLOCK_SKEW, CACHE_SIZE, &None));
        assert_eq!(entry.keys, KeySource::Entry(Arc::new(KeySet::parse(KEYS.as_bytes()).unwrap())));
    }

    #[test]
    fn every_setting_is_read() {
        let entry = decoded(json!({
            "Name": "okta", "Issuer": "i", "Audiences": ["a", "b"], "ClockSkewSeconds": 5, "CacheConfig": {"Size": 20},
            "Locations": [{"Header": {"Name": "X-Token", "ValuePrefix": "Token ", "Forward": true}}, {"QueryParam": {"Name": "q"}},
                {"Cookie": {"Name": "c"}}],
            "Forwarding": {"HeaderName": "X-Claims", "PadForwardPayloadHeader": true},
            "JSONWebKeySet": {"Local": {"Filename": "/keys.json"}},
        }));
        let header = Location::Header { name: HeaderName::from_static("x-token"), prefix: "Token ".into(), forward: true };
        assert_eq!(entry.locations, [header, Location::Query("q".into()), Location::Cookie("c".into())]);
        assert_eq!(entry.forwarding, Some(Forwarding { header: HeaderName::from_static("x-claims"), padded: true }));
        assert_eq!((entry.clock_skew.as_secs(), entry.cache_size), (5, 20));
        assert_eq!(entry.keys, KeySource::Place(KeyPlace::File("/keys.json".into())));
        assert_eq!(decoded(json!({"CacheConfig": {}})).cache_size, 0);
    }

    #[test]
    fn remote_keys_are_read_with_their_times_and_trust() {
        let seconds = Duration::from_secs;
        let KeySource::Place(KeyPlace::Remote(plain)) = remote(json!({})) else { panic!("not remote") };
        assert_eq!((&*plain.shown, plain.url.expose()), ("https://issuer.example/keys", "https://issuer.example/keys?key=s3cret"));
        assert_eq!((plain.timeout, plain.connect_timeout, plain.lifetime), (seconds(5), seconds(5), seconds(300)));
        assert_eq!((plain.retries, plain.back_off, &plain.trust), (0, (seconds(1), seconds(10)), &Trust::System));
        assert!(!format!("{plain:?}").contains("s3cret"));
        let KeySource::Place(KeyPlace::Remote(full)) = remote(json!({
            "RequestTimeoutMs": 1500, "CacheDuration": 600_000_000_000_u64, "FetchAsynchronously": true,
            "RetryPolicy": {"NumRetries": 2, "RetryPolicyBackOff": {"BaseInterval": 2_000_000_000_u64, "MaxInterval": 9_000_000_000_u64}},
            "JWKSCluster": {"ConnectTimeout": 3_000_000_000_u64, "TLSCertificates": {"TrustedCA": {"InlineBytes": "cGVt"}}},
        })) else {
            panic!("not remote")
        };
        assert_eq!((full.timeout, full.connect_timeout, full.lifetime), (Duration::from_millis(1500), seconds(3), seconds(600)));
        assert_eq!((full.asynchronous, full.retries, full.back_off), (true, 2, (seconds(2), seconds(9))));
        assert_eq!(full.trust, Trust::Pem(b"pem".to_vec()));
    }

    #[test]
    fn what_cannot_be_used_says_why_and_keeps_guarding_its_header() {
        for (remote_fields, text) in [
            (json!({"URI": "ftp://issuer.example"}), "http or https"),
            (json!({"URI": "https://user:s3cret@issuer.example"}), "without a user"),
            (json!({"URI": ""}), "URI"),
            (json!({"JWKSCluster": {"TLSCertificates": {"CaCertificateProviderInstance": {}}}}), "Envoy"),
            (json!({"JWKSCluster": {"TLSCertificates": {"TrustedCA": {}}}}), "TrustedCA is empty"),
            (json!({"JWKSCluster": {"TLSCertificates": {"TrustedCA": {"InlineBytes": "*"}}}}), "not base64"),
        ] {
            let why = why(remote(remote_fields));
            assert!(why.contains(text) && !why.contains("s3cret"), "{why}");
        }
        let forwarding = json!({"HeaderName": "x-claims"});
        for (keys, text) in [
            (json!({}), "no keys"),
            (json!({"Local": {"JWKS": "*"}}), "not base64"),
            (json!({"Local": {"JWKS": "eyJrZXlzIjpbXX0="}}), "no usable key"),
        ] {
            let entry = decoded(json!({"Forwarding": forwarding, "JSONWebKeySet": keys}));
            assert_eq!(entry.forwarding.unwrap().header, "x-claims");
            assert!(why(entry.keys).contains(text));
        }
        let bad = decoded(json!({"Forwarding": forwarding, "Locations": [{"Header": {"Name": "a b"}}]}));
        assert!(bad.forwarding.is_some() && why(bad.keys).contains("Locations[0].Header.Name"));
        assert!(why(decoded(json!({"Locations": [{}]})).keys).contains("Locations[0]"));
        assert!(why(decoded(json!({"Forwarding": {"HeaderName": ""}})).keys).contains("Forwarding.HeaderName"));
    }

    #[test]
    fn every_level_of_an_intention_may_ask_for_tokens() {
        let ask = |name: &str| json!({"Providers": [{"Name": name}, {"Name": "shared"}]});
        let matches =
            json!({"db": [{"JWT": ask("entry")}, {"Permissions": [{"JWT": ask("permission")}, {}]}], "web": [{"JWT": ask("other")}]});
        let names = required(&serde_json::from_value(matches).unwrap(), "db");
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["entry", "permission", "shared"]);
    }
}
