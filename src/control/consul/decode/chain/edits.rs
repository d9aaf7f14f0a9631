//! Header edits of a router's destination and of a splitter's leg.

use std::{collections::BTreeMap, sync::Arc};

use consul_api_types::HeaderModifiers;
use http::{HeaderName, HeaderValue};

use crate::model::{
    format::{Format, Piece},
    registration::Unusable,
    route::{Edits, HeaderEdits},
};

/// Fields that frame a message or belong to one connection (RFC 9110, section 7.6.1; RFC 9112, section 6), where an edit would break the
/// next hop's reading; and `Host`, which Envoy refuses to edit, too.
const FIXED: [&str; 10] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
];

/// The edits of requests and answers; `path` says where they stand.
pub(super) fn both(
    request: &Option<HeaderModifiers>,
    response: &Option<HeaderModifiers>,
    path: &str,
    problems: &mut Vec<Unusable>,
) -> HeaderEdits {
    let mut read = |wire: &Option<HeaderModifiers>, field: &str| {
        wire.as_ref().map(|wire| edits(wire, &format!("{path}.{field}"), problems)).unwrap_or_default()
    };
    HeaderEdits { request: read(request, "RequestHeaders"), response: read(response, "ResponseHeaders") }
}

fn edits(wire: &HeaderModifiers, path: &str, problems: &mut Vec<Unusable>) -> Edits {
    let mut edits = Edits::default();
    let mut problem = |list: &str, name: &str, why: String, advice: &str| {
        problems.push(Unusable { path: format!("{path}.{list}[{name}]"), why, advice: advice.to_owned() });
    };
    for name in &wire.remove {
        match editable(name) {
            Ok(name) => edits.remove.push(name),
            Err(why) => problem("Remove", name, why, "the header is left as it is"),
        }
    }
    let mut fields = |list: &str, wire: &BTreeMap<String, String>, replaces: bool| {
        let mut read = Vec::with_capacity(wire.len());
        for (name, text) in wire {
            match (editable(name), value(text)) {
                (Err(why), _) => problem(list, name, why, "the header is left as it is"),
                (Ok(name), Ok(value)) => read.push((name, value)),
                // What the caller sent must not pass for what was to be set.
                (Ok(name), Err(why)) if replaces => {
                    problem(list, &name, why, "the header is removed instead");
                    edits.remove.push(name);
                }
                (Ok(name), Err(why)) => problem(list, &name, why, "nothing is added"),
            }
        }
        read
    };
    edits.set = fields("Set", &wire.set, true);
    edits.add = fields("Add", &wire.add, false);
    edits
}

/// The name in lower case, if the header may be edited at all.
fn editable(name: &str) -> Result<Arc<str>, String> {
    let lower = name.to_ascii_lowercase();
    if lower.starts_with(':') || FIXED.contains(&lower.as_str()) {
        return Err("headers that route or frame the message cannot be edited".to_owned());
    }
    HeaderName::from_bytes(lower.as_bytes()).map_err(|_| "it is no header name".to_owned())?;
    Ok(lower.into())
}

/// A value that can be made for every request.
fn value(text: &str) -> Result<Format, String> {
    let format = Format::parse(text).map_err(|why| format!("{text:?}: {why}; a percent sign is written %%"))?;
    for piece in &format.pieces {
        match piece {
            Piece::Text(text) => drop(HeaderValue::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} cannot stand in a header"))?),
            Piece::Command(command) if Edits::knows(command) => {}
            Piece::Command(command) => return Err(format!("command {} is not known, or cannot have this argument", command.name)),
        }
    }
    Ok(format)
}
