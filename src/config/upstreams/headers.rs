//! Rules for headers, each level adding to the one above.

use std::sync::Arc;

use http::HeaderName;

use super::raw::{HeaderRules, Policy};
use crate::{
    config::{
        fault::Check,
        read::{self, HeaderLine},
        shape::{At, Entries, Of, Text},
    },
    model::{
        format::Format,
        route::{Edits, HeaderEdits},
    },
};

/// Adds the rules of a level to those of the levels above.
pub(super) fn add(edits: &mut HeaderEdits, raw: &Policy, check: &mut Check) {
    lines(&mut edits.response, raw.headers.as_ref());
    lines(&mut edits.request, raw.server_headers.as_ref());
    rules(&mut edits.response, raw.response_headers.as_ref(), check);
    rules(&mut edits.request, raw.request_headers.as_ref(), check);
}

fn lines(edits: &mut Edits, list: Option<&At<Vec<At<Of<HeaderLine>>>>>) {
    for At { value: Of(HeaderLine(name, value)), .. } in list.iter().flat_map(|at| &at.value) {
        set(edits, name, value);
    }
}

fn rules(edits: &mut Edits, rules: Option<&At<HeaderRules>>, check: &mut Check) {
    let Some(At { value: rules, .. }) = rules else { return };
    for name in rules.remove.iter().flat_map(|at| &at.value.0) {
        let name = &name.value.0;
        forget(edits, name);
        edits.remove.push(name.as_str().into());
    }
    for (name, value) in fields(rules.set.as_ref(), check) {
        set(edits, &name, &value);
    }
    for (name, value) in fields(rules.add.as_ref(), check) {
        edits.add.push((name.as_str().into(), Format::text(&value)));
    }
}

/// Names and values of a map; what is wrong is told.
fn fields(map: Option<&At<Entries<String>>>, check: &mut Check) -> Vec<(HeaderName, String)> {
    let mut fields = Vec::new();
    for (key, At { value, place }) in map.iter().flat_map(|at| &at.value) {
        let name = <HeaderName as Text>::parse(&key.text).map_err(|(what, advice)| check.fault(&key.place, what, advice));
        let value = read::header_value(value).map_err(|(what, advice)| check.fault(place, what, advice));
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.push((name, value));
        }
    }
    fields
}

fn set(edits: &mut Edits, name: &HeaderName, value: &str) {
    forget(edits, name);
    edits.set.push((name.as_str().into(), Format::text(value)));
}

/// What a level says of a header goes before what the levels above say.
fn forget(edits: &mut Edits, name: &HeaderName) {
    let other = |known: &Arc<str>| **known != *name.as_str();
    edits.set.retain(|(known, _)| other(known));
    edits.add.retain(|(known, _)| other(known));
    edits.remove.retain(other);
}
