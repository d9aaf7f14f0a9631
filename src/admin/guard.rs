//! Keeps web pages away: a browser on the same host can reach loopback, and a page's author can point a name of his own at it
//! (DNS rebinding). Browsers then send an `Origin`, or a `Host` that is that name; no other client needs either.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderMap, Method, StatusCode, Uri,
        header::{HOST, ORIGIN},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

/// Refuses a request with an `Origin`, or one that is addressed to a name that is not ours; and what changes something, unless this host asks for it.
pub(super) async fn refuse_web_pages(
    State(bound): State<SocketAddr>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let judged = judge(bound.ip(), request.headers(), request.uri()).and_then(|()| changes(bound.ip(), request.method(), client.ip()));
    match judged {
        Ok(()) => next.run(request).await,
        Err(why) => (StatusCode::FORBIDDEN, why).into_response(),
    }
}

fn judge(bound: IpAddr, headers: &HeaderMap, uri: &Uri) -> Result<(), &'static str> {
    without_origin(headers)?;
    if is_for_us(bound, headers, uri) {
        Ok(())
    } else {
        Err("this Host is not served: use localhost or the address that -admin-bind names\n")
    }
}

/// Bound where others reach it, for a probe or a scrape, it still lets only its own host drain it and set its log.
fn changes(bound: IpAddr, method: &Method, client: IpAddr) -> Result<(), &'static str> {
    let client = client.to_canonical();
    if method.is_safe() || client.is_loopback() || client == bound.to_canonical() {
        return Ok(());
    }
    Err("changes are taken from this host alone: ask at a loopback address\n")
}

/// Refuses what a web page of any origin asks for.
pub(super) fn without_origin(headers: &HeaderMap) -> Result<(), &'static str> {
    if headers.contains_key(ORIGIN) {
        return Err("requests from web pages are refused: leave out the Origin header\n");
    }
    Ok(())
}

/// Whether all that a request is addressed to stands for us.
pub(super) fn is_for_us(bound: IpAddr, headers: &HeaderMap, uri: &Uri) -> bool {
    let named = headers.get_all(HOST).iter().map(|host| host.to_str().ok().and_then(|text| text.parse::<Authority>().ok()));
    let ours = |authority: Option<Authority>| authority.is_some_and(|authority| is_ours(bound, authority.host()));
    named.chain(uri.authority().cloned().map(Some)).all(ours)
}

/// Whether a host, an IPv6 address in brackets, may stand for us. A name cannot, but for `localhost`. Bound to every address,
/// any address may: rebinding needs a name.
fn is_ours(bound: IpAddr, host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || ip == bound || bound.is_unspecified(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn verdict(bound: &str, host: &str) -> bool {
        let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
        judge(bound.parse().unwrap(), &headers, &"/ready".parse().unwrap()).is_ok()
    }

    #[test]
    fn only_addresses_and_localhost_are_served() {
        for (bound, host, served) in [
            ("127.0.0.1", "127.0.0.1:19000", true),
            ("127.0.0.1", "127.8.8.8", true),
            ("127.0.0.1", "localhost:19000", true),
            ("127.0.0.1", "LOCALHOST", true),
            ("127.0.0.1", "[::1]:19000", true),
            ("127.0.0.1", "10.0.0.1:19000", false),
            ("10.0.0.1", "10.0.0.1:19000", true),
            ("0.0.0.0", "10.0.0.1:19000", true),
            ("0.0.0.0", "rebind.example", false),
            ("127.0.0.1", "rebind.example:19000", false),
            ("127.0.0.1", "localhost.rebind.example", false),
            ("127.0.0.1", "127.0.0.1.rebind.example", false),
            ("127.0.0.1", "user@rebind.example", false),
            ("127.0.0.1", "", false),
            ("127.0.0.1", "a b", false),
        ] {
            assert_eq!(verdict(bound, host), served, "bound to {bound}, Host {host:?}");
        }
    }

    #[test]
    fn only_its_own_host_changes_anything() {
        for (bound, client, taken) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("0.0.0.0", "127.0.0.1", true),
            ("::", "::ffff:127.0.0.1", true),
            ("::", "::1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("0.0.0.0", "10.0.0.2", false),
            ("10.0.0.1", "10.0.0.2", false),
            ("::", "::ffff:10.0.0.2", false),
        ] {
            let (bound, client) = (bound.parse().unwrap(), client.parse().unwrap());
            assert_eq!(changes(bound, &Method::POST, client).is_ok(), taken, "bound to {bound}, {client}");
            assert!(changes(bound, &Method::GET, client).is_ok());
        }
    }

    #[test]
    fn every_host_counts_and_none_is_fine() {
        let mut headers = HeaderMap::new();
        let bound = "127.0.0.1".parse().unwrap();
        assert!(judge(bound, &headers, &"/ready".parse().unwrap()).is_ok());
        assert!(judge(bound, &headers, &"http://rebind.example/ready".parse().unwrap()).is_err());
        headers.append(HOST, "localhost".parse().unwrap());
        headers.append(HOST, "rebind.example".parse().unwrap());
        assert!(judge(bound, &headers, &"/ready".parse().unwrap()).is_err());
    }

    #[test]
    fn an_origin_is_refused_even_our_own() {
        let headers = HeaderMap::from_iter([(HOST, "localhost".parse().unwrap()), (ORIGIN, "http://localhost".parse().unwrap())]);
        assert!(judge("127.0.0.1".parse().unwrap(), &headers, &"/drain".parse().unwrap()).is_err());
    }
}
