//! What changes from one configuration to another, in words: `route shop.example/api: server 10.0.0.2:80 added`.
//!
//! What is compared is what is shown ([`super::shown`]), so that no secret comes into a change; one that is only another secret is none here.

use std::{borrow::Cow, collections::HashMap};

/// The longest value that is written out, characters.
const LONGEST: usize = 200;

/// What changes from one configuration of routes to another, both as [`super::shown::shown`] gives them; a line each, in the order of the files.
pub fn between(old: &str, new: &str) -> Vec<String> {
    let mut out = Vec::new();
    compare(&Where::Top, Value { text: old, depth: 0 }, Value { text: new, depth: 0 }, &mut out);
    out
}

/// A value in what is shown: the text behind its key or dash, with the lines under it. These are looked into only where they differ, so that a
/// reload of many routes does not pay for those that stay.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value<'a> {
    text: &'a str,
    /// How deep its entries stand.
    depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Scalar,
    List,
    Map,
}

impl<'a> Value<'a> {
    /// Of what is not there.
    const ABSENT: Self = Self { text: "", depth: 0 };

    fn kind(self) -> Kind {
        match self.text.trim() {
            "" | "null" => Kind::Null,
            "{}" => Kind::Map,
            "[]" => Kind::List,
            _ if self.text.starts_with(' ') => Kind::Scalar,
            inner if inner.starts_with('-') => Kind::List,
            _ => Kind::Map,
        }
    }

    /// What a map has, by the keys as they are written, or a list, by dashes.
    fn entries(self) -> impl Iterator<Item = (&'a str, Self)> {
        let indent = self.depth * 2;
        let begins = move |line: &str| line.len() > indent && !line.as_bytes().get(indent).is_some_and(u8::is_ascii_whitespace);
        let mut rest = if matches!(self.kind(), Kind::List | Kind::Map) { self.text.trim_start_matches('\n') } else { "" };
        std::iter::from_fn(move || {
            let inner = rest.get(indent..)?;
            let mut end = 0;
            for (at, line) in rest.split_inclusive('\n').enumerate() {
                if at > 0 && begins(line) {
                    break;
                }
                end += line.len();
            }
            let (key, _) = inner.split_at_checked(key_length(inner)?)?;
            let text = rest.get(indent + key.len()..end)?;
            rest = rest.get(end..)?;
            let text = text.strip_prefix(':').unwrap_or(text).trim_end_matches('\n');
            Some((key, Self { text, depth: self.depth + 1 }))
        })
    }

    /// In one line.
    fn inline(self) -> String {
        let joined = |items: Vec<String>| items.join(", ");
        match self.kind() {
            Kind::Null => "null".to_owned(),
            Kind::Scalar => unquoted(self.text.trim()).into_owned(),
            Kind::List => format!("[{}]", joined(self.entries().map(|(_, item)| item.inline()).collect())),
            Kind::Map => {
                format!("{{{}}}", joined(self.entries().map(|(key, value)| format!("{}: {}", unquoted(key), value.inline())).collect()))
            }
        }
    }
}

/// How long the key or dash is that a line begins with; `None` if there is neither.
fn key_length(line: &str) -> Option<usize> {
    if line.starts_with('-') {
        return Some(1);
    }
    let Some(quoted) = line.strip_prefix('"') else { return line.find(':') };
    let mut escaped = false;
    let end = quoted.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map(|end| end + 2)
}

/// A key or a scalar without its quotes.
fn unquoted(text: &str) -> Cow<'_, str> {
    if text.starts_with('"')
        && let Ok(text) = serde_json::from_str::<String>(text)
    {
        return text.into();
    }
    text.into()
}

/// What a value is.
enum Where {
    Top,
    /// `upstreams`: hosts by their names.
    Hosts,
    Host(String),
    /// The paths of a host.
    Paths(String),
    /// By host and path.
    Route(String),
    /// A setting of something, by the keys that lead to it.
    Setting(String),
}

