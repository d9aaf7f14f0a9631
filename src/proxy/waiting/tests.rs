use std::time::Duration;

use h2::{Reason, SendStream, client::ResponseFuture};
use http::Request;
use pingora_core::{
    ErrorSource,
    protocols::http::v2::server::{H2Accept, HttpSession, handshake},
};
use tokio::{io::duplex, time::timeout};

use super::*;

const SOON: Duration = Duration::from_secs(20);
/// So many pieces that the end has to wait.
const FULL: usize = 3;

/// A stream that is wrapped, and its client.
struct Scene {
    session: ServerSession,
    waiting: Arc<Waiting>,
    body: SendStream<Bytes>,
    _answer: ResponseFuture,
}

impl Scene {
    async fn new() -> Self {
        let (near, far) = duplex(1 << 16);
        let client = tokio::spawn(async move {
            let (client, connection) = h2::client::handshake(near).await.unwrap();
            tokio::spawn(connection);
            client.ready().await.unwrap().send_request(Request::post("http://api/").body(()).unwrap(), false).unwrap()
        });
        let mut connection = handshake(Box::new(far), None).await.unwrap();
        let accepted = HttpSession::from_h2_conn(&mut connection, Arc::default()).await.unwrap();
        let Some(H2Accept::Session(stream)) = accepted else { panic!("no stream") };
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let mut session = ServerSession::H2(stream);
        let waiting = Waiting::begin(&mut session).unwrap();
        let (answer, body) = client.await.unwrap();
        Self { session, waiting, body, _answer: answer }
    }

    /// Reads until the wrapper holds the end of the body back.
    async fn held(&mut self) {
        let held = async {
            while !self.waiting.holds.load(Ordering::Relaxed) {
                let read = timeout(Duration::from_millis(10), self.session.read_body_or_idle(false)).await;
                assert!(read.is_err(), "{read:?}");
            }
        };
        timeout(SOON, held).await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_a_body_is_held_back_until_there_is_room_and_survives_an_early_answer() {
    let mut scene = Scene::new().await;
    let mut pieces: Vec<_> = (0..FULL).map(|_| scene.waiting.upload.piece("piece".into())).collect();
    scene.body.send_data("end".into(), true).unwrap();
    scene.held().await;
    assert!(!scene.session.is_body_done());
    let waiting = scene.waiting.clone().answered(&mut scene.session).expect("it goes on waiting");
    pieces.pop();
    let read = timeout(SOON, scene.session.read_body_or_idle(false)).await.unwrap().unwrap();
    assert_eq!((read.as_deref(), scene.session.is_body_done()), (Some(&b"end"[..]), true));
    assert!(waiting.answered(&mut scene.session).is_none() && scene.session.is_http2());
}

#[tokio::test]
async fn a_client_that_leaves_is_seen_while_the_end_of_its_body_is_held_back() {
    let mut scene = Scene::new().await;
    let _pieces: Vec<_> = (0..FULL).map(|_| scene.waiting.upload.piece("piece".into())).collect();
    scene.body.send_data("end".into(), true).unwrap();
    scene.held().await;
    scene.body.send_reset(Reason::CANCEL);
    assert!(timeout(SOON, scene.session.read_body_or_idle(false)).await.unwrap().is_err());
}

#[tokio::test]
async fn what_is_overdue_ends_as_if_the_client_had_left() {
    let mut scene = Scene::new().await;
    scene.body.send_data("end".into(), true).unwrap();
    let read = timeout(SOON, scene.session.read_body_or_idle(false)).await.unwrap().unwrap();
    assert_eq!(read.as_deref(), Some(&b"end"[..]));
    assert!(timeout(Duration::from_millis(20), scene.session.read_body_or_idle(true)).await.is_err(), "nothing happens");
    scene.waiting.overdue_at(Instant::now() + Duration::from_millis(20));
    let ended = timeout(SOON, scene.session.read_body_or_idle(true)).await.unwrap().unwrap_err();
    assert_eq!(ended.esource(), &ErrorSource::Downstream);
    scene.waiting.end(&mut scene.session);
    assert!(scene.session.is_http2());
}
