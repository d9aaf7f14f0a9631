//! What explanations say.

use std::sync::Arc;

use http::HeaderMap;

use super::*;
use crate::model::{
    cluster::{Cluster, Endpoint, Health, Trust},
    identity::ServiceName,
    intention::{Action, DefaultPolicy, Intention, Intentions, Pattern, Permission, Rule, Source},
    listener::{Address, Protocol, Upstream},
    matching::{PathMatch, RequestView, TextMatch},
    route::{Leg, Route, RouteMatch, RouteTable},
    testing::{self, id},
};

fn cluster(name: &str, endpoints: &[(u32, Health)]) -> Arc<Cluster> {
    let endpoint = |(at, (weight, health)): (usize, &(u32, Health))| {
        let address = Address::Tcp(([127, 0, 0, 1], 4000 + at as u16).into());
        Arc::new(Endpoint { id: format!("n/{name}-{at}").into(), address, weight: *weight, health: *health, dial: None })
    };
    let trust = Trust::Mesh { sni: name.into(), expected: Arc::new([id(name)]) };
    Arc::new(testing::cluster(name, trust, endpoints.iter().enumerate().map(endpoint)))
}

fn upstream(routes: Vec<Route>, clusters: Vec<Arc<Cluster>>) -> Upstream {
    Upstream { destination: ServiceName::local("api"), routes: Arc::new(RouteTable { routes }), clusters }
}

fn leg(name: &str, weight: u32, clusters: &[usize]) -> Leg {
    Leg { name: name.into(), weight, clusters: clusters.to_vec(), headers: Default::default() }
}

fn prefix(text: &str) -> PathMatch {
    PathMatch { text: TextMatch::Prefix(text.into()), ignore_case: false }
}

fn asked<T>(path: &str, ask: impl FnOnce(&RequestView<'_>) -> T) -> T {
    ask(&RequestView { method: "GET", path, query: None, authority: "api", headers: &HeaderMap::new() })
}

#[test]
fn the_first_target_with_an_endpoint_serves_and_the_others_say_why_not() {
    use Health::{Critical, Passing, Warning};
    let clusters =
        vec![cluster("a", &[(1, Critical), (0, Warning), (0, Passing)]), cluster("b", &[(1, Passing), (3, Warning)]), cluster("c", &[])];
    let upstream = upstream(vec![Route::to(vec![leg("a", 10_000, &[0, 1, 2])])], clusters);
    let explained = asked("/", |request| Outbound::new("api", Protocol::Http, &upstream, Some(request)));
    let targets = &explained.taken.as_ref().unwrap().legs[0].targets;
    assert_eq!(targets.iter().map(|target| target.serves).collect::<Vec<_>>(), [false, true, false]);
    let notes = |target: usize| targets[target].endpoints.iter().map(|endpoint| endpoint.note).collect::<Vec<_>>();
    assert!(notes(0).iter().all(|note| note.is_some_and(|words| words.starts_with("never chosen"))), "{:?}", notes(0));
    assert_eq!(notes(1), [None, Some("a check warns: its warning weight holds")]);
    assert!(explained.is_served() && explained.to_string().contains("failover c (round robin)\n      no instances"), "{explained}");
}

#[test]
fn a_leg_that_nobody_serves_makes_the_request_unsure_unless_nothing_goes_there() {
    let clusters = vec![cluster("a", &[(1, Health::Passing)]), cluster("b", &[])];
    for (weight, served) in [(1, false), (0, true)] {
        let legs = vec![leg("a", 9_999, &[0]), leg("b", weight, &[1])];
        let upstream = upstream(vec![Route::to(legs)], clusters.clone());
        let explained = asked("/", |request| Outbound::new("api", Protocol::Http, &upstream, Some(request)));
        assert_eq!(explained.is_served(), served, "{explained}");
    }
}

#[test]
fn without_a_route_all_are_named_and_nothing_is_served() {
    let route = |path: &str| Route {
        name: path.into(),
        matches: RouteMatch { path: Some(prefix(path)), ..RouteMatch::default() },
        ..Route::to(vec![leg("a", 1, &[0])])
    };
    let upstream = upstream(vec![route("/a"), route("/b")], vec![cluster("a", &[(1, Health::Passing)])]);
    let explained = asked("/c", |request| Outbound::new("api", Protocol::Http, &upstream, Some(request)));
    assert_eq!((explained.passed.len(), &explained.taken, explained.is_served()), (2, &None, false));
    let connection = Outbound::new("api", Protocol::Tcp, &upstream, None);
    assert!(connection.is_served() && connection.passed.is_empty(), "{connection}");
}

#[test]
fn a_verdict_is_the_one_of_the_intentions_in_their_words() {
    let permission =
        |action, path: &str| Permission { action, path: Some(prefix(path)), headers: Vec::new(), methods: Vec::new(), jwt: None };
    let source =
        Source { peer: None, partition: "default".into(), namespace: Pattern::Exact("default".into()), name: Pattern::Exact("web".into()) };
    let rule = Rule::Permissions(vec![permission(Action::Deny, "/admin"), permission(Action::Allow, "/a")]);
    let intention = Intention { source, destination: "api".to_owned(), precedence: 9, rule, jwt: None };
    let api = ServiceName::local("api");
    let explained = |from: &str, path: Option<&str>, default| {
        let intentions = Intentions::new(id("web").trust_domain, default, Protocol::Http, vec![intention.clone()]);
        let explain = |request: Option<&RequestView<'_>>| Inbound::new(&id(from), (&api, Protocol::Http), &intentions, request, &());
        path.map_or_else(|| explain(None), |path| asked(path, |request| explain(Some(request))))
    };
    let named = "intention web -> api (precedence 9), permission";
    for (from, path, default, verdict) in [
        ("web", Some("/admin"), DefaultPolicy::Allow, format!("denied: {named} 1: path prefix \"/admin\" denies it")),
        ("web", Some("/ab"), DefaultPolicy::Deny, format!("allowed: {named} 2: path prefix \"/a\" allows it")),
        ("shop", Some("/"), DefaultPolicy::Allow, "allowed: no intention names the caller and the default policy is allow".to_owned()),
        ("shop", None, DefaultPolicy::Deny, "denied: no intention names the caller and the default policy is deny".to_owned()),
    ] {
        let explained = explained(from, path, default);
        assert_eq!(explained.verdict(), verdict);
        assert!(explained.to_string().ends_with(&verdict) && explained.allowed == explained.reason.is_none());
    }
    let steps = explained("web", Some("/ab"), DefaultPolicy::Deny).steps;
    assert_eq!(
        steps,
        ["permission 1: path prefix \"/admin\": no match (path prefix \"/admin\")", "permission 2: path prefix \"/a\": match, allow"]
    );
}
