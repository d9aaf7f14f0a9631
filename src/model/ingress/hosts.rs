//! Names and paths: which route takes a request.

use std::{borrow::Cow, collections::HashMap, net::Ipv6Addr};

use serde::{Serialize, Serializer};

use crate::model::path::{EscapedSlashes, Normalization, Underscores};

/// How requests of an ingress listener are brought into their one form before a route is looked for: routes, policy and servers see the same path. Escaped
/// slashes stay, but may not lead elsewhere.
pub const NORMALIZATION: Normalization =
    Normalization { path: true, merge_slashes: true, escaped_slashes: EscapedSlashes::Keep, underscores: Underscores::Allow };

/// The hosts of a routing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hosts {
    exact: HashMap<Box<str>, Paths>,
    /// By what follows `*.`.
    wildcard: HashMap<Box<str>, Paths>,
    default: Option<Paths>,
}

impl Hosts {
    /// Adds a host by its name in the file: `shop.example`, `*.shop.example`, `[::1]`, or `DEFAULT` or `*` for every other. Gives back the
    /// paths of the same host if it was there already.
    pub fn insert(&mut self, name: &str, paths: Paths) -> Option<Paths> {
        let name = canonical(name);
        match name.strip_prefix("*.") {
            _ if *name == *"*" || *name == *"default" => self.default.replace(paths),
            Some(rest) => self.wildcard.insert(rest.into(), paths),
            None => self.exact.insert(name.into(), paths),
        }
    }

    /// The paths of the host that an authority (`name`, `name:port`, `[v6]:port`) names: exact, then `*.name` for one label, then the one for
    /// every other. Case, port and a trailing dot do not matter.
    pub fn find(&self, authority: &str) -> Option<&Paths> {
        let name = canonical(authority);
        let wildcard = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(&*name).or_else(wildcard).or(self.default.as_ref())
    }

    /// The paths of a host by its name, `*.name` for one label; of every other host without one. Unlike in a file no name means every other: `default` may
    /// be the name of a host.
    pub fn get(&self, name: Option<&str>) -> Option<&Paths> {
        let Some(name) = name.map(canonical) else { return self.default.as_ref() };
        match name.strip_prefix("*.") {
            Some(rest) => self.wildcard.get(rest),
            None => self.exact.get(&*name),
        }
    }

    /// The paths that [`Hosts::get`] gives, which are none if the host was not there.
    pub fn entry(&mut self, name: Option<&str>) -> &mut Paths {
        let Some(name) = name.map(canonical) else { return self.default.get_or_insert_default() };
        match name.strip_prefix("*.") {
            Some(rest) => self.wildcard.entry(rest.into()).or_default(),
            None => self.exact.entry(name.into()).or_default(),
        }
    }

    /// All hosts by their names in the file, in no order; the one for every other is `DEFAULT`.
    pub fn iter(&self) -> impl Iterator<Item = (String, &Paths)> {
        let exact = self.exact.iter().map(|(name, paths)| (name.to_string(), paths));
        let wildcard = self.wildcard.iter().map(|(rest, paths)| (format!("*.{rest}"), paths));
        exact.chain(wildcard).chain(self.default.iter().map(|paths| ("DEFAULT".to_owned(), paths)))
    }
}

/// A host in its one form: lower case, without port and trailing dot, an IPv6 address as RFC 5952 writes it.
pub fn canonical(authority: &str) -> Cow<'_, str> {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let shortest = address.parse().map(|address: Ipv6Addr| address.to_string());
        return Cow::Owned(format!("[{}]", shortest.unwrap_or_else(|_| address.to_ascii_lowercase())));
    }
    let name = authority.split(':').next().unwrap_or_default();
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) }
}

/// The paths of a host: a configured prefix, as written, and the place of its route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    routes: HashMap<Box<str>, usize>,
    longest: usize,
    /// Paths that stand for themselves alone, as Ingresses of Kubernetes can have them.
    exact: HashMap<Box<str>, usize>,
}

impl Paths {
    /// Adds a prefix. Gives back the place that it had already.
    pub fn insert(&mut self, prefix: &str, place: usize) -> Option<usize> {
        self.longest = self.longest.max(prefix.len());
        self.routes.insert(prefix.into(), place)
    }

    /// Adds a path that stands for itself alone, and goes before every prefix. Gives back the place that it had already.
    pub fn insert_exact(&mut self, path: &str, place: usize) -> Option<usize> {
        self.exact.insert(path.into(), place)
    }

    /// The place of this very prefix, or with `exact` of this path alone.
    pub fn get(&self, path: &str, exact: bool) -> Option<usize> {
        if exact { &self.exact } else { &self.routes }.get(path).copied()
    }

