//! `mesh.yaml`: the mesh that `aralez dev` runs.
//!
//! Unknown keys are refused. What is wrong with the values is found all at once, each with its line and column; a text that has
//! not the shape of a mesh file is refused at the first place where it departs from it.

use std::{collections::HashMap, fs, path::Path, sync::Arc};

use anyhow::Context as _;
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::fault::{self, Check, Faults};
use crate::model::{
    intention::{Action, DefaultPolicy, Pattern},
    listener::Protocol,
};

/// A mesh that can be run as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshFile {
    /// The services, in the file's order; at least one.
    pub services: Vec<MeshService>,
    /// Who may call whom.
    pub intentions: Vec<MeshIntention>,
    /// What holds where no intention speaks; [`DefaultPolicy::Deny`] if the file does not say.
    pub default_policy: DefaultPolicy,
}

/// A service with its sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshService {
    /// Its name: lower-case letters, digits and dashes.
    pub name: String,
    /// What it speaks; tcp if the file does not say.
    pub protocol: Protocol,
    /// Where its app is.
    pub app: App,
    /// Port of the sidecar's public listener; 0 is any free one.
    pub sidecar_port: u16,
    /// What it calls.
    pub upstreams: Vec<MeshUpstream>,
}

/// The app of a service, on loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// The user's own, at this port.
    Own(u16),
    /// The built-in demo app, at this port; 0 is any free one.
    Demo(u16),
}

/// A service that another calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshUpstream {
    /// Name of a service of the same mesh.
    pub destination: String,
    /// Loopback port where the app reaches it; 0 is any free one.
    pub local_bind_port: u16,
}

/// Who may call whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshIntention {
    /// The caller.
    pub source: Pattern,
    /// The service called.
    pub destination: Pattern,
    /// Whether it may.
    pub action: Action,
}

impl MeshFile {
    /// The mesh that runs when no file is named: the text of `examples/mesh.yaml`.
    pub const BUILT_IN: &str = include_str!("../../examples/mesh.yaml");

