//! A second opinion on who may pass, for tests: plain functions over the agent's JSON, written from the documented rules in the form of
//! allow-lists and block-lists. It shares nothing with the decoder and the model but the question.

use std::collections::BTreeMap;

use serde_json::Value;

/// A call as the reference sees it.
#[derive(Clone, Debug)]
pub struct Call {
    pub caller: String,
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub host: String,
    pub headers: Vec<(String, Vec<u8>)>,
    /// The claims of the tokens that stand, by provider.
    pub tokens: BTreeMap<String, Value>,
}

type Meaning = fn(&str) -> bool;

/// Expressions that the tests use, each with its meaning written out; `None` is one that RE2 refuses.
pub const EXPRESSIONS: &[(&str, Option<Meaning>)] = &[
    ("/a.*", Some(|v| v.starts_with("/a"))),
    (".*b", Some(|v| v.ends_with('b'))),
    ("v|w", Some(|v| v == "v" || v == "w")),
    ("(?i)v+", Some(|v| !v.is_empty() && v.chars().all(|c| c == 'v' || c == 'V'))),
    (r"\d{2}", Some(|v| v.len() == 2 && v.chars().all(|c| c.is_ascii_digit()))),
    ("a**", None),
    ("v)(w", None),
];

/// Whether the call passes. Under default allow a list of deny rules holds, otherwise a list of allow rules.
pub fn passes(list: &[Value], default: &str, tcp: bool, call: &Call) -> bool {
    if !call.caller.starts_with("spiffe://td.consul/") || !call.caller.contains("/svc/") {
        return false;
    }
    let wanted = if default == "allow" { "deny" } else { "allow" };
    let mut hit = false;
    for (at, entry) in list.iter().enumerate() {
        let principal = names_caller(entry, call)
            && !list.iter().enumerate().any(|(other_at, other)| {
                let before = (-number(other), other_at) < (-number(entry), at);
                before && names_caller(other, call)
            });
        hit = hit || (principal && rule_hits(entry, wanted, tcp, call));
    }
    if default == "allow" { !hit } else { hit }
}

