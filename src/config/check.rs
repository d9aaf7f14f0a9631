//! `aralez check`: everything that a start would read, and all that is wrong with it.

use std::{fs, path::Path};

use super::{
    fault::{Faults, Place},
    main_file::MainFile,
    upstreams::{self, Upstreams},
};

/// Checks `main.yaml` files with the routes and the certificates' folder that they name. Gives those that could be read, with their routes where these are
/// right, and everything that is wrong, in whichever file. The code is that of the start and of reload.
pub fn check<'a>(files: impl IntoIterator<Item = &'a Path>) -> (Vec<(MainFile, Option<Upstreams>)>, Faults) {
    let (mut mains, mut faults) = (Vec::new(), Vec::new());
    for path in files {
        match MainFile::load(path) {
            Ok(main) => {
                let routes = upstreams::load(&main).map_err(|wrong| faults.extend(wrong.0)).ok();
                faults.extend(folder(&main).err().into_iter().flat_map(|wrong| wrong.0));
                mains.push((main, routes));
            }
            Err(wrong) => faults.extend(wrong.0),
        }
    }
    (mains, Faults(faults))
}

/// The folder of certificates is there, unless ACME makes it.
fn folder(main: &MainFile) -> Result<(), Faults> {
    let Some(folder) = main.certificates.as_ref().filter(|_| main.listeners.tls.is_some() && main.acme.is_none()) else { return Ok(()) };
    match fs::read_dir(folder) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = Place::start(Some(main.path.display().to_string().into()));
            let what = format!("proxy_certificates: the folder {} cannot be read: {error}", folder.display());
            Err(Faults::one(at, what, "put NAME.crt and NAME.key into it"))
        }
    }
}
