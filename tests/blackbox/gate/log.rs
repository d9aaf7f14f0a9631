//! What clients write into the access log (F14): one line of JSON a request, and no control character.

use std::time::Duration;

use anyhow::{Context, ensure};
use aralez_integration::wait::eventually;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::backend::Backend;
use super::frames::{END_HEADERS, END_STREAM, HEADERS, block, frame, outcome, preface};
use super::{Entry, LIMIT};
use crate::support::mesh::EFFECT;
use crate::support::raw::exchange;
use crate::support::wire::Wire;

const HOSTILE: [&[u8]; 8] =
    [b"\"}\n{\"x\":\"", b"\x1b[2J\x1b]0;a\x07", b"%0d%0aX: 1", b"\\\\\"'", b"\xff\xfe", b"\xc3\x28", "\u{2028}\u{202e}".as_bytes(), b"\0"];

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_one_line_of_json() {
    let backend = Backend::start().await;
    let wire = Wire::before(backend.port, "http", json!({})).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    wire.agent.edit_registration("web-1-sidecar-proxy", |service| {
        service["Proxy"]["AccessLogs"] = json!({"Enabled": true, "Type": "file", "Path": file});
    });
    let lines = || -> anyhow::Result<Vec<Vec<u8>>> {
        let text = std::fs::read(&file)?;
        Ok(text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect())
    };
    eventually("an access log", EFFECT, async || {
        exchange(&wire.entry, b"GET /first HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
        lines()?.pop().context("no line").map(drop)
    })
    .await
    .unwrap();
    // Whatever is still on its way.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = lines().unwrap().len();
    let mut sent = 0;
    for hostile in HOSTILE {
        let requests = [
            [b"GET /", hostile, b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat(),
            [b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: ", hostile, b"\r\nX-Forwarded-For: ", hostile, b"\r\nConnection: close\r\n\r\n"]
                .concat(),
            [b"GET / HTTP/1.1\r\nHost: ", hostile, b"\r\nConnection: close\r\n\r\n"].concat(),
            [hostile, b" / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"].concat(),
        ];
        for request in requests {
            exchange(&wire.entry, &request).await.unwrap();
            sent += 1;
        }
    }
    let entry = Entry::Plain(&wire.entry);
    for value in ["\"}{\"", "\\\\\"'", "\u{2028}"] {
        let mut stream = entry.connect().await;
        let fields = block(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("user-agent", value)]);
        stream.write_all(&[preface(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &fields)].concat()).await.unwrap();
        timeout(LIMIT, outcome(&mut stream)).await.unwrap();
        sent += 1;
    }
    let lines = eventually("a line for each", EFFECT, async || {
        let lines = lines()?.split_off(before);
        ensure!(lines.len() >= sent, "{} of {sent}", lines.len());
        Ok(lines)
    })
    .await
    .unwrap();
    assert_eq!(lines.len(), sent);
    for line in lines {
        let text = String::from_utf8(line).expect("UTF-8");
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|why| panic!("{why}: {text:?}"));
        assert!(json["response_code"].is_u64() && json["method"].is_string(), "{text}");
        assert!(!text.trim_end_matches('\n').contains(char::is_control), "{text:?}");
    }
}
