//! Which sessions may be resumed.

use super::*;

/// How many tickets a client is given.
fn tickets(front: &Front, version: SslVersion, identity: Option<&(X509, PKey<Private>)>) -> usize {
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let context = client(|builder| {
        builder.set_max_proto_version(Some(version)).unwrap();
        builder.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        // Sessions that only an id names are no tickets.
        builder.set_new_session_callback(move |_, session| {
            count.fetch_add(usize::from(!session.id().is_empty() || session.protocol_version() == SslVersion::TLS1_3), Ordering::Relaxed);
        });
        if let Some((certificate, key)) = identity {
            builder.set_certificate(certificate).unwrap();
            builder.set_private_key(key).unwrap();
        }
    });
    shake(front, ask(&context, Some("a.test"))).unwrap();
    given.load(Ordering::Relaxed)
}

#[test]
fn tickets_save_handshakes_but_never_the_check_of_a_client_certificate() {
    let ca = WebCa::new();
    let plain = tls(TlsGrade::High, vec![pair(&ca, "a", &["a.test"])]);
    let Pair { crt, key } = ca.issue(&["client.test"]);
    let identity = (X509::from_pem(crt.as_bytes()).unwrap(), PKey::private_key_from_pem(key.as_bytes()).unwrap());
    let roots = certificates("test", &ca.root_pem()).unwrap();
    let mutual = IngressTls { client_auth: Some(ClientAuth { roots, required: false }), ..plain.clone() };
    for (version, least) in [(SslVersion::TLS1_2, 1), (SslVersion::TLS1_3, 2)] {
        assert_eq!(tickets(&front(&plain), version, None), least, "{version:?}");
        assert_eq!(tickets(&front(&mutual), version, None), 0, "{version:?}");
        assert_eq!(tickets(&front(&mutual), version, Some(&identity)), 0, "{version:?}");
    }
    assert!(!front(&plain).is_for(&mutual), "another trust is another context, with other ticket keys");
}

#[test]
fn ticket_keys_outlive_certificates_but_not_their_time() {
    let ca = WebCa::new();
    let front = front(&tls(TlsGrade::High, vec![pair(&ca, "a", &["a.test"])]));
    let before = front.context.load_full();
    front.follow(&Certificates { pairs: vec![pair(&ca, "a", &["a.test"])], default: None }, &Challenges::default()).unwrap();
    front.session().unwrap();
    assert!(Arc::ptr_eq(&before, &front.context.load_full()), "a renewed certificate ends no session");
    if let Some(made) = before.made.checked_sub(TICKET_KEY_LIFE + Duration::from_secs(1)) {
        front.context.store(Arc::new(Aged { context: before.context.clone(), made }));
        front.session().unwrap();
        assert!(front.context.load().made.elapsed() < TICKET_KEY_LIFE);
    }
}
