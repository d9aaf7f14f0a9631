//! What a PromQL query asks for: the names of its series, and the labels that it has them by.

use std::collections::BTreeSet;

/// One selector of a query.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    /// The name of the series.
    pub name: String,
    /// The labels that are matched or grouped by.
    pub labels: BTreeSet<String>,
    /// The labels that must have one value.
    pub values: Vec<(String, String)>,
}

/// Words before a list of labels.
const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Words that are no names.
const WORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

#[derive(Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Sign(char),
}

/// The tokens of a query; numbers and durations have no use here.
fn tokens(query: &str) -> Vec<Token> {
    let (mut tokens, mut rest) = (Vec::new(), query.chars().peekable());
    let part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.' | '$');
    while let Some(first) = rest.next() {
        let word = |rest: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut word = String::from(first);
            while let Some(next) = rest.next_if(part) {
                word.push(next);
            }
            word
        };
        match first {
            '"' => tokens.push(Token::Text(rest.by_ref().take_while(|c| *c != '"').collect())),
            '[' => rest.by_ref().take_while(|c| *c != ']').for_each(drop),
            c if c.is_ascii_digit() => drop(word(&mut rest)),
            c if part(&c) => tokens.push(Token::Name(word(&mut rest))),
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Sign(c)),
        }
    }
    tokens
}

/// The selectors of a query. What it joins by (`on`) each must have, and what it groups by too. With `group_left` the result has the labels of the
/// left side, so only the first must have what is grouped by, and the last what is taken over from it.
pub fn selectors(query: &str) -> Vec<Selector> {
    let tokens = tokens(query);
    let mut found = Vec::<Selector>::new();
    let (mut joined, mut grouped, mut taken) = (BTreeSet::new(), BTreeSet::new(), None);
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Name(name) = token else { continue };
        let open = |sign| tokens.get(at) == Some(&Token::Sign(sign));
        if LISTS.contains(&name.as_str()) {
            let list = tokens[at..].iter().take_while(|token| **token != Token::Sign(')'));
            let labels = list.filter_map(|token| if let Token::Name(label) = token { Some(label.clone()) } else { None });
            match name.as_str() {
                "group_left" => taken.get_or_insert_with(BTreeSet::new).extend(labels),
                "by" => grouped.extend(labels),
                "on" => joined.extend(labels),
                other => panic!("{other}, of {query}, is not understood here"),
            }
            at += tokens[at..].iter().position(|token| *token == Token::Sign(')')).unwrap();
        } else if !WORDS.contains(&name.as_str()) && !open('(') && !tokens.get(at).is_some_and(is_list) {
            let mut selector = Selector { name: name.clone(), labels: BTreeSet::new(), values: Vec::new() };
            if open('{') {
                let end = at + tokens[at..].iter().position(|token| *token == Token::Sign('}')).unwrap();
                for matcher in tokens[at + 1..end].split(|token| *token == Token::Sign(',')) {
                    let [Token::Name(label), signs @ .., Token::Text(value)] = matcher else { continue };
                    selector.labels.insert(label.clone());
                    if signs == [Token::Sign('=')] && !value.contains('$') {
                        selector.values.push((label.clone(), value.clone()));
                    }
                }
                at = end + 1;
            }
            found.push(selector);
        }
    }
    let last = found.len().saturating_sub(1);
    for (at, selector) in found.iter_mut().enumerate() {
        selector.labels.extend(joined.clone());
        match &taken {
            None => selector.labels.extend(grouped.clone()),
            Some(taken) if at == last => selector.labels.extend(taken.clone()),
            Some(taken) => selector.labels.extend(grouped.difference(taken).cloned()),
        }
    }
    found
}

/// Whether a list of labels follows: what stands before it is no series.
fn is_list(token: &Token) -> bool {
    matches!(token, Token::Name(name) if LISTS.contains(&name.as_str()))
}

#[test]
fn a_query_is_taken_apart() {
    let query =
        r#"sum by (le, b) (rate(x_bucket{a="1",c=~"$d", e!="2"}[$__rate_interval])) / on (f) group_left (b) y > bool 0.5 and time() - 3"#;
    let labels = |all: &[&str]| all.iter().map(|label| (*label).to_owned()).collect::<BTreeSet<_>>();
    let expected = [
        Selector {
            name: "x_bucket".to_owned(),
            labels: labels(&["a", "c", "e", "f", "le"]),
            values: vec![("a".to_owned(), "1".to_owned())],
        },
        Selector { name: "y".to_owned(), labels: labels(&["b", "f"]), values: Vec::new() },
    ];
    assert_eq!(selectors(query), expected);
    let halves = selectors("sum by (a) (x) / sum by (a) (y) and on (b) z");
    assert!(
        halves.iter().map(|half| half.name.as_str()).eq(["x", "y", "z"]) && halves.iter().all(|half| half.labels == labels(&["a", "b"]))
    );
}
