//! Header edits of routes and legs, and header names with underscores.

use std::{borrow::Cow, net::SocketAddr, time::SystemTime};

use http::{HeaderValue, Version, header::HeaderName};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use time::OffsetDateTime;

use crate::{
    model::{
        format::{Command, Format, Values},
        identity::SpiffeId,
        listener::Address,
        path::{Rejected, Underscores},
        route::Edits,
    },
    telemetry,
};

/// What the values of headers are made of.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The request as received: edits never see each other's work.
    pub request: &'a RequestHeader,
    /// The caller's address; none on a Unix socket.
    pub remote: Option<SocketAddr>,
    /// The address that it called; none on a Unix socket.
    pub local: Option<SocketAddr>,
    /// The caller's identity, if it proved one.
    pub peer: Option<&'a SpiffeId>,
    /// The name that it asked for in TLS.
    pub server_name: Option<&'a str>,
    /// When the request began.
    pub start: SystemTime,
    /// The route's name.
    pub route: Option<&'a str>,
    /// The target that the request goes to.
    pub cluster: Option<&'a str>,
    /// The endpoint; for an answer only, as with Envoy.
    pub upstream: Option<&'a Address>,
    /// The status; 0 as long as there is none, as with Envoy.
    pub status: u16,
}

impl Values for Inputs<'_> {
    fn value(&self, command: &Command) -> Option<Cow<'_, str>> {
        let upstream = match self.upstream {
            Some(Address::Tcp(address)) => Some(*address),
            _ => None,
        };
        let whole = |address: Option<SocketAddr>| address.map(|address| address.to_string().into());
        let ip = |address: Option<SocketAddr>| address.map(|address| address.ip().to_string().into());
        let port = |address: Option<SocketAddr>| address.map(|address| address.port().to_string().into());
        match &*command.name {
            "DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => whole(self.remote),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => ip(self.remote),
            "DOWNSTREAM_REMOTE_PORT" => port(self.remote),
            "DOWNSTREAM_LOCAL_ADDRESS" => whole(self.local),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => ip(self.local),
            "DOWNSTREAM_LOCAL_PORT" => port(self.local),
            "DOWNSTREAM_PEER_URI_SAN" => self.peer.map(|peer| peer.to_string().into()),
            "HOSTNAME" => Some(telemetry::hostname().into()),
            "PROTOCOL" => Some(protocol(self.request.version).into()),
            // `%REQ(first?second)%`: the first that is there.
            "REQ" => command.argument.as_ref()?.split('?').find_map(|name| self.field(name)),
            "REQUESTED_SERVER_NAME" => self.server_name.map(Cow::Borrowed),
            "RESPONSE_CODE" => Some(self.status.to_string().into()),
            "ROUTE_NAME" => self.route.map(Cow::Borrowed),
            "START_TIME" => Some(moment(self.start).into()),
            "UPSTREAM_CLUSTER" => self.cluster.map(Cow::Borrowed),
            "UPSTREAM_REMOTE_ADDRESS" => self.upstream.map(|address| address.to_string().into()),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => ip(upstream),
            "UPSTREAM_REMOTE_PORT" => port(upstream),
            _ => None,
        }
    }
}

impl Inputs<'_> {
    /// A field of the request or one of its own parts; of several lines the first, as with Envoy.
    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        let uri = &self.request.uri;
        let field = |name: &str| std::str::from_utf8(self.request.headers.get(name)?.as_bytes()).ok();
        match name.to_ascii_lowercase().as_str() {
            ":method" => Some(self.request.method.as_str()),
            ":path" => uri.path_and_query().map(|path| path.as_str()),
            ":authority" | "host" => uri.authority().map(|authority| authority.as_str()).or_else(|| field("host")),
            name => field(name),
        }
        .map(Cow::Borrowed)
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// RFC 3339 with milliseconds, Envoy's default form of `START_TIME`.
fn moment(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, milli) = at.to_hms_milli();
    format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", u8::from(month))
}

/// The head of a request or of an answer.
pub trait Head {
    /// Takes all lines of a field away.
    fn remove(&mut self, name: &str);
    /// Replaces all lines of a field by one.
    ///
    /// # Errors
    /// It is no header name.
    fn set(&mut self, name: String, value: HeaderValue) -> Result<()>;
    /// Adds a line.
    ///
    /// # Errors
    /// It is no header name.
    fn add(&mut self, name: String, value: HeaderValue) -> Result<()>;
}

