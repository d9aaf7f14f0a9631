//! The routes in force as one YAML text, without their secrets.
//!
//! What may be a secret is left out rather than what must be: of `authorization` only what is known to be none is shown, and elsewhere every value whose
//! name speaks of one. References to the environment are no secrets.

use std::path::PathBuf;

use super::tree::{Key, Kind, Node};
use crate::model::ingress::hosts::canonical;

/// What stands in the place of a secret.
const REDACTED: &str = "<redacted>";

/// What of `authorization` is no secret.
const OPEN_IN_AUTHORIZATION: [&str; 14] = [
    "type",
    "realm",
    "url",
    "timeout",
    "iss",
    "issuer",
    "aud",
    "audience",
    "audiences",
    "leeway",
    "strip",
    "failures",
    "jwks_url",
    "algorithms",
];

/// Words in the name of a setting or header that has a secret.
const SECRET_WORDS: [&str; 10] =
    ["passw", "secret", "token", "cred", "private", "master_key", "api_key", "api-key", "apikey", "authorization"];

/// Endings of names of settings that say where a secret is.
const PLACES: [&str; 4] = ["file", "path", "url", "place"];

/// The configuration that these texts make up: the routes file, or what was pushed in its place, with the hosts of the others in it. Texts that cannot be
/// parsed are left out.
pub fn shown(files: &[(PathBuf, String)]) -> String {
    let mut nodes = files.iter().filter_map(|(_, text)| Node::as_written(text, None).ok());
    let Some(mut all) = nodes.next() else { return String::new() };
    for part in nodes {
        merge(&mut all, part);
    }
    redact(&mut all, Within::default());
    let mut out = String::new();
    write(&all, 0, &mut out);
    out
}

/// Puts the hosts of a file of `conf.d` over those of the routes file, each as a whole.
fn merge(all: &mut Node, part: Node) {
    let Kind::Map(mut hosts) = part.kind else { return };
    if let [(key, Node { kind: Kind::Map(inner), .. })] = hosts.as_mut_slice()
        && key.text == "upstreams"
    {
        hosts = std::mem::take(inner);
    }
    let Kind::Map(top) = &mut all.kind else { return };
    for (key, host) in hosts {
        let same = |known: &Key| canonical(&known.text) == canonical(&key.text);
        // The oldest layout has hosts at the top.
        if let Some((_, known)) = top.iter_mut().find(|(known, node)| same(known) && matches!(node.kind, Kind::Map(_))) {
            *known = host;
            continue;
        }
        match top.iter_mut().find(|(known, _)| known.text == "upstreams") {
            Some((_, Node { kind: Kind::Map(known), .. })) => match known.iter_mut().find(|(known, _)| same(known)) {
                Some((_, known)) => *known = host,
                None => known.push((key, host)),
            },
            Some((_, upstreams)) => upstreams.kind = Kind::Map(vec![(key, host)]),
            None => {
                let upstreams = Key { place: key.place.clone(), text: "upstreams".to_owned() };
                let hosts = Node { place: key.place.clone(), kind: Kind::Map(vec![(key, host)]) };
                top.push((upstreams, hosts));
            }
        }
    }
}

/// What a value is part of.
#[derive(Clone, Copy, Default)]
struct Within {
    authorization: bool,
    headers: bool,
}

fn redact(node: &mut Node, within: Within) {
    match &mut node.kind {
        Kind::Map(entries) => {
            for (key, value) in entries {
                let name = key.text.to_ascii_lowercase();
                let is_section = name == "authorization" && matches!(value.kind, Kind::Map(_));
                let secret = match within {
                    Within { authorization: true, .. } => !OPEN_IN_AUTHORIZATION.contains(&&*name) && !is_place(&name),
                    Within { headers, .. } => !is_section && is_secret(&name, headers),
                };
                if secret {
                    hide(value);
                } else {
                    redact(value, Within { authorization: is_section, headers: within.headers || name.contains("headers") });
                    if name.ends_with("url") {
                        hide_query(value);
                    }
                }
            }
        }
        Kind::List(items) => items.iter_mut().for_each(|item| redact(item, within)),
        Kind::Text { text, .. } => {
            if let Some((name, _)) = text.split_once(':').filter(|(name, _)| within.headers && is_secret(&name.to_ascii_lowercase(), true))
            {
                *text = format!("{name}: {REDACTED}");
            }
            if let Some((scheme, rest)) = text.split_once("://")
                && let Some((_, host)) = rest.split('/').next().and_then(|authority| authority.rsplit_once('@'))
            {
                let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default();
                *text = format!("{scheme}://{REDACTED}@{host}{path}");
            }
        }
        _ => {}
    }
}

fn is_place(name: &str) -> bool {
    PLACES.iter().any(|end| name.ends_with(end))
}

