//! How long a request's body may be.

use std::time::Duration;

use http::header::CONTENT_LENGTH;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use crate::proxy::refusal::{Answer, Refusal};

/// How long the rest of what a refused client sends is read over, so that it sees our answer before the connection is reset.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it, bytes.
const LINGER_BYTES: usize = 16 << 20;

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

/// Reads over what still comes from a client whose connection ends with its answer: were there unread bytes, the kernel would reset the connection
/// and the client might lose the answer.
pub async fn linger(session: &mut Session) {
    let mut left = LINGER_BYTES;
    let reading = async {
        while let Ok(Some(chunk)) = session.read_request_body().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                return;
            }
        }
    };
    // A client that goes on for longer does not wait for an answer.
    let _ = tokio::time::timeout(LINGER, reading).await;
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
