//! Certificates from a real ACME server: Let's Encrypt's Pebble, with a DNS server that leads every name here.

use std::{process::Command, time::Duration};

use anyhow::ensure;
use aralez_integration::{apps::http_echo, components, net::Address, ports::free_port, process::Process, wait::eventually};
use openssl::x509::X509;

use super::{Edge, Setup};
use aralez_integration::web_pki::{self, WebCa};

/// From an order to a certificate, on a busy machine.
const ISSUED: Duration = Duration::from_secs(60);

/// An ACME server that checks names on these ports of ours.
struct Pebble {
    directory: String,
    _server: Process,
    _dns: Process,
    _folder: tempfile::TempDir,
}

impl Pebble {
    async fn start(http: &Address, tls: &Address, ca: &WebCa) -> Pebble {
        let folder = tempfile::tempdir().unwrap();
        let [api, management, dns, dns_management] = [(); 4].map(|()| free_port().unwrap());
        let pair = ca.issue(&["localhost", "127.0.0.1"]);
        let [crt, key] = [("crt", &pair.crt), ("key", &pair.key)].map(|(name, pem)| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path
        });
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{api}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": crt, "privateKey": key,
            "httpPort": port(http), "tlsPort": port(tls), "ocspResponderURL": "",
        }});
        let path = folder.path().join("pebble.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new(components::pebble("pebble-challtestsrv").unwrap());
        command.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", ""]);
        command.args(["-dnsserver", &format!("127.0.0.1:{dns}"), "-management", &format!("127.0.0.1:{dns_management}")]);
        let names = Process::start("pebble-challtestsrv", command, Duration::ZERO).unwrap();
        let mut command = Command::new(components::pebble("pebble").unwrap());
        command.arg("-config").arg(&path).args(["-dnsserver", &format!("127.0.0.1:{dns}")]).env("PEBBLE_VA_NOSLEEP", "1");
        let server = Process::start("pebble", command, Duration::ZERO).unwrap();
        for port in [api, dns_management] {
            eventually("pebble", ISSUED, async || Address::port(port).connect().await.map(drop)).await.unwrap();
        }
        Pebble { directory: format!("https://127.0.0.1:{api}/dir"), _server: server, _dns: names, _folder: folder }
    }
}

fn port(address: &Address) -> u16 {
    let Address::Tcp(address) = address else { panic!("not a TCP address") };
    address.port()
}

/// Orders certificates with this kind of challenge, and waits for them.
async fn issued(challenge: &str) -> Edge {
    let (ca, app) = (WebCa::new(), http_echo("app").await.unwrap());
    let setup = Setup::new(&format!("upstreams: {{DEFAULT: {{paths: {{/: {{servers: ['{}'], to_https: true}}}}}}}}\n", app.address)).tls();
    let (http, tls) = setup.addresses();
    let pebble = Pebble::start(&http, &tls, &ca).await;
    let lines = format!(
        "acme:\n  email: ops@shop.test\n  domains: [shop.test, [a.test, b.test]]\n  directory: {}\n  ca_file: acme-root.pem\n  challenge: {challenge}\n",
        pebble.directory
    );
    let edge = setup.file("acme-root.pem", ca.root_pem()).main(&lines).spawn();
    for (name, wanted) in [("shop.test", &["shop.test"][..]), ("a.test", &["a.test", "b.test"])] {
        eventually("a certificate", ISSUED, async || {
            let pem = std::fs::read(edge.path(&format!("certs/{name}.crt")))?;
            let certificate = X509::from_pem(&pem)?;
            let names: Vec<String> =
                certificate.subject_alt_names().iter().flatten().filter_map(|n| n.dnsname().map(str::to_owned)).collect();
            ensure!(wanted.iter().all(|name| names.contains(&(*name).to_owned())), "{names:?}");
            Ok(())
        })
        .await
        .unwrap();
        eventually("the new certificate to be served", ISSUED, async || {
            let shown = web_pki::shown(&edge.tls, name).await?;
            let issued = X509::from_pem(&std::fs::read(edge.path(&format!("certs/{name}.crt")))?)?;
            ensure!(shown.to_der()? == issued.to_der()?, "another certificate is shown");
            Ok(())
        })
        .await
        .unwrap();
    }
    edge
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_ordered_and_served_by_http_01() {
    let edge = issued("http-01").await;
    use std::os::unix::fs::PermissionsExt;
    for file in ["certs/shop.test.key", "certs/acme-account.json"] {
        assert_eq!(std::fs::metadata(edge.path(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(edge.get("shop.test", "/.well-known/acme-challenge/unknown").await.status, 301, "only what was asked for is answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_ordered_and_served_by_tls_alpn_01() {
    issued("tls-alpn-01").await;
}
