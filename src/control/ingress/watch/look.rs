//! What files hold at one moment, by their content.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use openssl::sha::sha256;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// One file, or a link to one.
    File(PathBuf),
    /// The files of a folder whose names end with a dot and one of these words; dot files and folders inside are passed over.
    Folder {
        /// The folder; it need not exist.
        path: PathBuf,
        /// The endings, without the dot.
        endings: &'static [&'static str],
    },
}

impl Place {
    /// Whether a file of this path belongs to the place.
    pub(super) fn covers(&self, file: &Path) -> bool {
        match self {
            Self::File(path) => path == file,
            Self::Folder { path, endings } => file.parent() == Some(path) && is_wanted(file, endings),
        }
    }

    /// The folder whose entries lead to the place.
    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::File(path) => path.parent().unwrap_or(path),
            Self::Folder { path, .. } => path,
        }
    }
}

fn is_wanted(file: &Path, endings: &[&str]) -> bool {
    let hidden = file.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && file.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| endings.contains(&ending))
}

/// Above this many bytes a file is told apart by its [`Stamp`] alone.
const MOST_READ: u64 = 16 << 20;

/// A stamp that is younger than this when its file is read may cover another write: the clocks of file systems tick every few
/// milliseconds, those of some every two seconds.
const SURE_AFTER: Duration = Duration::from_secs(2);

/// What the kernel notes of a file; another one is a reason to read it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether a write after `now` is bound to leave another stamp.
    fn is_sure(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or_default());
        now > changed + SURE_AFTER
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// Text, by its SHA-256.
    Text([u8; 32]),
    /// Nothing.
    Empty,
    /// More than is read.
    Large(Stamp),
    /// There is no such file.
    Absent,
    /// It cannot be read.
    Unreadable(io::ErrorKind),
}

/// A file as it was seen.
#[derive(Clone, Debug)]
struct Seen {
    /// Its stamp, if that stands for the content.
    stamp: Option<Stamp>,
    content: Content,
}

impl Seen {
    fn without_stamp(content: Content) -> Self {
        Self { stamp: None, content }
    }

    /// Looks at a file; it is read only if its stamp is not the one that was seen before.
    fn at(path: &Path, before: Option<&Self>) -> Self {
        Self::read(path, before).unwrap_or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Self::without_stamp(Content::Absent),
            kind => Self::without_stamp(Content::Unreadable(kind)),
        })
    }

    fn read(path: &Path, before: Option<&Self>) -> io::Result<Self> {
        let now = SystemTime::now();
        let found = fs::metadata(path)?;
        let stamp = Stamp::of(&found);
        if let Some(before) = before.filter(|before| before.stamp == Some(stamp)) {
            return Ok(before.clone());
        }
        // Opening a pipe would wait for somebody to write.
        if !found.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if found.size() > MOST_READ {
            return Ok(Self::without_stamp(Content::Large(stamp)));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(MOST_READ).read_to_end(&mut bytes)?;
        let content = if bytes.is_empty() { Content::Empty } else { Content::Text(sha256(&bytes)) };
        Ok(Self { stamp: stamp.is_sure(now).then_some(stamp), content })
    }
}

/// What the files of some places held at one moment. Two looks are equal if the contents are.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    files: BTreeMap<PathBuf, Seen>,
    /// Where links among the files lead to.
    pub(super) targets: HashSet<PathBuf>,
}

impl PartialEq for Look {
    fn eq(&self, other: &Self) -> bool {
        self.contents().eq(other.contents())
    }
}

impl Look {
    fn contents(&self) -> impl Iterator<Item = (&PathBuf, &Content)> {
        self.files.iter().map(|(path, seen)| (path, &seen.content))
    }

    /// Looks at all files of the places; those with the stamp that they had in `before` are not read again.
    pub(super) fn at(places: &[Place], before: &Self) -> Self {
        let mut look = Self::default();
        let mut add = |path: PathBuf| {
            if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
                look.targets.extend(fs::canonicalize(&path).ok());
            }
            let seen = Seen::at(&path, before.files.get(&path));
            look.files.insert(path, seen);
        };
        for place in places {
            match place {
                Place::File(path) => add(path.clone()),
                Place::Folder { path, endings } => match entries(path, endings) {
                    Ok(files) => files.into_iter().for_each(&mut add),
                    Err(_) => add(path.clone()),
                },
            }
        }
        look
    }

    /// The same files, those that are in `known` as they were there.
    pub(super) fn but_for(mut self, known: &Self) -> Self {
        for (path, seen) in &mut self.files {
            if let Some(before) = known.files.get(path) {
                seen.clone_from(before);
            }
        }
        self
    }

    /// Whether a file is empty or gone that was not in `before`: many writers leave that behind for a moment.
    pub(super) fn lacks(&self, before: &Self) -> bool {
        let is_empty = |look: &Self, path| look.files.get(path).is_some_and(|seen| seen.content == Content::Empty);
        let emptied = self.files.keys().any(|path| is_empty(self, path) && !is_empty(before, path));
        let held = |seen: &Seen| matches!(seen.content, Content::Text(_) | Content::Large(_));
        emptied || before.files.iter().any(|(path, seen)| held(seen) && !self.files.get(path).is_some_and(held))
    }
}

fn entries(folder: &Path, endings: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if is_wanted(&path, endings) {
            files.push(path);
        }
    }
    Ok(files)
}
