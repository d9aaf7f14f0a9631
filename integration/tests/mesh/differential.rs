//! Envoy as the reference: the same bytes go to Envoy and to Aralez under the same generated configuration, and both must do the same.
//!
//! Each pair of answers is one comparison; the seed is printed, and `DIFFERENTIAL_SEED` sets another.

mod authorization;
mod generate;
mod routes;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aralez_integration::net::Duplex;
use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::scene::PATIENCE;

const SEED: u64 = 20_261_122;

fn seeded(what: &str) -> Rng {
    let seed = std::env::var("DIFFERENTIAL_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    eprintln!("{what}: seed {seed}");
    Rng::with_seed(seed)
}

/// Sends `bytes` and returns the head of the answer, empty if there was none. The body does not matter, and waiting for the end
/// would cost: Envoy keeps a connection that is to be closed for another second.
async fn ask(mut stream: impl Duplex, bytes: &[u8]) -> Result<String> {
    stream.write_all(bytes).await?;
    let mut head = Vec::new();
    let reading = async {
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
    };
    timeout(PATIENCE, reading).await.context("no whole head in time")?;
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The status of an answer; `None` if there was none.
fn status(head: &str) -> Option<u16> {
    head.lines().next()?.split(' ').nth(1)?.parse().ok()
}

/// The value of a header field.
fn field<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value)
}

/// What the comparisons have shown.
#[derive(Debug, Default)]
struct Report {
    /// How often both did this, or differed for this reason.
    tally: BTreeMap<String, usize>,
    /// Differences that nothing explains, for the reader.
    faults: Vec<String>,
}

impl Report {
    fn count(&mut self, verdict: &str) {
        *self.tally.entry(verdict.to_owned()).or_default() += 1;
    }

    /// Prints the tally; fails if there was a fault, or if one of `wanted` was seen in less than `share` of all comparisons: a
    /// generator that is always refused, or never, compares nothing.
    fn conclude(self, wanted: &[&str], share: f64) {
        eprintln!("{:#?}", self.tally);
        assert!(self.faults.is_empty(), "{} faults\n{}", self.faults.len(), self.faults.join("\n"));
        let all: usize = self.tally.values().sum();
        for verdict in wanted {
            let count = self.tally.get(*verdict).copied().unwrap_or_default();
            assert!(count as f64 >= share * all as f64, "{verdict} in only {count} of {all}");
        }
    }
}
