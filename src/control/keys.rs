//! The keys of a token issuer, from a file or a server: read again and again, the last good ones kept.

use std::{path::Path, sync::Arc, time::Duration};

use reqwest::{Certificate, redirect};
use tokio::{
    io::AsyncReadExt,
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

use super::{consul::error::chain, watches::Watches};
use crate::model::jwt::{KeyPlace, KeySet, RemoteKeys, Trust};

/// The largest key set that is read, bytes.
const LARGEST: usize = 1 << 20;

/// How often a file with keys is looked at.
const LOOK: Duration = Duration::from_secs(3);

/// Tokens that no key fits lead to one fetch in this time, however many there are.
const BETWEEN_ASKED: Duration = Duration::from_secs(5);

/// The pauses after failures beyond those that the retry policy covers.
const FAILED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The most redirects that are followed.
const REDIRECTS: usize = 5;

/// What came of reading a place: its keys, or why there are none.
pub(super) type Outcome = Result<Arc<KeySet>, String>;

/// Keeps the keys of one place fresh, and tells what came of each reading.
pub(super) async fn run(place: &KeyPlace, watches: &Arc<Watches>, tell: impl Fn(Outcome)) {
    match place {
        KeyPlace::File(path) => file(watches, path, tell).await,
        KeyPlace::Remote(remote) => server(watches, remote, tell).await,
    }
}

/// Reads the keys of a place once.
///
/// # Errors
/// Why there are none, with the place.
pub(super) async fn once(place: &KeyPlace) -> Result<KeySet, String> {
    match place {
        KeyPlace::File(path) => parse_file(path, read(path).await),
        KeyPlace::Remote(remote) => from_server(remote).await,
    }
}

fn parse_file(path: &Path, found: Result<Vec<u8>, String>) -> Result<KeySet, String> {
    found.and_then(|text| KeySet::parse(&text)).map_err(|why| format!("{}: {why}", path.display()))
}

async fn from_server(remote: &RemoteKeys) -> Result<KeySet, String> {
    fetch(remote).await.and_then(|text| KeySet::parse(&text)).map_err(|why| format!("{}: {why}", remote.shown))
}

async fn file(watches: &Arc<Watches>, path: &Path, tell: impl Fn(Outcome)) {
    let state = watches.register(format!("keys {}", path.display()));
    let mut last = None;
    loop {
        let found = read(path).await;
        if last.as_ref() != Some(&found) {
            let keys = parse_file(path, found.clone());
            match &keys {
                Ok(_) => state.succeeded(),
                Err(why) => state.unusable(why),
            }
            tell(keys.map(Arc::new));
            last = Some(found);
        }
        sleep(LOOK).await;
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(|e| e.to_string())?;
    file.take(LARGEST as u64 + 1).read_to_end(&mut text).await.map_err(|e| e.to_string())?;
    if text.len() > LARGEST { Err(too_large()) } else { Ok(text) }
}

async fn server(watches: &Arc<Watches>, remote: &RemoteKeys, tell: impl Fn(Outcome)) {
    let state = watches.register(format!("keys {}", remote.shown));
    let newer = Arc::new(Notify::new());
    let mut failures = 0_u32;
    loop {
        let fetched = Instant::now();
        let keys = from_server(remote).await;
        failures = if keys.is_ok() { 0 } else { failures.saturating_add(1) };
        let next = pause(remote, failures, fastrand::f64());
        match &keys {
            Ok(_) => state.succeeded(),
            Err(why) => state.failed(why, next),
        }
        tell(keys.map(|keys| Arc::new(keys.refreshed_by(newer.clone()))));
        tokio::select! {
            () = sleep(next) => {}
            () = asked(&newer, fetched + BETWEEN_ASKED), if failures == 0 => {}
        }
    }
}

/// A request has shown a token that none of the keys fits. The asking of the past counts, that before `earliest` waits.
async fn asked(newer: &Notify, earliest: Instant) {
    newer.notified().await;
    sleep_until(earliest).await;
}

/// How long to wait after a fetch; `jitter` of `0.0..1.0` keeps a fleet from asking all at once.
///
/// Good keys are fetched again after 75 to 95 % of their lifetime, so that they do not become older than that.
fn pause(remote: &RemoteKeys, failures: u32, jitter: f64) -> Duration {
    let Some(before) = failures.checked_sub(1) else { return remote.lifetime.mul_f64(0.75 + jitter / 5.0) };
    let (times, (shortest, longest)) = before.checked_sub(remote.retries).map_or((before, remote.back_off), |beyond| (beyond, FAILED));
    shortest.saturating_mul(1 << times.min(16)).min(longest).mul_f64(0.5 + jitter / 2.0)
}

/// Fetches the text of a key set. The client is made anew: a changed CA file counts at once, and minutes lie between two fetches.
async fn fetch(remote: &RemoteKeys) -> Result<Vec<u8>, String> {
    let same_scheme = redirect::Policy::custom(|attempt| match attempt.previous().first() {
        Some(first) if first.scheme() != attempt.url().scheme() => attempt.error("it redirects to another scheme"),
        _ if attempt.previous().len() > REDIRECTS => attempt.error("it redirects too often"),
        _ => attempt.follow(),
    });
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(same_scheme)
        .timeout(remote.timeout)
        .connect_timeout(remote.connect_timeout)
        .user_agent(concat!("aralez/", env!("CARGO_PKG_VERSION")));
    let plain = remote.shown.starts_with("http://");
    if plain || remote.trust != Trust::System {
        builder = builder.tls_certs_only(if plain { Vec::new() } else { authorities(&remote.trust).await? });
    }
    let client = builder.build().map_err(|e| chain(&e))?;
    let failed =
        |e: reqwest::Error| if e.is_timeout() { format!("no answer within {:?}", remote.timeout) } else { chain(&e.without_url()) };
    let mut response = client.get(remote.url.expose()).send().await.map_err(failed)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("it answered {}", response.status().as_u16()));
    }
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if text.len() + chunk.len() > LARGEST {
            return Err(too_large());
        }
        text.extend_from_slice(&chunk);
    }
    Ok(text)
}

fn too_large() -> String {
    format!("it is larger than {} MiB", LARGEST >> 20)
}

async fn authorities(trust: &Trust) -> Result<Vec<Certificate>, String> {
    let (name, pem) = match trust {
        Trust::System => return Ok(Vec::new()),
        Trust::File(path) => (path.display().to_string(), tokio::fs::read(path).await.map_err(|e| format!("{}: {e}", path.display()))?),
        Trust::Variable(name) => (name.clone(), std::env::var(name).map_err(|e| format!("{name}: {e}"))?.into_bytes()),
        Trust::Pem(pem) => ("TrustedCA".to_owned(), pem.clone()),
    };
    match Certificate::from_pem_bundle(&pem) {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(format!("{name}: no certificate in it")),
    }
}

#[cfg(test)]
mod tests;
