//! The reference pages of the book, made of the types and sources: flags of the command line, keys of the configuration files, metrics, logs, limits.

#[path = "reference/limits.rs"]
mod limits;
#[path = "reference/logs.rs"]
mod logs;

use std::fmt::Write as _;

use aralez::{cli, config::schema, telemetry::metrics::Metrics};
use serde_json::Value;

const MADE: &str = "Made of the types by `cargo test --test architecture` with `WRITE_PAGES=1`.\n";

/// What `aralez VERB --help` prints.
fn help(verb: &str) -> String {
    let line = ["aralez", verb, "--help"].into_iter().filter(|word| !word.is_empty());
    let exit = cli::parse(line, |_| None).expect_err("help is no command");
    assert_eq!(exit.code, 0, "{}", exit.text);
    // The last line of the list of flags is blank.
    exit.text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn commands() -> String {
    let mut page = format!("# Commands and flags\n\n{MADE}\nOne dash is as good as two; a flag wins over its variable.\n");
    let program = help("");
    let listed = program.split_once("Commands:\n").unwrap().1.lines().take_while(|line| !line.is_empty());
    // What it says of a verb goes on in lines that are further in.
    let verbs = listed.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?.split_whitespace().next());
    for verb in [""].into_iter().chain(verbs) {
        let name = ["aralez", verb].join(" ");
        writeln!(page, "\n## `{}`\n\n```text\n{}\n```", name.trim_end(), help(verb)).unwrap();
    }
    page
}

/// A value's form, in a few words.
fn form(root: &Value, schema: &Value) -> String {
    if let Some(place) = schema["$ref"].as_str() {
        let name = place.rsplit('/').next().unwrap();
        let target = root.pointer(&place[1..]).unwrap();
        return if target["properties"].is_object() { format!("[{name}](#{})", anchor(name)) } else { form(root, target) };
    }
    let several = |list: &Value| list.as_array().unwrap().iter().map(|one| form(root, one)).collect::<Vec<_>>();
    if schema["anyOf"].is_array() {
        let mut forms = several(&schema["anyOf"]);
        forms.dedup();
        return forms.join(" or ");
    }
    if let Some(values) = schema["enum"].as_array() {
        return values
            .iter()
            .map(|value| format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            .collect::<Vec<_>>()
            .join(", ");
    }
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", form(root, &schema["items"])),
        Some("object") if schema["additionalProperties"].is_object() => {
            format!("map to {}", form(root, &schema["additionalProperties"]))
        }
        Some("object") => "map".to_owned(),
        Some(kind) => kind.to_owned(),
        None => "anything".to_owned(),
    }
}

/// The anchor of a heading, as mdBook and GitHub make it.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

/// A table of the keys of a section; other spellings of a key are left to its checker.
fn table(page: &mut String, root: &Value, section: &Value) {
    page.push_str("\n| key | value | meaning |\n|---|---|---|\n");
    for (key, schema) in section["properties"].as_object().unwrap() {
        let about = schema["description"].as_str().unwrap_or_default();
        if !about.starts_with("Another spelling of ") {
            let cell = |text: &str| text.replace('|', "\\|");
            writeln!(page, "| `{key}` | {} | {} |", cell(&form(root, schema)), cell(about)).unwrap();
        }
    }
}

fn keys() -> String {
    let mut page =
        format!("# Keys of the configuration files\n\n{MADE}\n[Configuration](../configuration.md) tells how they work together.\n");
    for (file, root) in [("main.yaml", schema::main_file()), ("upstreams.yaml", schema::upstreams())] {
        writeln!(page, "\n## {file}").unwrap();
        let first = root["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        let sections = root["$defs"].as_object().unwrap();
        table(&mut page, &root, &sections[&first]);
        for (name, section) in sections.iter().filter(|(name, section)| **name != first && section["properties"].is_object()) {
            writeln!(page, "\n### {name}").unwrap();
            table(&mut page, &root, section);
        }
    }
    page
}

fn metrics() -> String {
    let mut page = format!(
        "# Metrics\n\n{MADE}\n[Observability](../observability.md#metrics) tells where they are shown, what `listener` is, and which of Envoy's can be shown beside them.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n"
    );
    for family in Metrics::new().unwrap().described() {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(page, "| `{}` | {} | {} | {} |", family.name, family.kind, labels.join(", "), family.help).unwrap();
    }
    page
}

#[test]
fn the_reference_is_what_the_types_say() {
    super::fresh("docs/reference/commands.md", &commands());
    super::fresh("docs/reference/keys.md", &keys());
    super::fresh("docs/reference/metrics.md", &metrics());
    super::fresh("docs/reference/limits.md", &limits::page(MADE));
    super::fresh("docs/reference/logs.md", &logs::page(MADE));
}
