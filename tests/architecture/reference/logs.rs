//! The page of the logs: keys of the access log's line, flags, and what the process's own log says, all read in the sources.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

/// What the keys of events hold.
const KEYS: &[(&str, &str)] = &[
    ("address", "where something listens"),
    ("addresses", "what a name stands for now"),
    ("advice", "what to do about it"),
    ("certificate", "the name of a certificate"),
    ("changes", "what became different, in words"),
    ("client", "the address of the client"),
    ("delay", "how long until it is tried again"),
    ("destination", "the service that was called"),
    ("endpoint", "the endpoint that failed"),
    ("failures", "failures in a row"),
    ("file", "the file that is meant"),
    ("folder", "a folder"),
    ("generation", "the number of the snapshot"),
    ("id", "the SPIFFE ID of a leaf"),
    ("identity", "the SPIFFE ID that was shown"),
    ("level", "the new level"),
    ("listener", "the listener: the id of the proxy, and what it is for"),
    ("listeners", "how many listeners there are"),
    ("name", "the name of a host, object or certificate"),
    ("namespace", "the namespace of an object of Kubernetes"),
    ("outcome", "how the try ended"),
    ("pairs", "how many certificates there are"),
    ("path", "where the setting stands that is meant"),
    ("paths", "what is served there"),
    ("peer", "the address of the client"),
    ("problems", "what is wrong, in words"),
    ("protocol", "what is spoken: tcp, http, http2, grpc"),
    ("provider", "the name of a provider of tokens"),
    ("proxy", "the id of the proxy"),
    ("reason", "why, in a word, as in the access log"),
    ("scope", "the place that counts failures"),
    ("server", "the server of a route"),
    ("settings", "names of settings"),
    ("sidecar", "the id of the proxy that is meant"),
    ("sink", "where the access log goes"),
    ("sockets", "how many sockets"),
    ("source", "who calls; or what is watched or read anew"),
    ("speaks", "what a server speaks"),
    ("target_address", "where metrics are sent"),
    ("tokens", "what became of the tokens that the intentions ask for"),
    ("took", "how long it took"),
    ("tries", "how often the request was tried"),
    ("version", "the version of the routes in force"),
    ("was", "what it spoke before"),
    ("watch", "what is watched"),
    ("why", "why, in words"),
];

fn source(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)).unwrap()
}

/// Doc comments and what they stand above, of an item that begins with this line.
fn members(text: &str, item: &str) -> Vec<(String, String)> {
    let (_, body) = text.split_once(item).unwrap();
    let (mut members, mut about) = (Vec::new(), String::new());
    for line in body.split("\n}").next().unwrap().lines().skip(1).map(str::trim) {
        match line.strip_prefix("/// ") {
            Some(doc) => about = [about.as_str(), doc].join(" "),
            None if line.starts_with('#') => {}
            None => members.push((line.trim_end_matches(',').to_owned(), std::mem::take(&mut about).trim().to_owned())),
        }
    }
    members
}

/// A line of the process's log.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    level: &'static str,
    message: String,
    keys: Vec<String>,
}