/// Whether a setting, or a header, of this name has a secret.
fn is_secret(name: &str, header: bool) -> bool {
    let speaks = SECRET_WORDS.iter().any(|word| name.contains(word)) || (header && (name.contains("cookie") || name.contains("key")));
    speaks && !is_place(name)
}

/// Hides a value whole, unless it only refers to the environment.
fn hide(node: &mut Node) {
    let refers =
        |text: &str| text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(|name| !name.contains(['$', '{', '}']));
    if !matches!(&node.kind, Kind::Text { text, .. } if refers(text)) {
        node.kind = Kind::Text { text: REDACTED.to_owned(), expanded: false };
    }
}

/// Hides the query of a URL that we call: a token may stand there.
fn hide_query(node: &mut Node) {
    if let Kind::Text { text, .. } = &mut node.kind
        && let Some((url, _)) = text.split_once('?')
    {
        *text = format!("{url}?{REDACTED}");
    }
}

/// Writes a value that begins after a key's colon, a dash or nothing.
fn write(node: &Node, depth: usize, out: &mut String) {
    let indent = |out: &mut String| {
        if !out.is_empty() {
            out.push('\n');
        }
        out.extend(std::iter::repeat_n("  ", depth));
    };
    match &node.kind {
        Kind::Map(entries) if !entries.is_empty() => {
            for (key, value) in entries {
                indent(out);
                *out += &quoted_key(&key.text);
                out.push(':');
                write(value, depth + 1, out);
            }
        }
        Kind::List(items) if !items.is_empty() => {
            for item in items {
                indent(out);
                out.push('-');
                write(item, depth + 1, out);
            }
        }
        Kind::Map(_) => *out += " {}",
        Kind::List(_) => *out += " []",
        Kind::Null => *out += " null",
        Kind::Bool(value) => *out += &format!(" {value}"),
        Kind::Integer(value) => *out += &format!(" {value}"),
        Kind::Float(value) => *out += &format!(" {value:?}"),
        Kind::Text { text, .. } => *out += &format!(" {}", quoted(text)),
    }
    if depth == 0 {
        out.push('\n');
    }
}

/// A text in double quotes; those of JSON are those of YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn quoted_key(text: &str) -> String {
    let plain = text.len() > 3 && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !["true", "false", "null"].contains(&text);
    if plain { text.to_owned() } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> String {
        shown(&texts.iter().map(|text| (PathBuf::new(), (*text).to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn nothing_secret_is_shown() {
        let text = of(&[r#"
authorization: {type: basic, creds: "root:s3cret-1", realm: "intern", users: {"a": "s3cret-2"}, creds_file: users.htpasswd}
consul: {servers: ["http://user:s3cret-3@127.0.0.1:8500/v1"], token: s3cret-4}
headers: ["X-Frame-Options: DENY", "Set-Cookie: s3cret-5", "Authorization: Bearer s3cret-6"]
server_headers: {set: {X-Api-Key: s3cret-7, X-Plain: yes-please}}
upstreams:
  "shop.example":
    paths:
      "/": {servers: ["127.0.0.1:8000"], authorization: {type: apikey, data: ["s3cret-8", {key: s3cret-9}]}, healthcheck: false, rate_limit: 20}
      "/ask": {servers: [], authorization: {type: forward, url: "http://auth.example/verify?token=s3cret-12"}}
      "/env": {servers: [], authorization: {type: jwt, creds: "${JWT}"}, client_password: "s3cret-10 ${X}", upstream_authorization: s3cret-11}
"#]);
        assert!(!text.contains("s3cret"), "{text}");
        let visible = [
            "\"shop.example\":",
            "X-Frame-Options: DENY",
            "\"intern\"",
            "${JWT}",
            "users.htpasswd",
            "127.0.0.1:8500/v1",
            "http://auth.example/verify?",
            "yes-please",
            "rate_limit: 20",
            "healthcheck: false",
        ];
        for visible in visible {
            assert!(text.contains(visible), "{visible} is not in\n{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_parsed_and_says_the_same() {
        let text = of(&[
            "provider: file\nupstreams: {\"a.test\": {paths: {\"/\": {servers: [\"127.0.0.1:1\", \"h\"], weight: 1.5, x: null, y: {}, z: [[1], {b: \"t: \\\"q\\n\"}]}}}}\n",
        ]);
        assert_eq!(of(&[&text]), text);
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn hosts_of_later_files_replace_those_before_as_a_whole() {
        let text = of(&[
            "upstreams: {a.test: {paths: {/one: {servers: []}}}}",
            "A.test: {paths: {/two: {servers: []}}}",
            "upstreams: {b.test: {paths: {}}}",
        ]);
        assert!(!text.contains("/one") && text.contains("/two") && text.contains("b.test"), "{text}");
        assert!(of(&["provider: file", "c.test: {paths: {}}"]).contains("upstreams:\n  \"c.test\":"), "an absent map is made");
    }
}
