use http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;

/// A request with these header lines.
fn with_headers<T>(lines: &[(&str, &[u8])], ask: impl FnOnce(&RequestView<'_>) -> T) -> T {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value).unwrap());
    }
    ask(&RequestView { method: "GET", path: "/a/b", query: Some("q=1"), authority: "API.example", headers: &headers })
}

fn header(name: &str, value: Option<TextMatch>) -> HeaderMatch {
    HeaderMatch { name: name.into(), value, ignore_case: false, invert: false }
}

fn exact(text: &str) -> Option<TextMatch> {
    Some(TextMatch::Exact(text.into()))
}

#[test]
fn lines_of_a_header_are_compared_one_by_one() {
    let lines: &[(&str, &[u8])] = &[("x", b"v"), ("x", b" w\t"), ("list", b"v,w"), ("empty", b""), ("raw", b"\xff\xc3\xa9")];
    let passes = |test: HeaderMatch| with_headers(lines, |request| test.is_match(request));
    for (test, expected) in [
        (header("x", exact("v")), true),
        (header("x", exact("w")), true),
        (header("x", exact("v,w")), false),
        (header("list", exact("v,w")), true),
        (header("list", exact("v")), false),
        (header("empty", None), true),
        (header("empty", exact("")), true),
        (header("raw", Some(TextMatch::Suffix("é".into()))), true),
        (header("raw", Some(TextMatch::Contains("e".into()))), false),
        (header("absent", None), false),
        (header("absent", exact("")), false),
        (header("host", exact("API.example")), true),
        (header(":authority", Some(TextMatch::Prefix("API".into()))), true),
        (header(":path", exact("/a/b?q=1")), true),
        (header(":method", exact("GET")), true),
    ] {
        assert_eq!(passes(test.clone()), expected, "{test}");
        // An inverted test of a value is of a header that is there.
        let absent = &*test.name == "absent";
        let inverted = HeaderMatch { invert: true, ..test };
        assert_eq!(passes(inverted.clone()), if absent { inverted.value.is_none() } else { !expected }, "{inverted}");
    }
}

#[test]
fn case_is_ignored_in_ascii_only() {
    for (test, value, expected) in [
        (TextMatch::Exact("foo.bar".into()), "FOO.bar", true),
        (TextMatch::Prefix("foo".into()), "FoO.bar", true),
        (TextMatch::Suffix("BAR".into()), "foo.bar", true),
        (TextMatch::Contains("O.B".into()), "foo.bar", true),
        (TextMatch::Exact("é".into()), "É", false),
        (TextMatch::Exact("k".into()), "\u{212a}", false),
        (TextMatch::Regex(Regex::parse("foo").unwrap()), "FOO", false),
    ] {
        assert_eq!(test.is_match(value.as_bytes(), true), expected, "{test} of {value}");
    }
}

#[test]
fn parameters_are_compared_as_sent_and_the_first_of_a_name_counts() {
    let passes = |name: &str, value: Option<TextMatch>, query: Option<&str>| QueryMatch { name: name.into(), value }.is_match(query);
    for query in [Some("a=1"), Some("b&a=1&a=2"), Some("a=1&")] {
        assert!(passes("a", exact("1"), query), "{query:?}");
    }
    for query in [None, Some(""), Some("a=2&a=1"), Some("a=%31"), Some("%61=1"), Some("A=1"), Some("a"), Some("b=a=1"), Some("b;a=1")] {
        assert!(!passes("a", exact("1"), query), "{query:?}");
    }
    assert!(passes("a", exact("1=2"), Some("a=1=2")));
    assert!(passes("a", None, Some("a")) && passes("a", None, Some("x&a=")) && passes("a", exact(""), Some("a")));
    assert!(!passes("a", None, None) && !passes("a", None, Some("aa=1")));
}

#[test]
fn tests_read_as_words() {
    let shown = HeaderMatch { ignore_case: true, invert: true, ..header("x", Some(TextMatch::Contains("a\"b".into()))) };
    assert_eq!(shown.to_string(), r#"header x not contains "a\"b" in any case"#);
    assert_eq!(header("x", None).to_string(), "header x present");
    let path = PathMatch { text: TextMatch::Regex(Regex::parse("/a.*").unwrap()), ignore_case: false };
    assert_eq!(path.to_string(), "path regex /a.*");
}

proptest! {
    #[test]
    fn text_tests_agree_with_the_ones_of_str(text in "[ab]{0,3}", value in "[ab]{0,5}") {
        let of = |make: fn(Arc<str>) -> TextMatch| make(text.as_str().into()).is_match(value.as_bytes(), false);
        prop_assert_eq!(of(TextMatch::Exact), value == text);
        prop_assert_eq!(of(TextMatch::Prefix), value.starts_with(&text));
        prop_assert_eq!(of(TextMatch::Suffix), value.ends_with(&text));
        prop_assert_eq!(of(TextMatch::Contains), value.contains(&text));
    }
}
