//! `upstreams.yaml` and `conf.d`: which request goes where, read again whenever they change.

mod auth;
mod headers;
mod hosts;
mod policy;
mod raw;
mod route;

use std::{fs, path::PathBuf, sync::Arc};

use self::{hosts::Table, policy::Policy, raw::RawFile};
use super::{
    agent::AgentConfig,
    fault::{Check, Faults, Place},
    main_file::MainFile,
    shape::Shape,
    tree::{self, Environment, Kind, Node},
};
use crate::model::ingress::Routing;

/// The routes, checked.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// Which request goes where.
    pub routing: Routing,
    /// The agents that Consul services are asked of; the first that answers is used.
    pub consul: Vec<AgentConfig>,
}

/// The files that make up the routes: `upstreams.yaml` first, then `conf.d/*.yaml` beside it, sorted. The folder need not be there.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(main: &MainFile) -> Result<Vec<PathBuf>, Faults> {
    let folder = main.routes_folder();
    let mut parts = Vec::new();
    match fs::read_dir(&folder) {
        Ok(entries) => parts.extend(entries.filter_map(|entry| Some(entry.ok()?.path()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            let at = Place::start(Some(folder.display().to_string().into()));
            return Err(Faults::one(at, format!("cannot be read: {error}"), "make the folder readable, or remove it"));
        }
    }
    parts.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    parts.sort();
    Ok([vec![main.upstreams.clone()], parts].concat())
}

/// Reads the files that make up the routes, with a text in the place of the first if there is one.
///
/// # Errors
/// [`Faults`] with each that cannot be read.
pub fn read(main: &MainFile, pushed: Option<&str>) -> Result<Vec<(PathBuf, String)>, Faults> {
    let mut check = Check::default();
    let mut read = Vec::new();
    for path in files(main)? {
        let text = match pushed.filter(|_| path == main.upstreams) {
            Some(pushed) => Ok(pushed.to_owned()),
            // A pipe would be waited for without end.
            None if path.exists() && !path.is_file() => {
                Err(Faults::one(Place::start(Some(path.display().to_string().into())), "is no file", ""))
            }
            None => tree::read(&path),
        };
        match text {
            Ok(text) => read.push((path, text)),
            Err(faults) => check.faults(faults),
        }
    }
    check.finish(read)
}

/// Reads and checks the routes file of a `main.yaml` and what is beside it.
///
/// # Errors
/// [`Faults`] with everything that is wrong, in whichever file.
pub fn load(main: &MainFile) -> Result<Upstreams, Faults> {
    parse(&read(main, None)?, main)
}

/// Checks routes from their texts: the routes file, or what was pushed in its place, then those of `conf.d` in their order. Each is named by its path, and
/// relative paths in it are relative to the folder of that.
///
/// # Errors
/// [`Faults`] with everything that is wrong, in whichever text.
pub fn parse(files: &[(PathBuf, String)], main: &MainFile) -> Result<Upstreams, Faults> {
    parse_in(files, main, tree::environment)
}

fn parse_in(files: &[(PathBuf, String)], main: &MainFile, env: Environment) -> Result<Upstreams, Faults> {
    let mut check = Check::default();
    let mut table = Table::default();
    let mut first: Option<(RawFile, PathBuf)> = None;
    for (path, text) in files {
        let name: Arc<str> = path.display().to_string().into();
        let mut node = match Node::parse(text, Some(name), env, &mut check) {
            Ok(node) => node,
            Err(faults) => {
                check.faults(faults);
                continue;
            }
        };
        if first.is_none() {
            if matches!(node.kind, Kind::Null) {
                check.fault(&node.place, "the file is empty", "write at least upstreams: {}");
            }
            let outside = hosts::split_off(&mut node);
            let raw = RawFile::read(&node, &mut check).unwrap_or_default();
            table.merge(outside, path, &mut check);
            table.merge(raw.upstreams.clone().map(|at| at.value).unwrap_or_default(), path, &mut check);
            first = Some((raw, path.clone()));
        } else {
            table.merge_over(&node, path, &mut check);
        }
    }
    let Some((raw, path)) = first else { return check.finish(Upstreams::default()) };
    let globals = Policy::global(&raw, main, &path, &mut check);
    let routing = table.routing(&globals, &mut check);
    if let Some(provider) = raw.provider.filter(|at| at.value != "file") {
        check.fault(&provider.place, format!("the provider {:?} is not there yet", provider.value), "use file");
    }
    check.finish(Upstreams { routing, consul: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_shape_makes_a_route_of_each_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.yaml");
        fs::write(&path, "proxy_address_http: 127.0.0.1:0\nupstreams_conf: upstreams.yaml\n").unwrap();
        let text = r#"
provider: file
sticky_sessions: true
rate_limit: 100
headers: ["X-Frame-Options: DENY"]
authorization: {type: basic, creds: "root:toor"}
upstreams:
  "shop.example":
    paths:
      "/":    {servers: ["127.0.0.1:8000", "127.0.0.1:8001"]}
      "/api": {servers: ["127.0.0.1:9000"], rate_limit: 20, headers: ["X-Api: 1"], authorization: {type: apikey, creds: "k-1"}, healthcheck: false}
"#;
        fs::write(folder.path().join("upstreams.yaml"), text).unwrap();
        let main = MainFile::load(&path).unwrap();
        let upstreams = load(&main).unwrap();
        let names: Vec<&str> = upstreams.routing.routes.iter().map(|route| &*route.route.name).collect();
        assert_eq!(names, ["shop.example/", "shop.example/api"]);
        let pools: Vec<bool> = upstreams.routing.pools.iter().map(|pool| pool.health.is_some()).collect();
        assert_eq!(pools, [true, false]);
    }
}
