//! A steady load, and what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::wait::eventually;

/// Errors kept word by word; more of them say nothing new.
const KEPT: usize = 5;

/// Workers that repeat an action until they are stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    workers: JoinSet<Report>,
}

/// What a load came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Actions that succeeded.
    pub ok: u64,
    /// Actions that failed.
    pub failed: u64,
    /// The first errors, each with the time since the start of the load at which it was noticed.
    pub errors: Vec<(Duration, String)>,
}

impl Load {
    /// Starts `workers` tasks that repeat `act`. What one turn returns (a connection, say) is handed to the next turn of the same
    /// worker; the first turn, and a turn after a failure, gets `None`.
    pub fn start<S, F>(workers: usize, act: impl Fn(Option<S>) -> F + Clone + Send + 'static) -> Self
    where
        S: Send + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for _ in 0..workers {
            let (act, stop, done) = (act.clone(), stop.clone(), done.clone());
            tasks.spawn(async move {
                let mut report = Report::default();
                let mut state = None;
                while !stop.load(Ordering::Relaxed) {
                    match act(state.take()).await {
                        Ok(next) => {
                            report.ok += 1;
                            state = Some(next);
                        }
                        Err(error) => report.add_failure(began.elapsed(), &error),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                report
            });
        }
        Self { stop, done, workers: tasks }
    }

    /// Waits until `count` more actions have ended, well or badly.
    ///
    /// # Errors
    /// When that takes longer than `limit`: the load has stalled.
    pub async fn progress(&self, count: u64, limit: Duration) -> Result<()> {
        let goal = self.done.load(Ordering::Relaxed) + count;
        eventually("progress of the load", limit, async || {
            let done = self.done.load(Ordering::Relaxed);
            ensure!(done >= goal, "{done} of {goal} done");
            Ok(())
        })
        .await
    }

    /// How many actions have ended, well or badly.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Lets every worker end its action, and adds up.
    ///
    /// # Errors
    /// When a worker panicked.
    pub async fn stop(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Report::default();
        while let Some(report) = self.workers.join_next().await {
            let report = report.context("a worker of the load")?;
            total.ok += report.ok;
            total.failed += report.failed;
            total.errors.extend(report.errors);
        }
        total.errors.sort();
        total.errors.truncate(KEPT);
        Ok(total)
    }
}

impl Report {
    fn add_failure(&mut self, at: Duration, error: &anyhow::Error) {
        self.failed += 1;
        if self.errors.len() < KEPT {
            self.errors.push((at, format!("{error:#}")));
        }
    }

    /// Asserts that at least `least` actions ran and none failed.
    ///
    /// # Errors
    /// With the counts and the first errors.
    pub fn flawless(&self, least: u64) -> Result<()> {
        let errors: Vec<_> = self.errors.iter().map(|(at, error)| format!("after {at:.1?}: {error}")).collect();
        ensure!(self.failed == 0, "{} of {} failed: {errors:#?}", self.failed, self.failed + self.ok);
        ensure!(self.ok >= least, "only {} actions, {least} wanted", self.ok);
        Ok(())
    }
}
