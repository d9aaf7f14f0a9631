//! HTTP/2 frames by hand.

use aralez_integration::net::Stream;
use tokio::io::AsyncReadExt;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY: u8 = 0x20;

/// A frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a client says first, with empty settings.
pub fn preface() -> Vec<u8> {
    [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A header block of literals that are never indexed and not compressed.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        string(&mut bytes, name.as_bytes());
        string(&mut bytes, value.as_bytes());
    }
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        short @ 0..127 => bytes.push(short as u8),
        long => {
            bytes.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
    }
    bytes.extend_from_slice(text);
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer of 200.
    Served,
    /// Another answer.
    Answered,
    /// A reset, a GOAWAY, or the end of the connection.
    Cut,
}

/// Reads until stream 1 is answered or cut.
pub async fn outcome(stream: &mut Stream) -> Outcome {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Outcome::Cut;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            return Outcome::Cut;
        }
        match (head[3], head[8]) {
            // The status is the first field; 200 is an entry of the static table (RFC 7541, appendix A).
            (HEADERS, 1) if payload.iter().find(|byte| **byte & 0xe0 != 0x20) == Some(&0x88) => return Outcome::Served,
            (HEADERS, 1) => return Outcome::Answered,
            (RST_STREAM, 1) | (GOAWAY, _) => return Outcome::Cut,
            _ => {}
        }
    }
}
