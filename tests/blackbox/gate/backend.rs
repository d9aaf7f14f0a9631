//! A backend that notes every byte, answers whatever looks like a request, and a judge of what it was sent.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The bytes of each connection.
type Log = Arc<Mutex<Vec<Vec<u8>>>>;

pub struct Backend {
    pub port: u16,
    log: Log,
    _accepting: JoinSet<()>,
}

impl Backend {
    /// Listens on a free port. Each request is answered with 200 and an empty body.
    pub async fn start() -> Backend {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Log::default();
        let mut accepting = JoinSet::new();
        let all = log.clone();
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, all.clone()));
            }
        });
        Backend { port, log, _accepting: accepting }
    }

    /// Forgets what came so far; connections go on.
    pub fn clear(&self) {
        self.log.lock().unwrap().iter_mut().for_each(Vec::clear);
    }

    /// What came on each connection that said anything.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        self.log.lock().unwrap().iter().filter(|bytes| !bytes.is_empty()).cloned().collect()
    }
}

async fn serve(mut stream: TcpStream, log: Log) {
    let place = {
        let mut log = log.lock().unwrap();
        log.push(Vec::new());
        log.len() - 1
    };
    let (mut pending, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        log.lock().unwrap()[place].extend_from_slice(&buffer[..read]);
        pending.extend_from_slice(&buffer[..read]);
        while let Ok(Some(request)) = Request::parse(&pending) {
            pending.drain(..request.length);
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    }
}

/// One request as the judge reads it.
struct Request {
    length: usize,
    target: String,
}

impl Request {
    /// Reads the first request of `bytes` by the letter of RFC 9112; `None` if it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<Request>, String> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let head = &bytes[..end];
        let unclean = |byte: &u8| matches!(byte, 0..=8 | 11 | 12 | 14..=31 | 127);
        if head.iter().any(unclean) {
            return Err("a control character".to_owned());
        }
        let head = String::from_utf8_lossy(head).into_owned();
        if head.split("\r\n").any(|line| line.contains(['\r', '\n'])) {
            return Err("a bare CR or LF".to_owned());
        }
        let mut lines = head.split("\r\n");
        let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        let [_, target, "HTTP/1.1"] = words[..] else { return Err(format!("the line {words:?}")) };
        if !(target.starts_with('/') || target == "*") || target.contains('#') {
            return Err(format!("the target {target}"));
        }
        let mut fields = Vec::new();
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { return Err(format!("the line {line:?}")) };
            if name.is_empty() || name.contains([' ', '\t']) {
                return Err(format!("the name {name:?}"));
            }
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let all = |wanted: &str| fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
        if all("host").len() != 1 {
            return Err(format!("{} Hosts", all("host").len()));
        }
        if !all("http2-settings").is_empty() || all("upgrade").iter().any(|value| !value.eq_ignore_ascii_case("websocket")) {
            return Err("an upgrade".to_owned());
        }
        let body = match (&all("transfer-encoding")[..], &all("content-length")[..]) {
            ([], []) => Some(0),
            ([], [length]) if length.bytes().all(|byte| byte.is_ascii_digit()) => Some(length.parse().map_err(|_| "a length".to_owned())?),
            ([coding], []) if coding.eq_ignore_ascii_case("chunked") => chunks(&bytes[end + 4..])?,
            (codings, lengths) => return Err(format!("codings {codings:?}, lengths {lengths:?}")),
        };
        let length = body.map(|body| end + 4 + body);
        Ok(length.filter(|length| *length <= bytes.len()).map(|length| Request { length, target: target.to_owned() }))
    }
}

/// The length of a chunked body, if it is complete.
fn chunks(bytes: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let line = &bytes[at..at + end];
        if line.is_empty() || line.len() > 15 || !line.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("the chunk size {:?}", String::from_utf8_lossy(line)));
        }
        let size = usize::from_str_radix(std::str::from_utf8(line).unwrap(), 16).unwrap();
        at += end + 2 + size;
        match bytes.get(at..at + 2) {
            Some(b"\r\n") => at += 2,
            Some(other) => return Err(format!("{other:?} after a chunk")),
            None => return Ok(None),
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

/// Why what the backend saw is unsafe, if it is: ambiguous or forbidden bytes, more than `most` requests, or one that was hidden in another.
pub fn unsafe_bytes(seen: &[Vec<u8>], most: usize) -> Option<String> {
    let mut requests = 0;
    for connection in seen {
        let mut rest = &connection[..];
        loop {
            match Request::parse(rest) {
                Err(why) => return Some(format!("{why} in {:?}", String::from_utf8_lossy(connection))),
                Ok(Some(request)) => {
                    requests += 1;
                    if request.target.contains("smuggled") {
                        return Some(format!("the hidden request in {:?}", String::from_utf8_lossy(connection)));
                    }
                    rest = &rest[request.length..];
                }
                // A request that broke off; its connection must have ended with it.
                Ok(None) => break,
            }
        }
    }
    (requests > most).then(|| format!("{requests} requests reached the backend"))
}
