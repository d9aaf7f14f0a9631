//! Telling the service manager (sd_notify(3)) how it goes; does nothing where there is none.

use std::{convert::Infallible, time::Duration};

use sd_notify::NotifyState;

fn say(states: &[NotifyState<'_>]) {
    if let Err(why) = sd_notify::notify(states) {
        tracing::debug!("the service manager was not told: {why}");
    }
}

/// The first complete snapshot is served, or a reload is done.
pub fn ready() {
    say(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => say(&[NotifyState::Reloading, now]),
        Err(_) => say(&[NotifyState::Reloading]),
    }
}

/// The end begins.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Another process serves from now on: this one's end is not the service's.
pub fn successor(pid: u32) {
    say(&[NotifyState::MainPid(pid)]);
}

/// Assures the service manager of life as often as it asks for (`WATCHDOG_USEC`, half of it as sd_watchdog_enabled(3) advises); for ever.
pub async fn stay_alive() -> Infallible {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::ZERO) else { return std::future::pending().await };
    let mut beat = tokio::time::interval(limit / 2);
    loop {
        beat.tick().await;
        say(&[NotifyState::Watchdog]);
    }
}
