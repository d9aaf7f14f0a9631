//! A folder that nothing leads out of.
//!
//! Paths are opened by `openat2` with `RESOLVE_BENEATH` (Linux 5.6): the kernel itself refuses links and `..` that lead outside, so that nothing can be
//! exchanged between a look and the opening.

use std::{
    fs::Metadata,
    future::Future,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{Backend, File};

/// How often an opening is tried that the kernel could not carry out safely, since something was being renamed.
const TRIES: usize = 4;

/// An open folder; cheap to clone.
#[derive(Clone, Debug)]
pub struct Root(Arc<OwnedFd>);

impl Root {
    /// Opens a folder; its own path may have links in it.
    ///
    /// # Errors
    /// When there is none, or it may not be read.
    pub async fn open(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        blocking(move || Ok(Self(Arc::new(rustix::fs::open(&path, flags, Mode::empty())?)))).await
    }

    /// What a path names, if it is a file or a folder beneath this one.
    ///
    /// # Errors
    /// As [`Root::opened`].
    pub async fn kind(&self, path: PathBuf) -> io::Result<Metadata> {
        let root = self.clone();
        blocking(move || std::fs::File::from(root.opened(&path, OFlags::PATH)?).metadata()).await
    }

    /// Opens what a path names.
    ///
    /// # Errors
    /// `NotFound` when it names nothing beneath this folder, or nothing that may be read; others when the system is short of something, or is older
    /// than Linux 5.6.
    pub fn opened(&self, path: &PathBuf, flags: OFlags) -> io::Result<OwnedFd> {
        // Without waiting: a named pipe would keep us until somebody writes. With O_PATH nothing is opened, and no other flag may stand beside it.
        let waits = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            tries += 1;
            match rustix::fs::openat2(&*self.0, path, flags | waits | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Ok(file) => return Ok(file),
                Err(Errno::AGAIN) if tries < TRIES => {}
                Err(
                    Errno::NOENT
                    | Errno::NOTDIR
                    | Errno::ACCESS
                    | Errno::PERM
                    | Errno::XDEV
                    | Errno::LOOP
                    | Errno::NAMETOOLONG
                    | Errno::NXIO,
                ) => {
                    return Err(io::ErrorKind::NotFound.into());
                }
                Err(Errno::NOSYS) => {
                    let why = "openat2 is missing (before Linux 5.6) or forbidden (by RestrictSUIDSGID= of systemd)";
                    return Err(io::Error::new(io::ErrorKind::Unsupported, why));
                }
                Err(why) => return Err(why.into()),
            }
        }
    }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(act).await.map_err(io::Error::other)?
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

impl Backend for Root {
    type File = Opened;
    type Metadata = Metadata;
    type OpenFuture = Boxed<'static, Opened>;
    type MetadataFuture = Boxed<'static, Metadata>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let root = self.clone();
        Box::pin(blocking(move || {
            let file = std::fs::File::from(root.opened(&path, OFlags::RDONLY)?);
            // Only files have an end.
            if file.metadata()?.is_file() { Ok(Opened(file.into())) } else { Err(io::ErrorKind::NotFound.into()) }
        }))
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let root = self.clone();
        Box::pin(async move { root.kind(path).await })
    }
}

/// A file beneath a root, as `tower-http` reads it.
#[derive(Debug)]
pub struct Opened(tokio::fs::File);

impl AsyncRead for Opened {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncSeek for Opened {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.0).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.0).poll_complete(cx)
    }
}

impl File for Opened {
    type Metadata = Metadata;
    type MetadataFuture<'a> = Boxed<'a, Metadata>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        Box::pin(self.0.metadata())
    }
}
