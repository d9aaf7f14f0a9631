//! The PROXY protocol, from balancers before us and towards servers behind us.

use super::*;

fn from(networks: &str) -> ClientAddress {
    let networks = crate::model::ingress::Networks(networks.split(' ').map(|network| network.parse().unwrap()).collect());
    ClientAddress { proxy_protocol: ProxyProtocol::From(networks), ..ClientAddress::default() }
}

fn told(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.strip_prefix("x-forwarded-for: ").or_else(|| line.strip_prefix("X-Forwarded-For: ")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancer_tells_the_clients_address_and_nobody_else_does() {
    let ca = WebCa::new();
    let app = http_app().await;
    let with = |client| Setup { client, ..secured(app, TlsGrade::High, vec![pair(&ca, "a", &["a.test"])]) };
    let mut edge = Edge::start(&with(from("10.0.0.0/8 127.0.0.0/8"))).await;
    let whole =
        crate::proxy::proxy_protocol::Addresses { client: "203.0.113.7:9".parse().unwrap(), called: "198.51.100.1:443".parse().unwrap() };
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        for (addresses, expected) in [(Some(whole), "203.0.113.7"), (None, "127.0.0.1")] {
            let header = crate::proxy::proxy_protocol::header(version, addresses);
            let answer = edge.plain(&[&header[..], &get("/", "X-Forwarded-For: 6.6.6.6\r\n")].concat()).await;
            assert_eq!(told(&answer), Some(expected), "{version:?}: {answer}");
            let mut stream = TcpStream::connect(edge.https).await.unwrap();
            stream.write_all(&header).await.unwrap();
            let mut stream = tls_over(stream, "a.test", None).await;
            stream.write_all(&get("/", "")).await.unwrap();
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            assert_eq!(told(&answer), Some(expected), "{version:?} before TLS: {answer}");
            assert!(expected == "127.0.0.1" || answer.to_lowercase().contains("x-forwarded-port: 443"), "{answer}");
        }
    }
    for bytes in [get("/", ""), b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\nGET / HTTP/1.1\r\n\r\n".to_vec(), b"\r\n\r\n\0\r\nQUIX".to_vec()] {
        assert_eq!(edge.plain(&bytes).await, "", "a trusted balancer that sends none, or no whole one, is cut off");
    }
    let header = crate::proxy::proxy_protocol::header(ProxyHeader::V1, Some(whole));
    for client in [from("10.0.0.0/8"), ClientAddress::default()] {
        edge.publish(&with(client)).await;
        let answer = edge.plain(&[&header[..], &get("/", "")].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 400") && !answer.contains("203.0.113.7"), "nobody may say so: {answer}");
        assert_eq!(told(&edge.plain(&get("/", "")).await), Some("127.0.0.1"));
    }
    edge.stop().await;
}

/// An app that answers each request with what its connection began with, and how many connections there were, and keeps connections open.
async fn recorder() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut count = 0;
        while let Ok((mut client, _)) = listener.accept().await {
            count += 1;
            tokio::spawn(async move {
                let parsed = crate::proxy::proxy_protocol::read(&mut client).await;
                let said = parsed.map_or_else(|why| why, |addresses| format!("{:?}", addresses.map(|a| (a.client, a.called))));
                let body = format!("connection {count}: {said}");
                let mut head = Vec::new();
                while let Ok(byte) = client.read_u8().await {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        head.clear();
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        client.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_told_the_client_and_share_no_connection_between_clients() {
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        let setup = to(edge::server(recorder().await, "app", Scheme::Http), ServerTls::default(), Some(version));
        let edge = Edge::start(&setup).await;
        for nth in 1..=3 {
            let mut client = TcpStream::connect(edge.http).await.unwrap();
            let ours = client.local_addr().unwrap();
            let expected = format!("connection {nth}: Some(({ours}, {}))", edge.http);
            for _ in 0..2 {
                client.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await.unwrap();
                let mut answer = Vec::new();
                while !answer.ends_with(expected.as_bytes()) {
                    assert!(client.read_buf(&mut answer).await.unwrap() > 0, "{expected}: {}", String::from_utf8_lossy(&answer));
                    assert!(answer.len() < 4096, "{expected}: {}", String::from_utf8_lossy(&answer));
                }
            }
        }
        edge.stop().await;
    }
}
