//! The sniff, and reading ahead.

use tokio::io::AsyncWriteExt;

use super::{head::Head, *};

async fn pair() -> (Connection, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Connection::plain(buffered(Socket::Unix(ours))), theirs)
}

#[tokio::test]
async fn a_short_http1_request_is_told_apart_at_its_first_byte() {
    let (mut connection, mut client) = pair().await;
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert_eq!(connection.sniff(Duration::from_secs(5)).await, Spoken::Http1);
    drop(client);
    let mut all = String::new();
    connection.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "GET / HTTP/1.0\r\n\r\n");
}

#[tokio::test]
async fn a_preface_in_pieces_is_http2_and_can_be_peeked() {
    let (mut connection, mut client) = pair().await;
    let writing = tokio::spawn(async move {
        for piece in PREFACE.chunks(5) {
            client.write_all(piece).await.unwrap();
            client.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        client
    });
    assert_eq!(connection.sniff(Duration::from_secs(5)).await, Spoken::Http2);
    let mut peeked = [0; 24];
    assert!(connection.try_peek(&mut peeked).await.unwrap());
    assert_eq!(&peeked, PREFACE);
    let mut read = [0; 24];
    connection.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, PREFACE);
    drop(writing.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_nothing_after_the_limit() {
    let (mut connection, client) = pair().await;
    assert_eq!(connection.sniff(Duration::from_secs(5)).await, Spoken::Nothing);
    drop(client);
}

#[tokio::test]
async fn a_stuck_write_takes_the_clients_bytes_in() {
    let (mut connection, mut client) = pair().await;
    connection.read_ahead();
    const MUCH: usize = 4 << 20;
    // Both sides only write until all is sent: more than any socket buffer holds, so one of them must give way.
    let sending = async {
        client.write_all(&vec![b'q'; MUCH]).await.unwrap();
        let mut answer = vec![0; MUCH];
        client.read_exact(&mut answer).await.unwrap();
        AsyncWriteExt::shutdown(&mut client).await.unwrap();
    };
    let answering = async {
        connection.write_all(&vec![b'a'; MUCH]).await.unwrap();
        connection.flush().await.unwrap();
        let mut question = Vec::new();
        connection.read_to_end(&mut question).await.unwrap();
        assert_eq!(question.len(), MUCH);
    };
    timeout(Duration::from_secs(20), async { tokio::join!(sending, answering) }).await.expect("neither side is stuck");
}

#[tokio::test]
async fn a_client_that_left_is_not_readable() {
    let (mut connection, client) = pair().await;
    drop(client);
    assert!(!connection.readable().await);
}

/// What Pingora would read of each request in `sent`, one after the other.
async fn requests(sent: &[u8]) -> Vec<String> {
    let (mut connection, mut client) = pair().await;
    client.write_all(sent).await.unwrap();
    let mut seen = Vec::new();
    while connection.readable().await && connection.head(Duration::from_secs(5)).await == Head::Whole {
        let mut request = Vec::new();
        while !connection.is_at_end() {
            let mut piece = [0; 7];
            let read = connection.read(&mut piece).await.unwrap();
            request.extend_from_slice(&piece[..read]);
        }
        // No byte of the next one: only the end of the connection would be an answer.
        assert!(timeout(Duration::from_millis(10), connection.read_u8()).await.is_err());
        seen.push(String::from_utf8(request).unwrap());
        if connection.ahead.is_empty() {
            break;
        }
    }
    seen
}

#[tokio::test]
async fn each_request_is_read_to_its_last_byte_and_no_further() {
    let all = [
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /",
        "POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\nX: 1\r\n\r\n",
        "GET /4 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        "GET /5 HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    assert_eq!(requests(all.concat().as_bytes()).await, all);
}

#[tokio::test]
async fn chunks_that_are_none_end_the_connection() {
    let (mut connection, mut client) = pair().await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(connection.head(Duration::from_secs(5)).await, Head::Whole);
    let mut seen = Vec::new();
    let failed = connection.read_to_end(&mut seen).await.unwrap_err();
    assert_eq!(failed.kind(), io::ErrorKind::InvalidData);
    assert!(seen.ends_with(b"\r\n\r\n"), "the head alone: {:?}", String::from_utf8_lossy(&seen));
}

#[tokio::test]
async fn a_client_that_still_sends_gets_its_answer_and_an_end() {
    const SENT: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\nbody";
    let (mut connection, mut client) = pair().await;
    client.write_all(SENT).await.unwrap();
    assert_eq!(connection.head(Duration::from_secs(5)).await, Head::Whole);
    client.write_all(b"unread").await.unwrap();
    connection.write_all(b"answer").await.unwrap();
    connection.flush().await.unwrap();
    drop(connection);
    client.write_all(b"late").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_end_is_let_go() {
    let (connection, client) = pair().await;
    let begun = Instant::now();
    drop(connection);
    while client.try_write(b"x").is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn only_a_client_that_may_have_sent_more_is_lingered_over() {
    let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    for (body, ends, unclear) in
        [(&b""[..], false, true), (b"body", false, false), (b"bodyGET /", false, true), (b"", true, false), (b"bodyGET /", true, false)]
    {
        let (mut connection, mut client) = pair().await;
        client.write_all(&[request, body].concat()).await.unwrap();
        if ends {
            AsyncWriteExt::shutdown(&mut client).await.unwrap();
        }
        assert_eq!(connection.head(Duration::from_secs(5)).await, Head::Whole);
        let mut piece = [0; 256];
        while timeout(Duration::from_millis(10), connection.read(&mut piece)).await.is_ok_and(|read| read.unwrap() > 0) {}
        assert_eq!(connection.may_have_sent_more(), unclear, "{body:?}, ends: {ends}");
    }
}

#[tokio::test]
async fn the_end_of_a_body_waits_until_the_pieces_before_it_are_written() {
    let upload = Arc::new(Upload::default());
    let room = || std::future::poll_fn(|cx| upload.poll_room(cx));
    let mut pieces: Vec<_> = (0..2).map(|_| upload.piece("piece".into())).collect();
    room().await;
    pieces.push(upload.piece("piece".into()));
    assert_eq!(pieces.iter().map(|piece| piece.as_ref()).collect::<Vec<_>>(), [b"piece"; 3]);
    let copy = pieces[2].clone();
    let mut waiting = Box::pin(room());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    pieces.pop();
    assert!(futures_util::poll!(&mut waiting).is_pending(), "a copy of it is still to be written");
    let written = tokio::spawn(async move { drop(copy) });
    timeout(Duration::from_secs(20), waiting).await.expect("woken");
    written.await.unwrap();
}