impl Head for RequestHeader {
    fn remove(&mut self, name: &str) {
        self.remove_header(name);
    }

    fn set(&mut self, name: String, value: HeaderValue) -> Result<()> {
        self.insert_header(name, value)
    }

    fn add(&mut self, name: String, value: HeaderValue) -> Result<()> {
        self.append_header(name, value).map(|_| ())
    }
}

impl Head for ResponseHeader {
    fn remove(&mut self, name: &str) {
        self.remove_header(name);
    }

    fn set(&mut self, name: String, value: HeaderValue) -> Result<()> {
        self.insert_header(name, value)
    }

    fn add(&mut self, name: String, value: HeaderValue) -> Result<()> {
        self.append_header(name, value).map(|_| ())
    }
}

/// Applies edits, as Envoy 1.40 does: what is removed goes first, then what is set replaces, then what is added is added. A value that
/// turns out empty, or that no header can hold, changes nothing.
///
/// # Errors
/// When a header cannot be written, which no decoded edit can cause.
pub fn apply(edits: &Edits, head: &mut impl Head, values: &dyn Values) -> Result<()> {
    for name in &edits.remove {
        head.remove(name);
    }
    for (name, format) in &edits.set {
        if let Some(value) = made(format, values) {
            head.set(name.to_string(), value)?;
        }
    }
    for (name, format) in &edits.add {
        if let Some(value) = made(format, values) {
            head.add(name.to_string(), value)?;
        }
    }
    Ok(())
}

fn made(format: &Format, values: &dyn Values) -> Option<HeaderValue> {
    let text = format.render(values, "");
    if text.is_empty() { None } else { HeaderValue::from_bytes(text.as_bytes()).ok() }
}

