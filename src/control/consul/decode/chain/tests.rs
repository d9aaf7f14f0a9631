//! What a decoded chain promises.

use serde_json::{Value, json};

use super::*;
use crate::model::{
    balance::{CookieLife, HashBy},
    matching::{PathMatch, TextMatch},
    route::{IDLE_TIMEOUT, RetryOn, RetryPolicy, TIMEOUT},
};

fn target(id: &str, service: &str, fields: Value) -> Value {
    let mut target = json!({"ID": id, "Service": service, "Namespace": "default", "Partition": "default", "Datacenter": "dc1",
        "MeshGateway": {}, "Subset": {}, "ConnectTimeout": "5s", "SNI": format!("{service}.sni"), "Name": id});
    for (key, value) in fields.as_object().unwrap() {
        target[key] = value.clone();
    }
    target
}

const DB: &str = "resolver:v1.db.default.default.dc1";

/// As the agent gives it: a subset, a redirect's target elsewhere, a peer; mixed forms of durations.
fn captured() -> Value {
    json!({
        "ServiceName": "db", "Namespace": "default", "Datacenter": "dc1", "Protocol": "http", "StartNode": DB,
        "Nodes": {DB: {"Type": "resolver", "Name": "v1.db.default.default.dc1", "Resolver": {
            "ConnectTimeout": "3s", "RequestTimeout": 7000000000i64, "Target": "v1.db.default.default.dc1",
            "Failover": {"Targets": ["dbalt.default.default.dc1", "s2.default.default.external.open-to-p", "dbalt.default.default.dc1",
                "v1.db.default.default.dc7"]}}}},
        "Targets": {
            "v1.db.default.default.dc1": target("v1", "db", json!({"Subset": {"Filter": "Service.Meta.v == 1", "OnlyPassing": true}})),
            "dbalt.default.default.dc1": target("dbalt", "dbalt", json!({})),
            "s2.default.default.external.open-to-p": target("s2", "s2", json!({"Peer": "open-to-p", "Datacenter": "", "SNI": ""})),
            "v1.db.default.default.dc7": target("v1", "db", json!({"Datacenter": "dc7"})),
        },
    })
}

/// A chain over resolvers `a`, `b` and `p` (in a peer), with a splitter `s`, that starts where `fields` says.
fn over(start: &str, node: Value) -> Value {
    let resolver = |service: &str, policy: Value| {
        json!({"Type": "resolver", "Resolver": {"ConnectTimeout": "5s", "RequestTimeout": 9000000000i64, "Target": service},
            "LoadBalancer": policy})
    };
    let mut chain = json!({"Protocol": "http", "StartNode": start, "Nodes": {
        "resolver:a": resolver("a", json!({"Policy": "maglev", "HashPolicies": [{"SourceIP": true}]})),
        "resolver:b": resolver("b", json!({"Policy": "random", "HashPolicies": [{"SourceIP": true}]})),
        "resolver:p": resolver("p", Value::Null),
        "splitter:s": {"Type": "splitter", "Splits": [
            {"Weight": 99.71, "NextNode": "resolver:a", "Definition": {"RequestHeaders": {"Set": {"X-Leg": "a"}}}},
            {"Weight": 0.29, "NextNode": "resolver:b"}],
            "LoadBalancer": {"Policy": "ring_hash", "HashPolicies": [{"Field": "header", "FieldValue": "X-U", "Terminal": true}]}},
    }, "Targets": {"a": target("a", "a", json!({})), "b": target("b", "b", json!({})), "p": target("p", "p", json!({"Peer": "p", "SNI": ""}))}});
    if !node.is_null() {
        chain["Nodes"][start] = node;
    }
    chain
}

/// A chain with a router of these routes and the one that Consul appends.
fn routed(routes: Value) -> Value {
    let mut routes = routes.as_array().unwrap().clone();
    routes.push(json!({"NextNode": "resolver:b", "Definition": {"Match": {"HTTP": {"PathPrefix": "/"}}}}));
    over("router:r", json!({"Type": "router", "Routes": routes}))
}

