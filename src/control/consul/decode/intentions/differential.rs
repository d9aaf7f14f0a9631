//! The product against the reference, on intentions as the agent would send them and requests of all kinds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fastrand::Rng;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::{
    intentions,
    reference::{Call, EXPRESSIONS, passes},
};
use crate::model::{
    identity::TrustDomain,
    intention::{DefaultPolicy, Denied, Intentions, Permit, Verdict},
    jwt::Tokens,
    listener::Protocol,
    matching::RequestView,
};

const PAIRS: usize = 12_000;
const WORDS: &[&str] = &["", "v", "w", "V", "vv", "v,w", "a", "b", "ab", "42", "é", "É"];
const PATHS: &[&str] = &["/", "/a", "/A", "/a/b", "/ab", "/admin", "/b", "/42"];
const HEADERS: &[&str] = &["x", "y", "X-Long-Name", "host", "Host", ":authority", ":path", ":method"];
const PROVIDERS: &[&str] = &["okta", "auth0", "loc"];
const METHODS: &[&str] = &["GET", "PUT", "POST", "get"];

struct Verified(BTreeMap<String, Value>);

impl Tokens for Verified {
    fn claims(&self, provider: &str) -> Option<&Value> {
        self.0.get(provider)
    }
}

fn one<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(..of.len())]
}

/// True about once in `n`.
fn rare(rng: &mut Rng, n: u32) -> bool {
    rng.u32(..n) == 0
}

fn expression(rng: &mut Rng) -> &'static str {
    // Those that RE2 refuses come last; they are rare, since they deny without a look at the request.
    let fine = EXPRESSIONS.iter().filter(|(_, meaning)| meaning.is_some()).count();
    EXPRESSIONS[if rare(rng, 12) { rng.usize(..EXPRESSIONS.len()) } else { rng.usize(..fine) }].0
}

fn token(rng: &mut Rng) -> Value {
    let claim = |rng: &mut Rng| {
        let path = [json!(["sub"]), json!(["perms", "role"]), json!(["n"]), json!(["groups"]), json!([])];
        let path = path[if rare(rng, 25) { 4 } else { rng.usize(..4) }].clone();
        json!({"Path": path, "Value": one(rng, &["admin", "web", "7", "true", "1.5"])})
    };
    let provider = |rng: &mut Rng| {
        let claims: Vec<Value> = (0..rng.usize(..3)).map(|_| claim(rng)).collect();
        json!({"Name": one(rng, PROVIDERS), "VerifyClaims": claims})
    };
    let least = usize::from(!rare(rng, 25));
    json!({"Providers": (0..rng.usize(least..3)).map(|_| provider(rng)).collect::<Vec<_>>()})
}

fn header(rng: &mut Rng) -> Value {
    let mut test = json!({"Name": one(rng, HEADERS)});
    for _ in 0..if rare(rng, 30) { 2 } else { 1 } {
        match rng.u8(..11) {
            0 => test["Present"] = json!(true),
            1 => test["Regex"] = json!(expression(rng)),
            operator => test[["Exact", "Prefix", "Suffix", "Contains"][usize::from(operator) % 4]] = json!(one(rng, &WORDS[1..])),
        }
    }
    if rare(rng, 3) {
        test["Invert"] = json!(true);
    }
    let may = test["Present"].is_null() && test["Regex"].is_null();
    if rare(rng, if may { 3 } else { 40 }) {
        test["IgnoreCase"] = json!(true);
    }
    if rare(rng, 60) {
        test["Name"] = json!("no header");
    }
    test
}

