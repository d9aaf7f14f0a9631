//! `upstreams.yaml` and `conf.d`: which request goes where, read again whenever they change.

mod auth;
mod consul;
mod headers;
mod hosts;
mod kubernetes;
mod policy;
mod pool;
mod raw;
mod raw_auth;
mod raw_pool;
mod route;

use std::{fs, path::PathBuf, sync::Arc};

use serde_json::{Value, json};

use self::{
    hosts::Table,
    policy::{Policy, Scope},
    raw::Provider,
};
use super::{
    agent::AgentConfig,
    fault::{Check, Faults, Place},
    kubernetes::Kubernetes,
    main_file::MainFile,
    read,
    shape::{Definitions, Shape},
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
    /// The cluster that Services and Ingresses are read from; `None` if nothing asks for one.
    pub kubernetes: Option<Kubernetes>,
    /// Files that the routes were made of beside the given ones: secrets, certificates, key sets; sorted.
    pub also_read: Vec<PathBuf>,
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
    parts.insert(0, main.upstreams.clone());
    Ok(parts)
}

/// Reads the files that make up the routes, with a text in the place of the first if there is one.
///
/// # Errors
/// [`Faults`] with each that cannot be read.
pub fn texts(main: &MainFile, pushed: Option<&str>) -> Result<Vec<(PathBuf, String)>, Faults> {
    let mut check = Check::default();
    let mut texts = Vec::new();
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
            Ok(text) => texts.push((path, text)),
            Err(faults) => check.faults(faults),
        }
    }
    check.finish(texts)
}

/// Reads and checks the routes file of a `main.yaml` and what is beside it.
///
/// # Errors
/// [`Faults`] with everything that is wrong, in whichever file.
pub fn load(main: &MainFile) -> Result<Upstreams, Faults> {
    parse(&texts(main, None)?, main)
}

/// Checks routes from their texts: the routes file, or what was pushed in its place, then those of `conf.d` in their order. Each is named by its path;
/// relative paths in it are relative to the folder of that, those of a pushed text to the folder of the routes file.
///
/// # Errors
/// [`Faults`] with everything that is wrong, in whichever text.
pub fn parse(texts: &[(PathBuf, String)], main: &MainFile) -> Result<Upstreams, Faults> {
    parse_in(texts, main, tree::environment)
}

pub(super) fn parse_in(texts: &[(PathBuf, String)], main: &MainFile, env: Environment) -> Result<Upstreams, Faults> {
    let mut check = Check::default();
    let mut table = Table::default();
    let mut first = None;
    for (at, (path, text)) in texts.iter().enumerate() {
        let name: Arc<str> = path.display().to_string().into();
        match Node::parse(text, Some(name), env, &mut check) {
            Err(faults) => check.faults(faults),
            Ok(node) if at == 0 => first = routes_file(node, main, &mut table, &mut check),
            Ok(node) => {
                let hosts = hosts::of_part(node, &mut check);
                table.add(hosts, path, true, &mut check);
            }
        }
    }
    let Some(raw) = first else { return check.finish(Upstreams::default()) };
    consul::paths(raw.consul.as_ref(), &main.upstreams, &mut table, &mut check);
    kubernetes::paths(raw.kubernetes.as_ref(), &main.upstreams, &mut table, &mut check);
    let folder = read::folder(&main.upstreams);
    let mesh = consul::Mesh::new(raw.consul.as_ref(), &mut check);
    let scope = Scope { name: "global", folder: &folder, main, mesh: &mesh };
    let globals = Policy::new(main).with(&raw.policy, scope, &mut check);
    let routing = table.routing(&globals, scope, &mut check);
    let consul = consul::agents(raw.consul.as_ref(), &folder, &mut check);
    let kubernetes = kubernetes::cluster(&raw, &globals, &routing, &folder, &mut check);
    let also_read = check.files_read();
    check.finish(Upstreams { routing, consul, kubernetes, also_read })
}

/// Reads what stands in the routes file; `None` after a fault was told.
fn routes_file(mut node: Node, main: &MainFile, table: &mut Table, check: &mut Check) -> Option<raw::Upstreams> {
    if matches!(node.kind, Kind::Null) {
        check.fault(&node.place, "the file is empty", "write at least upstreams: {}");
        return None;
    }
    let outside = hosts::split_off(&mut node, check);
    let mut raw = raw::Upstreams::read(&node, check)?;
    let inside = raw.upstreams.take().map(|at| at.value).unwrap_or_default();
    table.add(outside, &main.upstreams, false, check);
    table.add(inside, &main.upstreams, false, check);
    match &raw.provider {
        Some(at) if at.value.0 == Provider::Consul && raw.consul.is_none() => {
            check.fault(&at.place, "provider consul without consul", "write consul: with servers and services");
        }
        _ => {}
    }
    Some(raw)
}

/// The schema of the routes file, with the sections that it refers to.
pub(super) fn schema(definitions: &mut Definitions) -> Value {
    let reference = raw::Upstreams::schema(definitions);
    // The oldest layout: hosts at the top level.
    if let Some(Value::Object(file)) = definitions.get_mut("Upstreams") {
        file.insert("additionalProperties".to_owned(), json!({"$ref": "#/$defs/Host"}));
    }
    reference
}
