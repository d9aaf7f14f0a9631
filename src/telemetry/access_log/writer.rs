//! The thread that writes lines.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::{Duration, Instant},
};

use prometheus::IntCounter;

use super::Message;
use crate::model::access_log::Sink;

/// How often it is looked whether a file is still the one under its name.
const LOOK: Duration = Duration::from_secs(1);

/// The writing thread's sinks, opened when first used.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) open: HashMap<Sink, Opened>,
    /// Those that could not be written the last time.
    pub(super) failing: HashSet<Sink>,
}

/// A sink that is open.
pub(super) struct Opened {
    pub(super) writer: BufWriter<Box<dyn Write + Send>>,
    pub(super) file: Option<OpenFile>,
}

/// The file of a sink, to notice when another one has its name: log rotation moves the old one away.
pub(super) struct OpenFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    looked: Instant,
}

impl OpenFile {
    fn new(path: &Path, file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()), looked: Instant::now() })
    }

    /// Whether the name belongs to another file by now, or to none. Looks at most once a [`LOOK`].
    fn was_moved(&mut self) -> bool {
        if self.looked.elapsed() < LOOK {
            return false;
        }
        self.looked = Instant::now();
        fs::metadata(&self.path).map_or(true, |now| (now.dev(), now.ino()) != self.identity)
    }
}

impl Writer {
    pub(super) fn run(&mut self, queue: &Receiver<Message>, dropped: &IntCounter) {
        while let Ok(first) = queue.recv() {
            // Whatever waits is written before anything is flushed: one system call for many lines under load.
            for message in std::iter::once(first).chain(queue.try_iter()) {
                match message {
                    Message::Line(settings, line) => self.write(&settings.sink, &line, dropped),
                    Message::Flush(done) => {
                        self.flush(dropped);
                        // The one who asked may have stopped waiting.
                        let _ = done.send(());
                    }
                    Message::Reopen => {
                        self.flush(dropped);
                        self.open.clear();
                    }
                }
            }
            self.flush(dropped);
        }
    }

    fn write(&mut self, sink: &Sink, line: &[u8], dropped: &IntCounter) {
        if let Err(why) = self.try_write(sink, line) {
            self.lose(sink, &why, dropped);
        }
    }

    fn try_write(&mut self, sink: &Sink, line: &[u8]) -> io::Result<()> {
        if let Some(opened) = self.open.get_mut(sink)
            && opened.file.as_mut().is_some_and(OpenFile::was_moved)
        {
            opened.writer.flush()?;
            self.open.remove(sink);
        }
        if !self.open.contains_key(sink) {
            let mut opened = open(sink)?;
            if self.failing.contains(sink) && ends_within_a_line(sink) {
                // What a full disk cut must not spoil the next line.
                opened.writer.write_all(b"\n")?;
            }
            self.open.insert(sink.clone(), opened);
        }
        self.open.get_mut(sink).map_or(Ok(()), |opened| opened.writer.write_all(line))
    }

    fn flush(&mut self, dropped: &IntCounter) {
        let flushed: Vec<_> = self.open.iter_mut().map(|(sink, opened)| (sink.clone(), opened.writer.flush())).collect();
        for (sink, flushed) in flushed {
            match flushed {
                Err(why) => self.lose(&sink, &why, dropped),
                Ok(()) if self.failing.remove(&sink) => tracing::info!(?sink, "the access log is written again"),
                Ok(()) => {}
            }
        }
    }

    /// Counts a loss and lets the sink go, with whatever it holds: the next line opens it anew. Told once until it can be written again.
    fn lose(&mut self, sink: &Sink, why: &io::Error, dropped: &IntCounter) {
        dropped.inc();
        if self.failing.insert(sink.clone()) {
            tracing::warn!(?sink, %why, "access log lines are lost: the sink cannot be written");
        }
        if let Some(opened) = self.open.remove(sink) {
            // Not dropped as it is: that would try to write once more.
            let _ = opened.writer.into_parts();
        }
    }
}

/// Whether a file's last line has no end. Of others, and where it cannot be told, not.
fn ends_within_a_line(sink: &Sink) -> bool {
    let Sink::File(path) = sink else { return false };
    let last = || -> io::Result<u8> {
        let (mut file, mut last) = (File::open(path)?, [0]);
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    last().is_ok_and(|last| last != b'\n')
}

fn open(sink: &Sink) -> io::Result<Opened> {
    let to = |writer: Box<dyn Write + Send>, file| Opened { writer: BufWriter::new(writer), file };
    Ok(match sink {
        Sink::Stdout => to(Box::new(io::stdout()), None),
        Sink::Stderr => to(Box::new(io::stderr()), None),
        Sink::File(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let known = OpenFile::new(path, &file)?;
            to(Box::new(file), Some(known))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let (sink, dropped) = (Sink::File(path.clone()), IntCounter::new("dropped", "dropped").unwrap());
        let mut writer = Writer::default();
        let mut write = |line: &str, long_after: bool| {
            if let (true, Some(file)) = (long_after, writer.open.get_mut(&sink).and_then(|opened| opened.file.as_mut())) {
                file.looked -= LOOK;
            }
            writer.write(&sink, line.as_bytes(), &dropped);
            writer.flush(&dropped);
        };
        write("1\n", false);
        fs::rename(&path, &rotated).unwrap();
        write("2\n", false);
        write("3\n", true);
        write("4\n", true);
        fs::remove_file(&path).unwrap();
        write("5\n", true);
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "1\n2\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "5\n");
        assert_eq!(dropped.get(), 0);
    }
}
