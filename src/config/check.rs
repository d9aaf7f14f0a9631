//! `aralez check`: everything that a start would read, and all that is wrong with it.

use std::{fs, path::Path};

use super::{
    fault::{Faults, Place},
    main_file::MainFile,
    upstreams,
};

/// Checks `main.yaml` files with the routes and the certificates' folder that they name. The code is that of the start and of reload.
///
/// # Errors
/// [`Faults`] with everything that is wrong, in whichever file.
pub fn check<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<(), Faults> {
    let faults: Vec<_> = files.into_iter().filter_map(|path| one(path).err()).flat_map(|faults| faults.0).collect();
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

fn one(path: &Path) -> Result<(), Faults> {
    let main = MainFile::load(path)?;
    let mut faults = upstreams::load(&main).err().map(|faults| faults.0).unwrap_or_default();
    faults.extend(folder(&main).err().into_iter().flat_map(|faults| faults.0));
    if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
}

/// The folder of certificates is there, unless ACME makes it.
fn folder(main: &MainFile) -> Result<(), Faults> {
    let Some(folder) = main.certificates.as_ref().filter(|_| main.listeners.tls.is_some() && main.acme.is_none()) else { return Ok(()) };
    match fs::read_dir(folder) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = Place::start(Some(main.path.display().to_string().into()));
            let what = format!("the folder of certificates {} cannot be read: {error}", folder.display());
            Err(Faults::one(at, what, "put NAME.crt and NAME.key into it"))
        }
    }
}
