use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{
    jwt::{ClaimTest, RequiredToken, Tokens},
    matching::{PathMatch, RequestView, TextMatch},
};

fn td() -> TrustDomain {
    TrustDomain::parse("td.consul").unwrap()
}

fn peer(name: &str) -> SpiffeId {
    SpiffeId::service(td(), ServiceName::local(name), "dc9")
}

fn intention(source: &str, precedence: u32, rule: Rule) -> Intention {
    let source = Source { peer: None, partition: "default".into(), namespace: Pattern::parse("default"), name: Pattern::parse(source) };
    Intention { source, destination: "db".into(), precedence, rule, jwt: None }
}

const ALLOW: Rule = Rule::Action(Action::Allow);
const DENY: Rule = Rule::Action(Action::Deny);

#[test]
fn the_highest_precedence_that_matches_the_source_decides() {
    let list = vec![intention("*", 8, DENY), intention("web", 9, ALLOW)];
    let intentions = Intentions::new(td(), DefaultPolicy::Deny, Protocol::Http, list);
    assert!(intentions.authorize(&peer("web")).is_ok());
    assert_eq!(intentions.authorize(&peer("other")).unwrap_err().reason(), "intention_denied");
}

#[test]
fn without_a_match_the_default_policy_decides_and_unknown_denies() {
    let verdict = |default| Intentions::new(td(), default, Protocol::Http, vec![intention("api", 9, DENY)]).authorize(&peer("web"));
    assert_eq!(*verdict(DefaultPolicy::Allow).unwrap().decider(), Decider::DefaultPolicy(Unmatched::Source));
    assert_eq!(verdict(DefaultPolicy::Deny), Err(Denied::DefaultPolicy(Unmatched::Source)));
    assert_eq!(verdict(DefaultPolicy::Unknown), Err(Denied::DefaultPolicyUnknown(Unmatched::Source)));
}

#[test]
fn what_cannot_be_evaluated_denies_even_under_default_allow() {
    let rule = Rule::Unsupported("L7 permissions".into());
    let intentions = Intentions::new(td(), DefaultPolicy::Allow, Protocol::Http, vec![intention("web", 9, rule)]);
    assert_eq!(intentions.authorize(&peer("web")).unwrap_err().reason(), "intention_unsupported");
}

#[test]
fn a_peered_source_matches_nobody_here() {
    let mut allow = intention("web", 9, ALLOW);
    allow.source.peer = Some("cluster2".into());
    let intentions = Intentions::new(td(), DefaultPolicy::Deny, Protocol::Http, vec![allow]);
    assert_eq!(intentions.authorize(&peer("web")), Err(Denied::DefaultPolicy(Unmatched::Source)));
}

#[test]
fn a_foreign_trust_domain_or_a_gateway_is_never_let_through() {
    let intentions = Intentions::new(td(), DefaultPolicy::Allow, Protocol::Http, vec![intention("*", 8, ALLOW)]);
    let foreign: SpiffeId = "spiffe://td.consul.evil/ns/default/dc/dc1/svc/web".parse().unwrap();
    assert_eq!(intentions.authorize(&foreign).unwrap_err().reason(), "foreign_trust_domain");
    let gateway: SpiffeId = "spiffe://td.consul/gateway/mesh/dc/dc1".parse().unwrap();
    assert_eq!(intentions.authorize(&gateway), Err(Denied::NotAService));
}

#[test]
fn names_are_compared_exactly_never_as_patterns() {
    let intentions = Intentions::new(td(), DefaultPolicy::Deny, Protocol::Http, vec![intention("web.v1", 9, ALLOW)]);
    assert!(intentions.authorize(&peer("web.v1")).is_ok());
    assert!(intentions.authorize(&peer("webXv1")).is_err());
}

fn permission(action: Action, prefix: &str) -> Permission {
    let path = PathMatch { text: TextMatch::Prefix(prefix.into()), ignore_case: false };
    Permission { action, path: Some(path), headers: Vec::new(), methods: Vec::new(), jwt: None }
}

fn token(provider: &str, claims: &[(&str, &str)]) -> JwtRequirement {
    let claim = |(path, value): &(&str, &str)| ClaimTest { path: path.split('.').map(Into::into).collect(), value: (*value).into() };
    JwtRequirement { providers: vec![RequiredToken { provider: provider.into(), claims: claims.iter().map(claim).collect() }] }
}

/// A verified token of `okta`.
struct Okta(Value);

impl Tokens for Okta {
    fn claims(&self, provider: &str) -> Option<&Value> {
        (provider == "okta").then_some(&self.0)
    }
}

fn conditions(intention: Intention, default: DefaultPolicy) -> Arc<Conditions> {
    match Intentions::new(td(), default, Protocol::Http, vec![intention]).judge(&peer("web")) {
        Verdict::PerRequest(conditions) => conditions,
        other => panic!("{other:?}"),
    }
}