    /// Reads the mesh file at a path; without one, the built-in mesh.
    ///
    /// # Errors
    /// When the file cannot be read, or everything that is wrong in it: a line each, `path:line:column: what`.
    pub fn load(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::parse(Self::BUILT_IN)?) };
        let name = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let named = Some(name.to_string().into());
        Ok(Self::parse_as(&text, named)?)
    }

    /// Reads the text of a mesh file.
    ///
    /// # Errors
    /// [`Faults`] with everything that is wrong.
    pub fn parse(text: &str) -> Result<Self, Faults> {
        Self::parse_as(text, None)
    }

    fn parse_as(text: &str, file: Option<Arc<str>>) -> Result<Self, Faults> {
        match serde_saphyr::from_str(text) {
            Ok(raw) => Checker { file, check: Check::default(), names: Vec::new(), ports: HashMap::new() }.mesh(raw),
            Err(error) => Err(fault::of_parser(&error, &file)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMesh {
    services: Spanned<Vec<RawService>>,
    #[serde(default)]
    intentions: Vec<RawIntention>,
    default_intention_policy: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawService {
    name: Spanned<String>,
    protocol: Option<Spanned<String>>,
    port: Option<Spanned<u16>>,
    demo_port: Option<Spanned<u16>>,
    sidecar_port: Option<Spanned<u16>>,
    #[serde(default)]
    upstreams: Vec<RawUpstream>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUpstream {
    destination: Spanned<String>,
    local_bind_port: Spanned<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIntention {
    source: Spanned<String>,
    destination: Spanned<String>,
    action: Spanned<String>,
}

/// Gathers the faults of a mesh.
struct Checker {
    file: Option<Arc<str>>,
    check: Check,
    names: Vec<String>,
    /// Which port is whose.
    ports: HashMap<u16, String>,
}

impl Checker {
    fn mesh(mut self, raw: RawMesh) -> Result<MeshFile, Faults> {
        if raw.services.value.is_empty() {
            self.fault(raw.services.referenced, "a mesh needs at least one service");
        }
        for service in &raw.services.value {
            self.name(&service.name);
        }
        let services = raw.services.value.into_iter().map(|service| self.service(service)).collect();
        let mut intentions: Vec<MeshIntention> = Vec::new();
        for raw in raw.intentions {
            let at = raw.source.referenced;
            let intention = self.intention(raw);
            let same = |known: &&MeshIntention| known.source == intention.source && known.destination == intention.destination;
            if intentions.iter().find(same).is_some() {
                self.fault(at, format!("a second intention {} -> {}; keep one", intention.source, intention.destination));
            }
            intentions.push(intention);
        }
        let default_policy = match raw.default_intention_policy {
            Some(word) => match self.action(&word) {
                Action::Allow => DefaultPolicy::Allow,
                Action::Deny => DefaultPolicy::Deny,
            },
            None => DefaultPolicy::Deny,
        };
        self.check.finish(MeshFile { services, intentions, default_policy })
    }

    fn fault(&mut self, at: Location, what: impl Into<String>) {
        self.check.fault(&fault::place(at, &self.file), what, "");
    }

    fn name(&mut self, name: &Spanned<String>) {
        let text = &name.value;
        let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > 63 || !text.bytes().all(fine) {
            self.fault(name.referenced, format!("{text:?} is no service name; use up to 63 lower-case letters, digits and dashes"));
        } else if self.names.contains(text) {
            self.fault(name.referenced, format!("a second service {text:?}; give it another name"));
        }
        self.names.push(text.clone());
    }

    fn service(&mut self, raw: RawService) -> MeshService {
        let name = raw.name.value;
        let protocol = match &raw.protocol {
            None => Protocol::default(),
            Some(word) => Protocol::parse(&word.value).unwrap_or_else(|| {
                self.fault(word.referenced, format!("{:?} is no protocol; use tcp, http, http2 or grpc", word.value));
                Protocol::default()
            }),
        };
        let app = match (&raw.port, &raw.demo_port) {
            (Some(_), Some(demo)) => {
                self.fault(demo.referenced, "port (your own app) and demo_port (the built-in one) exclude each other; keep one");
                App::Demo(0)
            }
            (Some(port), None) => {
                if port.value == 0 {
                    self.fault(port.referenced, "your own app has a port; 0 is none");
                }
                self.port(port, format!("the app of {name}"));
                App::Own(port.value)
            }
            (None, demo) => {
                if protocol.is_http2() {
                    self.fault(
                        raw.name.referenced,
                        format!("the demo app does not speak {}; say with port where your own is", protocol.as_str()),
                    );
                }
                demo.iter().for_each(|port| self.port(port, format!("the demo app of {name}")));
                App::Demo(demo.as_ref().map_or(0, |port| port.value))
            }
        };
        if let Some(port) = &raw.sidecar_port {
            self.port(port, format!("the sidecar of {name}"));
        }
        let mut upstreams: Vec<MeshUpstream> = Vec::new();
        for upstream in raw.upstreams {
            let RawUpstream { destination, local_bind_port } = upstream;
            self.known(&destination);
            if upstreams.iter().any(|known| known.destination == destination.value) {
                self.fault(destination.referenced, format!("{name} has {:?} as its upstream already; keep one", destination.value));
            }
            self.port(&local_bind_port, format!("the upstream {} of {name}", destination.value));
            upstreams.push(MeshUpstream { destination: destination.value, local_bind_port: local_bind_port.value });
        }
        MeshService { name, protocol, app, sidecar_port: raw.sidecar_port.map_or(0, |port| port.value), upstreams }
    }

    fn intention(&mut self, raw: RawIntention) -> MeshIntention {
        for end in [&raw.source, &raw.destination] {
            if Pattern::parse(&end.value) != Pattern::Any {
                self.known(end);
            }
        }
        let action = self.action(&raw.action);
        MeshIntention { source: Pattern::parse(&raw.source.value), destination: Pattern::parse(&raw.destination.value), action }
    }

    fn action(&mut self, word: &Spanned<String>) -> Action {
        match word.value.as_str() {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            other => {
                self.fault(word.referenced, format!("{other:?} is neither allow nor deny"));
                Action::Deny
            }
        }
    }

    fn known(&mut self, name: &Spanned<String>) {
        if !self.names.contains(&name.value) {
            self.fault(name.referenced, format!("no service {:?} in this mesh; there is {}", name.value, self.names.join(", ")));
        }
    }

    fn port(&mut self, port: &Spanned<u16>, whose: String) {
        if port.value == 0 {
            return;
        }
        match self.ports.get(&port.value) {
            Some(other) => self.fault(port.referenced, format!("port {} is that of {other} already; choose another", port.value)),
            None => {
                self.ports.insert(port.value, whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn the_built_in_mesh_is_web_calling_api() {
        let mesh = MeshFile::parse(MeshFile::BUILT_IN).unwrap();
        let upstreams = vec![MeshUpstream { destination: "api".to_owned(), local_bind_port: 9191 }];
        let service = |name: &str, app, sidecar_port, upstreams| MeshService {
            name: name.to_owned(),
            protocol: Protocol::Http,
            app: App::Demo(app),
            sidecar_port,
            upstreams,
        };
        let intention = MeshIntention { source: Pattern::parse("web"), destination: Pattern::parse("api"), action: Action::Allow };
        let expected = MeshFile {
            services: vec![service("web", 9090, 21000, upstreams), service("api", 9091, 21001, Vec::new())],
            intentions: vec![intention],
            default_policy: DefaultPolicy::Deny,
        };
        assert_eq!(mesh, expected);
    }

    #[test]
    fn defaults_are_tcp_a_demo_app_and_deny() {
        let mesh = MeshFile::parse("services: [{name: db}]").unwrap();
        assert_eq!(mesh.default_policy, DefaultPolicy::Deny);
        assert_eq!((mesh.services[0].protocol, mesh.services[0].app, mesh.services[0].sidecar_port), (Protocol::Tcp, App::Demo(0), 0));
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let text = "\
services:
  - name: Web
    protocol: smtp
    upstreams:
      - {destination: nobody, local_bind_port: 9000}
      - {destination: api, local_bind_port: 9000}
      - {destination: api, local_bind_port: 0}
  - name: api
    protocol: grpc
  - name: api
    port: 8080
    demo_port: 8081
  - name: own
    port: 0
intentions:
  - {source: '*', destination: nowhere, action: ask}
  - {source: api, destination: api, action: allow}
  - {source: api, destination: api, action: deny}
default_intention_policy: maybe
";
        let faults = MeshFile::parse(text).unwrap_err();
        let told: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
        let expected = [
            "2:11: \"Web\" is no service name",
            "3:15: \"smtp\" is no protocol",
            "5:23: no service \"nobody\" in this mesh; there is Web, api, api, own",
            "6:45: port 9000 is that of the upstream nobody of Web already",
            "7:23: Web has \"api\" as its upstream already",
            "8:11: the demo app does not speak grpc",
            "10:11: a second service \"api\"",
            "12:16: port (your own app) and demo_port",
            "14:11: your own app has a port",
            "16:32: no service \"nowhere\"",
            "16:49: \"ask\" is neither allow nor deny",
            "18:14: a second intention api -> api",
            "19:27: \"maybe\" is neither allow nor deny",
        ];
        assert_eq!(told.len(), expected.len(), "{faults}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told:?} is not {expected:?}");
        }
    }

    #[test]
    fn a_file_is_named_in_front_of_every_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mesh.yaml");
        assert!(MeshFile::load(Some(&path)).unwrap_err().to_string().contains("mesh.yaml"));
        fs::write(&path, "services: [{name: A}, {name: B}]").unwrap();
        let told = MeshFile::load(Some(&path)).unwrap_err().to_string();
        assert_eq!(told.lines().filter(|line| line.starts_with(&format!("{}:1:", path.display()))).count(), 2, "{told}");
        assert_eq!(MeshFile::load(None).unwrap(), MeshFile::parse(MeshFile::BUILT_IN).unwrap());
    }

    #[test]
    fn a_text_of_another_shape_is_refused_with_its_place() {
        for (text, place, part) in [
            ("services:\n  - name: web\n    prot: http\n", "3:5: ", "prot"),
            ("services:\n  - protocol: http\n", "2:5: ", "name"),
            ("services:\n  - name: web\n    port: many\n", "3:11: ", ""),
            ("services:\n  - name: web\n    port: 70000\n", "3:11: ", ""),
            ("services: []\nservices: []\n", "2:1: ", "services"),
            ("services: []\n", "1:11: ", "at least one"),
            ("services: [\n", "", ""),
            ("", "", ""),
        ] {
            let faults = MeshFile::parse(text).unwrap_err().to_string();
            assert!(faults.starts_with(place) && faults.contains(part) && !faults.contains('\n'), "{text:?} gave {faults:?}");
        }
    }
}
