//! What changes from one configuration to another, in words: `route shop.example/api: server 10.0.0.2:80 added`.
//!
//! What is compared is what is shown ([`super::shown`]), so that no secret comes into a change; one that is only another secret is none here.

use std::{borrow::Cow, collections::HashMap, path::Path};

use super::{
    fault::{Faults, Place},
    shown::shown,
    tree::{self, Key, Kind, Node},
};

/// The longest value that is written out, characters.
const LONGEST: usize = 200;

/// What changes from one configuration of routes to another, both as [`super::shown::shown`] gives them; a line each, in the order of the files.
pub fn between(old: &str, new: &str) -> Vec<String> {
    let tree = |text| Node::as_written(text, None).unwrap_or_else(|_| nothing());
    let mut out = Vec::new();
    compare(&Where::Top, &tree(old), &tree(new), &mut out);
    out
}

/// What changes from one `main.yaml` to another; it is read at a start only.
///
/// # Errors
/// [`Faults`] with a file that cannot be read.
pub fn of_main(old: &Path, new: &Path) -> Result<Vec<String>, Faults> {
    let shown = |path: &Path| Ok(shown(&[(path.to_owned(), tree::read(path)?)]));
    let changes = between(&shown(old)?, &shown(new)?);
    Ok(changes.into_iter().map(|change| format!("main.yaml: {change} (from the next start on)")).collect())
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
    fn of(&self, key: &str, value: &Node) -> Self {
        match self {
            Self::Top if key == "upstreams" => Self::Hosts,
            // The oldest layout has hosts at the top.
            Self::Top if entries(value).iter().any(|(key, _)| key.text == "paths") => Self::Host(key.to_owned()),
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

fn nothing() -> Node {
    Node { place: Place::start(None), kind: Kind::Null }
}

fn entries(node: &Node) -> &[(Key, Node)] {
    if let Kind::Map(entries) = &node.kind { entries } else { &[] }
}

fn compare(at: &Where, old: &Node, new: &Node, out: &mut Vec<String>) {
    if old.kind == new.kind {
        return;
    }
    match (at, &old.kind, &new.kind) {
        (Where::Host(host), Kind::Null, _) => {
            out.push(format!("host {host} added"));
            maps(at, old, new, out);
        }
        (Where::Host(host), _, Kind::Null) => out.push(format!("host {host} removed")),
        (Where::Top | Where::Hosts | Where::Host(_) | Where::Paths(_), _, _) => maps(at, old, new, out),
        (Where::Route(name) | Where::Setting(name), Kind::Null, _) => out.push(format!("{name} added: {}", short(&inline(new)))),
        (Where::Route(name) | Where::Setting(name), _, Kind::Null) => out.push(format!("{name} removed")),
        (Where::Route(_) | Where::Setting(_), Kind::Map(_), Kind::Map(_)) => maps(at, old, new, out),
        (Where::Setting(name), Kind::List(old), Kind::List(new)) => lists(name, old, new, out),
        (Where::Route(name) | Where::Setting(name), _, _) => {
            out.push(format!("{name}: {} -> {}", short(&inline(old)), short(&inline(new))))
        }
    }
}

fn maps(at: &Where, old: &Node, new: &Node, out: &mut Vec<String>) {
    let absent = nothing();
    let by_key = |node| entries(node).iter().map(|(key, value)| (key.text.as_str(), value)).collect::<HashMap<_, _>>();
    let (before, after) = (by_key(old), by_key(new));
    for (Key { text, .. }, value) in entries(old) {
        compare(&at.of(text, value), value, after.get(text.as_str()).copied().unwrap_or(&absent), out);
    }
    for (Key { text, .. }, value) in entries(new).iter().filter(|(key, _)| !before.contains_key(key.text.as_str())) {
        compare(&at.of(text, value), &absent, value, out);
    }
}

/// Lists are compared by what their items are: servers by their addresses, others as they stand.
fn lists(name: &str, old: &[Node], new: &[Node], out: &mut Vec<String>) {
    let name = name.strip_suffix("servers").map_or_else(|| format!("{name}:"), |of| format!("{of}server"));
    let by_identity = |list: &[Node]| list.iter().map(|item| (identity(item), inline(item))).collect::<HashMap<_, _>>();
    let (before, after) = (by_identity(old), by_identity(new));
    let unchanged = out.len();
    let gone = old.iter().map(identity).filter(|identity| !after.contains_key(identity));
    out.extend(gone.map(|identity| format!("{name} {identity} removed")));
    for item in new {
        let identity = identity(item);
        match before.get(&identity) {
            None => out.push(format!("{name} {} added", short(&inline(item)))),
            Some(known) if *known != inline(item) => out.push(format!("{name} {identity}: {} -> {}", short(known), short(&inline(item)))),
            Some(_) => {}
        }
    }
    if out.len() == unchanged {
        out.push(format!("{name} the order changes"));
    }
}

/// What makes an item of a list the same one.
fn identity(node: &Node) -> String {
    entries(node).iter().find(|(key, _)| key.text == "address").map_or_else(|| inline(node), |(_, address)| inline(address))
}

/// A text, shortened.
fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()).into(),
        None => text.into(),
    }
}

/// A value in one line.
fn inline(node: &Node) -> String {
    let joined = |items: Vec<String>| items.join(", ");
    match &node.kind {
        Kind::Null => "null".to_owned(),
        Kind::Bool(value) => value.to_string(),
        Kind::Integer(value) => value.to_string(),
        Kind::Float(value) => format!("{value:?}"),
        Kind::Text { text, .. } => text.clone(),
        Kind::List(items) => format!("[{}]", joined(items.iter().map(inline).collect())),
        Kind::Map(entries) => {
            format!("{{{}}}", joined(entries.iter().map(|(key, value)| format!("{}: {}", key.text, inline(value))).collect()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

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
    fn hosts_at_the_top_are_hosts() {
        let old = "shop.test: {paths: {/: {servers: [a]}}}";
        assert_eq!(changes(old, &old.replace("[a]", "[b]")), ["route shop.test/: server a removed", "route shop.test/: server b added"]);
    }
}
