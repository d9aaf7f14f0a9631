//! How texts, paths, headers and query parameters are compared: by routes and by the permissions of intentions alike.

mod regex;

use std::{borrow::Cow, fmt, sync::Arc};

use http::HeaderMap;
use serde::Serialize;

pub use self::regex::Regex;

/// A request as routes and permissions see it. The path is in its one normalised form.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The path without the query, normalised as the listener wants it.
    pub path: &'a str,
    /// What follows `?`, if there is one.
    pub query: Option<&'a str>,
    /// `:authority` or `Host`.
    pub authority: &'a str,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestView<'a> {
    /// The value of a header, the first line if there are several. `host` and `:authority`, `:path` (with the query) and `:method` name the
    /// request's own parts. Bytes that are no UTF-8 stay bytes.
    pub fn header(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        self.own_part(name).or_else(|| self.headers.get(name).map(|line| Cow::Borrowed(line.as_bytes().trim_ascii())))
    }

    /// Whether a line of a header passes a test; `None` without such a header. Lines are neither joined nor split, as in Envoy.
    fn any_line(&self, name: &str, test: impl Fn(&[u8]) -> bool) -> Option<bool> {
        if let Some(value) = self.own_part(name) {
            return Some(test(&value));
        }
        let mut lines = self.headers.get_all(name).iter().map(|line| line.as_bytes().trim_ascii()).peekable();
        lines.peek()?;
        Some(lines.any(test))
    }

    fn own_part(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        match name {
            "host" | ":authority" => Some(Cow::Borrowed(self.authority.as_bytes())),
            ":method" => Some(Cow::Borrowed(self.method.as_bytes())),
            ":path" => Some(match self.query {
                None => Cow::Borrowed(self.path.as_bytes()),
                Some(query) => Cow::Owned([self.path, "?", query].concat().into_bytes()),
            }),
            _ => None,
        }
    }
}

/// A test of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TextMatch {
    /// The whole text.
    Exact(Arc<str>),
    /// How it begins.
    Prefix(Arc<str>),
    /// How it ends.
    Suffix(Arc<str>),
    /// What it holds.
    Contains(Arc<str>),
    /// The whole text, by expression.
    Regex(Regex),
}

impl TextMatch {
    /// Whether `value` passes. `ignore_case` is of ASCII, and not applied to expressions.
    pub fn is_match(&self, value: &[u8], ignore_case: bool) -> bool {
        let same = |a: &[u8], b: &[u8]| if ignore_case { a.eq_ignore_ascii_case(b) } else { a == b };
        match self {
            Self::Exact(text) => same(value, text.as_bytes()),
            Self::Prefix(text) => value.get(..text.len()).is_some_and(|head| same(head, text.as_bytes())),
            Self::Suffix(text) => {
                value.len().checked_sub(text.len()).and_then(|at| value.get(at..)).is_some_and(|t| same(t, text.as_bytes()))
            }
            Self::Contains(text) => text.is_empty() || value.windows(text.len()).any(|part| same(part, text.as_bytes())),
            Self::Regex(regex) => regex.is_match(value),
        }
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "exact {text:?}"),
            Self::Prefix(text) => write!(f, "prefix {text:?}"),
            Self::Suffix(text) => write!(f, "suffix {text:?}"),
            Self::Contains(text) => write!(f, "contains {text:?}"),
            Self::Regex(regex) => write!(f, "regex {regex}"),
        }
    }
}

/// A test of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathMatch {
    /// The test: exact, prefix or regex.
    pub text: TextMatch,
    /// Whether case does not matter (not for expressions).
    pub ignore_case: bool,
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "path {}{}", self.text, ignoring_case(self.ignore_case))
    }
}

fn ignoring_case(ignore_case: bool) -> &'static str {
    if ignore_case { " in any case" } else { "" }
}

impl PathMatch {
    /// Whether a path without query passes.
    pub fn is_match(&self, path: &str) -> bool {
        self.text.is_match(path.as_bytes(), self.ignore_case)
    }
}

/// A test of a header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderMatch {
    /// The header's name, lower case.
    pub name: Arc<str>,
    /// The test of its value; `None` is "it is there".
    pub value: Option<TextMatch>,
    /// Whether case of the value does not matter.
    pub ignore_case: bool,
    /// The test must fail instead. An absent header passes only the inverted test of presence, as in Envoy.
    pub invert: bool,
}

impl HeaderMatch {
    /// Whether the request passes. Of several lines one must pass the test, or none if it is inverted.
    pub fn is_match(&self, request: &RequestView<'_>) -> bool {
        match &self.value {
            None => request.any_line(&self.name, |_| true).is_some() != self.invert,
            Some(test) => request.any_line(&self.name, |line| test.is_match(line, self.ignore_case)).is_some_and(|any| any != self.invert),
        }
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.invert { "not " } else { "" };
        match &self.value {
            None => write!(f, "header {} {not}present", self.name),
            Some(test) => write!(f, "header {} {not}{test}{}", self.name, ignoring_case(self.ignore_case)),
        }
    }
}

/// A test of a query parameter. As in Envoy names and values are compared as they were sent, without decoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    /// The parameter's name.
    pub name: Arc<str>,
    /// The test of its first value (empty for `?name`); `None` is "it is there".
    pub value: Option<TextMatch>,
}

impl QueryMatch {
    /// Whether a query passes. As in Envoy, names and values are compared as they were sent, without decoding; `a` alone is `a` with an
    /// empty value; of several values the first counts.
    pub fn is_match(&self, query: Option<&str>) -> bool {
        let mut parameters = query.unwrap_or_default().split('&').map(|field| field.split_once('=').unwrap_or((field, "")));
        match (parameters.find(|(name, _)| *name == &*self.name), &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some((_, value)), Some(test)) => test.is_match(value.as_bytes(), false),
        }
    }
}

impl fmt::Display for QueryMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            None => write!(f, "query parameter {} present", self.name),
            Some(test) => write!(f, "query parameter {} {test}", self.name),
        }
    }
}

#[cfg(test)]
mod tests;