fn said(conditions: &Conditions, method: &str, path: &str, tokens: &dyn Tokens) -> String {
    let request = RequestView { method, path, query: None, authority: "db", headers: &HeaderMap::new() };
    conditions.authorize(&request, tokens).map_or_else(|denied| denied.to_string(), |permit| permit.decider().to_string())
}

#[test]
fn the_first_permission_that_matches_decides_and_says_so() {
    let admin = Permission { methods: vec!["GET".into(), "HEAD".into()], ..permission(Action::Deny, "/admin") };
    let rule = Rule::Permissions(vec![admin, permission(Action::Allow, "/a")]);
    let conditions = conditions(intention("web", 9, rule), DefaultPolicy::Deny);
    assert_eq!(
        said(&conditions, "GET", "/admin/x", &()),
        r#"intention web -> db (precedence 9), permission 1: path prefix "/admin", method GET or HEAD denies it"#
    );
    assert_eq!(
        said(&conditions, "PUT", "/admin/x", &()),
        r#"intention web -> db (precedence 9), permission 2: path prefix "/a" allows it"#
    );
    let nothing = "the request matches no permission of intention web -> db (precedence 9) and the default policy is deny";
    assert_eq!(said(&conditions, "GET", "/b", &()), nothing);
    let request = RequestView { method: "PUT", path: "/admin", query: None, authority: "db", headers: &HeaderMap::new() };
    let steps: Vec<String> = conditions.explain(&request, &()).iter().map(ToString::to_string).collect();
    let (first, second) = (
        r#"permission 1: path prefix "/admin", method GET or HEAD: no match (method GET or HEAD)"#,
        r#"permission 2: path prefix "/a": match, allow"#,
    );
    assert_eq!(steps, [first, second]);
}

#[test]
fn what_no_permission_matches_is_left_to_the_default_policy_not_to_the_next_intention() {
    for (default, action, reason) in [
        (DefaultPolicy::Allow, DENY, None),
        (DefaultPolicy::Deny, ALLOW, Some("default_policy_denied")),
        (DefaultPolicy::Unknown, ALLOW, Some("default_policy_unknown")),
    ] {
        let rule = Rule::Permissions(vec![permission(Action::Deny, "/admin")]);
        let list = vec![intention("web", 9, rule), intention("*", 8, action)];
        let intentions = Intentions::new(td(), default, Protocol::Http, list);
        let Verdict::PerRequest(conditions) = intentions.judge(&peer("web")) else { panic!() };
        let request = RequestView { method: "GET", path: "/b", query: None, authority: "db", headers: &HeaderMap::new() };
        assert_eq!(conditions.authorize(&request, &()).err().map(|denied| denied.reason()), reason);
    }
}

