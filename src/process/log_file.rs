//! The log in a file: standard error goes there, so that what the runtime and libraries say is not lost either.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::fchown,
    path::{Path, PathBuf},
};

use super::privileges::Account;

/// The file that standard error goes to.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Opens the file to append to it. If privileges are dropped later, it will belong to `owner`, who has to open it anew.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path, owner: Option<&Account>) -> io::Result<Self> {
        let file = append(path)?;
        if let Some(owner) = owner
            && rustix::process::geteuid().is_root()
        {
            fchown(&file, owner.uid(), Some(owner.gid()))?;
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// From now on standard error goes there.
    ///
    /// # Errors
    /// As dup2(2).
    pub fn redirect(&self) -> io::Result<()> {
        Ok(rustix::stdio::dup2_stderr(&self.file)?)
    }

    /// Opens the file under its name anew: the old one was moved away. If that fails, the old one stays.
    pub fn reopen(&self) {
        let opened = append(&self.path).and_then(|file| Ok(rustix::stdio::dup2_stderr(file)?));
        if let Err(why) = opened {
            tracing::error!("cannot open the log {} anew: {why}; the old file is used on", self.path.display());
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
