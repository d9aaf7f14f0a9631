//! The pid file: one line, the process id; locked (flock(2)) for as long as its process lives, so that a stale one is never mistaken for a live one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Seek, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, bail, ensure};
use rustix::{
    fs::{FlockOperation, OFlags},
    io::Errno,
};

use super::handover::{Name, Named};

/// A pid file that is ours, or will be once it is written.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Takes the file at `path`: the one that the process before this one handed over, else a new or a stale one.
    ///
    /// # Errors
    /// When a living process holds it; when it is a symbolic link, no regular file, or no pid file; when it cannot be made.
    pub fn take(path: &Path, inherited: Option<OwnedFd>) -> anyhow::Result<Self> {
        let what = || format!("the pid file {}", path.display());
        if let Some(file) = inherited.map(File::from)
            && is_at(&file, path)
        {
            return Ok(Self { path: path.to_owned(), file });
        }
        loop {
            let file = open(path).with_context(what)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&file, path) => return Ok(Self { path: path.to_owned(), file }),
                // Its process removed it just now.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    bail!("{} belongs to a running process ({}); stop it, or take over from it with -u", what(), read(&file).trim());
                }
                Err(why) => return Err(why).with_context(what),
            }
        }
    }

    /// Writes the id of this process.
    ///
    /// # Errors
    /// As the file system's.
    pub fn write(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", process::id())
    }

    /// A copy with the lock, for the next process.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn named(&self) -> io::Result<Named> {
        Ok((Name::PidFile(self.path.clone()), self.file.try_clone()?.into()))
    }

    /// Removes the file if it still names this process. Where the folder does not allow that any more (privileges were dropped), it is emptied.
    pub fn remove(self) {
        let ours = process::id().to_string();
        if is_at(&self.file, &self.path) && read(&self.file).trim() == ours && fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    // Without O_NONBLOCK opening a pipe would wait.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).custom_flags(flags).open(path);
    let file = match opened {
        Err(why) if why.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => bail!("is a symbolic link"),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    ensure!(metadata.is_file() && metadata.nlink() <= 1, "is not a file of its own");
    let text = read(&file);
    ensure!(text.len() < 16 && text.trim().bytes().all(|byte| byte.is_ascii_digit()), "has something else in it; it is left as it is");
    Ok(file)
}

/// The first bytes of a file, as text; empty if they cannot be read.
fn read(mut file: &File) -> String {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(16).read_to_string(&mut text));
    match read {
        Err(why) if why.kind() == ErrorKind::InvalidData => "?".to_owned(),
        _ => text,
    }
}

/// Whether a path names this very file.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    file.metadata().map(identity).is_ok_and(|open| fs::symlink_metadata(path).map(identity).is_ok_and(|found| found == open))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn pid(&self) -> PathBuf {
            self.0.path().join("aralez.pid")
        }

        fn refusal(&self) -> String {
            format!("{:#}", PidFile::take(&self.pid(), None).unwrap_err())
        }
    }

    fn ours() -> String {
        format!("{}\n", process::id())
    }

    #[test]
    fn it_is_written_locked_and_removed() {
        let folder = Folder::new();
        let mut file = PidFile::take(&folder.pid(), None).unwrap();
        file.write().unwrap();
        file.write().unwrap();
        assert_eq!(fs::read_to_string(folder.pid()).unwrap(), ours());
        assert!(folder.refusal().contains(&format!("running process ({})", process::id())));
        file.remove();
        assert!(!folder.pid().exists());
    }

    #[test]
    fn a_stale_one_is_replaced_even_if_its_number_is_alive() {
        let folder = Folder::new();
        for stale in ["1\n", "", "99999999\n"] {
            fs::write(folder.pid(), stale).unwrap();
            let mut file = PidFile::take(&folder.pid(), None).unwrap();
            file.write().unwrap();
            assert_eq!(fs::read_to_string(folder.pid()).unwrap(), ours());
        }
    }

    #[test]
    fn what_is_no_pid_file_is_left_alone() {
        let folder = Folder::new();
        let target = folder.0.path().join("target");
        fs::write(&target, "1\n").unwrap();
        symlink(&target, folder.pid()).unwrap();
        assert!(folder.refusal().contains("symbolic link"));
        fs::remove_file(folder.pid()).unwrap();
        fs::hard_link(&target, folder.pid()).unwrap();
        assert!(folder.refusal().contains("not a file of its own"));
        fs::remove_file(folder.pid()).unwrap();
        for text in ["root:x:0:0\n", "12345678901234567890", "\u{fffd}"] {
            fs::write(folder.pid(), text).unwrap();
            assert!(folder.refusal().contains("something else in it"));
            assert_eq!(fs::read_to_string(folder.pid()).unwrap(), text);
        }
        fs::write(folder.pid(), b"\xff\xfe").unwrap();
        assert!(folder.refusal().contains("something else in it"));
        assert_eq!(fs::read_to_string(target).unwrap(), "1\n");
    }

    #[test]
    fn one_that_is_handed_over_keeps_its_lock_and_survives_the_old_process() {
        let folder = Folder::new();
        let mut old = PidFile::take(&folder.pid(), None).unwrap();
        old.file.write_all(b"1\n").unwrap();
        let (name, descriptor) = old.named().unwrap();
        assert_eq!(name, Name::PidFile(folder.pid()));
        let mut new = PidFile::take(&folder.pid(), Some(descriptor)).unwrap();
        assert_eq!(fs::read_to_string(folder.pid()).unwrap(), "1\n", "it names the old process until the new one is ready");
        old.remove();
        assert!(folder.pid().exists(), "it does not name this process");
        assert!(folder.refusal().contains("running process"));
        new.write().unwrap();
        new.remove();
        assert!(!folder.pid().exists());
    }
}
