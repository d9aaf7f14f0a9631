//! How texts, paths, headers and query parameters are compared: by routes and by the permissions of intentions alike.

use std::{borrow::Cow, fmt, sync::Arc};

use http::HeaderMap;
use serde::Serialize;

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
    /// The value of a header, several fields joined by `,` as Envoy compares them. `host`, `:authority`, `:path` and `:method` name the
    /// request's own parts. Bytes that are no UTF-8 stay bytes.
    pub fn header(&self, name: &str) -> Option<Cow<'a, [u8]>> {
        match name {
            "host" | ":authority" => return Some(Cow::Borrowed(self.authority.as_bytes())),
            ":method" => return Some(Cow::Borrowed(self.method.as_bytes())),
            ":path" => {
                return Some(match self.query {
                    None => Cow::Borrowed(self.path.as_bytes()),
                    Some(query) => Cow::Owned(format!("{}?{query}", self.path).into_bytes()),
                });
            }
            _ => {}
        }
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?.as_bytes();
        match values.next() {
            None => Some(Cow::Borrowed(first)),
            Some(second) => {
                let all: Vec<&[u8]> = [first, second.as_bytes()].into_iter().chain(values.map(|v| v.as_bytes())).collect();
                Some(Cow::Owned(all.join(&b","[..])))
            }
        }
    }
}

/// An RE2 expression that must match the whole value.
#[derive(Clone)]
pub struct Regex {
    source: Arc<str>,
    compiled: regex::bytes::Regex,
}

impl Regex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(source: &str) -> Result<Self, String> {
        let compiled = regex::bytes::Regex::new(&format!(r"\A(?:{source})\z"))
            .map_err(|e| e.to_string().lines().last().unwrap_or("not a regular expression").to_owned())?;
        Ok(Self { source: source.into(), compiled })
    }

    /// Whether it matches the whole of `value`.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.compiled.is_match(value)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Regex {}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for Regex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
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
    /// Whether the request passes.
    pub fn is_match(&self, request: &RequestView<'_>) -> bool {
        match (request.header(&self.name), &self.value) {
            (found, None) => found.is_some() != self.invert,
            (None, Some(_)) => false,
            (Some(value), Some(test)) => test.is_match(&value, self.ignore_case) != self.invert,
        }
    }
}

/// A test of a query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    /// The parameter's name.
    pub name: Arc<str>,
    /// The test of its (first) value; `None` is "it is there".
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
