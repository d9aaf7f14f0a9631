//! Writes a file so that whoever reads it sees the old text or the new one, whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// Who may read a file that was not there before: routes hold credentials.
const NEW_MODE: u32 = 0o600;

/// Replaces the text of a file, or of what a link leads to. Mode and, as far as we may, owner stay.
///
/// # Errors
/// When it cannot be written; the file is as it was then.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).or_else(|why| if why.kind() == io::ErrorKind::NotFound { Ok(path.to_owned()) } else { Err(why) })?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Err(io::ErrorKind::InvalidInput.into()) };
    // Hidden, so that no folder of files takes it for one of its own.
    let new = folder.join(format!(".{}.{:016x}", name.to_string_lossy(), fastrand::u64(..)));
    let written = write(&new, text, fs::metadata(&path).ok()).and_then(|()| fs::rename(&new, &path));
    if written.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&new);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write(new: &Path, text: &[u8], old: Option<fs::Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(NEW_MODE).open(new)?;
    if let Some(old) = old {
        if std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid())).is_err() {
            tracing::debug!("the new file belongs to us, not to the old one's owner");
        }
        file.set_permissions(old.permissions())?;
    }
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_file_is_replaced_with_its_mode_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upstreams.yaml");
        replace(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, NEW_MODE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_ne!(fs::metadata(&path).unwrap().ino(), inode, "written in place");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "one").unwrap();
        symlink("real", &link).unwrap();
        replace(&link, b"two").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"two");
    }

    #[test]
    fn what_cannot_be_written_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(replace(&folder.path().join("absent/upstreams.yaml"), b"x").is_err());
        // A folder cannot be replaced by a file, and no half of one is left beside it.
        fs::create_dir(folder.path().join("upstreams.yaml")).unwrap();
        assert!(replace(&folder.path().join("upstreams.yaml"), b"x").is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
