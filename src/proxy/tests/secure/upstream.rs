//! TLS towards servers: who they must be, and that a wrong one gets nothing.

use super::*;

/// A TLS server that answers as the app does, and notes whom it was asked for and what it got.
struct Server {
    address: SocketAddr,
    /// Of each handshake that came: the name that was asked for.
    asked: Arc<Mutex<Vec<Option<String>>>>,
    /// Plaintext bytes.
    got: Arc<Mutex<usize>>,
}

impl Server {
    async fn start(Pair { crt, key }: &Pair, clients: Option<&WebCa>) -> Self {
        let mut context = SslContext::builder(SslMethod::tls_server()).unwrap();
        context.set_certificate(&X509::from_pem(crt.as_bytes()).unwrap()).unwrap();
        context.set_private_key(&PKey::private_key_from_pem(key.as_bytes()).unwrap()).unwrap();
        if let Some(clients) = clients {
            let mut store = openssl::x509::store::X509StoreBuilder::new().unwrap();
            store.add_cert(X509::from_pem(clients.root_pem().as_bytes()).unwrap()).unwrap();
            context.set_cert_store(store.build());
            context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
            // So that a refusal is seen within the handshake.
            context.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap();
        }
        let context = context.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), asked: Arc::default(), got: Arc::default() };
        let (asked, got) = (server.asked.clone(), server.got.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut stream = Peer::new(Ssl::new(&context).unwrap(), client).unwrap();
                let (asked, got) = (asked.clone(), got.clone());
                tokio::spawn(async move {
                    let shaken = stream.accept().await;
                    asked.lock().unwrap().push(stream.ssl().servername(openssl::ssl::NameType::HOST_NAME).map(str::to_owned));
                    if shaken.is_err() {
                        return;
                    }
                    let mut head = Vec::new();
                    while let Ok(byte) = stream.read_u8().await {
                        *got.lock().unwrap() += 1;
                        head.push(byte);
                        if head.ends_with(b"\r\n\r\n") {
                            head.clear();
                            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                            stream.flush().await.unwrap();
                        }
                    }
                });
            }
        });
        server
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_server_gets_anything() {
    let (ca, foreign, clients) = (WebCa::new(), WebCa::new(), WebCa::new());
    let roots = |ca: &WebCa| certificates("test", &ca.root_pem()).unwrap();
    let ours = || ServerTls { roots: roots(&ca), ..ServerTls::default() };
    let named = |name: &str| ServerTls { name: Some(name.into()), ..ours() };
    let client = |ca: &WebCa| {
        let Pair { crt, key } = ca.issue(&["edge.test"]);
        ServerTls { client: Some((certificates("test", &crt).unwrap(), Secret::new(key))), ..ours() }
    };
    let careless = ServerTls { verify: false, ..ServerTls::default() };
    // What the certificate bears, what the server is called, how it is checked, whether clients must show a certificate; is it served, what was asked for.
    type Case<'a> = (&'a [&'a str], &'a str, ServerTls, bool, bool, Option<&'a str>);
    let cases: Vec<Case<'_>> = vec![
        (&["app.test"], "app.test", ours(), false, true, Some("app.test")),
        (&["*.apps.test"], "x.apps.test", ours(), false, true, Some("x.apps.test")),
        (&["*.apps.test"], "x.y.apps.test", ours(), false, false, Some("x.y.apps.test")),
        (&["other.test"], "app.test", ours(), false, false, Some("app.test")),
        (&["app.test"], "app.test", ServerTls { roots: roots(&foreign), ..ours() }, false, false, Some("app.test")),
        (&["app.test"], "app.test", ServerTls::default(), false, false, Some("app.test")),
        (&["127.0.0.1"], "127.0.0.1", ours(), false, true, None),
        (&["app.test"], "127.0.0.1", ours(), false, false, None),
        (&["127.0.0.2"], "127.0.0.1", ours(), false, false, None),
        (&["::1"], "::1", ours(), false, true, None),
        (&["app.test"], "127.0.0.1", named("app.test"), false, true, Some("app.test")),
        (&["app.test"], "app.test", named("other.test"), false, false, Some("other.test")),
        (&["other.test"], "app.test", careless.clone(), false, true, Some("app.test")),
        (&["other.test"], "127.0.0.1", careless, false, true, None),
        (&["app.test"], "app.test", client(&clients), true, true, Some("app.test")),
        (&["app.test"], "app.test", client(&foreign), true, false, Some("app.test")),
        (&["app.test"], "app.test", ours(), true, false, Some("app.test")),
    ];
    for (names, called, server_tls, wants_client, fine, asked) in cases {
        let real = Server::start(&ca.issue(names), wants_client.then_some(&clients)).await;
        let what = format!("{names:?} called {called}, {server_tls:?}");
        let setup = to(edge::server(real.address, called, Scheme::Https), server_tls, None);
        let edge = Edge::start(&setup).await;
        let answer = edge.plain(&get("/", "")).await;
        let status = if fine { "HTTP/1.1 200" } else { "HTTP/1.1 503" };
        assert!(answer.starts_with(status), "{what}: {answer}");
        assert_eq!(*real.got.lock().unwrap() > 0, fine, "{what}: what a wrong server got");
        let seen = real.asked.lock().unwrap().clone();
        assert!(seen.iter().all(|name| name.as_deref() == asked), "{what}: {seen:?}");
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_roots_never_use_an_old_connection() {
    let (ca, foreign) = (WebCa::new(), WebCa::new());
    let real = Server::start(&ca.issue(&["app.test", "127.0.0.1"]), None).await;
    for name in ["app.test", "127.0.0.1"] {
        let with = |ca: &WebCa| {
            let server_tls = ServerTls { roots: certificates("test", &ca.root_pem()).unwrap(), ..ServerTls::default() };
            to(edge::server(real.address, name, Scheme::Https), server_tls, None)
        };
        let mut edge = Edge::start(&with(&ca)).await;
        let before = real.asked.lock().unwrap().len();
        for _ in 0..3 {
            assert!(edge.plain(&get("/", "")).await.starts_with("HTTP/1.1 200"));
        }
        assert_eq!(real.asked.lock().unwrap().len(), before + 1, "one connection served all three");
        edge.publish(&with(&foreign)).await;
        let got = *real.got.lock().unwrap();
        assert!(edge.plain(&get("/", "")).await.starts_with("HTTP/1.1 503"), "{name}");
        assert_eq!(*real.got.lock().unwrap(), got, "nothing was sent");
        edge.stop().await;
    }
}
