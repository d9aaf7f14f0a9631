//! What normalisation promises: Envoy's forms, one fixed point, no dot segment left.

use proptest::prelude::*;

use super::*;

const OFF: Normalization =
    Normalization { path: false, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep, underscores: Underscores::Allow };

fn rules(escaped_slashes: EscapedSlashes, merge_slashes: bool) -> Normalization {
    Normalization { escaped_slashes, merge_slashes, ..Normalization::default() }
}

fn is(target: &str, rules: &Normalization) -> String {
    match normalize(target, rules) {
        Ok(normalized) => format!("{}{}", if normalized.redirect { "307 " } else { "" }, normalized.path_and_query),
        Err(_) => "400".to_owned(),
    }
}

/// `=` is "unchanged". Each row was seen from Envoy 1.40 as Consul 1.20 sets it up: by default, and without path normalisation.
const SEEN: &[(&str, &str, &str)] = &[
    ("/", "=", "="),
    ("/a/b?x=1&y", "=", "="),
    ("/a/./b", "/a/b", "="),
    ("/a/%2E/b", "/a/b", "="),
    ("/a/../b", "/b", "="),
    ("/a/%2e%2e/b", "/b", "="),
    ("/a/.%2e/b", "/b", "="),
    (r"/a\..\b", "/b", "="),
    ("/a;x=1/../b", "/b", "="),
    ("/a/..;/b", "/b", "="),
    ("/a/.;/b", "/a/b", "="),
    ("/a/..;x=1/b", "/b", "="),
    ("/a/..;a;b/b", "/b", "="),
    ("/a/..;", "/", "="),
    ("/a/.;x", "/a/", "="),
    ("/..;a", "/", "="),
    ("/a/b;/../c", "/a/c", "="),
    ("/a/...;/b", "=", "="),
    ("/..", "/", "="),
    ("/.", "/", "="),
    ("/a/..", "/", "="),
    ("/../a", "/a", "="),
    ("/.../../a", "/a", "="),
    ("/a/.", "/a/", "="),
    ("/a/b/..", "/a/", "="),
    ("/a/b/../", "/a/", "="),
    ("/a//../b", "/a/b", "="),
    ("/a//b/../c%2Fd", "/a//c%2Fd", "="),
    ("/a/...", "=", "="),
    ("/a/..b", "=", "="),
    ("/a/b..", "=", "="),
    ("/a%20b", "=", "="),
    ("/a%zz", "=", "="),
    ("/a%", "=", "="),
    ("/a%2", "=", "="),
    ("/a%3f", "=", "="),
    ("/a%23", "=", "="),
    ("/a%25", "=", "="),
    ("/a%c3%a9", "=", "="),
    ("/a/%252e%252e/b", "=", "="),
    ("/a%27%21%2a%28%3b%2c%3d%26%40%3a%24%2b%5B%7C%1f%01%7f%ff%20", "=", "="),
    ("/%73ecret", "/secret", "="),
    ("/%7Euser", "/~user", "="),
    ("/a%41", "/aA", "="),
    ("/a%2d%2D", "/a--", "="),
    ("/a%2E%2E", "/a..", "="),
    ("/a%25%32%66", "/a%252f", "="),
    ("/%%32%65", "/%252e", "="),
    ("/a%u002e", "=", "="),
    ("/a%2fb", "=", "="),
    ("/a%5cb", "=", "="),
    ("/a/..%2fb", "=", "="),
    ("/..%5c..", "=", "="),
    ("/a%2f..%2fb", "=", "="),
    ("/a/b%2f%2e%2e%2fc", "/a/b%2f..%2fc", "="),
    (r"/a\b", "/a/b", "="),
    (r"/a\\b", "/a//b", "="),
    (r"/\", "//", "="),
    (r"/\..", "/", "="),
    ("//", "=", "="),
    ("//a", "=", "="),
    ("/a//b", "=", "="),
    ("//h/../p", "//p", "="),
    ("/http://x/..", "/http://", "="),
    ("/a|b", "/a%7Cb", "="),
    ("/a^{}\"<>`", "/a%5E%7B%7D%22%3C%3E%60", "="),
    ("/a',@:;+=&!$()*[]", "=", "="),
    ("/a%00b", "400", "="),
    ("/a#frag", "400", "400"),
    ("/a?q#f", "400", "400"),
    ("/a b", "400", "400"),
    ("/a\u{e9}", "400", "400"),
    ("/a?\u{e9}", "400", "400"),
    ("/a\u{7f}", "400", "400"),
    ("/a\u{1}", "400", "400"),
    ("a", "400", "400"),
    ("?q", "400", "400"),
    ("/a?b/../c", "=", "="),
    ("/a?%2f", "=", "="),
    (r#"/a?"{}|x\y"#, "=", "="),
];

#[test]
fn paths_take_the_form_that_envoy_gives_them() {
    for (raw, on, off) in SEEN {
        for (rules, expected) in [(Normalization::default(), on), (OFF, off)] {
            let expected = if *expected == "=" { raw } else { expected };
            assert_eq!(is(raw, &rules), *expected, "{raw} with {rules:?}");
        }
    }
    assert_eq!((is("*", &Normalization::default()).as_str(), is("", &OFF).as_str()), ("*", "400"));
}

#[test]
fn escaped_slashes_are_treated_as_envoy_treats_them() {
    use EscapedSlashes::{Keep, Reject, UnescapeAndForward, UnescapeAndRedirect};
    for (raw, forwarded, merged, without_path) in [
        ("/a%2fb", "/a/b", "/a/b", "/a/b"),
        ("/a%2Fb", "/a/b", "/a/b", "/a/b"),
        ("/a%5cb", "/a/b", "/a/b", r"/a\b"),
        ("/a/..%2fb", "/b", "/b", "/a/../b"),
        ("/a%2f..%2fb", "/b", "/b", "/a/../b"),
        ("/a/b%2f%2e%2e%2fc", "/a/c", "/a/c", "/a/b/%2e%2e/c"),
        ("/a%2f/b", "/a//b", "/a/b", "/a//b"),
        ("/%2Fa/../b", "//b", "/b", "//a/../b"),
        ("/a%2f?x=%2f", "/a/?x=%2f", "/a/?x=%2f", "/a/?x=%2f"),
    ] {
        assert_eq!(is(raw, &rules(UnescapeAndForward, false)), forwarded, "{raw}");
        assert_eq!(is(raw, &rules(UnescapeAndForward, true)), merged, "{raw} merged");
        assert_eq!(is(raw, &rules(UnescapeAndRedirect, true)), format!("307 {merged}"), "{raw} redirected");
        assert_eq!(is(raw, &Normalization { escaped_slashes: UnescapeAndForward, ..OFF }), without_path, "{raw} without path");
        assert_eq!(is(raw, &rules(Reject, true)), "400", "{raw}");
    }
    for action in [Keep, Reject, UnescapeAndForward, UnescapeAndRedirect] {
        assert_eq!(is("/a/./b?%2f", &rules(action, false)), "/a/b?%2f", "{action:?}: only the path counts");
    }
}

#[test]
fn runs_of_slashes_are_merged_after_dot_segments() {
    let on = rules(EscapedSlashes::Keep, true);
    let only = Normalization { merge_slashes: true, ..OFF };
    for (raw, with_path, without) in [
        ("//a", "/a", "/a"),
        ("/a//", "/a/", "/a/"),
        ("/a///b//c?//", "/a/b/c?//", "/a/b/c?//"),
        ("/a//../b", "/a/b", "/a/../b"),
        (r"/a\\b", "/a/b", r"/a\\b"),
        // Envoy leaves `//` alone as it is; an exact rule for `/` would not see it.
        ("//", "/", "/"),
        ("///", "/", "/"),
    ] {
        assert_eq!((is(raw, &on).as_str(), is(raw, &only).as_str()), (with_path, without), "{raw}");
    }
}

/// Where Envoy's form is no fixed point, so that a rule and the app could read the path differently.
#[test]
fn dots_that_appear_by_decoding_are_resolved_with_their_parameters_too() {
    assert_eq!(is("/a/%2e%2e;/b", &Normalization::default()), "/b");
    assert_eq!(is(r"/a\..;\b", &Normalization::default()), "/b");
}

/// Table 1.3 of the acceptance cases, as far as paths go: what an exact rule for `/value/supersecret` sees, and what the app receives.
#[test]
fn the_acceptance_table_holds() {
    let on = rules(EscapedSlashes::UnescapeAndForward, true);
    let secret = ["", "?"].map(|end| format!("/value/supersecret{end}"));
    for raw in [
        "/value/supersecret",
        "/value/supersecret?",
        "/value//supersecret",
        "/value///supersecret",
        "/value%2Fsupersecret",
        "/value/%73upersecret",
        r"/value\supersecret",
        r"/value\\supersecret",
        r"/value\/supersecret",
        r"/value/\/supersecret",
    ] {
        assert!(secret.contains(&is(raw, &on)), "{raw}");
    }
    for raw in [
        "/value/foo",
        "/value//foo",
        "/value///foo",
        "/value%2Ffoo",
        "/value/%66oo",
        r"/value\foo",
        r"/value\\foo",
        r"/value\/foo",
        r"/value/\/foo",
    ] {
        assert_eq!(is(raw, &on), "/value/foo", "{raw}");
    }
    assert_eq!((is("/foo", &on).as_str(), is("/foo/supersecret", &on).as_str()), ("/foo", "/foo/supersecret"));
}

#[test]
fn a_path_that_needs_nothing_is_borrowed() {
    for target in ["/", "/a.b/c_d~e-f?x=/../y", "/a%20b", "/a//b", "/.well-known/x", "*"] {
        let normalized = normalize(target, &Normalization::default()).unwrap();
        assert!(matches!(normalized.path_and_query, Cow::Borrowed(_)), "{target}");
    }
}

/// Targets made of what matters, by chance well formed or not.
fn target() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => Just("/"), 2 => Just("\\"), 3 => Just("."), 3 => Just(".."), 1 => Just(";"), 2 => Just("a"), 1 => Just("2"), 1 => Just("e"),
        2 => Just("%"), 2 => Just("%2e"), 1 => Just("%2E"), 2 => Just("%2f"), 1 => Just("%5C"), 1 => Just("%25"), 1 => Just("%32"),
        1 => Just("%65"), 1 => Just("%61"), 1 => Just("%3b"), 1 => Just("|"), 1 => Just("?"), 1 => Just("%20"), 1 => Just("%c3"),
    ];
    proptest::collection::vec(part, 0..14).prop_map(|parts| format!("/{}", parts.concat()))
}

