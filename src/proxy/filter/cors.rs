//! Cross-origin resource sharing, as the Fetch standard has it (section 3.2, "CORS protocol").
//!
//! We answer preflights ourselves; the server never sees them. On other answers our fields take the place of the server's, for origins that are not
//! allowed too: then there are none, and the browser keeps the answer from the page.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::{
    model::ingress::filters::Cors,
    proxy::refusal::{Answer, Refusal},
};

/// Fields that every page may send without asking (CORS-safelisted request headers).
const SAFELISTED: [&str; 3] = ["accept", "accept-language", "content-language"];

/// The answer to a preflight; `None` for every other request. Who may read it is said by [`answer`], as of every answer.
pub fn preflight(cors: &Cors, request: &RequestHeader) -> Option<Refusal> {
    if request.method != Method::OPTIONS {
        return None;
    }
    let origin = request.headers.get(ORIGIN)?;
    let method = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    let refuse = |why| Some(Answer::new(403, why).body("cross-origin request refused\n").into());
    if allowed_origin(cors, origin).is_none() {
        return refuse("cors_origin_refused");
    }
    if !cors.methods.iter().any(|known| **known == *"*" || known.as_bytes() == method.as_bytes()) {
        return refuse("cors_method_refused");
    }
    let Some(headers) = allowed_headers(cors, &request.headers) else { return refuse("cors_header_refused") };
    let listed: Vec<&str> = cors.methods.iter().map(|known| &**known).filter(|known| *known != "*").collect();
    let mut granted = Answer::new(204, "cors_preflight").header(VARY, "access-control-request-method, access-control-request-headers");
    granted = match listed.len() == cors.methods.len() {
        true => granted.header(ACCESS_CONTROL_ALLOW_METHODS, listed.join(", ")),
        false => granted.header(ACCESS_CONTROL_ALLOW_METHODS, method.clone()),
    };
    if !headers.is_empty() {
        granted = granted.header(ACCESS_CONTROL_ALLOW_HEADERS, headers.join(", "));
    }
    if let Some(age) = cors.max_age {
        granted = granted.header(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.as_secs()));
    }
    Some(granted.into())
}

/// Says on an answer who may read it, whatever the server said.
///
/// # Errors
/// When a header cannot be written, which no checked configuration can cause.
pub fn answer(cors: &Cors, request: &HeaderMap, head: &mut ResponseHeader) -> Result<()> {
    for name in [&ACCESS_CONTROL_ALLOW_ORIGIN, &ACCESS_CONTROL_ALLOW_CREDENTIALS, &ACCESS_CONTROL_EXPOSE_HEADERS] {
        head.remove_header(name);
    }
    let everybody = allows_everybody(cors);
    if !everybody {
        vary(head, &ORIGIN)?;
    }
    let Some(origin) = request.get(ORIGIN).and_then(|origin| allowed_origin(cors, origin)) else { return Ok(()) };
    if everybody {
        head.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, "*")?;
    } else {
        head.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
        if cors.credentials {
            head.insert_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")?;
        }
    }
    if !cors.expose.is_empty() {
        head.insert_header(ACCESS_CONTROL_EXPOSE_HEADERS, cors.expose.join(", "))?;
    }
    Ok(())
}

/// Notes that an answer depends on a field of the request.
///
/// # Errors
/// When a header cannot be written, which no input can cause.
pub fn vary(head: &mut ResponseHeader, name: &HeaderName) -> Result<()> {
    let lists = head.headers.get_all(VARY).iter().filter_map(|list| list.to_str().ok());
    let known = lists.flat_map(|list| list.split(',')).any(|known| known.trim() == "*" || known.trim().eq_ignore_ascii_case(name.as_str()));
    if known { Ok(()) } else { head.append_header(VARY, name.as_str()).map(|_| ()) }
}

fn allows_everybody(cors: &Cors) -> bool {
    cors.origins.iter().any(|known| **known == *"*")
}