impl Where {
    fn of(&self, key: &str, value: Value<'_>) -> Self {
        match self {
            Self::Top if key == "upstreams" => Self::Hosts,
            // The oldest layout has hosts at the top.
            Self::Top if value.entries().any(|(key, _)| key == "paths") => Self::Host(key.to_owned()),
            Self::Top => Self::Setting(key.to_owned()),
            Self::Hosts => Self::Host(key.to_owned()),
            Self::Host(host) if key == "paths" => Self::Paths(host.clone()),
            Self::Host(host) => Self::Setting(format!("host {host}: {key}")),
            Self::Paths(host) => Self::Route(format!("route {host}{key}")),
            Self::Route(route) => Self::Setting(format!("{route}: {key}")),
            Self::Setting(path) => Self::Setting(format!("{path}.{key}")),
        }
    }
}

fn compare(at: &Where, old: Value<'_>, new: Value<'_>, out: &mut Vec<String>) {
    if old == new {
        return;
    }
    match (at, old.kind(), new.kind()) {
        (Where::Host(host), Kind::Null, _) => {
            out.push(format!("host {host} added"));
            maps(at, old, new, out);
        }
        (Where::Host(host), _, Kind::Null) => out.push(format!("host {host} removed")),
        (Where::Top | Where::Hosts | Where::Host(_) | Where::Paths(_), _, _) => maps(at, old, new, out),
        (Where::Route(name) | Where::Setting(name), Kind::Null, _) => out.push(format!("{name} added: {}", short(&new.inline()))),
        (Where::Route(name) | Where::Setting(name), _, Kind::Null) => out.push(format!("{name} removed")),
        (Where::Route(_) | Where::Setting(_), Kind::Map, Kind::Map) => maps(at, old, new, out),
        (Where::Setting(name), Kind::List, Kind::List) => lists(name, old, new, out),
        (Where::Route(name) | Where::Setting(name), _, _) => {
            out.push(format!("{name}: {} -> {}", short(&old.inline()), short(&new.inline())));
        }
    }
}

fn maps(at: &Where, old: Value<'_>, new: Value<'_>, out: &mut Vec<String>) {
    let (before, after): (HashMap<_, _>, HashMap<_, _>) = (old.entries().collect(), new.entries().collect());
    for (key, value) in old.entries() {
        compare(&at.of(&unquoted(key), value), value, after.get(key).copied().unwrap_or(Value::ABSENT), out);
    }
    for (key, value) in new.entries().filter(|(key, _)| !before.contains_key(key)) {
        compare(&at.of(&unquoted(key), value), Value::ABSENT, value, out);
    }
}

/// Lists are compared by what their items are: servers by their addresses, others as they stand.
fn lists(name: &str, old: Value<'_>, new: Value<'_>, out: &mut Vec<String>) {
    let name = name.strip_suffix("servers").map_or_else(|| format!("{name}:"), |of| format!("{of}server"));
    let by_identity = |list: Value<'_>| list.entries().map(|(_, item)| (identity(item), item.inline())).collect::<HashMap<_, _>>();
    let (before, after) = (by_identity(old), by_identity(new));
    let unchanged = out.len();
    let gone = old.entries().map(|(_, item)| identity(item)).filter(|identity| !after.contains_key(identity));
    out.extend(gone.map(|identity| format!("{name} {identity} removed")));
    for (_, item) in new.entries() {
        let (identity, item) = (identity(item), item.inline());
        match before.get(&identity) {
            None => out.push(format!("{name} {} added", short(&item))),
            Some(known) if *known != item => out.push(format!("{name} {identity}: {} -> {}", short(known), short(&item))),
            Some(_) => {}
        }
    }
    if out.len() == unchanged {
        out.push(format!("{name} the order changes"));
    }
}

