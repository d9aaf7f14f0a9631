//! The one form of a path: what policy compares, routes match and the app receives.

use std::borrow::Cow;

use serde::Serialize;
use thiserror::Error;

/// What is done with `%2F`, `%2f`, `%5C` and `%5c` in a path (`mesh.HTTP.Incoming.RequestNormalization.PathWithEscapedSlashesAction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EscapedSlashes {
    /// Left as they are (also `IMPLEMENTATION_SPECIFIC_DEFAULT`, as in Envoy).
    #[default]
    Keep,
    /// The request is refused with 400.
    Reject,
    /// They are decoded and the client is sent to the new path (307).
    UnescapeAndRedirect,
    /// They are decoded.
    UnescapeAndForward,
}

/// What is done with a header whose name has an underscore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Underscores {
    /// Nothing.
    #[default]
    Allow,
    /// The request is refused with 400.
    Reject,
    /// The header is dropped.
    Drop,
}

/// How requests are brought into their one form (`mesh.HTTP.Incoming.RequestNormalization`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Normalization {
    /// Dot segments, backslashes and needlessly escaped characters are resolved; on unless `InsecureDisablePathNormalization`.
    pub path: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// What is done with escaped slashes.
    pub escaped_slashes: EscapedSlashes,
    /// What is done with header names with underscores.
    pub underscores: Underscores,
}

impl Default for Normalization {
    fn default() -> Self {
        Self { path: true, merge_slashes: false, escaped_slashes: EscapedSlashes::Keep, underscores: Underscores::Allow }
    }
}

/// A request target in its one form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalized<'a> {
    /// Path and query; borrowed when nothing had to change.
    pub path_and_query: Cow<'a, str>,
    /// The client is to be sent there with 307 instead of being served.
    pub redirect: bool,
}

/// Why a request has no form that is safe to compare: it is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// It has a fragment, which is no part of a request (RFC 9112, section 3.2).
    #[error("the request target has a fragment")]
    Fragment,
    /// It has bytes that are no visible ASCII (RFC 3986, section 2).
    #[error("the request target has bytes that are not visible ASCII")]
    NotVisible,
    /// It does not begin with a slash.
    #[error("the request target is no path")]
    NotPath,
    /// Its path has `%00`.
    #[error("the path has an escaped NUL")]
    EscapedNul,
    /// Its path has an escaped slash or backslash, which the mesh entry refuses.
    #[error("the path has an escaped slash, which the mesh entry refuses")]
    EscapedSlash,
    /// A header's name has an underscore, which the mesh entry refuses.
    #[error("a header's name has an underscore, which the mesh entry refuses")]
    Underscore,
}

/// Brings a request target (path and query as received, or `*`) into its one form. The query is never touched.
///
/// The order is Envoy's: escaped slashes, then dot segments, backslashes and escapes (`rules.path`), then runs of slashes. The result
/// is a fixed point: normalised again it stays as it is. Where Envoy's is not, ours is stricter; `docs/routing.md` lists the cases.
///
/// # Errors
/// [`Rejected`], also with normalisation switched off when the target is no path at all.
pub fn normalize<'a>(target: &'a str, rules: &Normalization) -> Result<Normalized<'a>, Rejected> {
    let unchanged = Normalized { path_and_query: Cow::Borrowed(target), redirect: false };
    if target == "*" {
        return Ok(unchanged);
    }
    let (path_end, plain) = scan(target.as_bytes(), rules)?;
    if plain {
        return Ok(unchanged);
    }
    let (path, query) = target.split_at(path_end);
    let unescaped = if rules.escaped_slashes == EscapedSlashes::Keep { None } else { unescape_slashes(path) };
    if unescaped.is_some() && rules.escaped_slashes == EscapedSlashes::Reject {
        return Err(Rejected::EscapedSlash);
    }
    let redirect = unescaped.is_some() && rules.escaped_slashes == EscapedSlashes::UnescapeAndRedirect;
    let mut new = unescaped.map_or(Cow::Borrowed(path), Cow::Owned);
    if rules.path {
        new = Cow::Owned(resolve(&new)?);
    }
    if rules.merge_slashes {
        new = Cow::Owned(merge(&new));
    }
    if new == path {
        return Ok(unchanged);
    }
    Ok(Normalized { path_and_query: Cow::Owned(new.into_owned() + query), redirect })
}