    /// The prefixes with their places, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.routes.iter().map(|(prefix, place)| (&**prefix, *place))
    }

    /// The route of a normalised path: the longest configured prefix at a `/` boundary. `/foo` takes `/foo`, `/foo/` and `/foo/x`, not
    /// `/foobar`; `/foo/` takes `/foo/` and `/foo/x`, not `/foo`.
    pub fn find(&self, path: &str) -> Option<usize> {
        if let Some(place) = self.exact.get(path) {
            return Some(*place);
        }
        if path.len() <= self.longest
            && let Some(place) = self.routes.get(path)
        {
            return Some(*place);
        }
        // A prefix ends before a slash or with it.
        let slashes = path.bytes().enumerate().take(self.longest + 1).filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
        let mut ends: Vec<usize> = slashes.collect();
        while let Some(at) = ends.pop() {
            let with = path.get(..=at).and_then(|prefix| self.routes.get(prefix));
            if let Some(place) = with.or_else(|| self.routes.get(path.get(..at)?)) {
                return Some(*place);
            }
        }
        None
    }
}

impl Serialize for Paths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let prefixes = self.routes.iter().map(|(prefix, place)| (prefix.to_string(), place));
        let exact = self.exact.iter().map(|(path, place)| (format!("= {path}"), place));
        let sorted: std::collections::BTreeMap<_, _> = prefixes.chain(exact).collect();
        serializer.collect_map(sorted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(prefixes: &[&str]) -> Paths {
        let mut paths = Paths::default();
        for (place, prefix) in prefixes.iter().enumerate() {
            assert_eq!(paths.insert(prefix, place), None);
        }
        paths
    }

    #[test]
    fn the_longest_prefix_at_a_slash_takes_a_path() {
        let table = paths(&["/", "/foo", "/foo/bar", "/dir/", "/a/b/c"]);
        for (path, place) in [
            ("/", 0),
            ("/foo", 1),
            ("/foo/", 1),
            ("/foo/x/y", 1),
            ("/foobar", 0),
            ("/foo/bar", 2),
            ("/foo/bar/", 2),
            ("/foo/barn", 1),
            ("/dir", 0),
            ("/dir/", 3),
            ("/dir/x", 3),
            ("/a/b", 0),
            ("/a/b/c/d", 4),
            ("/FOO", 0),
        ] {
            assert_eq!(table.find(path), Some(place), "{path}");
        }
        assert_eq!(paths(&["/foo"]).find("/bar"), None);
        assert_eq!(paths(&["/foo"]).find(&"/x".repeat(10_000)), None);
    }

    #[test]
    fn a_path_that_stands_for_itself_goes_before_prefixes() {
        let mut table = paths(&["/", "/foo"]);
        assert_eq!(table.insert_exact("/foo", 7), None);
        assert_eq!((table.get("/foo", true), table.get("/foo", false), table.get("/bar", true)), (Some(7), Some(1), None));
        for (path, place) in [("/foo", 7), ("/foo/", 1), ("/foo/x", 1), ("/fo", 0)] {
            assert_eq!(table.find(path), Some(place), "{path}");
        }
        assert_eq!(serde_json::json!(table).to_string(), r#"{"/":0,"/foo":1,"= /foo":7}"#);
    }

    #[test]
    fn hosts_match_without_case_port_and_trailing_dot() {
        let mut hosts = Hosts::default();
        for (place, name) in ["A.test", "*.a.test", "[::1]", "DEFAULT"].into_iter().enumerate() {
            assert_eq!(hosts.insert(name, paths(&[&format!("/{place}")])), None);
        }
        let taken = |authority: &str| (0..4).find(|place| hosts.find(authority).unwrap().find(&format!("/{place}")).is_some());
        for (authority, place) in [
            ("a.test", 0),
            ("A.TEST.:8080", 0),
            ("b.a.test", 1),
            ("c.b.a.test", 3),
            (".a.test", 1),
            ("[::1]:80", 2),
            ("[::1]", 2),
            ("[0:0::0001]:80", 2),
            ("[::FFFF]", 3),
            ("[::2]", 3),
            ("other", 3),
            ("", 3),
        ] {
            assert_eq!(taken(authority), Some(place), "{authority}");
        }
        assert_eq!(
            hosts.insert("*", paths(&[])),
            Some(paths(&["/3"])).map(|_| {
                let mut p = Paths::default();
                p.insert("/3", 0);
                p
            })
        );
        assert_eq!(Hosts::default().find("a"), None);
    }

    #[test]
    fn a_host_that_is_no_name_of_a_file_is_never_every_other() {
        let mut hosts = Hosts::default();
        for (place, name) in [Some("default"), Some("*"), Some("*.a.test"), None].into_iter().enumerate() {
            hosts.entry(name).insert("/", place);
            assert_eq!(hosts.get(name), Some(&*hosts.clone().entry(name)), "{name:?}");
        }
        for (authority, place) in [("default", 0), ("DEFAULT:80", 0), ("b.a.test", 2), ("other", 3), ("1.2.3.4", 3)] {
            assert_eq!(hosts.find(authority).unwrap().find("/"), Some(place), "{authority}");
        }
    }
}
