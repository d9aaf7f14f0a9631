//! JSON Schema of the configuration files, made of the shapes that read them.

use serde_json::{Value, json};

use super::{main_file::MainFile, shape::Definitions, upstreams};

/// The schema of `main.yaml` (JSON Schema, draft 2020-12).
pub fn main_file() -> Value {
    document("aralez: main.yaml", MainFile::schema)
}

/// The schema of `upstreams.yaml`.
pub fn upstreams() -> Value {
    document("aralez: upstreams.yaml", upstreams::schema)
}

fn document(title: &str, root: fn(&mut Definitions) -> Value) -> Value {
    let mut definitions = Definitions::new();
    let root = root(&mut definitions);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "$ref": root.get("$ref"),
        "$defs": definitions,
    })
}
