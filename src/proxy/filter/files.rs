//! Files as answers: a folder, and nothing outside it.
//!
//! `tower-http` reads, compares and cuts; every path that it opens is opened by `root`, beneath the folder. What is ours: which paths name a file at
//! all, index and listing, and how an answer is sent.

mod listing;
mod root;

use std::{future::poll_fn, io, path::PathBuf, pin::Pin, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
        IF_UNMODIFIED_SINCE, LAST_MODIFIED, LOCATION, RANGE,
    },
};
use hyper::body::Body;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use pingora_core::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use tower_http::services::{ServeDir, fs::ServeFileSystemResponseBody};

use self::root::Root;
use crate::{
    model::ingress::filters::Files,
    proxy::refusal::{Answer, Refusal},
};

/// What of a path's segment is encoded in what we write: all but what RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// How long a client may take nothing of a file that is being sent.
const STUCK: Duration = Duration::from_secs(60);
/// What of a request a file's answer depends on.
const CONDITIONS: [HeaderName; 6] = [ACCEPT_ENCODING, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, RANGE];

/// A file as an answer, opened and not read yet.
pub struct FileAnswer {
    /// Its head.
    pub head: ResponseHeader,
    body: ServeFileSystemResponseBody,
    /// Of its body, bytes.
    length: u64,
}

/// Finds what a request for a folder's file is answered with.
///
/// # Errors
/// Every other answer: redirects to a folder's own path, listings, 404 for what is not there or not to be seen, 405.
pub async fn find(files: &Files, request: &RequestHeader) -> Result<FileAnswer, Refusal> {
    const METHODS: &str = "GET, HEAD, OPTIONS";
    match request.method {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return Err(Answer::new(204, "files_options").header(ALLOW, METHODS).into()),
        _ => return Err(Answer::new(405, "files_method").header(ALLOW, METHODS).body("method not allowed\n").into()),
    }
    let path = request.uri.path();
    let mut segments = segments(path, &files.strip).ok_or_else(not_found)?;
    let root = Root::open(files.root.clone()).await.map_err(|why| {
        tracing::warn!(folder = %files.root.display(), "the folder cannot be opened: {why}");
        not_found()
    })?;
    let found = root.kind(relative(&segments)).await.map_err(unread)?;
    if found.is_dir() {
        if !path.ends_with('/') {
            let query = request.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            // One slash: two would make the first segment a host.
            let location = format!("/{}/{query}", path.trim_start_matches('/'));
            return Err(Answer::new(301, "files_folder").header(LOCATION, location).into());
        }
        match index(files, &root, &segments).await {
            Some(index) => segments.push(index),
            None if files.listing => return Err(listing::answer(&root, relative(&segments), path).await),
            None => return Err(not_found()),
        }
    } else if path.ends_with('/') || !found.is_file() {
        return Err(not_found());
    }
    read(files, root, request, &segments).await
}

fn not_found() -> Refusal {
    Answer::new(404, "file_not_found").body("not found\n").into()
}

fn unread(why: io::Error) -> Refusal {
    match why.kind() {
        io::ErrorKind::NotFound => not_found(),
        _ => {
            tracing::warn!(%why, "a file cannot be read");
            Refusal::Internal(format!("a file cannot be read: {why}"))
        }
    }
}

/// The decoded segments of a path below a route's prefix. `None` for what names no file: segments that begin with a dot (with them `.` and `..`),
/// and those with a slash, a backslash or NUL in them.
fn segments(path: &str, strip: &str) -> Option<Vec<String>> {
    let strip = strip.trim_end_matches('/');
    let below = path.strip_prefix(strip).filter(|below| below.is_empty() || below.starts_with('/'))?;
    let decoded = below.split('/').filter(|segment| !segment.is_empty()).map(|segment| {
        let name = percent_decode_str(segment).decode_utf8().ok()?;
        let is_plain = !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        is_plain.then(|| name.into_owned())
    });
    decoded.collect()
}

fn relative(segments: &[String]) -> PathBuf {
    [".".to_owned()].iter().chain(segments).collect()
}

async fn index(files: &Files, root: &Root, folder: &[String]) -> Option<String> {
    for name in &files.index {
        let found = root.kind(relative(folder).join(&**name)).await;
        if found.is_ok_and(|found| found.is_file()) {
            return Some(name.to_string());
        }
    }
    None
}

