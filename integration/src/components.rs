//! The programs around the tests: found, or built once.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

/// The `consul` program: `CONSUL_BIN`, else the one on the `PATH`, else built from `tools/consul`.
///
/// # Errors
/// When there is none and it cannot be built.
pub fn consul() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CONSUL_BIN") {
        return Ok(path.into());
    }
    match on_path("consul") {
        Some(path) => Ok(path),
        None => go_build("consul", "consul", "github.com/hashicorp/consul", "about three minutes"),
    }
}

/// gRPC's own interoperability peer, `role` being `client` or `server`: built from `tools/grpc-interop`.
///
/// # Errors
/// When it cannot be built.
pub fn grpc_interop(role: &str) -> Result<PathBuf> {
    go_build("grpc-interop", role, &format!("google.golang.org/grpc/interop/{role}"), "seconds")
}

/// The `aralez` program: `ARALEZ_BIN`, else built by cargo in its `dev` profile, once per test process.
///
/// # Errors
/// When it cannot be built.
pub fn aralez() -> Result<PathBuf> {
    static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);
    if let Some(path) = std::env::var_os("ARALEZ_BIN") {
        return Ok(path.into());
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = built.as_ref() {
        return Ok(path.clone());
    }
    let target = target_folder()?;
    let status = Command::new(env!("CARGO"))
        .args(["build", "--package", "aralez", "--bin", "aralez", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "cargo build of aralez: {status}");
    Ok(built.insert(target.join("debug/aralez")).clone())
}

/// Builds `package` of the wrapper module `tools/<module>` into `<target folder>/components/<module>-<version>/<program>`, unless it
/// is there. Test processes that come meanwhile wait for the one that builds.
fn go_build(module: &str, program: &str, package: &str, duration: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(module);
    let version = required_version(&source)?;
    let folder = target_folder()?.join("components").join(format!("{module}-{version}"));
    fs::create_dir_all(&folder)?;
    let binary = folder.join(program);
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    if binary.exists() {
        return Ok(binary);
    }
    eprintln!("building {program} of {module} {version} (once, {duration})");
    let partial = folder.join(format!("{program}.partial"));
    let built = Command::new("go").args(["build", "-ldflags", "-s -w", "-o"]).arg(&partial).arg(package).current_dir(&source).status();
    match built {
        Ok(status) if status.success() => {}
        Ok(status) => bail!("go build of {package} {version}: {status}"),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("Go is needed to build {package} {version}: install it (`apt-get install golang`, 1.22 or newer)")
        }
        Err(error) => return Err(error).context("start go"),
    }
    fs::rename(&partial, &binary)?;
    Ok(binary)
}

/// The version of the one module that the wrapper requires directly: `require <module> v<version>`.
fn required_version(source: &Path) -> Result<String> {
    let file = source.join("go.mod");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("require ")?.split_once(" v"))
        .map(|(_, version)| version.to_owned())
        .with_context(|| format!("{} requires nothing", file.display()))
}

/// Cargo's target folder: the one this test program lies in.
fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    // Cargo marks the folder it builds into with this file.
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target.map(Path::to_owned).with_context(|| format!("{} is not in a target folder", program.display()))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