fn allowed_origin<'a>(cors: &Cors, origin: &'a HeaderValue) -> Option<&'a HeaderValue> {
    let text = origin.to_str().ok()?;
    let allowed = |known: &str| match known.split_once("*.") {
        _ if known == "*" => true,
        None => known.eq_ignore_ascii_case(text),
        // One label: `https://*.a.example` is not `https://b.c.a.example`, and neither `https://evil.example/.a.example`.
        Some((scheme, domain)) => (|| {
            let (label, rest) = text.strip_prefix(scheme)?.split_once('.')?;
            let is_label = !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            (is_label && rest.eq_ignore_ascii_case(domain)).then_some(())
        })()
        .is_some(),
    };
    cors.origins.iter().any(|known| allowed(known)).then_some(origin)
}

/// The fields that a preflight asks for, if all are allowed.
fn allowed_headers<'a>(cors: &Cors, request: &'a HeaderMap) -> Option<Vec<&'a str>> {
    let any = cors.headers.is_empty() || cors.headers.iter().any(|known| **known == *"*");
    let mut asked = Vec::new();
    for list in request.get_all(ACCESS_CONTROL_REQUEST_HEADERS) {
        for name in list.to_str().ok()?.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let known = || cors.headers.iter().map(|known| &**known).chain(SAFELISTED).any(|known| known.eq_ignore_ascii_case(name));
            HeaderName::from_bytes(name.as_bytes()).ok().filter(|_| any || known())?;
            asked.push(name);
        }
    }
    Some(asked)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;

    fn list(items: &[&str]) -> Vec<Arc<str>> {
        items.iter().map(|item| (*item).into()).collect()
    }

    fn cors(origins: &[&str]) -> Cors {
        Cors {
            origins: list(origins),
            methods: list(&["GET", "PUT"]),
            headers: list(&["X-Token", "content-type"]),
            expose: list(&["x-page", "x-total"]),
            credentials: false,
            max_age: Some(Duration::from_secs(600)),
        }
    }

    fn request(method: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn lines(headers: &HeaderMap) -> Vec<String> {
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    /// What an answer of a server that says `*` itself becomes.
    fn answered(cors: &Cors, fields: &[(&'static str, &str)]) -> Vec<String> {
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.append_header("access-control-allow-origin", "*").unwrap();
        head.append_header("access-control-allow-origin", "https://evil.example").unwrap();
        head.append_header("access-control-allow-credentials", "true").unwrap();
        answer(cors, &request("GET", fields).headers, &mut head).unwrap();
        lines(&head.headers)
    }

    #[test]
    fn only_listed_origins_are_allowed() {
        let listed = ["https://shop.example", "https://*.a.example", "http://*.b.example:8080", "null"];
        for (origin, allowed) in [
            ("https://shop.example", true),
            ("https://SHOP.example", true),
            ("http://shop.example", false),
            ("https://shop.example:8443", false),
            ("https://shop.example.evil.example", false),
            ("https://x.a.example", true),
            ("https://y.x.a.example", false),
            ("https://a.example", false),
            ("https://.a.example", false),
            ("https://evil/.a.example", false),
            ("https://x.a.example:444", false),
            ("https://xa.example", false),
            ("http://x.b.example:8080", true),
            ("http://x.b.example", false),
            ("null", true),
            ("", false),
        ] {
            let value = HeaderValue::from_str(origin).unwrap();
            assert_eq!(allowed_origin(&cors(&listed), &value).is_some(), allowed, "{origin}");
            assert!(allowed_origin(&cors(&["*"]), &value).is_some(), "{origin}");
        }
        let null = HeaderValue::from_static("null");
        assert!(allowed_origin(&cors(&["https://shop.example"]), &null).is_none(), "a sandboxed page is nobody's");
    }

    #[test]
    fn a_preflight_is_granted_for_what_is_allowed_alone() {
        let cors = cors(&["https://shop.example"]);
        let ask = |origin: &str, method: &str, headers: &str| {
            let fields = [("origin", origin), ("access-control-request-method", method), ("access-control-request-headers", headers)];
            match preflight(&cors, &request("OPTIONS", &fields)) {
                Some(Refusal::Answer(answer)) => (answer.status, answer.reason),
                other => panic!("{other:?}"),
            }
        };
        for (origin, method, headers, expected) in [
            ("https://shop.example", "PUT", "x-token, Content-Type", (204, "cors_preflight")),
            ("https://shop.example", "GET", "", (204, "cors_preflight")),
            ("https://shop.example", "GET", "accept", (204, "cors_preflight")),
            ("https://other.example", "PUT", "x-token", (403, "cors_origin_refused")),
            ("https://shop.example", "DELETE", "x-token", (403, "cors_method_refused")),
            ("https://shop.example", "put", "", (403, "cors_method_refused")),
            ("https://shop.example", "PUT", "x-token, x-other", (403, "cors_header_refused")),
            ("https://shop.example", "PUT", "x-token, a b", (403, "cors_header_refused")),
        ] {
            assert_eq!(ask(origin, method, headers), expected, "{origin} {method} {headers}");
        }
        let fields = [("origin", "https://shop.example"), ("access-control-request-method", "PUT")];
        assert_eq!(preflight(&cors, &request("GET", &fields)), None);
        assert_eq!(preflight(&cors, &request("OPTIONS", &fields[..1])), None, "an ordinary OPTIONS");
        assert_eq!(preflight(&cors, &request("OPTIONS", &fields[1..])), None, "no browser");
    }

    #[test]
    fn a_preflight_lists_what_is_allowed() {
        let granted = |cors: &Cors| {
            let fields = [
                ("origin", "https://a.example"),
                ("access-control-request-method", "PATCH"),
                ("access-control-request-headers", "x-a,x-b"),
            ];
            let Some(Refusal::Answer(answer)) = preflight(cors, &request("OPTIONS", &fields)) else { panic!("not granted") };
            answer.headers.iter().skip(1).map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect::<Vec<_>>()
        };
        let any = Cors { methods: list(&["*"]), headers: list(&[]), max_age: None, ..cors(&["*"]) };
        assert_eq!(granted(&any), ["access-control-allow-methods: PATCH", "access-control-allow-headers: x-a, x-b"]);
        let listed = Cors { methods: list(&["GET", "PATCH"]), headers: list(&["x-a", "x-b", "x-c"]), ..cors(&["*"]) };
        let expected =
            ["access-control-allow-methods: GET, PATCH", "access-control-allow-headers: x-a, x-b", "access-control-max-age: 600"];
        assert_eq!(granted(&listed), expected);
    }

    #[test]
    fn our_fields_take_the_place_of_the_servers() {
        let listed = cors(&["https://a.example"]);
        let from_a = [("origin", "https://a.example")];
        assert_eq!(
            answered(&listed, &from_a),
            ["vary: origin", "access-control-allow-origin: https://a.example", "access-control-expose-headers: x-page, x-total"]
        );
        assert_eq!(answered(&listed, &[("origin", "https://evil.example")]), ["vary: origin"]);
        assert_eq!(answered(&listed, &[]), ["vary: origin"]);
        let with = answered(&Cors { credentials: true, expose: Vec::new(), ..listed }, &from_a);
        assert_eq!(with, ["vary: origin", "access-control-allow-origin: https://a.example", "access-control-allow-credentials: true"]);
        let everybody = Cors { credentials: true, expose: Vec::new(), ..cors(&["*"]) };
        assert_eq!(answered(&everybody, &from_a), ["access-control-allow-origin: *"], "never credentials for everybody");
    }

    #[test]
    fn vary_is_said_once() {
        for (before, after) in [("Accept, ORIGIN", 1), ("*", 1), ("accept", 2)] {
            let mut head = ResponseHeader::build(200, None).unwrap();
            head.append_header(VARY, before).unwrap();
            vary(&mut head, &ORIGIN).unwrap();
            assert_eq!(head.headers.get_all(VARY).iter().count(), after, "{before}");
        }
    }
}
