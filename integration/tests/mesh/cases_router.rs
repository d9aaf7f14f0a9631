//! Consul's own acceptance case with a service router. The test bears the name of its case.

use anyhow::{Result, ensure};
use aralez_integration::clients::{self, request};
use aralez_integration::net::Address;
use aralez_integration::wait::eventually;
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use crate::cases::{Case, EVENTUALLY, s1};
use crate::cases_resolver::{cluster, family, subsets};
use crate::ingress_consul::Edge;
use crate::scene::{all_hold, app_in};

/// A route: what it matches, and the subset it leads to; the rewritten path is `/debug` except for prefixes.
fn route(matches: Value, subset: &str, rewrite: &str) -> Value {
    json!({"Match": {"HTTP": matches}, "Destination": {"ServiceSubset": subset, "PrefixRewrite": rewrite}})
}

fn by_header(path: &str, mut header: Value, subset: &str) -> Value {
    header["Name"] = json!("x-test-debug");
    route(json!({"PathExact": path, "Header": [header]}), subset, "/debug")
}

fn by_query(path: &str, mut parameter: Value, subset: &str) -> Value {
    parameter["Name"] = json!("test");
    route(json!({"PathExact": path, "QueryParam": [parameter]}), subset, "/debug")
}

/// Table 1.1, with the kinds of match it leaves out (header regex, query parameters, case) in their places.
fn routes() -> Vec<Value> {
    let regex = json!({"PathRegex": "/deb[ug]{2}", "Header": [{"Name": "x-test-debug", "Exact": "regex-path"}]});
    let retries = json!({
        "ServiceSubset": "v2", "RetryOnConnectFailure": true, "RetryOn": ["reset"], "RetryOnStatusCodes": [500, 512],
    });
    let mut manipulated = route(json!({"PathExact": "/header-manip/debug"}), "v2", "/debug");
    manipulated["Destination"]["RequestHeaders"] = json!({"Set": {"x-foo": "request-bar"}, "Remove": ["x-bad-req"]});
    let mut answered = route(json!({"PathExact": "/header-manip/echo"}), "v2", "/echo");
    answered["Destination"]["ResponseHeaders"] = json!({"Add": {"x-foo": "response-bar"}, "Remove": ["x-bad-resp"]});
    vec![
        route(json!({"PathExact": "/exact/debug"}), "v2", "/debug"),
        route(json!({"PathExact": "/exact-alt/debug"}), "v1", "/debug"),
        route(json!({"PathPrefix": "/prefix/"}), "v2", "/"),
        route(json!({"PathPrefix": "/prefix-alt/"}), "v1", "/"),
        route(json!({"PathExact": "/CASE/debug", "CaseInsensitive": true}), "v2", "/debug"),
        json!({"Match": {"HTTP": regex}, "Destination": retries}),
        by_header("/hdr-present/debug", json!({"Present": true}), "v2"),
        by_header("/hdr-present/debug", json!({"Present": true, "Invert": true}), "v1"),
        by_header("/hdr-exact/debug", json!({"Exact": "exact"}), "v2"),
        by_header("/hdr-exact/debug", json!({"Exact": "exact-alt"}), "v1"),
        by_header("/hdr-prefix/debug", json!({"Prefix": "prefi"}), "v2"),
        by_header("/hdr-prefix/debug", json!({"Prefix": "alt-prefi"}), "v1"),
        by_header("/hdr-suffix/debug", json!({"Suffix": "uffix"}), "v2"),
        by_header("/hdr-suffix/debug", json!({"Suffix": "uffix-alt"}), "v1"),
        by_header("/hdr-regex/debug", json!({"Regex": "reg[ex]{2}"}), "v2"),
        by_header("/hdr-regex/debug", json!({"Regex": "reg[ex]{3}"}), "v1"),
        by_header("/hdr-invert/debug", json!({"Exact": "not-this", "Invert": true}), "v2"),
        by_query("/qparam-present/debug", json!({"Present": true}), "v2"),
        by_query("/qparam-exact/debug", json!({"Exact": "exact"}), "v2"),
        by_query("/qparam-regex/debug", json!({"Regex": "reg[ex]{2}"}), "v2"),
        route(json!({"PathExact": "/method-match/debug", "Methods": ["GET", "PUT"]}), "v2", "/debug"),
        manipulated,
        answered,
    ]
}