fn any_rules() -> impl Strategy<Value = Normalization> {
    use EscapedSlashes::{Keep, Reject, UnescapeAndForward, UnescapeAndRedirect};
    let slashes = prop_oneof![Just(Keep), Just(Reject), Just(UnescapeAndForward), Just(UnescapeAndRedirect)];
    (any::<bool>(), any::<bool>(), slashes).prop_map(|(path, merge_slashes, escaped_slashes)| Normalization {
        path,
        merge_slashes,
        escaped_slashes,
        underscores: Underscores::Allow,
    })
}

fn path() -> impl Strategy<Value = String> {
    target().prop_map(|target| target.replace('?', "a"))
}

/// Where a path leads a reader that takes backslashes for slashes, cuts parameters off, decodes and then follows the dots.
fn meaning(path: &str) -> Vec<Vec<u8>> {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let mut names = Vec::new();
    let mut ends_in_dots = false;
    for piece in path.split(['/', '\\']).skip(1) {
        let dots = decode(piece.split(';').next().unwrap());
        ends_in_dots = matches!(dots.as_slice(), b"." | b"..");
        match dots.as_slice() {
            b"." => {}
            b".." => drop(names.pop()),
            _ => names.push(decode(piece)),
        }
    }
    if ends_in_dots {
        names.push(Vec::new());
    }
    names
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_normalised_stays_as_it_is(target in target(), rules in any_rules()) {
        if let Ok(once) = normalize(&target, &rules) {
            let twice = normalize(&once.path_and_query, &rules);
            prop_assert_eq!(twice, Ok(Normalized { path_and_query: Cow::Borrowed(&*once.path_and_query), redirect: false }));
        }
    }

    #[test]
    fn no_detour_is_left_in_a_path(target in target(), rules in any_rules()) {
        if let (true, Ok(normalized)) = (rules.path, normalize(&target, &rules)) {
            let path = normalized.path_and_query.split('?').next().unwrap();
            prop_assert!(path.starts_with('/') && !path.contains('\\'), "{}", path);
            for segment in path.split('/') {
                let bare = segment.split(';').next().unwrap().to_ascii_lowercase().replace("%2e", ".");
                prop_assert!(bare != "." && bare != "..", "{}", path);
            }
            if rules.merge_slashes {
                prop_assert!(!path.contains("//"), "{}", path);
            }
        }
    }

    #[test]
    fn the_form_leads_where_the_path_led(target in path()) {
        if let Ok(normalized) = normalize(&target, &Normalization::default()) {
            prop_assert_eq!(meaning(&normalized.path_and_query), meaning(&target), "{} of {}", normalized.path_and_query, target);
        }
    }

    #[test]
    fn the_query_is_never_touched(target in path(), query in "[!-\"$-~]{0,12}", rules in any_rules()) {
        if let Ok(normalized) = normalize(&target, &rules) {
            let with = format!("{target}?{query}");
            let expected = format!("{}?{query}", normalized.path_and_query);
            prop_assert_eq!(normalize(&with, &rules).unwrap().path_and_query, expected);
        }
    }
}
