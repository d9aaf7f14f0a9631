//! `access_log`: whether and where requests are logged.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    config::{
        fault::Check,
        shape::{At, Definitions, Shape, Switch, mismatch, section},
        tree::{Kind, Node},
    },
    model::access_log::{AccessLog, LineFormat, Sink, TextFormat},
};

section! {
    /// Where requests are logged, and what of them.
    struct AccessLogMap {
        /// off, stdout (or all), stderr, or a file. Default stdout.
        to: String,
        /// json for all fields, or a text with operators such as %RESPONSE_CODE%. Default json.
        format: String,
    }
}

/// Where requests are logged: a text, or a map.
#[derive(Clone, Debug)]
pub(super) struct RawAccessLog(AccessLogMap);

impl Shape for RawAccessLog {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Map(_) => AccessLogMap::read(node, check).map(Self),
            Kind::Text { .. } => Some(Self(AccessLogMap { to: At::read(node, check), format: None })),
            _ => mismatch(node, "a place (off, stdout, stderr or a file, or a map)", check),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"anyOf": [{"type": "string"}, AccessLogMap::schema(definitions)]})
    }
}

/// The settings; off if the file does not say.
pub(super) fn access_log(raw: Option<&At<Switch<RawAccessLog>>>, folder: &Path, check: &mut Check) -> AccessLog {
    let on = AccessLog { enabled: true, refused: true, ..AccessLog::default() };
    let RawAccessLog(map) = match raw.map(|at| &at.value) {
        None | Some(Switch::Off) => return AccessLog::default(),
        Some(Switch::On) => return on,
        Some(Switch::With(map)) => map,
    };
    let sink = match map.to.as_ref().map(|at| at.value.as_str()) {
        None | Some("stdout" | "all" | "access") => Sink::Stdout,
        Some("stderr") => Sink::Stderr,
        Some("off") => return AccessLog::default(),
        Some("error") => {
            if let Some(at) = &map.to {
                check.fault(&at.place, "the access log cannot be cut down to errors", "write all, or off");
            }
            Sink::Stdout
        }
        Some(path) => Sink::File(folder.join(path)),
    };
    let format = match &map.format {
        Some(at) if at.value != "json" => {
            let mut unknown = Vec::new();
            let compiled = TextFormat::compile(&format!("{}\n", at.value), &mut |name| unknown.push(name.to_owned()));
            for name in unknown {
                check.fault(&at.place, format!("%{name}% is no operator of the access log"), "take it out, or write %% for a percent sign");
            }
            let faulty = |why: String| check.fault(&at.place, why, "write json, or a text with operators such as %RESPONSE_CODE%");
            compiled.map_err(faulty).map_or(LineFormat::Standard, LineFormat::Text)
        }
        _ => LineFormat::Standard,
    };
    AccessLog { sink, format, ..on }
}