fn permission(rng: &mut Rng) -> Value {
    let mut http = json!({});
    match rng.u8(..5) {
        0 => http["PathExact"] = json!(one(rng, PATHS)),
        1 => http["PathRegex"] = json!(expression(rng)),
        2 | 3 => http["PathPrefix"] = json!(one(rng, PATHS)),
        _ => {}
    }
    if rare(rng, 40) {
        http["PathExact"] = json!("/a");
    }
    if rare(rng, 3) {
        http["Methods"] = (0..rng.usize(1..3)).map(|_| json!(one(rng, METHODS))).collect();
    }
    let headers: Vec<Value> = (0..rng.usize(..3)).map(|_| header(rng)).collect();
    if !headers.is_empty() {
        http["Header"] = json!(headers);
    }
    if rare(rng, 60) {
        http["QueryExact"] = json!("a=1");
    }
    let mut permission = json!({"Action": if rare(rng, 50) { "log" } else { one(rng, &["allow", "deny"]) }, "HTTP": http});
    if rare(rng, 4) {
        permission["JWT"] = token(rng);
    }
    permission
}

fn intention(rng: &mut Rng) -> Value {
    let source = one(rng, &["web", "web", "*", "api"]);
    let (wild, anywhere) = (source == "*", rare(rng, 4));
    let mut entry = json!({
        "SourceName": source,
        "DestinationName": if anywhere { "*" } else { "db" },
        "Precedence": match (anywhere, wild) { (false, false) => 9, (false, true) => 8, (true, false) => 6, (true, true) => 5 },
    });
    if rare(rng, 8) {
        entry["SourceNS"] = json!(one(rng, &["team", "*"]));
    }
    if rare(rng, 8) {
        entry["SourcePartition"] = json!("blue");
    }
    if rare(rng, 10) {
        entry["SourcePeer"] = json!("cluster2");
    }
    if rare(rng, 3) {
        entry["Action"] = json!(if rare(rng, 30) { "" } else { one(rng, &["allow", "deny"]) });
    } else {
        entry["Permissions"] = (0..rng.usize(1..5)).map(|_| permission(rng)).collect();
    }
    if rare(rng, 4) {
        entry["JWT"] = token(rng);
    }
    if rare(rng, 40) {
        entry["OnlyOnWeekdays"] = json!(true);
    }
    entry
}

fn call(rng: &mut Rng) -> Call {
    let claims = |rng: &mut Rng| {
        let role = [json!("admin"), json!(["web", "admin"]), json!({"x": 1}), json!(null)];
        let n = [json!(7), json!(1.5), json!(true), json!(["x", 7]), json!([["7"]]), json!("7")];
        json!({"sub": one(rng, &["web", "admin"]), "perms": {"role": role[rng.usize(..4)]}, "n": n[rng.usize(..6)],
            "groups": [one(rng, &["admin", "other"]), 7]})
    };
    let value = |rng: &mut Rng| match rng.u8(..8) {
        0 => b"v\xff".to_vec(),
        1 => format!(" {}\t", one(rng, WORDS)).into_bytes(),
        _ => one(rng, WORDS).as_bytes().to_vec(),
    };
    let callers = [
        "spiffe://td.consul/ns/default/dc/dc1/svc/web",
        "spiffe://td.consul/ns/default/dc/dc2/svc/web",
        "spiffe://td.consul/ns/default/dc/dc1/svc/api",
        "spiffe://td.consul/ns/default/dc/dc1/svc/other",
        "spiffe://td.consul/ns/team/dc/dc1/svc/web",
        "spiffe://td.consul/ap/blue/ns/default/dc/dc1/svc/web",
        "spiffe://foreign.consul/ns/default/dc/dc1/svc/web",
        "spiffe://td.consul/gateway/mesh/dc/dc1",
    ];
    Call {
        caller: callers[if rng.bool() { 0 } else { rng.usize(..callers.len()) }].to_owned(),
        method: one(rng, &METHODS[..3]).to_owned(),
        path: one(rng, PATHS).to_owned(),
        query: rare(rng, 3).then(|| "q=b".to_owned()),
        host: one(rng, &["v", "ab", "V"]).to_owned(),
        headers: (0..rng.usize(..5)).map(|_| (one(rng, &["x", "X", "y", "x-long-name"]).to_owned(), value(rng))).collect(),
        tokens: (0..rng.usize(..4)).map(|_| (one(rng, PROVIDERS).to_owned(), claims(rng))).collect(),
    }
}