fn number(entry: &Value) -> i64 {
    entry["Precedence"].as_i64().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn names_caller(entry: &Value, call: &Call) -> bool {
    let words: Vec<&str> = call.caller.split('/').collect();
    let after = |word: &str| words.iter().position(|w| *w == word).map_or("default", |at| words[at + 1]);
    let or_default = |key| if text(entry, key).is_empty() { "default" } else { text(entry, key) };
    let fits = |pattern: &str, name: &str| pattern == "*" || pattern == name;
    text(entry, "SourcePeer").is_empty()
        && or_default("SourcePartition") == after("ap")
        && fits(or_default("SourceNS"), after("ns"))
        && fits(text(entry, "SourceName"), after("svc"))
}

/// Whether the entry has a rule of the wanted action that takes the call.
fn rule_hits(entry: &Value, wanted: &str, tcp: bool, call: &Call) -> bool {
    let looks_at_requests = !entry["Permissions"].is_null() || !entry["JWT"].is_null();
    if !is_understood(entry) || (tcp && looks_at_requests) {
        return wanted == "deny";
    }
    if !token_stands(&entry["JWT"], call) {
        return false;
    }
    let permissions = items(entry, "Permissions");
    if permissions.is_empty() {
        return text(entry, "Action") == wanted;
    }
    let takes = |permission: &Value| fits_request(&permission["HTTP"], call) && token_stands(&permission["JWT"], call);
    (0..permissions.len()).any(|at| {
        text(&permissions[at], "Action") == wanted
            && takes(&permissions[at])
            && !permissions[..at].iter().any(|earlier| text(earlier, "Action") != wanted && takes(earlier))
    })
}

fn only_keys(value: &Value, keys: &[&str]) -> bool {
    value.as_object().is_none_or(|map| map.keys().all(|key| keys.contains(&key.as_str())))
}

fn is_understood(entry: &Value) -> bool {
    let plain =
        ["SourceName", "SourceNS", "SourcePartition", "SourcePeer", "DestinationName", "Precedence", "Action", "Permissions", "JWT"];
    let actions = ["allow", "deny"];
    let permissions = items(entry, "Permissions");
    only_keys(entry, &plain)
        && token_is_understood(&entry["JWT"])
        && (if permissions.is_empty() { actions.contains(&text(entry, "Action")) } else { text(entry, "Action").is_empty() })
        && permissions.iter().all(|permission| {
            only_keys(permission, &["Action", "HTTP", "JWT"])
                && actions.contains(&text(permission, "Action"))
                && token_is_understood(&permission["JWT"])
                && http_is_understood(&permission["HTTP"])
        })
}

fn token_is_understood(jwt: &Value) -> bool {
    let claim = |claim: &Value| only_keys(claim, &["Path", "Value"]) && !items(claim, "Path").is_empty();
    let provider = |provider: &Value| {
        only_keys(provider, &["Name", "VerifyClaims"])
            && !text(provider, "Name").is_empty()
            && items(provider, "VerifyClaims").iter().all(claim)
    };
    jwt.is_null() || (only_keys(jwt, &["Providers"]) && !items(jwt, "Providers").is_empty() && items(jwt, "Providers").iter().all(provider))
}

fn http_is_understood(http: &Value) -> bool {
    let paths = ["PathExact", "PathPrefix", "PathRegex"].iter().filter(|key| !http[**key].is_null()).count();
    let compiles = |expression: &str| expression.is_empty() || EXPRESSIONS.iter().any(|(e, meaning)| *e == expression && meaning.is_some());
    let header = |header: &Value| {
        let tests = ["Present", "Exact", "Prefix", "Suffix", "Contains", "Regex"].iter().filter(|key| !header[**key].is_null()).count();
        let caseless = header["IgnoreCase"] == true && (!header["Present"].is_null() || !header["Regex"].is_null());
        tests == 1 && !caseless && compiles(text(header, "Regex")) && !text(header, "Name").contains(' ')
    };
    http.as_object().is_some_and(|map| !map.is_empty())
        && only_keys(http, &["PathExact", "PathPrefix", "PathRegex", "Header", "Methods"])
        && paths <= 1
        && compiles(text(http, "PathRegex"))
        && items(http, "Header").iter().all(header)
}

fn token_stands(jwt: &Value, call: &Call) -> bool {
    if jwt.is_null() {
        return true;
    }
    items(jwt, "Providers").iter().any(|provider| match call.tokens.get(text(provider, "Name")) {
        None => false,
        Some(claims) => items(provider, "VerifyClaims").iter().all(|test| {
            let mut found = claims.clone();
            for key in items(test, "Path") {
                found = if found.is_object() { found[key.as_str().unwrap()].clone() } else { Value::Null };
            }
            let candidates = if let Value::Array(list) = found { list } else { vec![found] };
            candidates.iter().any(|value| match value {
                Value::String(string) => string == text(test, "Value"),
                Value::Bool(_) | Value::Number(_) => serde_json::to_string(value).unwrap() == text(test, "Value"),
                _ => false,
            })
        }),
    })
}

fn regex_takes(expression: &str, value: &[u8]) -> bool {
    let meaning = EXPRESSIONS.iter().find(|(e, _)| *e == expression).unwrap().1.unwrap();
    std::str::from_utf8(value).is_ok_and(meaning)
}

fn fits_request(http: &Value, call: &Call) -> bool {
    let path = call.path.as_str();
    (http["PathExact"].is_null() || path == text(http, "PathExact"))
        && (http["PathPrefix"].is_null() || path.starts_with(text(http, "PathPrefix")))
        && (http["PathRegex"].is_null() || regex_takes(text(http, "PathRegex"), path.as_bytes()))
        && (items(http, "Methods").is_empty() || items(http, "Methods").iter().any(|m| m.as_str().unwrap().to_uppercase() == call.method))
        && items(http, "Header").iter().all(|test| fits_header(test, call))
}

fn fits_header(test: &Value, call: &Call) -> bool {
    let name = text(test, "Name").to_lowercase();
    let mut lines: Vec<Vec<u8>> = Vec::new();
    match name.as_str() {
        "host" | ":authority" => lines.push(call.host.clone().into_bytes()),
        ":method" => lines.push(call.method.clone().into_bytes()),
        ":path" => lines.push(call.query.iter().fold(call.path.clone(), |path, query| path + "?" + query).into_bytes()),
        _ => {
            for (other, value) in &call.headers {
                if other.to_lowercase() == name {
                    let blank = |b: &u8| *b == b' ' || *b == b'\t';
                    let from = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
                    let to = value.iter().rposition(|b| !blank(b)).map_or(from, |at| at + 1);
                    lines.push(value[from..to].to_vec());
                }
            }
        }
    }
    let inverted = test["Invert"] == true;
    if test["Present"] == true {
        return lines.is_empty() == inverted;
    }
    let fold = |bytes: &[u8]| if test["IgnoreCase"] == true { bytes.to_ascii_lowercase() } else { bytes.to_vec() };
    let holds = |line: &Vec<u8>| {
        let value = fold(line);
        let wanted = |key: &str| fold(text(test, key).as_bytes());
        if !test["Exact"].is_null() {
            value == wanted("Exact")
        } else if !test["Prefix"].is_null() {
            value.starts_with(&wanted("Prefix"))
        } else if !test["Suffix"].is_null() {
            value.ends_with(&wanted("Suffix"))
        } else if !test["Contains"].is_null() {
            let part = wanted("Contains");
            (0..=value.len()).any(|at| value[at..].starts_with(&part))
        } else {
            regex_takes(text(test, "Regex"), line)
        }
    };
    !lines.is_empty() && lines.iter().any(holds) != inverted
}
