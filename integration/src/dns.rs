//! A name server of the test's own, on a UDP port of loopback.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const A: u16 = 1;
const AAAA: u16 = 28;
/// `NXDOMAIN` and `SERVFAIL` (RFC 1035 §4.1.1).
const NO_SUCH_NAME: u8 = 3;
const BROKEN: u8 = 2;

/// What is answered for a name.
#[derive(Clone, Debug)]
enum Answer {
    Addresses(Vec<IpAddr>, u32),
    Broken,
    Silence,
}

/// A running name server. What it was not told of is `NXDOMAIN`.
#[derive(Debug)]
pub struct Dns {
    /// Where it listens.
    pub address: SocketAddr,
    names: Arc<Mutex<HashMap<String, Answer>>>,
    questions: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Dns {
    /// Listens on a port that the kernel chooses.
    ///
    /// # Errors
    /// When binding fails.
    pub async fn start() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let (names, questions) = (Arc::<Mutex<HashMap<String, Answer>>>::default(), Arc::<AtomicU64>::default());
        let (known, count) = (names.clone(), questions.clone());
        let task = tokio::spawn(async move {
            let mut datagram = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
                count.fetch_add(1, Ordering::Relaxed);
                let asked = datagram.get(..length).unwrap_or_default();
                let answer = answer(asked, &known.lock().unwrap_or_else(PoisonError::into_inner));
                if let Some(answer) = answer {
                    // A client that is gone needs no answer.
                    drop(socket.send_to(&answer, from).await);
                }
            }
        });
        Ok(Self { address, names, questions, task })
    }

    /// From now on `name` has these addresses, for `ttl` seconds each time.
    pub fn set(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        self.put(name, Answer::Addresses(addresses.to_vec(), ttl));
    }

    /// From now on `name` is answered by `SERVFAIL`.
    pub fn fail(&self, name: &str) {
        self.put(name, Answer::Broken);
    }

    /// From now on nobody answers for `name`.
    pub fn silence(&self, name: &str) {
        self.put(name, Answer::Silence);
    }

    /// Questions so far.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::Relaxed)
    }

    fn put(&self, name: &str, answer: Answer) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), answer);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to a datagram with one question; `None` is silence.
fn answer(asked: &[u8], names: &HashMap<String, Answer>) -> Option<Vec<u8>> {
    const HEAD: usize = 12;
    let (mut labels, mut at) = (Vec::new(), HEAD);
    loop {
        let length = usize::from(*asked.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(asked.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(asked.get(at..at + 2)?.try_into().ok()?);
    let question = asked.get(HEAD..at + 4)?;
    let (code, records, ttl): (u8, Vec<Vec<u8>>, u32) = match names.get(&labels.join(".")) {
        None => (NO_SUCH_NAME, Vec::new(), 0),
        Some(Answer::Broken) => (BROKEN, Vec::new(), 0),
        Some(Answer::Silence) => return None,
        Some(Answer::Addresses(addresses, ttl)) => {
            let record = |ip: &IpAddr| match (ip, kind) {
                (IpAddr::V4(ip), A) => Some(ip.octets().to_vec()),
                (IpAddr::V6(ip), AAAA) => Some(ip.octets().to_vec()),
                _ => None,
            };
            (0, addresses.iter().filter_map(record).collect(), *ttl)
        }
    };
    let mut reply = asked.get(..2)?.to_vec();
    // An authoritative answer; recursion desired and available; one question.
    reply.extend([0x85, 0x80 | code, 0, 1]);
    reply.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(question);
    for record in records {
        // The name is the one at offset 12; class IN.
        reply.extend([0xC0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend(u16::try_from(record.len()).ok()?.to_be_bytes());
        reply.extend(record);
    }
    Some(reply)
}
