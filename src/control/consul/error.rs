//! Why there is no answer, in words for people.

use std::time::Duration;

use crate::model::secret::Secret;

/// The largest answer that is read, bytes.
pub(super) const BODY_LIMIT: usize = 64 << 20;

/// How much of an error's text is kept, in characters.
const TEXT_LIMIT: usize = 200;

/// Why there is no answer. None of its texts holds the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to the agent: {0}")]
    Connect(String),
    /// The agent is silent for longer than it may hold the query.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The agent refuses or fails.
    #[error("the agent answered {status}: {text}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of its text.
        text: String,
    },
    /// The answer is not what the query's answers look like.
    #[error("the answer cannot be read: {0}")]
    Decode(String),
    /// The answer is larger than 64 MiB.
    #[error("the answer is larger than {} MiB", BODY_LIMIT >> 20)]
    TooLarge,
    /// The token file cannot be read or holds what cannot be a token.
    #[error("token file {path}: {why}")]
    TokenFile {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

/// The beginning of an answer's text, in one line and without the token.
pub(super) fn excerpt(body: &[u8], token: Option<&Secret>) -> String {
    let text = String::from_utf8_lossy(body);
    let text = match token.map(Secret::expose) {
        Some(token) if !token.is_empty() => text.replace(token, "<redacted>"),
        _ => text.into_owned(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(TEXT_LIMIT).collect()
}

pub(super) fn transport(error: &reqwest::Error, limit: Duration) -> Error {
    if error.is_connect() {
        Error::Connect(chain(error))
    } else if error.is_timeout() {
        Error::Timeout(limit)
    } else {
        Error::Broken(chain(error))
    }
}

/// An error with its causes, which hold the useful part; without the URL, which is long and known.
pub(in crate::control) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let text = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    if text.is_empty() { error.to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_short_line_without_the_token() {
        let token = Secret::new("s3cret");
        assert_eq!(
            excerpt(b"Permission denied:\n token s3cret lacks \xff", Some(&token)),
            "Permission denied: token <redacted> lacks \u{fffd}"
        );
        assert_eq!(excerpt("x".repeat(999).as_bytes(), None).len(), TEXT_LIMIT);
    }
}
