//! Files as answers, on the wire.

use std::fs;

use aralez_integration::clients::HttpClient;

use super::*;
use crate::model::ingress::filters::{Compression, Files};

fn files(root: &std::path::Path, prefix: &'static str) -> Rule {
    let files = Files {
        root: root.to_owned(),
        index: vec!["index.html".into()],
        listing: true,
        precompressed: false,
        cache_control: None,
        strip: prefix.into(),
    };
    Rule { action: Action::Files(files), headers: sets("x-frame-options", "DENY"), ..rule(prefix) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_sent_whole_in_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..5_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(folder.path().join("big.bin"), &big).unwrap();
    fs::write(folder.path().join("text.txt"), "words ".repeat(1000)).unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    let mut compressed = files(folder.path(), "/packed");
    compressed.filters.compression = Some(Compression { level: 5 });
    let shop = Shop::start(&[files(folder.path(), "/static"), compressed]).await;
    let mut http1 = HttpClient::http1(&shop.address).await.unwrap();
    let mut http2 = HttpClient::http2(&shop.address).await.unwrap();
    for client in [&mut http1, &mut http2] {
        let answer = client.send(asked("GET", "/static/big.bin", &[], "")).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.body == big, field(&answer, "x-frame-options")), (200, true, "DENY".into()));
        let part = client.send(asked("GET", "/static/big.bin", &[("range", "bytes=4-7")], "")).await.unwrap();
        assert_eq!((part.status.as_u16(), &part.body[..]), (206, &1_u32.to_le_bytes()[..]));
        let head = client.send(asked("HEAD", "/static/big.bin", &[], "")).await.unwrap();
        assert_eq!((head.status.as_u16(), field(&head, "content-length"), head.body.len()), (200, big.len().to_string(), 0));
        let known = [("if-none-match", field(&head, "etag"))];
        let known: Vec<(&str, &str)> = known.iter().map(|(name, value)| (*name, &**value)).collect();
        assert_eq!(client.send(asked("GET", "/static/big.bin", &known, "")).await.unwrap().status, 304);
        let moved = client.send(asked("GET", "/static/sub?x=1", &[], "")).await.unwrap();
        assert_eq!((moved.status.as_u16(), field(&moved, "location")), (301, "/static/sub/?x=1".into()));
        assert!(client.send(asked("GET", "/static/", &[], "")).await.unwrap().text().contains("big.bin"));
        let packed = client.send(asked("GET", "/packed/text.txt", &[("accept-encoding", "gzip")], "")).await.unwrap();
        assert_eq!((field(&packed, "content-encoding"), packed.body.len() < 1000), ("gzip".into(), true));
        assert!(field(&packed, "etag").starts_with("W/"));
        let refused = client.send(asked("POST", "/static/text.txt", &[], "body")).await.unwrap();
        assert_eq!((refused.status.as_u16(), field(&refused, "allow")), (405, "GET, HEAD, OPTIONS".into()));
    }
    for (path, status) in [("/static/..%2fx", 400), ("/static/%2e%2e/x", 404), ("/static/.x", 404), ("/static/none", 404)] {
        assert_eq!(shop.get(path, &[]).await.status.as_u16(), status, "{path}");
    }
    assert!(http1.is_open() && shop.app.requests() == 0);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_holds_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    // A hole: 4 GiB that take no place.
    fs::File::create(folder.path().join("hole")).unwrap().set_len(4 << 30).unwrap();
    let shop = Shop::start(&[files(folder.path(), "/")]).await;
    let resident = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let before = resident();
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut stream = shop.address.connect().await.unwrap();
        stream.write_all(b"GET /hole HTTP/1.1\r\nHost: shop.test\r\n\r\n").await.unwrap();
        let mut first = [0; 200];
        stream.read_exact(&mut first).await.unwrap();
        assert!(first.starts_with(b"HTTP/1.1 200"));
        clients.push(stream);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 * 1024, "{grown} KiB for 50 clients");
    drop(clients);
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_shrinks_while_it_is_sent_ends_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let file = fs::File::create(folder.path().join("hole")).unwrap();
    file.set_len(64 << 20).unwrap();
    let shop = Shop::start(&[files(folder.path(), "/")]).await;
    let mut stream = shop.address.connect().await.unwrap();
    stream.write_all(b"GET /hole HTTP/1.1\r\nHost: shop.test\r\n\r\n").await.unwrap();
    stream.read_u8().await.unwrap();
    file.set_len(0).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 64 << 20);
    shop.stop().await;
}
