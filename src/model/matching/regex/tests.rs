use super::*;

type Values = &'static [&'static [u8]];

/// Expression, values it matches, values it does not match; all as RE2 answers.
const MEANING: &[(&str, Values, Values)] = &[
    ("/a.*", &[b"/a", b"/a/b?c"], &[b"/b/a", b"x/a", b"/a\n"]),
    ("a|ab", &[b"a", b"ab"], &[b"abc", b"b"]),
    ("", &[b""], &[b"a"]),
    // The whole value, lines or not.
    ("^a$", &[b"a"], &[b"a\n", b"\na"]),
    ("(?m)^a$", &[b"a"], &[b"a\n", b"b\na"]),
    (r"\Aa\z", &[b"a"], &[b"a\n"]),
    // Perl classes and word boundaries are of ASCII.
    (r"\d+", &[b"019"], &["٣".as_bytes()]),
    (r"\D", &["٣".as_bytes(), b"a"], &[b"1", b"\xff"]),
    (r"\w+", &[b"aZ_9"], &["é".as_bytes(), b"-"]),
    (r"\W", &["é".as_bytes()], &[b"_"]),
    (r"\s", &[b" ", b"\t", b"\x0c"], &[b"\x0b", "\u{a0}".as_bytes()]),
    (r"\S", &[b"\x0b", "\u{a0}".as_bytes()], &[b" "]),
    (r"a\bé", &["aé".as_bytes()], &[b"a"]),
    (r"é\Bé", &["éé".as_bytes()], &[b""]),
    // Without regard to case folds as Unicode does.
    ("(?i)k", &[b"K", b"k", "\u{212a}".as_bytes()], &[b"x"]),
    (r"(?i)\w", &["\u{212a}".as_bytes(), "ſ".as_bytes()], &["é".as_bytes()]),
    ("a(?i:b)c", &[b"aBc"], &[b"ABc"]),
    ("a(?i)b|c", &[b"aB", b"C"], &[b"AB"]),
    ("(?s).", &[b"\n"], &[b""]),
    ("(?is-m:A.)", &[b"a\n"], &[b"a"]),
    // Classes: a bracket, an ampersand, a tilde and a dash in them are themselves.
    ("[a[b]+", &[b"a[b"], &[b"]"]),
    ("[]a]+", &[b"]a"], &[b"b"]),
    ("[^]a]", &[b"b"], &[b"]", b"a"]),
    ("[a&&b]+", &[b"a&b"], &[b"c"]),
    ("[a~~b]+", &[b"a~b"], &[b"c"]),
    ("[+--]+", &[b"+,-"], &[b"."]),
    ("[a-c-e]+", &[b"abc-e"], &[b"d"]),
    ("[a-]+", &[b"a-"], &[b"b"]),
    (r"[\d-z]+", &[b"0-z"], &[b"a"]),
    (r"[\D5]+", &[b"a5"], &[b"4"]),
    (r"[^\s/]+", &["aé".as_bytes()], &[b"a b", b"a/b"]),
    (r"[\]\\^]+", &[br"]\^"], &[b"["]),
    ("[[:alpha:][:^ascii:]]+", &["aé".as_bytes()], &[b"1"]),
    ("[[:word:]]+", &[b"a_1"], &[b"-", "é".as_bytes()]),
    ("[[:a]+", &[b"[:a"], &[b"b"]),
    ("[^a]", &[b"\n", "é".as_bytes()], &[b"a", b"\xff"]),
    // Properties.
    (r"\pN+", &["1٣".as_bytes()], &[b"a"]),
    (r"\p{Greek}\P{Greek}", &["αa".as_bytes()], &["aα".as_bytes()]),
    (r"\p{^Lu}", &[b"a"], &[b"A"]),
    (r"[\p{Nd}x]+", &["x٣".as_bytes()], &[b"y"]),
    (r"\PN\p{Any}", &[b"a1"], &[b"1a"]),
    (r"\p{Yi}", &["ꀀ".as_bytes()], &[b"a"]),
    // Literal stretches and bytes.
    (r"\Qa.b*\E+", &[b"a.b*", b"a.b**"], &[b"a.b", b"axb*"]),
    (r"\Q[", &[b"["], &[b"\\Q["]),
    (r"a\Q\E+", &[b"aa"], &[b""]),
    (r"\C", &[b"\xff", b"a", b"\n"], &["é".as_bytes(), b""]),
    (r"\C\C", &["é".as_bytes()], &[b"a"]),
    (r"a\C*b", &[b"a\xff\xfeb"], &[b"a"]),
    ("a.*b", &["aéb".as_bytes()], &[b"a\xffb", b"a\xc3b"]),
    // Escapes.
    (r"\x41\x{e9}", &["Aé".as_bytes()], &[b"A\xe9"]),
    (r"\12\012\0", &[b"\n\n\0"], &[b"12"]),
    (r"\08", &[b"\x008"], &[b"8"]),
    (r"\a\f\n\r\t\v", &[b"\x07\x0c\n\r\t\x0b"], &[b""]),
    (r"\<\>\/\-\_\ \.\~\&", &[b"<>/-_ .~&"], &[b"a"]),
    // Repetitions; a brace that counts nothing is itself.
    ("a{2}", &[b"aa"], &[b"a", b"aaa"]),
    ("a{1,2}b{0,}", &[b"a", b"aabb"], &[b"aaa"]),
    ("a{,2}", &[b"a{,2}"], &[b"a", b""]),
    ("a{", &[b"a{"], &[b"a"]),
    ("a{01}b{x}", &[b"a{01}b{x}"], &[b"ab"]),
    ("a*?b+?c??", &[b"aabb", b"bc"], &[b"a"]),
    ("(?U)a+b", &[b"aab"], &[b"b"]),
    ("^*a", &[b"a"], &[b"^a"]),
    ("(|a)*", &[b"", b"aa"], &[b"b"]),
    // Groups.
    ("(?P<x>a)(?<y>b)(?:c)()", &[b"abc"], &[b"ab"]),
    ("(?P<1>a)", &[b"a"], &[b"1"]),
    ("a}]", &[b"a}]"], &[b"a"]),
    ("# a", &[b"# a"], &[b"a"]),
];