#[test]
fn without_the_intentions_token_the_default_policy_decides() {
    let with_token = |rule| Intention { jwt: Some(token("okta", &[("sub", "web")])), ..intention("web", 9, rule) };
    let good = Okta(json!({"sub": "web"}));
    let allow = conditions(with_token(ALLOW), DefaultPolicy::Deny);
    assert_eq!(said(&allow, "GET", "/", &good), "intention web -> db (precedence 9) allows it");
    let missing = "the request carries no token that intention web -> db (precedence 9) requires and the default policy is deny";
    assert_eq!(said(&allow, "GET", "/", &()), missing);
    assert_eq!(said(&allow, "GET", "/", &Okta(json!({"sub": "api"}))), missing);
    let deny = conditions(with_token(DENY), DefaultPolicy::Allow);
    assert_eq!(said(&deny, "GET", "/", &good), "intention web -> db (precedence 9) denies it");
    assert!(said(&deny, "GET", "/", &()).ends_with("the default policy is allow"));
    let permissions = conditions(with_token(Rule::Permissions(vec![permission(Action::Allow, "/")])), DefaultPolicy::Deny);
    assert_eq!(said(&permissions, "GET", "/", &()), missing);
    let request = RequestView { method: "GET", path: "/", query: None, authority: "db", headers: &HeaderMap::new() };
    let steps = permissions.explain(&request, &());
    assert_eq!(
        (steps.len(), steps[0].to_string().as_str()),
        (1, r#"token of okta with sub "web": no match (token of okta with sub "web")"#)
    );
    assert_eq!(permissions.explain(&request, &good).len(), 2);
}

#[test]
fn claims_may_be_lists_numbers_and_nested() {
    let claims =
        json!({"a": "x", "list": ["x", 7, true], "n": 7, "f": 1.5, "b": false, "z": null, "o": {"p": {"q": "x"}}, "deep": [["x"]]});
    for (path, value, holds) in [
        ("a", "x", true),
        ("a", "y", false),
        ("list", "x", true),
        ("list", "7", true),
        ("list", "true", true),
        ("list", "y", false),
        ("n", "7", true),
        ("n", "7.0", false),
        ("f", "1.5", true),
        ("b", "false", true),
        ("z", "null", false),
        ("z", "", false),
        ("o.p.q", "x", true),
        ("o.p", "x", false),
        ("a.x", "x", false),
        ("list.0", "x", false),
        ("deep", "x", false),
        ("absent", "", false),
    ] {
        let required = Permission { jwt: Some(token("okta", &[("a", "x"), (path, value)])), ..permission(Action::Allow, "/") };
        let conditions = conditions(intention("web", 9, Rule::Permissions(vec![required])), DefaultPolicy::Deny);
        assert_eq!(said(&conditions, "GET", "/", &Okta(claims.clone())).ends_with("allows it"), holds, "{path} {value}");
    }
}

#[test]
fn any_one_provider_suffices_and_all_are_known_beforehand() {
    let mut either = token("auth0", &[]);
    either.providers.push(token("okta", &[]).providers.remove(0));
    let required = Permission { jwt: Some(either), ..permission(Action::Allow, "/") };
    let whole = Intention { jwt: Some(token("okta", &[])), ..intention("web", 9, Rule::Permissions(vec![required])) };
    let conditions = conditions(whole, DefaultPolicy::Deny);
    assert!(said(&conditions, "GET", "/", &Okta(json!({}))).ends_with("allows it"));
    assert_eq!(conditions.providers().iter().map(|p| &**p).collect::<Vec<_>>(), ["auth0", "okta"]);
}

#[test]
fn a_service_without_requests_denies_what_looks_at_them() {
    let l7 = intention("web", 9, Rule::Permissions(vec![permission(Action::Allow, "/")]));
    let jwt = Intention { jwt: Some(token("okta", &[])), ..intention("api", 9, ALLOW) };
    let intentions = Intentions::new(td(), DefaultPolicy::Allow, Protocol::Tcp, vec![l7, jwt]);
    for caller in ["web", "api"] {
        let denied = intentions.authorize(&peer(caller)).unwrap_err();
        assert_eq!(denied.reason(), "intention_unsupported");
        assert!(denied.to_string().ends_with("the service's protocol is tcp"), "{denied}");
    }
    assert_eq!(intentions.doubts().count(), 2);
}

#[test]
fn where_no_request_is_known_what_depends_on_one_is_denied() {
    let list = vec![intention("web", 9, Rule::Permissions(vec![permission(Action::Allow, "/")]))];
    let intentions = Intentions::new(td(), DefaultPolicy::Allow, Protocol::Http, list);
    assert_eq!(intentions.authorize(&peer("web")).unwrap_err().reason(), "intention_needs_request");
}

#[test]
fn of_two_intentions_with_one_source_the_first_counts() {
    let intentions =
        Intentions::new(td(), DefaultPolicy::Deny, Protocol::Http, vec![intention("web", 9, DENY), intention("web", 9, ALLOW)]);
    assert!(intentions.authorize(&peer("web")).is_err());
}

#[test]
fn precedence_decides_between_wildcards_not_the_form_of_the_source() {
    let mut everywhere = intention("*", 6, ALLOW);
    everywhere.source.namespace = Pattern::Any;
    let list = vec![intention("web", 5, DENY), everywhere];
    assert!(Intentions::new(td(), DefaultPolicy::Deny, Protocol::Http, list).authorize(&peer("web")).is_ok());
}

#[test]
fn what_does_not_do_what_it_says_is_told() {
    let mut peered = intention("web", 9, ALLOW);
    peered.source.peer = Some("cluster2".into());
    let list = vec![peered, intention("api", 9, Rule::Unsupported("Weekday is not known".into())), intention("*", 8, ALLOW)];
    let intentions = Intentions::new(td(), DefaultPolicy::Deny, Protocol::Http, list);
    let told: Vec<_> = intentions.doubts().map(|doubt| (doubt.id.to_string(), doubt.effect)).collect();
    let peer = ("peer:cluster2/web -> db (precedence 9)".to_owned(), "it matches nobody");
    assert_eq!(told, [peer, ("api -> db (precedence 9)".to_owned(), "it denies until it can be evaluated")]);
}

proptest! {
    #[test]
    fn order_of_arrival_does_not_matter(mut list in proptest::collection::vec((0u32..3, any::<bool>()), 0..6), seed in any::<u64>()) {
        // One intention a precedence and source, as Consul keeps them.
        list.sort_unstable_by_key(|(p, _)| *p);
        list.dedup_by_key(|(p, _)| *p);
        let make = |(p, allow): &(u32, bool)| {
            let source = ["*", "web", "api"][*p as usize];
            intention(source, if *p == 0 { 8 } else { 9 }, if *allow { ALLOW } else { DENY })
        };
        let straight: Vec<_> = list.iter().map(make).collect();
        let mut shuffled = straight.clone();
        if !shuffled.is_empty() {
            let by = (seed as usize) % shuffled.len();
            shuffled.rotate_left(by);
        }
        for caller in ["web", "api", "other"] {
            let a = Intentions::new(td(), DefaultPolicy::Deny, Protocol::Http, straight.clone()).authorize(&peer(caller)).is_ok();
            let b = Intentions::new(td(), DefaultPolicy::Deny, Protocol::Http, shuffled.clone()).authorize(&peer(caller)).is_ok();
            prop_assert_eq!(a, b);
        }
    }
}
