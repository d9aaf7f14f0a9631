//! What routes promise: the first match, each leg its share, one rewritten path.

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::model::matching::Regex;

/// A request that owns its parts.
#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    path: String,
    query: Option<String>,
    headers: Vec<(&'static str, String)>,
}

impl Request {
    fn get(path: &str) -> Self {
        Self { method: "GET", path: path.to_owned(), query: None, headers: Vec::new() }
    }

    fn asks<T>(&self, question: impl FnOnce(&RequestView<'_>) -> T) -> T {
        let field = |(name, value): &(&'static str, String)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        let headers: HeaderMap = self.headers.iter().map(field).collect();
        question(&RequestView { method: self.method, path: &self.path, query: self.query.as_deref(), authority: "h", headers: &headers })
    }
}

fn route(matches: RouteMatch) -> Route {
    Route { matches, ..Route::to(vec![leg("only", 1)]) }
}

fn leg(name: &str, weight: u32) -> Leg {
    Leg { name: name.into(), weight, headers: HeaderEdits::default(), clusters: vec![0] }
}

fn path(text: TextMatch, ignore_case: bool) -> RouteMatch {
    RouteMatch { path: Some(PathMatch { text, ignore_case }), ..RouteMatch::default() }
}

fn regex(source: &str) -> TextMatch {
    TextMatch::Regex(Regex::parse(source).unwrap())
}

#[test]
fn the_first_route_that_matches_decides() {
    let exact = |name: &str, text: &str| Route { name: name.into(), ..route(path(TextMatch::Exact(text.into()), false)) };
    let table = RouteTable { routes: vec![exact("one", "/a"), exact("two", "/a"), exact("three", "/b")] };
    let found = |path: &str| Request::get(path).asks(|request| table.route(request).map(|(_, route)| route.name.to_string()));
    assert_eq!((found("/a").as_deref(), found("/b").as_deref(), found("/A").as_deref()), (Some("one"), Some("three"), None));
}

#[test]
fn a_query_parameter_is_compared_as_sent_and_its_first_value_counts() {
    let exact = |name: &str, value: &str| QueryMatch { name: name.into(), value: Some(TextMatch::Exact(value.into())) };
    // As seen from Envoy.
    for (query, name, value, passes) in [
        ("a=1", "a", "1", true),
        ("a=2&a=1", "a", "1", false),
        ("a=1&a=2", "a", "1", true),
        ("&a=1", "a", "1", true),
        ("A=1", "a", "1", false),
        ("b;a=1", "a", "1", false),
        ("b?a=1", "a", "1", false),
        ("a%20b=1", "a b", "1", false),
        ("a=b%20c", "a", "b c", false),
        ("a", "a", "", true),
        ("a==", "a", "=", true),
    ] {
        assert_eq!(exact(name, value).is_match(Some(query)), passes, "{query}");
    }
    let present = QueryMatch { name: "a".into(), value: None };
    assert!(present.is_match(Some("x&a")) && present.is_match(Some("a=")) && !present.is_match(Some("x=a")) && !present.is_match(None));
    let digits = QueryMatch { name: "a".into(), value: Some(regex("[0-9]+")) };
    assert!(digits.is_match(Some("a=12")) && !digits.is_match(Some("a=12b")) && !digits.is_match(Some("a=")));
}

#[test]
fn a_path_is_rewritten_as_envoy_rewrites_it() {
    let prefix = |text: &str| path(TextMatch::Prefix(text.into()), true);
    for (matches, rewrite, before, after) in [
        (prefix("/prefix/"), "/", "/prefix/debug", Some("/debug")),
        (prefix("/prefix"), "/", "/prefix/debug", Some("//debug")),
        (prefix("/Ci"), "/x", "/ciao", Some("/xao")),
        (prefix("/a"), "/b", "/a", Some("/b")),
        (path(TextMatch::Exact("/exact/debug".into()), false), "/debug", "/exact/debug", Some("/debug")),
        (path(regex("/re.*"), false), "/x", "/re/a", Some("/x")),
        (RouteMatch::default(), "/v2/", "/a/b", Some("/v2/a/b")),
        (RouteMatch::default(), "/v2/", "*", None),
    ] {
        let route = Route { rewrite: Some(rewrite.into()), ..route(matches) };
        assert_eq!(route.rewritten(before).as_deref(), after, "{before}");
    }
    assert_eq!(route(prefix("/a")).rewritten("/a"), None);
}

#[test]
fn a_single_leg_takes_every_draw() {
    let route = route(RouteMatch::default());
    assert!([0, 1, 9_999, 10_000, u32::MAX].iter().all(|draw| route.leg(*draw) == 0));
}

fn text() -> impl Strategy<Value = String> {
    "[aAb]{0,3}"
}

fn test() -> impl Strategy<Value = TextMatch> {
    (text(), 0..4).prop_map(|(text, kind)| match kind {
        0 => TextMatch::Exact(text.into()),
        1 => TextMatch::Prefix(text.into()),
        2 => TextMatch::Suffix(text.into()),
        _ => regex(&format!("{text}[ab]*")),
    })
}

fn path_test() -> impl Strategy<Value = PathMatch> {
    ("/[aAb]{0,2}", any::<bool>(), 0..3).prop_map(|(text, ignore_case, kind)| {
        let text = match kind {
            0 => TextMatch::Exact(text.into()),
            1 => TextMatch::Prefix(text.into()),
            _ => regex(&format!("{text}[ab]*")),
        };
        PathMatch { text, ignore_case }
    })
}

const HEADERS: [&str; 2] = ["x-a", "x-b"];
const METHODS: [&str; 3] = ["GET", "PUT", "POST"];

fn matches() -> impl Strategy<Value = RouteMatch> {
    let header = (select(&HEADERS[..]), option::of(test()), any::<bool>()).prop_map(|(name, value, invert)| HeaderMatch {
        name: name.into(),
        value,
        ignore_case: false,
        invert,
    });
    let parameter = ("[ab]", option::of(test())).prop_map(|(name, value)| QueryMatch { name: name.into(), value });
    (option::of(path_test()), vec(header, 0..2), vec(parameter, 0..2), vec(select(&METHODS[..]), 0..3)).prop_map(
        |(path, headers, query, methods)| RouteMatch { path, headers, query, methods: methods.into_iter().map(Into::into).collect() },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let query = option::of(vec(("[ab]", option::of(text())), 0..3));
    (select(&METHODS[..]), "/[aAb]{0,3}", query, [option::of(text()), option::of(text())]).prop_map(|(method, path, query, values)| {
        let field = |(name, value): (String, Option<String>)| value.map_or(name.clone(), |value| format!("{name}={value}"));
        let query = query.map(|fields| fields.into_iter().map(field).collect::<Vec<_>>().join("&"));
        let headers = HEADERS.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect();
        Request { method, path, query, headers }
    })
}

/// A text test, told again in other words.
fn naive_text(test: &TextMatch, value: &str, ignore_case: bool) -> bool {
    let fold = |text: &str| if ignore_case { text.to_lowercase() } else { text.to_owned() };
    let value_folded = fold(value);
    match test {
        TextMatch::Exact(text) => value_folded == fold(text),
        TextMatch::Prefix(text) => value_folded.starts_with(&fold(text)),
        TextMatch::Suffix(text) => value_folded.ends_with(&fold(text)),
        TextMatch::Contains(text) => value_folded.contains(&fold(text)),
        TextMatch::Regex(regex) => ::regex::Regex::new(&regex.to_string()).unwrap().find(value).is_some_and(|m| m.as_str() == value),
    }
}

fn naive(matches: &RouteMatch, request: &Request) -> bool {
    if let Some(path) = &matches.path
        && !naive_text(&path.text, &request.path, path.ignore_case)
    {
        return false;
    }
    if !matches.methods.is_empty() && !matches.methods.contains(&request.method.into()) {
        return false;
    }
    for test in &matches.headers {
        let found = request.headers.iter().find(|(name, _)| *name == &*test.name).map(|(_, value)| value);
        let passes = match (found, &test.value) {
            (None, None) => test.invert,
            (None, Some(_)) => false,
            (Some(_), None) => !test.invert,
            (Some(value), Some(text)) => naive_text(text, value, false) != test.invert,
        };
        if !passes {
            return false;
        }
    }
    let mut first: std::collections::HashMap<&str, &str> = std::collections::HashMap::new();
    for field in request.query.as_deref().unwrap_or("").split('&') {
        let mut halves = field.splitn(2, '=');
        let (name, value) = (halves.next().unwrap(), halves.next().unwrap_or(""));
        first.entry(name).or_insert(value);
    }
    matches.query.iter().all(|test| match (first.get(&*test.name), &test.value) {
        (Some(value), Some(text)) => naive_text(text, value, false),
        (found, None) => found.is_some(),
        (None, _) => false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn routing_equals_the_plain_reading_of_the_table(tests in vec(matches(), 0..6), request in request()) {
        let table = RouteTable { routes: tests.iter().cloned().map(route).collect() };
        let place = request.asks(|view| table.route(view).map(|(place, _)| place));
        prop_assert_eq!(place, tests.iter().position(|test| naive(test, &request)));
    }

    #[test]
    fn a_mismatch_is_named_exactly_when_there_is_one(test in matches(), request in request()) {
        let (is_match, mismatch) = request.asks(|view| (test.is_match(view), test.mismatch(view).map(|test| test.to_string())));
        prop_assert_eq!(is_match, mismatch.is_none());
        prop_assert!(mismatch.is_none_or(|words| test.to_string().contains(&words)));
    }

    #[test]
    fn every_leg_gets_exactly_its_share_of_all_draws(weights in vec(prop_oneof![Just(0u32), 0..60u32], 1..6)) {
        let whole: u32 = weights.iter().sum();
        prop_assume!(whole > 0);
        let legs = weights.iter().map(|weight| leg("a leg", *weight)).collect();
        let route = Route::to(legs);
        let mut shares = vec![0; weights.len()];
        for draw in 0..whole * 3 {
            shares[route.leg(draw)] += 1;
        }
        prop_assert_eq!(shares, weights.iter().map(|weight| weight * 3).collect::<Vec<_>>());
    }

    #[test]
    fn a_rewritten_path_keeps_what_was_not_matched(prefix in "/[a-z]{0,3}", rest in "[a-z/]{0,5}", rewrite in "/[a-z/]{0,4}") {
        let route = Route { rewrite: Some(rewrite.as_str().into()), ..route(path(TextMatch::Prefix(prefix.to_uppercase().into()), true)) };
        let before = format!("{prefix}{rest}");
        prop_assert!(Request::get(&before).asks(|request| route.matches.is_match(request)));
        prop_assert_eq!(route.rewritten(&before), Some(rewrite + &rest));
    }
}

#[test]
fn random_draws_converge_to_the_weights() {
    let route = Route::to(vec![leg("big", 9_971), leg("none", 0), leg("small", 29)]);
    let mut random = fastrand::Rng::with_seed(4);
    let draws = 200_000;
    let small = (0..draws).filter(|_| route.leg(random.u32(..)) == 2).count();
    assert!((480..680).contains(&small), "0.29 % of {draws} are about 580, not {small}");
}