#[test]
fn the_meaning_is_that_of_re2() {
    for (source, matched, unmatched) in MEANING {
        let regex = Regex::parse(source).unwrap();
        for value in *matched {
            assert!(regex.is_match(value), "{source} matches {:?}", String::from_utf8_lossy(value));
        }
        for value in *unmatched {
            assert!(!regex.is_match(value), "{source} does not match {:?}", String::from_utf8_lossy(value));
        }
    }
}

#[test]
fn what_re2_refuses_is_refused() {
    for source in [
        "a)(b",
        "(a",
        "a)",
        "[a",
        "[]",
        "[^]",
        "[b-a]",
        r"[a-\d]",
        "[[:foo:]]",
        r"[\Qa]",
        r"[\b]",
        "*a",
        "a|*",
        "(*)",
        "a**",
        "a*+",
        "a+{2}",
        "a{2}{3}",
        "a{2,1}",
        "a{1001}",
        "a{0,1001}",
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "(?<!a)",
        "(?>a)",
        "(?x)a",
        "(?u)a",
        "(?-u)a",
        "(?R)a",
        "(?P=n)",
        "(?P<n",
        "(?P<>a)",
        "(?P<a-b>c)",
        "(?#c)",
        r"\",
        r"\1",
        r"(a)\1",
        r"\8",
        r"\Z",
        r"\G",
        r"\E",
        r"\h",
        r"\R",
        r"\X",
        r"\K",
        r"\u0041",
        r"\U00000041",
        r"\xg0",
        r"\x{}",
        r"\x{110000}",
        r"\x{d800}",
        r"\é",
        r"\p",
        r"\p{",
        r"\p{Foo}",
        r"\p{greek}",
        r"\p{Letter}",
        r"\p{Alphabetic}",
        r"\p{sc=Greek}",
        r"\pz",
        "\\",
    ] {
        let why = Regex::parse(source).unwrap_err();
        assert!(why.starts_with(&format!("{source:?} ")) && !why.contains('\n'), "{why}");
    }
}

#[test]
fn what_is_too_large_is_refused_in_one_line() {
    let why = Regex::parse(&format!("{}(?:[^a]{{1000}}){{1000}}", r"\pL{1000}".repeat(5))).unwrap_err();
    assert!(why.contains("exceeds size limit") && !why.contains('\n'), "{why}");
    // RE2 repeats the `a`; that is not worth its code, and it is not silently something else.
    assert!(Regex::parse("a(?i)*").is_err());
}