/// What makes an item of a list the same one.
fn identity(item: Value<'_>) -> String {
    item.entries().find(|(key, _)| *key == "address").map_or_else(|| item.inline(), |(_, address)| address.inline())
}

/// A text, shortened.
fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::shown::shown;

    fn changes(old: &str, new: &str) -> Vec<String> {
        let [old, new] = [old, new].map(|text| shown(&[(PathBuf::new(), text.to_owned())]));
        between(&old, &new)
    }

    const OLD: &str = r#"
headers: ["A: 1", "B: 2"]
upstreams:
  shop.test:
    authorization: {type: basic, creds: "root:s3cret-1"}
    paths:
      /: {servers: ["10.0.0.1:80", {address: "10.0.0.2:80", weight: 1}]}
      /old: {servers: ["10.0.0.9:80"], timeout: 30s}
  gone.test: {paths: {/: {servers: ["10.0.0.4:80"]}}}
"#;

    #[test]
    fn every_change_is_a_line_with_its_place() {
        let new = r#"
headers: ["B: 2", "A: 1"]
to_https: true
upstreams:
  shop.test:
    authorization: {type: basic, creds: "root:s3cret-2"}
    paths:
      /: {servers: [{address: "10.0.0.2:80", weight: 2}, "10.0.0.3:80"], healthcheck: {path: /h}}
      /new: {servers: ["10.0.0.5:80"]}
  more.test: {paths: {/: {servers: ["10.0.0.6:80"]}}}
"#;
        assert_eq!(
            changes(OLD, new),
            [
                "headers: the order changes",
                "route shop.test/: server 10.0.0.1:80 removed",
                "route shop.test/: server 10.0.0.2:80: {address: 10.0.0.2:80, weight: 1} -> {address: 10.0.0.2:80, weight: 2}",
                "route shop.test/: server 10.0.0.3:80 added",
                "route shop.test/: healthcheck added: {path: /h}",
                "route shop.test/old removed",
                "route shop.test/new added: {servers: [10.0.0.5:80]}",
                "host gone.test removed",
                "host more.test added",
                "route more.test/ added: {servers: [10.0.0.6:80]}",
                "to_https added: true",
            ]
        );
        assert_eq!(changes(OLD, OLD), Vec::<String>::new());
    }

    #[test]
    fn scalars_are_told_from_and_to_and_secrets_never() {
        let new = OLD.replace("30s", "60s").replace("s3cret-1", "s3cret-3");
        assert_eq!(changes(OLD, &new), ["route shop.test/old: timeout: 30s -> 60s"]);
        let new = OLD.replace("creds: \"root:s3cret-1\"", "data: s3cret-4");
        let told = changes(OLD, &new);
        assert_eq!(told, ["host shop.test: authorization.creds removed", "host shop.test: authorization.data added: <redacted>"]);
    }

    #[test]
    fn what_stands_in_quotes_is_no_structure() {
        let old = "upstreams: {'a\"b:c': {paths: {'/x: -': {servers: [], headers: [\"X: \\\"1\\\\\\n- y: z\"], empty: {}, none: null}}}}";
        let new = old.replace("- y", "- n").replace("none: null", "none: ''").replace("empty: {}", "empty: {k: []}");
        assert_eq!(
            changes(old, &new),
            [
                "route a\"b:c/x: -: headers: X: \"1\\\n- y: z removed",
                "route a\"b:c/x: -: headers: X: \"1\\\n- n: z added",
                "route a\"b:c/x: -: empty.k added: []",
                "route a\"b:c/x: -: none added: ",
            ]
        );
        assert_eq!(changes("", old).len(), 2);
        assert_eq!(changes(old, "{}"), ["host a\"b:c removed"]);
    }

    #[test]
    fn hosts_at_the_top_are_hosts() {
        let old = "shop.test: {paths: {/: {servers: [a]}}}";
        assert_eq!(changes(old, &old.replace("[a]", "[b]")), ["route shop.test/: server a removed", "route shop.test/: server b added"]);
    }
}