/// Does what the mesh entry says with header names that have an underscore: many servers cannot tell `x_a` from `x-a`.
///
/// # Errors
/// [`Rejected::Underscore`].
pub fn underscores(head: &mut RequestHeader, action: Underscores) -> Result<(), Rejected> {
    let has_one = |name: &&HeaderName| name.as_str().contains('_');
    match action {
        Underscores::Allow => {}
        Underscores::Reject if head.headers.keys().any(|name| has_one(&name)) => return Err(Rejected::Underscore),
        Underscores::Reject => {}
        Underscores::Drop => {
            let found: Vec<HeaderName> = head.headers.keys().filter(has_one).cloned().collect();
            for name in found {
                head.remove_header(&name);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{format::Piece, testing};

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/p/a?b=c", None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn lines(head: &RequestHeader, name: &str) -> Vec<String> {
        head.headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    }

    fn inputs(request: &RequestHeader) -> Inputs<'_> {
        Inputs {
            request,
            remote: Some("10.0.0.1:4711".parse().unwrap()),
            local: Some("[::1]:21000".parse().unwrap()),
            peer: None,
            server_name: None,
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_042),
            route: Some("route 1"),
            cluster: Some("api.default.default.dc1"),
            upstream: None,
            status: 0,
        }
    }

    fn fields(list: &[(&str, &str)]) -> Vec<(std::sync::Arc<str>, Format)> {
        list.iter().map(|(name, text)| ((*name).into(), Format::parse(text).unwrap())).collect()
    }

    /// Each row was seen from Envoy 1.40.
    #[test]
    fn edits_are_made_in_envoys_order() {
        let mut head = request(&[("x-bad", "1"), ("x-bad", "2"), ("x-both", "client"), ("x-gone", "client"), ("x-again", "old")]);
        let received = request(&[("x-old", "OLD")]);
        let edits = Edits {
            add: fields(&[("x-both", "added"), ("x-again", "new"), ("x-none", "%REQ(x-none)%")]),
            set: fields(&[("x-both", "set"), ("x-gone", "%REQ(x-none)%"), ("x-half", "[%REQ(x-none)%]"), ("x-new", "%REQ(x-old)%")]),
            remove: vec!["x-bad".into(), "x-again".into()],
        };
        apply(&edits, &mut head, &inputs(&received)).unwrap();
        assert!(lines(&head, "x-bad").is_empty() && lines(&head, "x-none").is_empty());
        assert_eq!(lines(&head, "x-both"), ["set", "added"]);
        assert_eq!(lines(&head, "x-again"), ["new"]);
        assert_eq!(lines(&head, "x-gone"), ["client"], "an empty value sets nothing");
        assert_eq!((lines(&head, "x-half"), lines(&head, "x-new")), (vec!["[]".to_owned()], vec!["OLD".to_owned()]));
    }

    #[test]
    fn an_answer_is_edited_alike() {
        let received = request(&[]);
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.append_header("x-two", "1").unwrap();
        head.append_header("x-bad", "1").unwrap();
        let edits = Edits { add: fields(&[("x-two", "2")]), set: fields(&[("x-code", "%RESPONSE_CODE%")]), remove: vec!["x-bad".into()] };
        apply(&edits, &mut head, &Inputs { status: 200, ..inputs(&received) }).unwrap();
        let two: Vec<&str> = head.headers.get_all("x-two").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!((two, &head.headers["x-code"], head.headers.get("x-bad")), (vec!["1", "2"], &HeaderValue::from_static("200"), None));
    }

    #[test]
    fn commands_have_the_values_that_envoy_gives_them() {
        let request = request(&[("host", "h"), ("x-keep", "kept"), ("x-dup", "1"), ("x-dup", "2")]);
        let address = Address::Tcp("10.0.0.2:8080".parse().unwrap());
        let peer = testing::id("web");
        let all = Inputs { upstream: Some(&address), status: 200, server_name: Some("api.sni"), peer: Some(&peer), ..inputs(&request) };
        for (text, value) in [
            ("%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.0.0.1:4711 10.0.0.1:4711"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.0.0.1"),
            ("%DOWNSTREAM_REMOTE_PORT%", "4711"),
            ("%DOWNSTREAM_LOCAL_ADDRESS%", "[::1]:21000"),
            ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "::1"),
            ("%DOWNSTREAM_LOCAL_PORT%", "21000"),
            ("%DOWNSTREAM_PEER_URI_SAN%", &peer.to_string()),
            ("%PROTOCOL%", "HTTP/1.1"),
            ("%REQ(X-Keep):3%", "kep"),
            ("%REQ(x-none?x-keep)%", "kept"),
            ("%REQ(x-dup)%", "1"),
            ("%REQ(:METHOD)% %REQ(:path)% %REQ(:AUTHORITY)%", "GET /p/a?b=c h"),
            ("%START_TIME%", "2023-11-14T22:13:20.042Z"),
            ("%ROUTE_NAME% a%%b", "route 1 a%b"),
            ("%UPSTREAM_CLUSTER%", "api.default.default.dc1"),
            ("%UPSTREAM_REMOTE_ADDRESS%", "10.0.0.2:8080"),
            ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REMOTE_PORT%", "10.0.0.2 8080"),
            ("%REQUESTED_SERVER_NAME%", "api.sni"),
            ("%RESPONSE_CODE%", "200"),
        ] {
            assert_eq!(Format::parse(text).unwrap().render(&all, ""), value, "{text}");
        }
    }

    #[test]
    fn every_command_that_decoding_lets_through_has_a_value() {
        let request = request(&[("x", "1")]);
        let (address, peer) = (Address::Tcp("10.0.0.2:8080".parse().unwrap()), testing::id("web"));
        let all = Inputs { upstream: Some(&address), server_name: Some("s"), peer: Some(&peer), ..inputs(&request) };
        for name in Edits::COMMANDS {
            let text = if name == "REQ" { "%REQ(x)%".to_owned() } else { format!("%{name}%") };
            let format = Format::parse(&text).unwrap();
            assert!(matches!(&format.pieces[..], [Piece::Command(command)] if Edits::knows(command)), "{name}");
            assert!(!format.render(&all, "").is_empty(), "{name}");
        }
    }

    #[test]
    fn underscores_are_allowed_refused_or_dropped() {
        let fields = [("x_poison", "1"), ("_x", "2"), ("x-good", "3")];
        for (action, result, left) in
            [(Underscores::Allow, Ok(()), 3), (Underscores::Reject, Err(Rejected::Underscore), 3), (Underscores::Drop, Ok(()), 1)]
        {
            let mut head = request(&fields);
            assert_eq!((underscores(&mut head, action), head.headers.len()), (result, left), "{action:?}");
        }
        assert_eq!(underscores(&mut request(&[("x-good", "1")]), Underscores::Reject), Ok(()));
    }
}