/// What stands between a parenthesis that was just opened and its end, in parts between commas.
fn arguments(text: &str) -> Vec<String> {
    let (mut parts, mut depth, mut quoted, mut escaped) = (vec![String::new()], 0, false, false);
    for c in text.chars() {
        match c {
            '"' if !escaped => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => break,
            ')' | ']' | '}' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        escaped = c == '\\' && !escaped;
        parts.last_mut().unwrap().push(c);
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// A message with `…` for what is put in.
fn message(literal: &str) -> String {
    let (mut message, mut rest) = (String::new(), literal.trim_matches('"'));
    while let Some((before, after)) = rest.split_once('{') {
        message += before;
        message.push('…');
        rest = after.split_once('}').unwrap().1;
    }
    message + rest
}

fn events(text: &str) -> Vec<Event> {
    let mut events = Vec::new();
    for level in ["error", "warn", "info", "debug"] {
        let call = format!("{level}!(");
        for (at, _) in text.match_indices(&call) {
            if text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_') {
                continue;
            }
            let parts = arguments(&text[at + call.len()..]);
            let Some(told) = parts.iter().position(|part| part.starts_with('"')) else { continue };
            let key = |part: &String| part.split(" = ").next().unwrap().trim_start_matches(['%', '?']).to_owned();
            events.push(Event { level, message: message(&parts[told]), keys: parts[..told].iter().map(key).collect() });
        }
    }
    events
}

pub fn page(made: &str) -> String {
    let mut page = format!(
        "# Logs\n\n{made}\n## The access log's line\n\nWithout a format of one's own: [Observability](../observability.md). `null` is what does not apply.\n\n| key | value | |\n|---|---|---|\n"
    );
    for (member, about) in members(&source("telemetry/access_log/standard.rs"), "struct Line<'a> {") {
        let (key, kind) = member.split_once(": ").unwrap();
        assert!(!about.is_empty(), "{key} of the access log has no doc comment");
        let kind = if kind.contains("u64") || kind.contains("u16") { "number" } else { "text" };
        writeln!(page, "| `{key}` | {kind} | {about} |").unwrap();
    }
    page += "\n## Flags\n\n`response_flags`, and the label `flag` of metrics.\n\n| flag | |\n|---|---|\n";
    let record = source("telemetry/record.rs");
    for (member, about) in members(&record, "pub enum Flag {") {
        let (_, letters) = record.split_once(&format!("Self::{member} => \"")).unwrap();
        writeln!(page, "| `{}` | {about} |", letters.split('"').next().unwrap()).unwrap();
    }
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    crate::sources(&root, &mut files);
    let mut all: Vec<Event> = Vec::new();
    for file in files.iter().filter(|file| !file.components().any(|part| part.as_os_str() == "tests")) {
        all.extend(events(fs::read_to_string(file).unwrap().split("\n#[cfg(test)]\nmod tests {").next().unwrap()));
    }
    let level = |event: &Event| ["error", "warn", "info", "debug"].iter().position(|level| *level == event.level);
    all.sort_by(|a, b| (level(a), &a.message).cmp(&(level(b), &b.message)));
    all.dedup();
    let known: BTreeMap<&str, &str> = KEYS.iter().copied().collect();
    let used: BTreeMap<&str, ()> = all.iter().flat_map(|event| &event.keys).map(|key| (key.as_str(), ())).collect();
    let silent: Vec<&&str> = used.keys().filter(|key| !known.contains_key(**key)).collect();
    let gone: Vec<&&str> = known.keys().filter(|key| !used.contains_key(**key)).collect();
    assert!(silent.is_empty() && gone.is_empty(), "keys of events without a meaning: {silent:?}; in no event: {gone:?}");
    page += "\n## The process's own log\n\nTo standard error or `error_log`; lines of text, or JSON with `log_format: json` (`-log-json`). `…` stands for what is put in.\n\n| key | |\n|---|---|\n";
    for (key, about) in known {
        writeln!(page, "| `{key}` | {about} |").unwrap();
    }
    page += "\n| level | message | keys |\n|---|---|---|\n";
    for Event { level, message, keys } in all {
        let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        writeln!(page, "| {level} | {} | {} |", message.replace('|', "\\|"), keys.join(", ")).unwrap();
    }
    page
}

#[test]
fn events_are_read_with_their_keys() {
    let text =
        r#"tracing::info!(listener = %key, why, ?delay, "refused: {why:#}, {}", other); debug!(a = f(1, 2), "said"); not_info!(x, "y")"#;
    let event = |level, message: &str, keys: &[&str]| Event {
        level,
        message: message.into(),
        keys: keys.iter().map(|key| key.to_string()).collect(),
    };
    assert_eq!(events(text), [event("info", "refused: …, …", &["listener", "why", "delay"]), event("debug", "said", &["a"])]);
}