/// Where the path ends, and whether it is certain that nothing in it changes.
fn scan(target: &[u8], rules: &Normalization) -> Result<(usize, bool), Rejected> {
    if target.first() != Some(&b'/') {
        return Err(Rejected::NotPath);
    }
    let mut path_end = target.len();
    let mut plain = true;
    let mut before = 0;
    for (at, &byte) in target.iter().enumerate() {
        match byte {
            b'#' => return Err(Rejected::Fragment),
            0..=b' ' | 0x7f.. => return Err(Rejected::NotVisible),
            _ if path_end < at => continue,
            b'?' => path_end = at,
            b'%' => plain = false,
            b'/' => plain &= !(rules.merge_slashes && before == b'/'),
            b'.' => plain &= !(rules.path && before == b'/'),
            _ => plain &= !(rules.path && (byte == b'\\' || is_unsafe(byte))),
        }
        before = byte;
    }
    Ok((path_end, plain))
}

/// The path with `%2F` and `%5C` decoded; none if it has neither. Decoding cannot make new ones: no slash is a part of an escape.
fn unescape_slashes(path: &str) -> Option<String> {
    const SLASHES: [(&str, &str); 4] = [("%2F", "/"), ("%2f", "/"), ("%5C", "\\"), ("%5c", "\\")];
    let present = SLASHES.iter().filter(|(escape, _)| path.contains(escape));
    present.fold(None, |path_so_far: Option<String>, (escape, slash)| Some(path_so_far.as_deref().unwrap_or(path).replace(escape, slash)))
}

/// Turns backslashes into slashes, decodes what needs no escape, escapes what must not stand bare, and removes dot segments.
fn resolve(path: &str) -> Result<String, Rejected> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len() + 8);
    out.push('/');
    let mut segment = out.len();
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'/' | b'\\' => {
                if !remove_dots(&mut out, segment) {
                    out.push('/');
                }
                segment = out.len();
                at += 1;
            }
            b'%' => {
                let (byte, next) = decoded(bytes, at);
                if escape(bytes, at) == Some(0) {
                    return Err(Rejected::EscapedNul);
                } else if byte != b'%' {
                    out.push(char::from(byte));
                    at = next;
                } else {
                    out.push_str(if forms_escape(bytes, at) { "%25" } else { "%" });
                    at += 1;
                }
            }
            _ if is_unsafe(byte) => {
                out += &format!("%{byte:02X}");
                at += 1;
            }
            _ => {
                out.push(char::from(byte));
                at += 1;
            }
        }
    }
    remove_dots(&mut out, segment);
    Ok(out)
}

/// Removes the last segment, which begins at `start`, if it is `.` or `..` (also with parameters, `..;a`, as servers of Java read it),
/// and for `..` the one before.
fn remove_dots(out: &mut String, start: usize) -> bool {
    let up = match out.get(start..).and_then(|segment| segment.split(';').next()) {
        Some(".") => false,
        Some("..") => true,
        _ => return false,
    };
    out.truncate(start);
    if up {
        let parent = out.get(..start - 1).and_then(|parents| parents.rfind('/')).unwrap_or(0);
        out.truncate(parent + 1);
    }
    true
}

/// The value of the escape at a place, if there is one.
fn escape(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let value = (bytes.get(at) == Some(&b'%')).then(|| Some(digit(at + 1)? * 16 + digit(at + 2)?))??;
    u8::try_from(value).ok()
}

/// The byte at a place, or what is escaped there if that needs no escape (RFC 3986, section 2.3); and where the next one begins.
fn decoded(bytes: &[u8], at: usize) -> (u8, usize) {
    match escape(bytes, at) {
        Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => (byte, at + 3),
        _ => (bytes.get(at).copied().unwrap_or_default(), at + 1),
    }
}

/// Whether a percent sign that begins no escape would begin one once what follows is decoded: `%%32%65`.
fn forms_escape(bytes: &[u8], at: usize) -> bool {
    let (first, next) = decoded(bytes, at + 1);
    let (second, _) = decoded(bytes, next);
    escape(bytes, at).is_none() && first.is_ascii_hexdigit() && second.is_ascii_hexdigit()
}

/// What Envoy escapes although clients send it bare.
fn is_unsafe(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// Makes one slash of each run.
fn merge(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests;
