//! What concerns the hop to us alone ends here, before filters add anything (RFC 9110, sections 7.6.1 and 7.8). Pingora (0.9.1) would do so on the way to
//! the endpoint, and take away what we wrote ourselves under a name that the client nominated.

use http::{
    HeaderValue, Method, Version,
    header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE},
};
use pingora_http::RequestHeader;

use crate::proxy::refusal::Refusal;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const NOT_THESE: Refusal = Refusal::BadRequest("Connection names what is not the last hop's (RFC 9110, section 7.6.1)");

/// Removes the fields that `Connection` names, and it, but for the upgrade to a WebSocket (RFC 6455), which has no body. A request that asks for another
/// protocol goes on as if it had not asked.
///
/// # Errors
/// [`Refusal::BadRequest`] where it names the host, the ways a request came, or nothing that could be a field.
pub fn leave(head: &mut RequestHeader) -> Result<(), Refusal> {
    let mut upgrade = false;
    if head.headers.contains_key(CONNECTION) {
        let mut named = Vec::new();
        for list in head.headers.get_all(CONNECTION) {
            for name in list.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
                match HeaderName::from_bytes(name).map_err(|_| NOT_THESE)? {
                    name if name == HOST || name.as_str().starts_with("x-forwarded-") => return Err(NOT_THESE),
                    // What frames the message is no option of a connection, whoever says so.
                    name if name == CONTENT_LENGTH || name == TRANSFER_ENCODING || name == CONNECTION => {}
                    name if name == UPGRADE => upgrade = true,
                    name => named.push(name),
                }
            }
        }
        for name in named {
            head.remove_header(&name);
        }
        head.remove_header(&CONNECTION);
    }
    head.remove_header(&HTTP2_SETTINGS);
    if head.headers.contains_key(UPGRADE) {
        if upgrade && is_websocket(head) {
            // The static name and value cannot fail.
            let _ = head.insert_header(CONNECTION, HeaderValue::from_static("upgrade"));
        } else {
            head.remove_header(&UPGRADE);
        }
    }
    Ok(())
}

/// Whether a request asks for a WebSocket.
pub fn is_websocket(head: &RequestHeader) -> bool {
    let mut asked = head.headers.get_all(UPGRADE).iter();
    let websocket = asked.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket")) && asked.next().is_none();
    let length = head.headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    let bodiless = !head.headers.contains_key(TRANSFER_ENCODING) && length.is_none_or(|length| length == b"0");
    websocket && bodiless && head.version == Version::HTTP_11 && head.method == Method::GET
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that are left.
    fn left(fields: &[(&'static str, &str)]) -> Result<Vec<String>, Refusal> {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        leave(&mut head)?;
        Ok(head.headers.keys().map(|name| name.as_str().to_owned()).collect())
    }

    #[test]
    fn nominated_fields_end_here() {
        let fields = [("connection", "close, X-A,, te"), ("connection", "x-b"), ("x-a", "1"), ("x-b", "1"), ("te", "gzip"), ("x-c", "1")];
        assert_eq!(left(&fields).unwrap(), ["x-c"]);
        let framing = [("connection", "content-length"), ("content-length", "5")];
        assert_eq!(left(&framing).unwrap(), ["content-length"]);
        for name in
            ["host", "Host, close", "x-forwarded-for", "X-Forwarded-Client-Cert", "x-forwarded-proto", "close, :path", "\"x\"", "a b"]
        {
            assert!(left(&[("connection", name)]).is_err(), "{name}");
        }
    }

    #[test]
    fn only_websockets_are_upgraded() {
        let websocket = |name: &'static str, more: &[(&'static str, &'static str)]| {
            left(&[&[("connection", "Upgrade"), ("upgrade", name)], more].concat()).unwrap()
        };
        assert_eq!(websocket("WebSocket", &[]), ["upgrade", "connection"]);
        assert_eq!(websocket("websocket", &[("content-length", "0")]).len(), 3);
        assert!(websocket("h2c", &[("http2-settings", "AAMAAABkAAQAAP__")]).is_empty());
        assert!(websocket("websocket, h2c", &[]).is_empty());
        assert!(websocket("websocket", &[("upgrade", "h2c")]).is_empty());
        assert_eq!(websocket("websocket", &[("content-length", "5")]), ["content-length"]);
        assert_eq!(websocket("websocket", &[("transfer-encoding", "chunked")]), ["transfer-encoding"]);
        assert!(left(&[("upgrade", "websocket")]).unwrap().is_empty(), "it must be nominated");
    }
}