/// The first route of a router with one that has this match and destination.
fn first(matches: Value, destination: Value) -> Result<(Route, Vec<Unusable>), String> {
    let definition = json!({"Match": {"HTTP": matches}, "Destination": destination});
    let chain = decode(routed(json!([{"NextNode": "resolver:a", "Definition": definition}])))?;
    assert_eq!(chain.routes.routes.len(), 2);
    Ok((chain.routes.routes[0].clone(), chain.problems))
}

fn decode(wire: Value) -> Result<Chain, String> {
    chain(&serde_json::from_value(wire).unwrap())
}

fn problems(list: &[Unusable]) -> Vec<&str> {
    list.iter().map(|problem| problem.path.as_str()).collect()
}

#[test]
fn a_resolver_gives_its_target_then_its_failover_targets_in_order() {
    let chain = decode(captured()).unwrap();
    let [route] = chain.routes.routes.as_slice() else { panic!("{:?}", chain.routes) };
    assert_eq!(
        (chain.protocol, route.timeout, &*route.legs[0].name),
        (Protocol::Http, Some(Duration::from_secs(7)), "v1.db.default.default.dc1")
    );
    let sni = |service: &str| Naming::Chain(format!("{service}.sni").into());
    let seen: Vec<_> = chain.targets.iter().map(|t| (&*t.service.name, &*t.datacenter, &t.naming)).collect();
    assert_eq!(seen, [("db", "dc1", &sni("db")), ("dbalt", "dc1", &sni("dbalt")), ("db", "dc7", &sni("db"))]);
    assert_eq!(route.legs[0].clusters, [0, 1, 2]);
    assert_eq!(problems(&chain.problems), ["target s2.default.default.external.open-to-p"], "once, and never dialled");
    let first = &chain.targets[0];
    assert_eq!((&*first.filter, first.only_passing, first.connect_timeout), ("Service.Meta.v == 1", true, Duration::from_secs(3)));
}

#[test]
fn timeouts_that_are_not_set_are_the_defaults() {
    let mut wire = captured();
    wire["Nodes"][DB]["Resolver"]["RequestTimeout"] = json!(0);
    wire["Nodes"][DB]["Resolver"]["ConnectTimeout"] = json!("0s");
    wire["Targets"]["v1.db.default.default.dc1"]["ConnectTimeout"] = json!("");
    let chain = decode(wire);
    assert!(chain.is_ok_and(|c| c.routes.routes[0].timeout == Some(TIMEOUT) && c.targets[0].connect_timeout == CONNECT_TIMEOUT));
}

#[test]
fn a_chain_that_cannot_be_followed_says_why() {
    let changed = |path: &str, value: Value| {
        let mut wire = captured();
        *wire.pointer_mut(path).unwrap() = value;
        decode(wire).unwrap_err()
    };
    let node = format!("/Nodes/{DB}");
    assert!(changed(&format!("{node}/Type"), json!("router")).contains("no routes"));
    assert!(changed(&format!("{node}/Type"), json!("splitter")).contains("nowhere"));
    assert!(changed(&format!("{node}/Resolver"), Value::Null).contains("resolver"));
    assert!(changed("/StartNode", json!("resolver:gone")).contains("gone"));
    assert!(changed("/Targets", json!({})).contains("does not hold it"));
    assert!(changed("/Protocol", json!("smtp")).contains("smtp"));
    let router = || json!({"Type": "router", "Routes": [{"NextNode": "router:r"}]});
    assert!(decode(over("router:r", router())).unwrap_err().contains("out of place"), "a router that leads to itself");
    let mut tcp = over("router:r", router());
    tcp["Protocol"] = json!("tcp");
    assert!(decode(tcp).unwrap_err().contains("tcp"));
    let splitter = |next: &str, weight: f64| json!({"Type": "splitter", "Splits": [{"Weight": weight, "NextNode": next}]});
    assert!(decode(over("splitter:t", splitter("splitter:s", 100.0))).unwrap_err().contains("no resolver"));
    assert!(decode(over("splitter:t", splitter("resolver:gone", 100.0))).unwrap_err().contains("gone"));
    assert!(decode(over("splitter:t", splitter("resolver:a", 0.0))).unwrap_err().contains("nowhere"));
}

