//! The page of limits: every bound, pause and default that stands as a constant in the sources, with its doc comment.

use std::{fmt::Write as _, fs, path::Path};

/// Constants that bound nothing a user could meet.
const OTHERS: &[&str] =
    &["HTTP_PORT", "STEPS", "FREE", "VERSION", "GONE", "FORBIDDEN", "UNAUTHORIZED", "NEW_MODE", "FRAME_HEAD", "ALL_DIGITS", "WHOLE"];

/// Sections of the page, each with the beginnings of the paths whose constants it holds; a file belongs to the first that fits.
const SECTIONS: &[(&str, &[&str])] = &[
    ("Filters of routes", &["proxy/filter/"]),
    ("Balancing, protection", &["proxy/balance/", "proxy/guard/"]),
    ("Connections and requests", &["proxy/"]),
    ("Consul", &["control/consul/"]),
    ("`aralez dev`", &["control/embedded/"]),
    ("Kubernetes", &["control/kubernetes/"]),
    ("Servers, files and certificates of the reverse proxy", &["control/ingress/"]),
    ("Configuration files", &["config/"]),
    ("Admin API, configuration API, metrics", &["admin/", "telemetry/"]),
    ("The process", &["app", "process/", "cli/"]),
    ("Everywhere", &["model/", "control/", "snapshot/"]),
];

/// A constant.
struct Bound {
    /// What its file is about, and where it stands.
    place: String,
    value: String,
    about: String,
}

/// The value of a product, a shift or a literal.
fn number(text: &str) -> f64 {
    if let Some((a, b)) = text.split_once("<<") {
        return number(a) * 2f64.powf(number(b));
    }
    text.split('*').map(|factor| factor.trim().replace('_', "").parse::<f64>().unwrap_or_else(|why| panic!("{text}: {why}"))).product()
}

/// A number as it is read, in groups of three digits.
fn grouped(number: f64) -> String {
    if number.fract() != 0.0 {
        return number.to_string();
    }
    let digits = (number as u64).to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

fn time(seconds: f64) -> String {
    let whole = |unit: f64| seconds >= unit && seconds % unit == 0.0;
    match seconds {
        _ if seconds < 1.0 => format!("{} ms", (seconds * 1000.0).round()),
        _ if whole(24.0 * 3600.0) => format!("{} d", grouped(seconds / 86400.0)),
        _ if whole(3600.0) => format!("{} h", seconds / 3600.0),
        _ if whole(60.0) && seconds > 60.0 => format!("{} min", seconds / 60.0),
        _ => format!("{seconds} s"),
    }
}

/// A constant's value; none if it is neither a number nor a time.
fn value(kind: &str, expression: &str, about: &str) -> Option<String> {
    let times = |text: &str| {
        let part = |part: &str| {
            let (unit, rest) = part.split_once('(').unwrap();
            let (count, _) = rest.rsplit_once(')').unwrap();
            time(number(count) / if unit == "millis" { 1000.0 } else { 1.0 })
        };
        text.split("Duration::from_")
            .skip(1)
            .map(|text| part(text.trim_end_matches(", ").trim_end_matches("))")))
            .collect::<Vec<_>>()
            .join(" to ")
    };
    match kind {
        "Duration" => Some(times(expression)),
        "(Duration, Duration)" => Some(times(&expression.replace("))", ")"))),
        "usize" | "u16" | "u32" | "u64" | "i32" | "i64" | "f64" => {
            let count = number(expression);
            Some(match about.to_lowercase().split([' ', ',', '.', ';', ':']).any(|word| word == "bytes") {
                true if count >= 1048576.0 && count % 1048576.0 == 0.0 => format!("{} MiB", grouped(count / 1048576.0)),
                true if count >= 1024.0 && count % 1024.0 == 0.0 => format!("{} KiB", grouped(count / 1024.0)),
                true => format!("{} bytes", grouped(count)),
                false => grouped(count),
            })
        }
        _ => None,
    }
}

/// A doc comment as a cell of a table: links to items lead nowhere here.
fn linkless(doc: &str) -> String {
    doc.replace("[`", "`").replace("`]", "`").replace('|', "\\|")
}

/// The constants of a file that have a doc comment.
fn bounds(file: &str, text: &str) -> Vec<Bound> {
    let module = text.lines().next().and_then(|line| line.strip_prefix("//! ")).unwrap_or_default();
    let (mut bounds, mut about) = (Vec::new(), String::new());
    for line in text.split("\n#[cfg(test)]\nmod tests {").next().unwrap().lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("/// ") {
            about = [about.as_str(), doc].join(" ");
            continue;
        }
        let about = linkless(std::mem::take(&mut about).trim());
        let declared = line.split_once("const ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"));
        let Some((name, rest)) = declared.and_then(|(_, rest)| rest.split_once(": ")) else { continue };
        let Some((kind, expression)) = rest.trim_end_matches(';').split_once(" = ") else { continue };
        if about.is_empty() || OTHERS.contains(&name) {
            continue;
        }
        if let Some(value) = value(kind, expression, &about) {
            bounds.push(Bound { place: format!("{} `{name}`, `{file}`", linkless(module)), value, about });
        }
    }
    bounds
}

pub fn page(made: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    crate::sources(&root, &mut files);
    files.sort();
    let mut sections: Vec<Vec<Bound>> = SECTIONS.iter().map(|_| Vec::new()).collect();
    for path in &files {
        let file = path.strip_prefix(&root).unwrap().to_str().unwrap();
        if file.split('/').any(|part| ["tests", "tests.rs", "testing.rs", "differential.rs"].contains(&part)) {
            continue;
        }
        let found = bounds(file, &fs::read_to_string(path).unwrap());
        let place = SECTIONS.iter().position(|(_, paths)| paths.iter().any(|begin| file.starts_with(begin)));
        if !found.is_empty() {
            sections[place.unwrap_or_else(|| panic!("{file} belongs to no section"))].extend(found);
        }
    }
    let mut page = format!(
        "# Limits\n\n{made}\nEvery bound, pause and default that is fixed, or that holds where a setting says nothing. What can be set is in [keys](keys.md) and [flags](commands.md).\n"
    );
    for ((heading, _), bounds) in SECTIONS.iter().zip(sections) {
        writeln!(page, "\n## {heading}\n\n| value | of what | where |\n|---|---|---|").unwrap();
        for Bound { place, value, about } in bounds {
            writeln!(page, "| {value} | {about} | {place} |").unwrap();
        }
    }
    page
}

#[test]
fn values_are_told_as_they_are_read() {
    let of = |kind, expression, about| value(kind, expression, about).unwrap();
    assert_eq!(of("usize", "64 << 10", "Most bytes."), "64 KiB");
    assert_eq!(of("u32", "65_537", "Entries, some kilobytes."), "65,537");
    assert_eq!(of("Duration", "Duration::from_secs(2 * 365 * 24 * 3600)", ""), "730 d");
    assert_eq!(of("Duration", "Duration::from_millis(250)", ""), "250 ms");
    assert_eq!(of("(Duration, Duration)", "(Duration::from_secs(1), Duration::from_secs(300))", ""), "1 s to 5 min");
}