/// What the product says, and whether it looked at the request.
fn product(list: &[Value], default: DefaultPolicy, protocol: Protocol, call: &Call) -> (Result<Permit, Denied>, bool) {
    let wire = serde_json::from_value(json!({ "db": list })).unwrap();
    let intentions = Intentions::new(TrustDomain::parse("td.consul").unwrap(), default, protocol, intentions(&wire, "db").unwrap());
    let peer = call.caller.parse().unwrap();
    let conditions: Arc<_> = match intentions.judge(&peer) {
        Verdict::PerRequest(conditions) => conditions,
        Verdict::Permit(permit) => {
            assert_eq!(intentions.authorize(&peer), Ok(permit.clone()));
            return (Ok(permit), false);
        }
        Verdict::Denied(denied) => {
            assert_eq!(intentions.authorize(&peer), Err(denied.clone()));
            return (Err(denied), false);
        }
    };
    assert_eq!(intentions.authorize(&peer).unwrap_err().reason(), "intention_needs_request");
    let mut headers = HeaderMap::new();
    for (name, value) in &call.headers {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    let request =
        RequestView { method: &call.method, path: &call.path, query: call.query.as_deref(), authority: &call.host, headers: &headers };
    let asked = conditions.providers();
    let tokens =
        Verified(call.tokens.iter().filter(|(name, _)| asked.iter().any(|a| **a == **name)).map(|(n, c)| (n.clone(), c.clone())).collect());
    let outcome = conditions.authorize(&request, &tokens);
    let steps = conditions.explain(&request, &tokens);
    if let Some((permission, action)) =
        steps.last().filter(|last| last.failed.is_none()).and_then(|last| Some((&last.tested, last.action?)))
    {
        let said = outcome.as_ref().map_or_else(ToString::to_string, |permit| permit.decider().to_string());
        assert!(said.contains(permission) && outcome.is_ok() == (action.to_string() == "allow"), "{said} against {permission}");
    }
    (outcome, true)
}

#[test]
fn the_product_and_the_reference_agree() {
    let mut rng = Rng::with_seed(4);
    let (mut looked, mut passed, mut seen) = (0, 0, BTreeSet::new());
    for pair in 0..PAIRS {
        let mut list: Vec<Value> = (0..rng.usize(1..6)).map(|_| intention(&mut rng)).collect();
        if rare(&mut rng, 6) && !list.is_empty() {
            list.push(list[rng.usize(..list.len())].clone());
        }
        let (name, default) = [("allow", DefaultPolicy::Allow), ("deny", DefaultPolicy::Deny), ("unknown", DefaultPolicy::Unknown)]
            [[0, 0, 1, 1, 2][rng.usize(..5)]];
        let protocol = if rare(&mut rng, 8) { Protocol::Tcp } else { Protocol::Http };
        let call = call(&mut rng);
        let expected = passes(&list, name, protocol == Protocol::Tcp, &call);
        let (outcome, by_request) = product(&list, default, protocol, &call);
        assert_eq!(outcome.is_ok(), expected, "pair {pair}: {outcome:?}\ndefault {name}, {protocol:?}\n{}\n{call:#?}", json!(list));
        looked += usize::from(by_request);
        passed += usize::from(expected);
        seen.insert(outcome.map_or_else(|denied| denied.reason(), |_| "allowed"));
    }
    // The pairs are worth something: many depend on the request, neither answer prevails, and every kind of answer was there.
    assert!(looked > PAIRS / 5 && passed > PAIRS / 5 && passed < PAIRS * 4 / 5, "{looked} by request, {passed} passed");
    let kinds = [
        "allowed",
        "default_policy_denied",
        "default_policy_unknown",
        "foreign_trust_domain",
        "intention_denied",
        "intention_unsupported",
        "not_a_service",
        "permission_denied",
    ];
    assert_eq!(seen, BTreeSet::from(kinds));
}