#[test]
fn a_splitter_gives_legs_with_its_own_hash_policies() {
    let chain = decode(over("splitter:s", Value::Null)).unwrap();
    let [route] = chain.routes.routes.as_slice() else { panic!("{:?}", chain.routes) };
    let legs: Vec<_> = route.legs.iter().map(|leg| (&*leg.name, leg.weight, leg.clusters.as_slice())).collect();
    assert_eq!(legs, [("a", 9971, &[0][..]), ("b", 29, &[1][..])]);
    assert_eq!(&*route.legs[0].headers.request.set[0].0, "x-leg");
    assert_eq!(route.hash, [HashPolicy { by: HashBy::Header("x-u".into()), terminal: true }]);
    assert_eq!(route.timeout, Some(TIMEOUT), "a resolver's time counts only where the chain starts");
    assert_eq!((chain.targets[0].balance, chain.targets[1].balance), (BalancePolicy::Maglev, BalancePolicy::Random));
}

#[test]
fn a_peer_in_a_split_is_a_leg_without_clusters() {
    let splits = json!([{"Weight": 50, "NextNode": "resolver:p"}, {"Weight": 50, "NextNode": "resolver:a"}]);
    let chain = decode(over("splitter:t", json!({"Type": "splitter", "Splits": splits}))).unwrap();
    let legs = &chain.routes.routes[0].legs;
    assert_eq!((legs[0].clusters.len(), legs[1].clusters.as_slice(), problems(&chain.problems)), (0, &[0][..], vec!["target p"]));
}

#[test]
fn one_target_under_two_policies_is_two_targets_and_under_one_policy_one() {
    let mut wire = routed(json!([{"NextNode": "resolver:a"}, {"NextNode": "resolver:c"}, {"NextNode": "splitter:s"}]));
    wire["Nodes"]["resolver:c"] = wire["Nodes"]["resolver:a"].clone();
    wire["Nodes"]["resolver:c"]["LoadBalancer"] = json!({"Policy": "least_request", "LeastRequestConfig": {"ChoiceCount": 4}});
    let chain = decode(wire).unwrap();
    let targets: Vec<_> = chain.targets.iter().map(|t| (&*t.id.0, t.balance)).collect();
    let (maglev, least, random) = (BalancePolicy::Maglev, BalancePolicy::LeastRequest { choices: 4 }, BalancePolicy::Random);
    assert_eq!(targets, [("a", maglev), ("a", least), ("b", random)]);
    let clusters: Vec<Vec<usize>> = chain.routes.routes.iter().map(|r| r.legs.iter().flat_map(|l| l.clusters.clone()).collect()).collect();
    assert_eq!(clusters, [vec![0], vec![1], vec![0, 2], vec![2]]);
    assert_eq!((chain.routes.routes[0].hash.len(), chain.routes.routes[1].hash.len()), (1, 0), "of the node that follows");
}

#[test]
fn balancing_and_hashing_are_read_whole() {
    let with = |balancer: Value| {
        let node = json!({"Type": "resolver", "Resolver": {"Target": "a"}, "LoadBalancer": balancer});
        let chain = decode(over("resolver:x", node)).unwrap();
        (chain.targets[0].balance, chain.routes.routes[0].hash.clone(), chain.problems)
    };
    for (balancer, policy) in [
        (Value::Null, BalancePolicy::RoundRobin),
        (json!({"Policy": ""}), BalancePolicy::RoundRobin),
        (json!({"Policy": "round_robin"}), BalancePolicy::RoundRobin),
        (json!({"Policy": "least_request"}), BalancePolicy::LeastRequest { choices: 2 }),
        (json!({"Policy": "ring_hash"}), BalancePolicy::RingHash { min: 1024, max: 8 << 20 }),
        (
            json!({"Policy": "ring_hash", "RingHashConfig": {"MinimumRingSize": 64, "MaximumRingSize": 128}}),
            BalancePolicy::RingHash { min: 64, max: 128 },
        ),
        (json!({"Policy": "ring_hash", "RingHashConfig": {"MaximumRingSize": 5}}), BalancePolicy::RingHash { min: 5, max: 5 }),
    ] {
        assert_eq!(with(balancer.clone()).0, policy, "{balancer}");
    }
    let (policy, _, found) = with(json!({"Policy": "psychic"}));
    assert_eq!((policy, problems(&found)), (BalancePolicy::RoundRobin, vec!["resolver:x: LoadBalancer.Policy"]));
    let (_, hash, found) = with(json!({"Policy": "maglev", "HashPolicies": [
        {"Field": "cookie", "FieldValue": "plain"},
        {"Field": "cookie", "FieldValue": "ttl", "CookieConfig": {"TTL": 30000000000i64, "Path": "/p"}},
        {"Field": "cookie", "FieldValue": "session", "CookieConfig": {"Session": true}},
        {"Field": "query_parameter", "FieldValue": "Q"},
        {"Field": "shoe_size", "FieldValue": "43"},
        {"SourceIP": true, "Terminal": true}]}));
    let cookie = |name: &str, generate| HashBy::Cookie { name: name.into(), generate };
    let by: Vec<_> = hash.iter().map(|policy| policy.by.clone()).collect();
    assert_eq!(
        by,
        [
            cookie("plain", None),
            cookie("ttl", Some(CookieLife { ttl: Some(Duration::from_secs(30)), path: "/p".into() })),
            cookie("session", Some(CookieLife { ttl: None, path: "".into() })),
            HashBy::Query("Q".into()),
            HashBy::SourceIp,
        ]
    );
    assert_eq!(problems(&found), ["resolver:x: LoadBalancer.HashPolicies[4].Field"]);
}

