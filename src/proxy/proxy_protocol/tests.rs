#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use tokio::io::BufReader;

use super::*;

fn addresses(client: &str, called: &str) -> Addresses {
    Addresses { client: client.parse().unwrap(), called: called.parse().unwrap() }
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family][..], &length, rest].concat()
}

#[test]
fn headers_are_read() {
    let four = addresses("192.0.2.1:56324", "198.51.100.2:443");
    let six = addresses("[2001:db8::1]:1", "[2001:db8::2]:65535");
    let bytes4 = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];
    let tlv = [&bytes4[..], &[0x04, 0, 2, 9, 9]].concat();
    for (bytes, expected) in [
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n".to_vec(), Some(four)),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n".to_vec(), Some(six)),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
        (v2(0x21, 0x11, &bytes4), Some(four)),
        (v2(0x21, 0x11, &tlv), Some(four)),
        (header(ProxyHeader::V2, Some(six)), Some(six)),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &bytes4), None),
        (v2(0x20, 0x77, &[1, 2, 3]), None),
        (v2(0x21, 0x00, &[1, 2, 3]), None),
        (v2(0x21, 0x31, &[0; 216]), None),
    ] {
        assert_eq!(parse(&bytes), Ok(Parsed::Whole(expected)), "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_is_no_header_is_refused() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        b"PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
        b"PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1\t2\r\n",
        b"PROXY UNKNOWN \0\r\n",
        b"PROXY UNKNOWN x\r\ny\r\n",
        b"\r\n\r\n\0\r\nQUIX",
        &v2(0x22, 0x11, &[0; 12]),
        &v2(0x11, 0x11, &[0; 12]),
        &v2(0x21, 0x12, &[0; 12]),
        &v2(0x21, 0x41, &[0; 12]),
        &v2(0x21, 0x11, &[0; 11]),
        &v2(0x21, 0x21, &[0; 35]),
        &v2(0x21, 0x31, &[0; 215]),
        &v2(0x21, 0x11, &[0; LONGEST_REST + 1]),
        &[v2(0x20, 0, &[]), vec![0]].concat(),
        long.as_bytes(),
    ] {
        assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
    }
    // A line of 107 bytes may be one; what does not end there never is.
    assert!(parse(&long.as_bytes()[1..]).is_err());
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(parse(longest.as_bytes()), Ok(Parsed::Whole(None)));
    assert!(parse(&longest.as_bytes()[..106]).is_ok() && parse(&[&longest.as_bytes()[..105], b"xx"].concat()).is_err());
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| (ip, port).into()),
        any::<([u8; 16], u16)>().prop_map(|(ip, port)| (ip, port).into())
    ]
}

proptest! {
    #[test]
    fn what_we_write_is_what_is_read(client in socket(), called in socket(), tail in any::<Vec<u8>>()) {
        for version in [ProxyHeader::V1, ProxyHeader::V2] {
            let bytes = header(version, Some(Addresses { client, called }));
            let Ok(Parsed::Whole(Some(read))) = parse(&bytes) else { panic!("{}", bytes.escape_ascii()) };
            prop_assert_eq!((canonical(read.client), canonical(read.called)), (canonical(client), canonical(called)));
            for end in 0..bytes.len() {
                let Ok(Parsed::More(more)) = parse(&bytes[..end]) else { panic!("{end} of {}", bytes.escape_ascii()) };
                prop_assert!(more > 0 && end + more <= bytes.len(), "never more than its own bytes");
            }
            if !tail.is_empty() {
                prop_assert!(parse(&[&bytes[..], &tail].concat()).is_err());
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_wait_for_ever(mut bytes in any::<Vec<u8>>(), begin in 0..4_usize, flip in any::<(usize, u8)>()) {
        let head = [&b""[..], b"PROXY TCP4 ", SIGNATURE, b"PROXY UNKNOWN"][begin];
        bytes.splice(..0, head.iter().copied());
        let at = flip.0 % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= flip.1 & 1;
        }
        for end in 0..=bytes.len() {
            if let Ok(Parsed::More(more)) = parse(&bytes[..end]) {
                prop_assert!((1..=16 + LONGEST_REST).contains(&more));
            }
        }
    }
}

#[tokio::test]
async fn nothing_after_the_header_is_taken() {
    for version in [ProxyHeader::V1, ProxyHeader::V2] {
        let whole = addresses("192.0.2.1:1", "192.0.2.2:2");
        let bytes = [header(version, Some(whole)), b"GET / HTTP/1.1\r\n".to_vec()].concat();
        let mut stream = BufReader::new(&bytes[..]);
        assert_eq!(read(&mut stream).await, Ok(Some(whole)));
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "GET / HTTP/1.1\r\n");
    }
    assert!(read(&mut BufReader::new(&b"PROXY TCP4 1.1.1.1"[..])).await.unwrap_err().contains("ended within"));
    assert!(read(&mut BufReader::new(&b""[..])).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let (mut ours, _theirs) = tokio::io::duplex(64);
    assert!(read(&mut ours).await.unwrap_err().contains("5s"));
}
