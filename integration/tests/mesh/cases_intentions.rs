//! Consul's own acceptance cases of L7 intentions. Each test bears the name of its case.

use anyhow::{Result, ensure};
use aralez_integration::apps;
use aralez_integration::clients::{self, request};
use aralez_integration::consul::Agent;
use aralez_integration::net::Address;
use aralez_integration::registration::Service;
use aralez_integration::wait::eventually;
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use crate::cases::{Case, EVENTUALLY, s1, service};
use crate::scene::all_hold;

/// `s2` speaks HTTP and has these permissions for `s1`.
async fn permit(agent: &Agent, permissions: &[Value]) {
    agent.config_entry(json!({"Kind": "service-defaults", "Name": "s2", "Protocol": "http"})).await.unwrap();
    let source = json!({"Name": "s1", "Permissions": permissions});
    agent.config_entry(json!({"Kind": "service-intentions", "Name": "s2", "Sources": [source]})).await.unwrap();
}

/// A permission for an exact path and one test of the header `x-test-debug`.
fn with_header(path: &str, mut header: Value) -> Value {
    header["Name"] = json!("x-test-debug");
    json!({"Action": "allow", "HTTP": {"PathExact": path, "Header": [header]}})
}

fn permissions() -> Vec<Value> {
    vec![
        json!({"Action": "allow", "HTTP": {"PathExact": "/exact"}}),
        json!({"Action": "allow", "HTTP": {"PathPrefix": "/prefix"}}),
        json!({"Action": "allow", "HTTP": {"PathRegex": "/reg[ex]{2}"}}),
        with_header("/hdr-present", json!({"Present": true})),
        with_header("/hdr-exact", json!({"Exact": "exact"})),
        with_header("/hdr-exact-ignore-case", json!({"Exact": "foo.bar.com", "IgnoreCase": true})),
        with_header("/hdr-prefix", json!({"Prefix": "prefi"})),
        with_header("/hdr-prefix-ignore-case", json!({"Prefix": "foo.bar", "IgnoreCase": true})),
        with_header("/hdr-suffix", json!({"Suffix": "uffix"})),
        with_header("/hdr-suffix-ignore-case", json!({"Suffix": "bar.com", "IgnoreCase": true})),
        with_header("/hdr-contains", json!({"Contains": "contains"})),
        with_header("/hdr-contains-ignore-case", json!({"Contains": "contains", "IgnoreCase": true})),
        with_header("/hdr-regex", json!({"Regex": "reg[ex]{2}"})),
        json!({"Action": "allow", "HTTP": {"PathExact": "/method-match", "Methods": ["GET", "PUT"]}}),
    ]
}

const SPELLINGS: &[Option<&str>] = &[Some("foo.bar.com"), Some("foo.BAR.com"), Some("fOo.bAr.coM")];

