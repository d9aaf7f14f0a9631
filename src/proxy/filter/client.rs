//! Who the client is, and what servers are told of it.
//!
//! What a client says of itself (`X-Forwarded-*`, `X-Real-IP`, `Forwarded`) is believed only from trusted proxies; none is trusted unless the
//! configuration names it. From everybody else these fields are overwritten.

use std::net::IpAddr;

use bytes::Bytes;
use http::{
    HeaderValue,
    header::{FORWARDED, HOST, HeaderName},
};
use pingora_core::{ErrorType::InvalidHTTPHeader, OrErr, Result};
use pingora_http::RequestHeader;

use crate::model::ingress::{ClientAddress, Networks};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
/// The fields by which proxies tell servers of clients.
static TELLING: [HeaderName; 6] = [FOR, PROTO, FORWARDED_HOST, PORT, REAL_IP, FORWARDED];

/// The client of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address: the peer's, or behind trusted proxies the last address that none of them has. `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// Whether it spoke TLS, to us or to a trusted proxy.
    pub https: bool,
    /// The peer, if it is a trusted proxy: its fields are kept and added to.
    trusted: bool,
    /// The address of the peer.
    peer: Option<IpAddr>,
}

impl Client {
    /// The client of a request that came from `peer`, over TLS or not.
    pub fn of(request: &RequestHeader, peer: Option<IpAddr>, tls: bool, rules: &ClientAddress) -> Self {
        let peer = peer.map(|peer| peer.to_canonical());
        let trusted = peer.is_some_and(|peer| rules.trusted.contain(peer));
        if !trusted {
            return Self { address: peer, https: tls, trusted, peer };
        }
        let proto = request.headers.get(&PROTO).and_then(|proto| proto.to_str().ok());
        let https = proto.map_or(tls, |proto| proto.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("https")));
        Self { address: forwarded_for(request, &rules.trusted).or(peer), https, trusted, peer }
    }

    /// Whether the peer is a trusted proxy.
    pub fn is_behind_trusted(&self) -> bool {
        self.trusted
    }

    /// Tells the server who the client is. `host` is what the client called, `port` where it reached us.
    ///
    /// # Errors
    /// When a header cannot be written, which no input can cause.
    pub fn tell(&self, request: &mut RequestHeader, host: Option<HeaderValue>, port: Option<u16>, rules: &ClientAddress) -> Result<()> {
        self.forget(request);
        let proto = if self.https { "https" } else { "http" };
        let peer = self.peer.map(text).transpose()?;
        if let Some(peer) = &peer {
            request.insert_header(FOR, after(request, &FOR, peer)?)?;
        }
        match self.address {
            Some(address) if self.peer != Some(address) => request.insert_header(REAL_IP, text(address)?)?,
            Some(_) => peer.map_or(Ok(()), |peer| request.insert_header(REAL_IP, peer))?,
            None => {}
        }
        request.insert_header(PROTO, HeaderValue::from_static(proto))?;
        if rules.forwarded {
            let node = self.peer.map_or_else(|| "unknown".to_owned(), node);
            let host = host.as_ref().and_then(|host| host.to_str().ok()).map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
            let element = HeaderValue::try_from(format!("for={node};proto={proto}{host}")).or_err(InvalidHTTPHeader, "no element")?;
            request.insert_header(FORWARDED, after(request, &FORWARDED, &element)?)?;
        }
        let port = port.map(HeaderValue::from);
        for (name, value) in [(FORWARDED_HOST, host), (PORT, port)] {
            if let Some(value) = value
                && !request.headers.contains_key(&name)
            {
                request.insert_header(name, value)?;
            }
        }
        Ok(())
    }

    /// Removes what the client must not say itself. To many servers `X_Forwarded_For` and `X-Forwarded-For` are one variable: the form with underscores
    /// nobody may use.
    fn forget(&self, request: &mut RequestHeader) {
        let is_lookalike = |name: &str| name.contains('_') && TELLING.iter().any(|telling| telling.as_str() == name.replace('_', "-"));
        let gone = |name: &&HeaderName| is_lookalike(name.as_str()) || (!self.trusted && TELLING.contains(name));
        let gone: Vec<HeaderName> = request.headers.keys().filter(gone).cloned().collect();
        for name in gone {
            request.remove_header(&name);
        }
    }
}

fn text(address: IpAddr) -> Result<HeaderValue> {
    HeaderValue::try_from(address.to_string()).or_err(InvalidHTTPHeader, "an address that is no header value")
}

