//! Ways for an endpoint to misbehave.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// How an endpoint answers while the fault lasts. Blocked calls notice a new fault at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Right content, `X-Consul-Index: 0`.
    IndexZero,
    /// No answer while the fault lasts; then the connection is reset.
    Hang,
    /// Right answers, each this much later.
    Slow(Duration),
    /// Plain text with this status and `X-Consul-Index: 1`, as an agent's 429 has it.
    Status(u16),
    /// The connection is reset instead of an answer.
    Reset,
    /// 200 with bytes that are no JSON and no UTF-8.
    Garbage,
    /// 200 with a page of HTML.
    Html,
    /// 200 with the first half of the JSON.
    Truncated,
    /// 200 with strings and numbers exchanged.
    WrongTypes,
    /// 200 with every list replaced by null.
    NullLists,
    /// Right content with one more field in every object.
    UnknownFields,
    /// Every intention has an action that nobody knows.
    UnknownAction,
    /// Right content, but never blocks and counts the index up on each call.
    Churn,
    /// 200 and a body that does not end: a mebibyte at a time until the reader gives up.
    Endless,
}

/// The content as the fault shows it; unchanged for faults that act elsewhere.
pub fn distort(fault: Fault, mut content: Value) -> Value {
    match fault {
        Fault::WrongTypes => walk(&mut content, &|value| match value {
            Value::String(text) => *value = json!(text.len()),
            Value::Number(number) => *value = json!(number.to_string()),
            _ => {}
        }),
        Fault::NullLists => walk(&mut content, &|value| {
            if value.is_array() {
                *value = Value::Null;
            }
        }),
        Fault::UnknownFields => walk(&mut content, &|value| {
            if let Value::Object(fields) = value {
                add_unknown(fields);
            }
        }),
        Fault::UnknownAction => walk(&mut content, &|value| {
            if let Some(action) = value.get_mut("Action") {
                *action = json!("audit");
            }
        }),
        _ => {}
    }
    content
}

/// Fields by which the structs of the API are told from maps keyed by data (nodes, targets, metadata).
const STRUCT_FIELDS: [&str; 8] =
    ["ID", "SourceName", "SerialNumber", "TrustDomain", "StartNode", "Type", "DestinationServiceName", "CheckID"];

fn add_unknown(fields: &mut Map<String, Value>) {
    if STRUCT_FIELDS.iter().any(|name| fields.contains_key(*name)) {
        fields.insert("NotYetInvented".into(), json!({"Since": "9.9", "List": [1, null]}));
    }
}

fn walk(value: &mut Value, visit: &dyn Fn(&mut Value)) {
    visit(value);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| walk(item, visit)),
        Value::Object(fields) => fields.values_mut().for_each(|item| walk(item, visit)),
        _ => {}
    }
}
