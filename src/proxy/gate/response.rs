//! What an endpoint may answer. Pingora's parser (0.9.1) is lenient here too: it takes equal lengths, any list of transfer codings, and heads of 1 MiB. It
//! unfolds folded fields, and refuses control characters.

use http::{
    StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use pingora_http::ResponseHeader;

/// Longest head of an answer, names and values, bytes: Envoy's default.
const LONGEST: usize = 60 * 1024;
/// Most interim answers (1xx) before the answer to a request.
const INTERIM: u8 = 16;

/// Counts another interim answer in `count`.
///
/// # Errors
/// What is wrong, once there are too many.
pub fn interim(count: &mut u8) -> Result<(), &'static str> {
    *count += 1;
    if *count > INTERIM { Err("interim answers without end") } else { Ok(()) }
}

/// Checks the head of an answer, and takes out of it what could not be meant: an answer without body has no framing.
///
/// # Errors
/// What is wrong. The endpoint's connection must not be used again.
pub fn check(head: &mut ResponseHeader) -> Result<(), &'static str> {
    let long = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>() > LONGEST;
    if long {
        return Err("its head is too long");
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (head.version != Version::HTTP_11 || codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err("a Transfer-Encoding other than chunked");
    }
    let mut lengths = head.headers.get_all(CONTENT_LENGTH).iter();
    if !lengths.next().is_none_or(|length| super::is_length(length.as_bytes())) || lengths.next().is_some() {
        return Err("a Content-Length that is not one plain number");
    }
    if matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        head.remove_header(&TRANSFER_ENCODING);
    }
    if head.status == StatusCode::NO_CONTENT {
        head.remove_header(&CONTENT_LENGTH);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, status: u16, fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).unwrap();
        head.set_version(version);
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn ordinary_answers_pass() {
        for (version, fields) in [
            (Version::HTTP_11, vec![]),
            (Version::HTTP_11, vec![("content-length", "0")]),
            (Version::HTTP_11, vec![("transfer-encoding", "Chunked"), ("x", "\tJ\u{fc}rgen")]),
            (Version::HTTP_10, vec![("content-length", "5")]),
            (Version::HTTP_2, vec![("content-length", "5")]),
        ] {
            assert_eq!(check(&mut head(version, 200, &fields)), Ok(()), "{fields:?}");
        }
    }

    #[test]
    fn what_clients_read_in_two_ways_is_refused() {
        let long = "x".repeat(LONGEST);
        for fields in [
            vec![("content-length", "5"), ("content-length", "5")],
            vec![("content-length", "5, 5")],
            vec![("content-length", "+5")],
            vec![("content-length", "")],
            vec![("transfer-encoding", "identity, chunked")],
            vec![("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            vec![("transfer-encoding", "gzip")],
            vec![("x", &long)],
        ] {
            assert!(check(&mut head(Version::HTTP_11, 200, &fields)).is_err(), "{fields:?}");
        }
        assert!(check(&mut head(Version::HTTP_10, 200, &[("transfer-encoding", "chunked")])).is_err());
    }

    #[test]
    fn an_answer_without_body_loses_its_framing() {
        let mut empty = head(Version::HTTP_11, 204, &[("transfer-encoding", "chunked"), ("x", "1")]);
        assert_eq!((check(&mut empty), empty.headers.len()), (Ok(()), 1));
        let mut unchanged = head(Version::HTTP_11, 304, &[("content-length", "5")]);
        assert_eq!((check(&mut unchanged), unchanged.headers.len()), (Ok(()), 1));
    }

    #[test]
    fn interim_answers_end() {
        let mut count = 0;
        assert!((0..INTERIM).all(|_| interim(&mut count).is_ok()));
        assert!(interim(&mut count).is_err());
    }
}
