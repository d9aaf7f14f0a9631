//! Waiting for something to become true, with a bound.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// Pause between two looks. Short against every interval Consul or a sidecar works with (Consul's shortest check interval is 1 s).
const PAUSE: Duration = Duration::from_millis(50);

/// Repeats `probe` until it answers `Ok`, at most for `limit`.
///
/// # Errors
/// When the limit passes: the last error of the probe, under a line that names `what` was waited for.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut last = anyhow!("the first look did not return");
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return Err(last).with_context(|| format!("waited {limit:?} for {what}"));
        }
        sleep(PAUSE).await;
    }
}

/// Asserts that `probe` answers `Ok` again and again for the whole of `time`.
///
/// # Errors
/// The first error of the probe.
pub async fn steadily(time: Duration, mut probe: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        probe().await?;
        sleep(PAUSE).await;
    }
    Ok(())
}