/// A request and the app it must reach. What no route takes goes to the default subset, v1, with its path as it is.
struct Row(Method, &'static str, Option<&'static str>, &'static str);

impl Row {
    fn get(path: &'static str, header: Option<&'static str>, app: &'static str) -> Self {
        Self(Method::GET, path, header, app)
    }

    async fn check(&self, address: &Address) -> (String, Result<()>) {
        let Self(method, path, header, app) = self;
        (format!("{method} {path} {header:?} to {app}"), self.reaches(address).await)
    }

    async fn reaches(&self, address: &Address) -> Result<()> {
        let Self(method, path, header, app) = self;
        let query = if path.contains('?') { "" } else { "?env=dump" };
        let mut request = request(method.clone(), &format!("{path}{query}"), "")?;
        if let Some(value) = header {
            request.headers_mut().insert("x-test-debug", HeaderValue::from_static(value));
        }
        let answer = clients::once(address, request).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        ensure!(answer.headers.get("x-app").is_some_and(|name| name == app), "reached {:?}", answer.headers.get("x-app"));
        if query.is_empty() || !path.ends_with("/debug") {
            return Ok(());
        }
        // A dump comes only for `/debug?env=dump`: the path was rewritten and the query survived.
        let dump = answer.text();
        ensure!(app_in(&dump)? == *app, "{dump}");
        Ok(())
    }
}

fn rows() -> Vec<Row> {
    vec![
        Row::get("/exact/debug", None, "s2-v2"),
        Row::get("/exact-alt/debug", None, "s2-v1"),
        Row::get("/prefix/debug", None, "s2-v2"),
        Row::get("/prefix-alt/debug", None, "s2-v1"),
        Row::get("/case/DEBUG", None, "s2-v2"),
        Row::get("/debug", Some("regex-path"), "s2-v2"),
        Row::get("/debug", None, "s2-v1"),
        // A regex must match the whole path.
        Row::get("/debugg", Some("regex-path"), "s2-v1"),
        Row::get("/hdr-present/debug", Some("anything"), "s2-v2"),
        Row::get("/hdr-present/debug", None, "s2-v1"),
        Row::get("/hdr-exact/debug", Some("exact"), "s2-v2"),
        Row::get("/hdr-exact/debug", Some("exact-alt"), "s2-v1"),
        Row::get("/hdr-prefix/debug", Some("prefix"), "s2-v2"),
        Row::get("/hdr-prefix/debug", Some("alt-prefix"), "s2-v1"),
        Row::get("/hdr-suffix/debug", Some("suffix"), "s2-v2"),
        Row::get("/hdr-suffix/debug", Some("suffix-alt"), "s2-v1"),
        Row::get("/hdr-regex/debug", Some("regex"), "s2-v2"),
        Row::get("/hdr-regex/debug", Some("regexe"), "s2-v1"),
        Row::get("/hdr-invert/debug", Some("something-else"), "s2-v2"),
        Row::get("/hdr-invert/debug", Some("not-this"), "s2-v1"),
        Row::get("/qparam-present/debug?test", None, "s2-v2"),
        Row::get("/qparam-present/debug?test=x&env=dump", None, "s2-v2"),
        Row::get("/qparam-present/debug?other=x", None, "s2-v1"),
        Row::get("/qparam-exact/debug?env=dump&test=exact", None, "s2-v2"),
        Row::get("/qparam-exact/debug?test=exactly", None, "s2-v1"),
        Row::get("/qparam-regex/debug?test=regex", None, "s2-v2"),
        Row::get("/qparam-regex/debug?test=reggexx", None, "s2-v1"),
        Row::get("/method-match/debug", None, "s2-v2"),
        Row(Method::PUT, "/method-match/debug", None, "s2-v2"),
        Row(Method::POST, "/method-match/debug", None, "s2-v1"),
        Row::get("/header-manip/debug", None, "s2-v2"),
        Row::get("/nowhere", None, "s2-v1"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn case_cfg_router_features() {
    let agent = cluster("http").await;
    let resolver = json!({"Kind": "service-resolver", "Name": "s2", "DefaultSubset": "v1", "Subsets": subsets()});
    agent.config_entry(resolver).await.unwrap();
    agent.config_entry(json!({"Kind": "service-router", "Name": "s2", "Routes": routes()})).await.unwrap();
    let case = Case::start(agent, s1().await, family("s2").await).await;
    holds(&case.upstream()).await;
    // The same through the reverse proxy, by a path that is stripped before the router sees it, and by one that is not.
    let [whole, stripped] =
        ["/: {consul: {service: s2, connect: true}}", "/shop: {consul: {service: s2, connect: true}, strip_prefix: true}"]
            .map(str::to_owned);
    let edge = Edge::start(&[case.agent.http_addr()], None, &[whole, stripped]).await;
    holds(&edge.http).await;
    for (path, app) in [("/shop/prefix/debug", "s2-v2"), ("/shop/prefix-alt/debug", "s2-v1"), ("/shop/exact/debug", "s2-v2")] {
        Row::get(path, None, app).reaches(&edge.http).await.unwrap();
    }
}

/// What the table says, at an upstream's listener.
async fn holds(upstream: &Address) {
    eventually("table 1.1", EVENTUALLY, async || {
        let mut outcomes = Vec::new();
        for row in rows() {
            outcomes.push(row.check(upstream).await);
        }
        all_hold(outcomes)
    })
    .await
    .unwrap();

    // Row 22, both ways.
    let mut bad = request(Method::GET, "/header-manip/debug?env=dump", "").unwrap();
    bad.headers_mut().insert(HeaderName::from_static("x-bad-req"), HeaderValue::from_static("true"));
    let dump = clients::once(upstream, bad).await.unwrap().text();
    assert!(dump.contains("\nX-Foo: request-bar\n") && !dump.contains("X-Bad-Req"), "{dump}");
    let answer = clients::get(upstream, "/header-manip/echo?header=x-bad-resp:true&header=x-foo:app").await.unwrap();
    assert!(!answer.headers.contains_key("x-bad-resp"), "{:?}", answer.headers);
    let twice: Vec<_> = answer.headers.get_all("x-foo").iter().collect();
    assert_eq!(twice, ["app", "response-bar"]);
}
