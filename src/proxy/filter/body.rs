//! How long a request's body may be.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, EXPECT};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::proxy::refusal::{Answer, Refusal};

/// How long the body of a refused request is read over.
const PATIENCE: Duration = Duration::from_secs(1);
/// How much of it, bytes.
const MOST: usize = 16 << 20;
/// Up to this announced length the connection is kept after a refusal, bytes.
const SMALL: u64 = 64 << 10;

/// Refuses a body whose announced length is over the limit, before a byte of it is read.
///
/// # Errors
/// 413.
pub fn check(limit: u64, request: &RequestHeader) -> Result<(), Refusal> {
    // The gate lets only plain numbers through; one that does not fit is too long for any limit.
    let announced = |length: &http::HeaderValue| length.to_str().map_or(u64::MAX, |digits| digits.parse().unwrap_or(u64::MAX));
    let announced = request.headers.get(CONTENT_LENGTH).map_or(0, announced);
    if announced > limit { Err(too_large()) } else { Ok(()) }
}

/// The answer to a body over the limit.
pub fn too_large() -> Refusal {
    Answer::new(413, "request_body_too_large").body("request body too large\n").into()
}

/// Whether the body of an HTTP/1 request is so short that reading it over costs less than a new connection, and the client sends it unasked.
pub fn is_small(request: &RequestHeader) -> bool {
    check(SMALL, request).is_ok() && request.headers.contains_key(CONTENT_LENGTH) && !request.headers.contains_key(EXPECT)
}

/// Reads over the body of a refused request. Before the answer, the connection can be kept then; after it, the client sees the answer: were there
/// unread bytes when the connection is closed, the kernel would reset it.
pub async fn discard(session: &mut Session) {
    let mut left = MOST;
    let reading = async {
        while let Ok(Some(chunk)) = session.read_request_body().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    // Who goes on for longer does not wait for an answer.
    let _ = tokio::time::timeout(PATIENCE, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_announced_length_is_compared() {
        for (length, limit, passes) in [
            (None, 0, true),
            (Some("0"), 0, true),
            (Some("1"), 0, false),
            (Some("10"), 10, true),
            (Some("11"), 10, false),
            (Some("99999999999999999999"), u64::MAX - 1, false),
        ] {
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            if let Some(length) = length {
                request.insert_header(CONTENT_LENGTH, length).unwrap();
            }
            assert_eq!(check(limit, &request).is_ok(), passes, "{length:?} under {limit}");
        }
    }
}
