//! What a route tests in a request, one by one.

use std::{fmt, sync::Arc};

use crate::model::matching::{HeaderMatch, PathMatch, QueryMatch, RequestView};

/// One test of a route. Shown as words, for example `path prefix "/v2"` or `method GET or HEAD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test<'a> {
    /// Of the path.
    Path(&'a PathMatch),
    /// Of the method, which must be one of these.
    Method(&'a [Arc<str>]),
    /// Of a header.
    Header(&'a HeaderMatch),
    /// Of a query parameter.
    Query(&'a QueryMatch),
}

impl Test<'_> {
    pub(super) fn holds(&self, request: &RequestView<'_>) -> bool {
        match self {
            Self::Path(path) => path.is_match(request.path),
            Self::Method(methods) => methods.iter().any(|method| **method == *request.method),
            Self::Header(header) => header.is_match(request),
            Self::Query(parameter) => parameter.is_match(request.query),
        }
    }
}

impl fmt::Display for Test<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Method(methods) => write!(f, "method {}", methods.join(" or ")),
            Self::Header(header) => header.fmt(f),
            Self::Query(parameter) => parameter.fmt(f),
        }
    }
}