/// The list in a request's field with one more element.
fn after(request: &RequestHeader, name: &HeaderName, element: &HeaderValue) -> Result<HeaderValue> {
    let mut before = request.headers.get_all(name).iter().peekable();
    if before.peek().is_none() {
        return Ok(element.clone());
    }
    let list: Vec<&[u8]> = before.chain([element]).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_maybe_shared(Bytes::from(list.join(&b", "[..]))).or_err(InvalidHTTPHeader, "no list")
}

/// An address as RFC 7239 writes it (section 6).
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// What the client called, for `X-Forwarded-Host`.
pub fn called(request: &RequestHeader) -> Option<HeaderValue> {
    match request.uri.authority() {
        Some(authority) => HeaderValue::try_from(authority.as_str()).ok(),
        None => request.headers.get(HOST).cloned(),
    }
}

/// The last address of `X-Forwarded-For` that no trusted proxy has; from the right, since each hop adds itself there. An entry that is no address ends
/// the search: what stands before it cannot be relied on.
fn forwarded_for(request: &RequestHeader, trusted: &Networks) -> Option<IpAddr> {
    let lines: Vec<&str> = request.headers.get_all(&FOR).iter().filter_map(|line| line.to_str().ok()).collect();
    let mut last = None;
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Some(address) = address(entry.trim()) else { break };
        last = Some(address);
        if !trusted.contain(address) {
            break;
        }
    }
    last
}

/// An entry of `X-Forwarded-For`; some proxies add the port.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or(entry);
    let address = bare.parse().ok().or_else(|| entry.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(trusted: &str) -> ClientAddress {
        let trusted = Networks(trusted.split_whitespace().map(|network| network.parse().unwrap()).collect());
        ClientAddress { trusted, ..ClientAddress::default() }
    }

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn only_trusted_proxies_speak_for_others() {
        let forged = [("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", "10.0.0.9:443"), ("x-forwarded-proto", "https")];
        for (peer, trusted, address, https) in [
            ("127.0.0.1", "", "127.0.0.1", false),
            ("127.0.0.1", "127.0.0.0/8", "10.0.0.9", true),
            ("127.0.0.1", "127.0.0.0/8 10.0.0.0/8", "2.2.2.2", true),
            ("::ffff:127.0.0.1", "127.0.0.1/32", "10.0.0.9", true),
            ("127.0.0.1", "0.0.0.0/0", "1.1.1.1", true),
            ("::1", "127.0.0.0/8", "::1", false),
        ] {
            let client = Client::of(&request(&forged), peer.parse().ok(), false, &rules(trusted));
            assert_eq!((client.address, client.https), (address.parse().ok(), https), "{peer} with {trusted:?} trusted");
        }
        let odd = request(&[("x-forwarded-for", "1.1.1.1, unknown, 10.0.0.1")]);
        assert_eq!(Client::of(&odd, "10.0.0.2".parse().ok(), true, &rules("10.0.0.0/8")).address, "10.0.0.1".parse().ok());
    }

    #[test]
    fn servers_are_told_the_truth() {
        let told = |trusted: &str, fields: &[(&'static str, &str)]| {
            let mut head = request(fields);
            let rules = ClientAddress { forwarded: true, ..rules(trusted) };
            let client = Client::of(&head, "2001:db8::1".parse().ok(), true, &rules);
            client.tell(&mut head, Some(HeaderValue::from_static("shop.example")), Some(443), &rules).unwrap();
            let names = ["x-forwarded-for", "x-real-ip", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "forwarded"];
            names.map(|name| head.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>().join("|"))
        };
        let ours = "for=\"[2001:db8::1]\";proto=https;host=\"shop.example\"";
        let fields = [("x-forwarded-for", "6.6.6.6"), ("x-real-ip", "6.6.6.6"), ("x-forwarded-host", "evil"), ("forwarded", "for=6.6.6.6")];
        assert_eq!(told("", &fields), ["2001:db8::1", "2001:db8::1", "https", "shop.example", "443", ours]);
        let named = |trusted: &str| {
            let mut head = request(&[("x_forwarded_for", "6.6.6.6"), ("x-forwarded_proto", "https"), ("x_own", "1")]);
            let client = Client::of(&head, "2001:db8::1".parse().ok(), false, &rules(trusted));
            client.tell(&mut head, None, None, &rules(trusted)).unwrap();
            let mut names: Vec<String> = head.headers.keys().map(|name| name.to_string()).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(named(""), "x-forwarded-for x-forwarded-proto x-real-ip x_own", "nothing that looks like ours");
        assert_eq!(named("2001:db8::/32"), "x-forwarded-for x-forwarded-proto x-real-ip x_own");
        let behind = format!("for=6.6.6.6, {ours}");
        assert_eq!(told("2001:db8::/32", &fields), ["6.6.6.6, 2001:db8::1", "6.6.6.6", "https", "evil", "443", &behind]);
    }
}
