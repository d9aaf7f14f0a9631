//! The standing of the process: what it holds of the operating system from its start to its end.

use std::{io, sync::Arc};

use anyhow::Context as _;
use rustix::process::Uid;

use super::{
    background::Background,
    handover::{self, Door, Name, Named, Waiting},
    log_file::LogFile,
    pid_file::PidFile,
    privileges::Account,
    sockets::{Sockets, remove_file},
};
use crate::{config::process::ProcessSettings, model::listener::Address};

/// What the process holds.
#[derive(Debug)]
pub struct Standing {
    /// The sockets that listen already.
    pub sockets: Arc<Sockets>,
    /// The log, if it goes to a file.
    pub log_file: Option<Arc<LogFile>>,
    door: Option<Door>,
    pid_file: Option<PidFile>,
    /// The process before this one waits for us to serve.
    waiting: Option<Waiting>,
    background: Option<Background>,
}

impl Standing {
    /// Takes what `settings` say, in the order that needs privileges first, and then drops them to become `account`.
    ///
    /// # Errors
    /// With what could not be had; nothing was changed that outlives this process, except that stale files are gone.
    pub fn take(settings: &ProcessSettings, account: Option<&Account>, background: Option<Background>) -> anyhow::Result<Self> {
        let sockets = Sockets::activated().context("the sockets given by the service manager (LISTEN_FDS)")?;
        let (mut waiting, mut pid_file, mut door) = (None, None, None);
        if let (true, Some(path)) = (settings.upgrade, &settings.upgrade_sock) {
            let trusted = account.and_then(Account::uid).map(Uid::from_raw);
            let asked = handover::ask(path, trusted.as_slice()).with_context(|| format!("cannot take over at {}", path.display()))?;
            match asked {
                None => tracing::warn!("no process listens on {}: there is nothing to take over", path.display()),
                Some((all, old)) => {
                    tracing::info!(sockets = all.len(), "taking over from the running process");
                    waiting = Some(old);
                    for (name, descriptor) in all {
                        match name {
                            Name::Listener(address) => sockets.put(address, descriptor),
                            Name::PidFile(path) => pid_file = Some(descriptor).filter(|_| settings.pid_file.as_ref() == Some(&path)),
                            Name::Door(at) if at == *path => door = Some(descriptor),
                            Name::Door(_) => {}
                        }
                    }
                }
            }
        }
        for bind in &settings.listen {
            sockets.prepare(bind).with_context(|| format!("cannot listen on {}", bind.address))?;
        }
        let mut standing = Self {
            sockets: Arc::new(sockets),
            log_file: None,
            door: None,
            pid_file: settings.pid_file.as_deref().map(|path| PidFile::take(path, pid_file)).transpose()?,
            waiting,
            background,
        };
        if let Some(path) = &settings.upgrade_sock {
            standing.door = Some(Door::open(path, door).with_context(|| format!("cannot listen on the upgrade_sock {}", path.display()))?);
        }
        if standing.waiting.is_none() {
            standing.write_pid()?;
        }
        if let Some(path) = &settings.error_log {
            let opened = LogFile::open(path, account).with_context(|| format!("cannot open the error_log {}", path.display()))?;
            standing.log_file = Some(Arc::new(opened));
        }
        account.map_or(Ok(()), Account::assume)?;
        if let Some(log_file) = &standing.log_file {
            log_file.redirect().context("cannot send standard error to the error_log")?;
        }
        Ok(standing)
    }

    /// Whether the process before this one goes on until [`Standing::serves`].
    pub fn is_taking_over(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether a new process can take over from this one.
    pub fn can_hand_over(&self) -> bool {
        self.door.is_some()
    }

    /// All listeners serve: tells the process before this one, and the shell.
    ///
    /// # Errors
    /// When the pid file cannot be written, or standard output cannot be let go.
    pub fn serves(&mut self) -> anyhow::Result<()> {
        for unwanted in self.sockets.close_rest() {
            tracing::warn!(address = %unwanted, "no listener of the configuration has the address of a socket that was given: closed");
        }
        if let Some(old) = self.waiting.take() {
            // Before the old process may end: it removes a file that names it.
            self.write_pid()?;
            if let Err(why) = old.ready() {
                tracing::warn!("the process before this one has ended already: {why}");
            }
        }
        if let Some(background) = self.background.take() {
            background.serves(self.log_file.is_some()).context("cannot let go of the terminal")?;
        }
        Ok(())
    }

    /// The way for the next process, with what it gets from here; `None` without an upgrade socket, and from the second call on.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn door(&mut self) -> io::Result<Option<(Door, Vec<Named>)>> {
        let Some(door) = self.door.take() else { return Ok(None) };
        let mut own = vec![door.named()?];
        if let Some(pid_file) = &self.pid_file {
            own.push(pid_file.named()?);
        }
        Ok(Some((door, own)))
    }

    fn write_pid(&mut self) -> anyhow::Result<()> {
        self.pid_file.as_mut().map_or(Ok(()), PidFile::write).context("cannot write the pid file")
    }

    /// The end: nothing of this process is left behind, except what the next one has.
    pub fn end(self, settings: &ProcessSettings, handed_over: bool) {
        if let Some(pid_file) = self.pid_file {
            pid_file.remove();
        }
        if let (Some(path), false) = (&settings.upgrade_sock, handed_over) {
            remove_file(&Address::Unix(path.clone()));
        }
    }
}
