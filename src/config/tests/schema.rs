//! The schemas accept what the loader accepts, and describe every key.

use std::fs;

use serde_json::{Value, json};

use super::examples::EXAMPLES;
use crate::config::schema;

/// What of a value a schema does not accept: the keywords that ours use, and no others.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (keyword, wanted) in schema.as_object().unwrap() {
        let fault = || format!("{at}: {value} is not {keyword} {wanted}");
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => found.extend(faults(root, root.pointer(&wanted.as_str().unwrap()[1..]).unwrap(), value, at)),
            "anyOf" => {
                if !wanted.as_array().unwrap().iter().any(|one| faults(root, one, value, at).is_empty()) {
                    found.push(fault());
                }
            }
            "type" => {
                let fits = match wanted.as_str().unwrap() {
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    other => panic!("type {other}"),
                };
                if !fits {
                    found.push(fault());
                }
            }
            "enum" if !wanted.as_array().unwrap().contains(value) => found.push(fault()),
            "pattern" if !value.as_str().is_none_or(|text| regex::Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text)) => {
                found.push(fault())
            }
            "minimum" if value.as_f64().is_some_and(|number| number < wanted.as_f64().unwrap()) => found.push(fault()),
            "maximum" if value.as_f64().is_some_and(|number| number > wanted.as_f64().unwrap()) => found.push(fault()),
            "enum" | "pattern" | "minimum" | "maximum" => {}
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(faults(root, wanted, item, &format!("{at}[{n}]")));
                }
            }
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = wanted.get(key) {
                        found.extend(faults(root, schema, inner, &format!("{at}.{key}")));
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (key, inner) in
                    value.as_object().into_iter().flatten().filter(|(key, _)| !known.is_some_and(|known| known.contains_key(*key)))
                {
                    match wanted {
                        Value::Bool(false) => found.push(format!("{at}: unknown {key}")),
                        schema => found.extend(faults(root, schema, inner, &format!("{at}.{key}"))),
                    }
                }
            }
            other => panic!("this walk does not know the keyword {other}"),
        }
    }
    found
}

fn accepts(schema: &Value, text: &str) -> Vec<String> {
    let value: Value = serde_saphyr::from_str(text).unwrap();
    faults(schema, schema, &value, "")
}

#[test]
fn the_schemas_accept_every_example() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for name in EXAMPLES {
        let main = fs::read_to_string(folder.join(name).join("main.yaml")).unwrap();
        let routes = fs::read_to_string(folder.join(name).join("upstreams.yaml")).unwrap();
        assert_eq!(accepts(&schema::main_file(), &main), Vec::<String>::new(), "{name}");
        assert_eq!(accepts(&schema::upstreams(), &routes), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_schemas_accept_every_form_of_a_value_and_refuse_others() {
    let path = |keys: &str| format!("{{a.test: {{paths: {{/: {{servers: [\"b:1\"], {keys}}}}}}}}}");
    for keys in [
        "rate_limit: 5",
        "rate_limit: false",
        "rate_limit: \"${NUMBER}\"",
        "rate_limit: {rate: 5, by: \"header:X\"}",
        "sticky_sessions: true",
        "sticky_sessions: 60",
        "sticky_sessions: 5m",
        "balance: Maglev, hash_by: client",
        "timeout: 0.5",
        "healthcheck: {expect: [200, \"300-308\"]}",
        "authorization: {type: JWT, data: x}",
        "body_limit: 10MiB",
        "allow: 10.0.0.0/8",
        "allow: [10.0.0.0/8]",
        "proxy_header: V1",
        "retries: 2",
    ] {
        let text = path(keys);
        super::routes(&text).unwrap();
        assert_eq!(accepts(&schema::upstreams(), &text), Vec::<String>::new(), "{keys}");
    }
    for keys in ["rate_limit: 0", "rate_limit: many", "server: a", "balance: fair", "authorization: {type: digest}", "headers: x"] {
        assert!(!accepts(&schema::upstreams(), &path(keys)).is_empty(), "{keys}");
    }
    assert!(!accepts(&schema::main_file(), "{thread: 2}").is_empty());
}

#[test]
fn every_key_is_described() {
    for schema in [schema::main_file(), schema::upstreams()] {
        for (name, section) in schema["$defs"].as_object().unwrap() {
            assert!(section["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}");
            for (key, property) in section["properties"].as_object().unwrap() {
                assert!(property["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}.{key}");
            }
        }
        assert_eq!(schema["$schema"], json!("https://json-schema.org/draft/2020-12/schema"));
    }
}

/// What docs/configuration.md calls refused is refused, for the reason that stands there.
#[test]
fn the_documentation_refuses_what_is_refused() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let sections =
        ["main_file/raw.rs", "upstreams/raw.rs", "upstreams/raw_auth.rs"].map(|file| read(&format!("src/config/{file}"))).concat();
    let told = sections.lines().filter_map(|line| line.trim().strip_prefix("refused \"")?.strip_suffix("\",")?.split_once("\": \""));
    let mut told: Vec<_> = told.map(|(key, why)| format!("- `{key}`: {why}.")).collect();
    let page = read("docs/configuration.md");
    let lists = page.split("that are refused\n\n").skip(1).flat_map(|rest| rest.lines().take_while(|line| line.starts_with("- `")));
    let mut listed: Vec<_> = lists.map(str::to_owned).collect();
    told.sort();
    listed.sort();
    assert_eq!(listed, told);
}

/// docs/configuration.md has a row for each key.
#[test]
fn the_documentation_names_every_key() {
    let page = fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md")).unwrap();
    for schema in [schema::main_file(), schema::upstreams()] {
        for (name, section) in schema["$defs"].as_object().unwrap() {
            for key in section["properties"].as_object().unwrap().keys() {
                assert!(page.contains(&format!("`{key}`")), "{name}.{key}");
            }
        }
    }
}