#[test]
fn a_routers_matches_are_read_whole() {
    let (route, _) = first(
        json!({"PathPrefix": "/admin", "CaseInsensitive": true, "Methods": ["GET", "put"],
            "Header": [{"Name": "X-Debug", "Exact": "1", "Invert": true}, {"Name": "a", "Prefix": "p"}, {"Name": "b", "Suffix": "s"},
                {"Name": "c", "Regex": "[0-9]+"}, {"Name": "d", "Present": true}],
            "QueryParam": [{"Name": "V", "Regex": "[0-9]+"}, {"Name": "w", "Exact": "e"}, {"Name": "x", "Present": true}]}),
        json!({}),
    )
    .unwrap();
    assert_eq!(&*route.name, "route 1");
    assert_eq!(route.matches.path, Some(PathMatch { text: TextMatch::Prefix("/admin".into()), ignore_case: true }));
    assert_eq!(route.matches.methods, ["GET".into(), "PUT".into()]);
    let headers: Vec<String> = route.matches.headers.iter().map(|h| format!("{} {} {:?}", h.name, h.invert, h.value)).collect();
    assert_eq!(
        headers,
        [
            r#"x-debug true Some(Exact("1"))"#,
            r#"a false Some(Prefix("p"))"#,
            r#"b false Some(Suffix("s"))"#,
            r#"c false Some(Regex(/[0-9]+/))"#,
            "d false None",
        ]
    );
    let query: Vec<String> = route.matches.query.iter().map(|q| format!("{} {:?}", q.name, q.value)).collect();
    assert_eq!(query, [r#"V Some(Regex(/[0-9]+/))"#, r#"w Some(Exact("e"))"#, "x None"]);
    assert_eq!(
        first(json!({"PathRegex": "/deb[ug]{2}"}), json!({})).unwrap().0.matches.path.unwrap().text.to_string(),
        "regex /deb[ug]{2}"
    );
    let (bare, _) = first(json!({}), json!({})).unwrap();
    assert_eq!((bare.matches, bare.timeout, bare.idle_timeout), (model::RouteMatch::default(), Some(TIMEOUT), Some(IDLE_TIMEOUT)));
}

#[test]
fn the_appended_route_is_called_default_and_takes_everything() {
    let chain = decode(routed(json!([{"NextNode": "splitter:s"}]))).unwrap();
    let last = &chain.routes.routes[1];
    assert_eq!((&*last.name, &last.matches), ("default", &model::RouteMatch::default()));
}

#[test]
fn a_route_that_cannot_be_matched_fails_the_chain_with_its_place() {
    for (matches, destination, why) in [
        (json!({"PathRegex": "/a("}), json!({}), "route 1: Match.HTTP.PathRegex: "),
        (json!({"Header": [{"Name": "x", "Regex": "["}]}), json!({}), "route 1: Match.HTTP.Header[0].Regex: "),
        (json!({"Header": [{"Name": "x", "Resembles": "y"}]}), json!({}), "route 1: Match.HTTP.Header[0]: it has no test"),
        (json!({"QueryParam": [{"Name": "x"}]}), json!({}), "route 1: Match.HTTP.QueryParam[0]: it has no test"),
        (json!({"PathPrefix": "/a"}), json!({"PrefixRewrite": "b"}), "route 1: Destination.PrefixRewrite: \"b\""),
        (json!({"PathPrefix": "/a"}), json!({"PrefixRewrite": "/b c"}), "route 1: Destination.PrefixRewrite: \"/b c\""),
    ] {
        let error = first(matches.clone(), destination).unwrap_err();
        assert!(error.starts_with(why) && error.lines().count() == 1, "{matches}: {error}");
    }
    assert!(decode(routed(json!([{"NextNode": "resolver:gone"}]))).unwrap_err().starts_with("route 1: "));
}

#[test]
fn times_and_retries_are_read_as_the_envoy_path_reads_them() {
    for (field, request, idle) in [
        (json!({}), Some(TIMEOUT), Some(IDLE_TIMEOUT)),
        (json!({"RequestTimeout": "3s", "IdleTimeout": "700ms"}), Some(Duration::from_secs(3)), Some(Duration::from_millis(700))),
        (json!({"RequestTimeout": "-1s", "IdleTimeout": "-1ns"}), None, None),
    ] {
        let (route, _) = first(json!({}), field.clone()).unwrap();
        assert_eq!((route.timeout, route.idle_timeout), (request, idle), "{field}");
    }
    let policy = |retries, on: &[RetryOn], statuses: &[u16]| Some(RetryPolicy { retries, on: on.to_vec(), statuses: statuses.to_vec() });
    for (field, expected) in [
        (json!({}), None),
        (json!({"NumRetries": 3}), None),
        (json!({"RetryOnConnectFailure": true}), policy(1, &[RetryOn::ConnectFailure], &[])),
        (
            json!({"RetryOn": ["5xx", "connect-failure"], "RetryOnConnectFailure": true, "NumRetries": 3}),
            policy(3, &[RetryOn::ServerError, RetryOn::ConnectFailure], &[]),
        ),
        (json!({"RetryOnStatusCodes": [500, 512, 99999], "NumRetries": 2}), policy(2, &[], &[500, 512])),
    ] {
        let (route, found) = first(json!({}), field.clone()).unwrap();
        assert_eq!((route.retry, found.len()), (expected, 0), "{field}");
    }
    let (route, found) = first(json!({}), json!({"RetryOn": ["luck", "reset"]})).unwrap();
    assert_eq!((route.retry, problems(&found)), (policy(1, &[RetryOn::Reset], &[]), vec!["route 1: Destination.RetryOn[0]"]));
}

#[test]
fn header_edits_that_cannot_be_made_are_named_and_never_let_a_callers_value_pass() {
    let edits = json!({"Add": {"X-A": "1 %REQ(x-b)% %%", "x-later": "%TOMORROW%"},
        "Set": {"x-from": "%DOWNSTREAM_REMOTE_ADDRESS%", "x-user": "%WHO%", "x-half": "50%", "x-line": "a\nb", "Host": "h", ":path": "/"},
        "Remove": ["X-B", "content-length", "x y"]});
    let (route, found) =
        first(json!({}), json!({"RequestHeaders": edits, "ResponseHeaders": {"Add": {"x-r": "%START_TIME(%s)%"}}})).unwrap();
    let names = |list: &[(Arc<str>, _)]| list.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    let request = &route.headers.request;
    assert_eq!((names(&request.add), names(&request.set)), (vec!["x-a".to_owned()], vec!["x-from".to_owned()]));
    assert_eq!(request.remove, ["x-b".into(), "x-half".into(), "x-line".into(), "x-user".into()]);
    assert_eq!(route.headers.response, model::Edits::default());
    let at = "route 1: Destination.RequestHeaders.";
    let expected =
        ["Remove[content-length]", "Remove[x y]", "Set[:path]", "Set[Host]", "Set[x-half]", "Set[x-line]", "Set[x-user]", "Add[x-later]"];
    let expected: Vec<String> = expected.iter().map(|path| format!("{at}{path}")).collect();
    let (last, rest) = found.split_last().unwrap();
    assert_eq!(
        (problems(rest), last.path.as_str()),
        (expected.iter().map(String::as_str).collect(), "route 1: Destination.ResponseHeaders.Add[x-r]")
    );
}