/// Table 1.2: a path, the values of `x-test-debug` that pass, and those that do not.
type Row = (&'static str, &'static [Option<&'static str>], &'static [Option<&'static str>]);

const ROWS: &[Row] = &[
    ("/exact", &[None], &[]),
    ("/exact-nope", &[], &[None]),
    ("/prefix", &[None], &[]),
    ("/nope-prefix", &[], &[None]),
    ("/regex", &[None], &[]),
    ("/reggex", &[], &[None]),
    ("/hdr-present", &[Some("anything")], &[None]),
    ("/hdr-exact", &[Some("exact")], &[Some("exact-nope"), None]),
    ("/hdr-exact-ignore-case", SPELLINGS, &[Some("fOo.bAr.coM.nope")]),
    ("/hdr-prefix", &[Some("prefix")], &[Some("nope-prefix"), None]),
    ("/hdr-prefix-ignore-case", SPELLINGS, &[Some("nope.fOo.bAr.coM")]),
    ("/hdr-suffix", &[Some("suffix")], &[Some("suffix-nope"), None]),
    ("/hdr-suffix-ignore-case", SPELLINGS, &[Some("fOo.bAr.coM.nope")]),
    ("/hdr-contains", &[Some("contains"), Some("ccontainss"), Some("still-contains-value")], &[Some("conntains"), None]),
    ("/hdr-contains-ignore-case", &[Some("cOntAins"), Some("CconTainsS"), Some("still-cOntAins-value")], &[Some("cOnntAins")]),
    ("/hdr-regex", &[Some("regex")], &[Some("reggex"), None]),
    ("/nowhere", &[], &[None]),
];

/// Whether a request gets the wanted status; 403 with the text that Envoy gives.
async fn answers(address: &Address, method: Method, path: &str, header: Option<&str>, status: u16) -> (String, Result<()>) {
    let row = format!("{method} {path} {header:?} to get {status}");
    let outcome = async {
        let mut request = request(method.clone(), path, "")?;
        if let Some(value) = header {
            request.headers_mut().insert("x-test-debug", HeaderValue::from_str(value)?);
        }
        let answer = clients::once(address, request).await?;
        ensure!(answer.status == status, "{}", answer.status);
        ensure!(status != 403 || method == Method::HEAD || answer.text() == "RBAC: access denied", "{}", answer.text());
        Ok(())
    };
    (row, outcome.await)
}

async fn table_1_2(upstream: &Address) -> Result<()> {
    let mut outcomes = Vec::new();
    for (path, pass, refused) in ROWS {
        for header in *pass {
            outcomes.push(answers(upstream, Method::GET, path, *header, 200).await);
        }
        for header in *refused {
            outcomes.push(answers(upstream, Method::GET, path, *header, 403).await);
        }
    }
    for (method, status) in [(Method::GET, 200), (Method::PUT, 200), (Method::POST, 403), (Method::HEAD, 403)] {
        outcomes.push(answers(upstream, method, "/method-match", None, status).await);
    }
    all_hold(outcomes)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_l7_intentions() {
    let agent = Case::cluster_with(json!({"acl": {"enabled": false, "default_policy": "deny"}})).await;
    permit(&agent, &permissions()).await;
    let case = Case::start(agent, s1().await, vec![service("s2", "s2").await]).await;
    eventually("table 1.2", EVENTUALLY, async || table_1_2(&case.upstream()).await).await.unwrap();
}

fn refusals() -> Vec<Value> {
    let by_header = |name: &str, operator: &str, value: &str| {
        let header = json!({"Name": name, operator: value, "IgnoreCase": true});
        json!({"Action": "deny", "HTTP": {"PathPrefix": "/", "Header": [header]}})
    };
    vec![
        json!({"Action": "deny", "HTTP": {"PathExact": "/value/supersecret"}}),
        by_header("x-check", "Contains", "bad"),
        by_header("x-check", "Exact", "exactbad"),
        by_header("x-check", "Prefix", "prebad-"),
        by_header("x-check", "Suffix", "-sufbad"),
        by_header("Host", "Suffix", "bad.com"),
    ]
}

/// Table 1.3: a request target as it is sent, a header, the status, and the path that the app receives (if not the sent one).
type Normalised = (&'static str, Option<(&'static str, &'static str)>, u16, Option<&'static str>);

const NORMALISED: &[Normalised] = &[
    ("/foo", None, 200, None),
    ("/value/foo", None, 200, None),
    ("/foo/supersecret", None, 200, None),
    ("/value/supersecret", None, 403, None),
    ("/value/supersecret?", None, 403, None),
    ("/value//supersecret", None, 403, None),
    ("/value///supersecret", None, 403, None),
    ("/value//foo", None, 200, Some("/value/foo")),
    ("/value///foo", None, 200, Some("/value/foo")),
    ("/value%2Fsupersecret", None, 403, None),
    ("/value/%73upersecret", None, 403, None),
    ("/value%2Ffoo", None, 200, Some("/value/foo")),
    ("/value/%66oo", None, 200, Some("/value/foo")),
    ("/value\\supersecret", None, 403, None),
    ("/value\\\\supersecret", None, 403, None),
    ("/value\\/supersecret", None, 403, None),
    ("/value/\\/supersecret", None, 403, None),
    ("/value\\foo", None, 200, Some("/value/foo")),
    ("/value\\\\foo", None, 200, Some("/value/foo")),
    ("/value\\/foo", None, 200, Some("/value/foo")),
    ("/value/\\/foo", None, 200, Some("/value/foo")),
    ("/foo", Some(("x_poison", "anything")), 400, None),
    ("/foo", Some(("x_check", "bad")), 400, None),
    ("/foo", Some(("x_check", "good-sufbad")), 400, None),
    ("/foo", Some(("x_check", "prebad-good")), 400, None),
    ("/foo", Some(("x-check", "thiscontainsbadinit")), 403, None),
    ("/foo", Some(("x-check", "exactBaD")), 403, None),
    ("/foo", Some(("x-check", "good-SuFBaD")), 403, None),
    ("/foo", Some(("x-check", "PrEBaD-good")), 403, None),
    ("/foo", Some(("x-check", "thiscontainsBaDinit")), 403, None),
    ("/foo", Some(("x-check", "good")), 200, None),
    ("/foo", Some(("Host", "foo.BaD.com")), 403, None),
    ("/foo", Some(("Host", "foo.BAD.com")), 403, None),
    ("/foo", Some(("Host", "foo.good.com")), 200, None),
];

async fn normalised(address: &Address, (target, header, status, received): Normalised) -> Result<()> {
    let mut fields = vec![("Host", "localhost")];
    match header {
        Some(("Host", host)) => fields = vec![("Host", host)],
        Some(header) => fields.push(header),
        None => {}
    }
    let answer = clients::raw(address, target, &fields).await?;
    ensure!(answer.status == status, "{}: {}", answer.status, answer.text());
    if status == 200 {
        let seen: Value = serde_json::from_slice(&answer.body)?;
        ensure!(seen["path"] == received.unwrap_or(target), "the app received {seen}");
    }
    Ok(())
}

async fn table_1_3(upstream: &Address) -> Result<()> {
    let mut outcomes = Vec::new();
    for row in NORMALISED {
        outcomes.push((format!("{row:?}"), normalised(upstream, *row).await));
    }
    // The suite's client keeps `#foo` to itself, as clients do. One that sends it is refused too: Envoy with 400, a policy with 403.
    let fragment = clients::raw(upstream, "/value/supersecret#foo", &[("Host", "localhost")]).await;
    let refused = fragment.and_then(|answer| {
        ensure!(matches!(answer.status.as_u16(), 400 | 403), "{}", answer.status);
        Ok(())
    });
    outcomes.push(("a fragment".into(), refused));
    all_hold(outcomes)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_l7_intentions_request_normalization() {
    let agent = Case::cluster_with(json!({"default_intention_policy": "allow"})).await;
    let normalisation = json!({
        "MergeSlashes": true,
        "PathWithEscapedSlashesAction": "UNESCAPE_AND_FORWARD",
        "HeadersWithUnderscoresAction": "REJECT_REQUEST",
    });
    let incoming = json!({"Incoming": {"RequestNormalization": normalisation}});
    agent.config_entry(json!({"Kind": "mesh", "HTTP": incoming})).await.unwrap();
    permit(&agent, &refusals()).await;
    let app = apps::raw_echo().await.unwrap();
    let s2 = Service::new("s2", &app.address).unwrap();
    let case = Case::start(agent, s1().await, vec![(s2, app)]).await;
    eventually("table 1.3", EVENTUALLY, async || table_1_3(&case.upstream()).await).await.unwrap();
}
