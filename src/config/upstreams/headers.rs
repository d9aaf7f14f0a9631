//! Rules for headers, each level adding to the one above.

use http::{HeaderName, HeaderValue};

use super::raw::RawPolicy;
use crate::{
    config::{fault::Check, shape::At},
    model::{
        format::Format,
        route::{Edits, HeaderEdits},
    },
};

/// Headers that say where a message ends or what becomes of the connection: the proxy's own business.
const FRAMING: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// Adds the rules of a level to those of the levels above.
pub(super) fn add(edits: &mut HeaderEdits, raw: &RawPolicy, check: &mut Check) {
    for line in raw.headers.iter().flat_map(|list| &list.value) {
        set_line(&mut edits.response, line, check);
    }
    for line in raw.server_headers.iter().flat_map(|list| &list.value) {
        set_line(&mut edits.request, line, check);
    }
}

fn set_line(edits: &mut Edits, line: &At<String>, check: &mut Check) {
    let Some((name, value)) = line.value.split_once(':') else {
        return check.fault(&line.place, format!("{:?} is no header", line.value), "write \"Name: value\"");
    };
    if let Some(name) = header_name(name.trim(), line, check)
        && let Some(value) = header_value(value.trim(), line, check)
    {
        forget(edits, &name);
        edits.set.push((name.as_str().into(), value));
    }
}

fn header_name(name: &str, line: &At<String>, check: &mut Check) -> Option<HeaderName> {
    let Ok(parsed) = name.parse::<HeaderName>() else {
        check.fault(&line.place, format!("{name:?} is no header's name"), "use letters, digits and dashes");
        return None;
    };
    if FRAMING.contains(&parsed.as_str()) {
        check.fault(&line.place, format!("{name} belongs to the connection"), "leave it to the proxy, which sets it where it is due");
        return None;
    }
    Some(parsed)
}

fn header_value(value: &str, line: &At<String>, check: &mut Check) -> Option<Format> {
    if HeaderValue::from_str(value).is_err() {
        check.fault(&line.place, format!("{value:?} is no header's value"), "use one line of visible ASCII");
        return None;
    }
    Some(Format::text(value))
}

/// What a level says about a header goes before what the levels above say.
fn forget(edits: &mut Edits, name: &HeaderName) {
    edits.set.retain(|(known, _)| **known != *name.as_str());
    edits.add.retain(|(known, _)| **known != *name.as_str());
}