/// Has the file opened, and what the client knows of it compared.
async fn read(files: &Files, root: Root, request: &RequestHeader, segments: &[String]) -> Result<FileAnswer, Refusal> {
    let path: String = segments.iter().flat_map(|segment| ["/".to_owned(), utf8_percent_encode(segment, SEGMENT).to_string()]).collect();
    let mut folder = ServeDir::with_backend("", root).append_index_html_on_directories(false);
    if files.precompressed {
        folder = folder.precompressed_br().precompressed_gzip().precompressed_zstd();
    }
    let mut ask = async |headers: HeaderMap| {
        let mut asked = http::Request::new(());
        *asked.method_mut() = request.method.clone();
        *asked.uri_mut() = path.parse().map_err(|_| not_found())?;
        *asked.headers_mut() = headers;
        folder.try_call(asked).await.map_err(unread)
    };
    let mut headers = HeaderMap::new();
    for name in CONDITIONS.iter().filter(|name| **name != RANGE || is_one_range(request)) {
        for value in request.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    let mut answer = ask(headers.clone()).await?;
    let ranged = matches!(answer.status(), StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE);
    // The last 99 bytes of a file that has 10 are all of it; tower-http (0.7) refuses them.
    let too_short = answer.status() == StatusCode::RANGE_NOT_SATISFIABLE && request.headers.get(RANGE).is_some_and(is_suffix);
    if too_short || ranged && !is_unchanged(request, answer.headers()) {
        headers.remove(RANGE);
        answer = ask(headers).await?;
    }
    if answer.status() == StatusCode::NOT_FOUND {
        return Err(not_found());
    }
    let (parts, body) = answer.into_parts();
    let internal = |_| Refusal::Internal("a file's head".to_owned());
    let mut head = ResponseHeader::build(parts.status, Some(parts.headers.len() + 2)).map_err(internal)?;
    for (name, value) in &parts.headers {
        head.append_header(name, value).map_err(internal)?;
    }
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or_default();
    if !parts.headers.contains_key(CONTENT_LENGTH) && parts.status != StatusCode::NOT_MODIFIED {
        head.insert_header(CONTENT_LENGTH, "0").map_err(internal)?;
    }
    if let Some(control) = &files.cache_control
        && (parts.status.is_success() || parts.status == StatusCode::NOT_MODIFIED)
    {
        head.insert_header(CACHE_CONTROL, &**control).map_err(internal)?;
    }
    Ok(FileAnswer { head, body, length })
}

/// Whether a request asks for one range of bytes. Everything else that `Range` may say is not looked at, and the answer is the whole file (RFC 9110,
/// section 14.2): several ranges at once are a way to make a server work.
fn is_one_range(request: &RequestHeader) -> bool {
    let mut lines = request.headers.get_all(RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let Some((first, last)) = line.to_str().ok().and_then(|line| line.strip_prefix("bytes=")?.split_once('-')) else { return false };
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() < 20;
    let ordered = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => first <= last,
        _ => true,
    };
    request.method == Method::GET && number(first) && number(last) && (!first.is_empty() || !last.is_empty()) && ordered
}

fn is_suffix(range: &HeaderValue) -> bool {
    range.as_bytes().starts_with(b"bytes=-")
}

/// Whether `If-Range` (RFC 9110, section 13.1.5), if there is one, speaks of the file as it is.
fn is_unchanged(request: &RequestHeader, answer: &HeaderMap) -> bool {
    let Some(known) = request.headers.get(IF_RANGE) else { return true };
    // The head of a 416 has the tag too; dates are compared as they were given.
    [ETAG, LAST_MODIFIED].iter().any(|name| answer.get(name) == Some(known))
}

impl FileAnswer {
    /// Sends it: no more of it is in memory than the client takes in.
    ///
    /// # Errors
    /// When the client is gone, or the file cannot be read to the length that was announced; the connection ends then.
    pub async fn send(self, session: &mut Session) -> Result<()> {
        let Self { head, mut body, length: mut left } = self;
        let empty = session.req_header().method == Method::HEAD || left == 0;
        session.set_write_timeout(Some(STUCK));
        session.write_response_header(Box::new(head), empty).await?;
        if empty {
            return Ok(());
        }
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.or_err(ErrorType::FileReadError, "reading a file")?;
            let Ok(mut chunk) = frame.into_data() else { continue };
            // A file that grows is sent as long as it was.
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            left -= chunk.len() as u64;
            write(session, chunk, left == 0).await?;
            if left == 0 {
                return Ok(());
            }
        }
        Error::e_explain(ErrorType::FileReadError, "a file became shorter while it was sent")
    }
}

async fn write(session: &mut Session, chunk: Bytes, end: bool) -> Result<()> {
    let chunk = if session.upstream_compression.is_enabled() {
        session.upstream_compression.response_body_filter(Some(&chunk), end)
    } else {
        Some(chunk)
    };
    match chunk {
        Some(chunk) if chunk.is_empty() && !end => Ok(()),
        chunk => session.write_response_body(chunk, end).await,
    }
}

#[cfg(test)]
mod tests;
