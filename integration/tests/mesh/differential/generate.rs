//! Intentions, routes and requests, made so that they meet: few names, few values, and paths that differ in spelling rather than in meaning.

use fastrand::Rng;
use serde_json::{Value, json};

/// Who calls. Nobody ever writes an intention for `stranger`.
pub const SOURCES: [&str; 3] = ["web", "other", "stranger"];

const EXACT: [&str; 14] =
    ["/", "/admin", "/admin/", "/ADMIN", "/a", "/a/b", "/a//b", "/a%2Fb", "/a%2fb", "/a/../b", "/a;x=1", "/~a", "/caf%C3%A9", "/a%7Cb"];
const PREFIX: [&str; 8] = ["/", "/a", "/a/", "/ad", "/admin", "/a%2", "//", "/b"];
const REGEX: [&str; 10] = ["/a.*", "/[ab]/.*", "/admin/?", "(?i)/admin.*", "/a|/b", ".*%2[fF].*", "/a{1,3}", ".*", "/[^/]+/?", r"/\w+/\w+"];
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
const HEADERS: [&str; 8] = ["x-one", "X-One", "X-Two", "x-absent", "host", "cookie", ":path", ":method"];
const VALUES: [&str; 8] = ["v", "V", "value", "w", "va lue", "v,w", "é", "db"];
const VALUE_REGEX: [&str; 6] = ["v", "v.*", "[a-z]+", "v|w", "(?i)VALUE", ".*"];

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(..from.len())]
}

/// True in `percent` of 100 cases.
fn often(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(..100) < percent
}

/// Allows are more, because everything that a request meets must allow it.
fn action(rng: &mut Rng) -> &'static str {
    if often(rng, 60) { "allow" } else { "deny" }
}

/// Sources of the service's own `service-intentions`: `web` mostly with permissions, often one for any other caller.
pub fn sources(rng: &mut Rng) -> Vec<Value> {
    let mut sources = Vec::new();
    for (name, percent) in [("web", 90), ("other", 40), ("*", 60)] {
        if often(rng, percent) {
            sources.push(source(rng, name));
        }
    }
    sources
}

fn source(rng: &mut Rng, name: &str) -> Value {
    if often(rng, 20) {
        return json!({"Name": name, "Action": action(rng)});
    }
    let permissions: Vec<_> = (0..rng.usize(1..=5)).map(|_| permission(rng)).collect();
    json!({"Name": name, "Permissions": permissions})
}

/// Sources of the intentions for any destination, which can only allow or deny. Never empty: Consul would refuse that.
pub fn wildcard_sources(rng: &mut Rng) -> Vec<Value> {
    let mut sources = vec![json!({"Name": "nobody", "Action": "allow"})];
    for name in ["web", "*"] {
        if often(rng, 30) {
            sources.push(json!({"Name": name, "Action": action(rng)}));
        }
    }
    sources
}

/// Half of a match, in the words that permissions and routes share: a path or none, methods or none.
fn path_and_methods(rng: &mut Rng) -> Value {
    let mut http = json!({});
    match rng.u8(..4) {
        0 => http["PathExact"] = json!(pick(rng, &EXACT)),
        1 => http["PathPrefix"] = json!(pick(rng, &PREFIX)),
        2 => http["PathRegex"] = json!(pick(rng, &REGEX)),
        _ => {}
    }
    if often(rng, 30) {
        // Consul refuses a method that is listed twice.
        let first = rng.usize(..METHODS.len() - 1);
        http["Methods"] = json!(&METHODS[first..=first + rng.usize(..2)]);
    }
    http
}

fn permission(rng: &mut Rng) -> Value {
    let mut http = path_and_methods(rng);
    let tests = rng.usize(..=2);
    if tests > 0 || http == json!({}) {
        http["Header"] = (0..tests.max(1)).map(|_| permission_header(rng)).collect();
    }
    json!({"Action": action(rng), "HTTP": http})
}

fn permission_header(rng: &mut Rng) -> Value {
    let operator = pick(rng, &["Present", "Exact", "Prefix", "Suffix", "Contains", "Regex"]);
    let mut test = header_test(rng, operator);
    if !matches!(operator, "Present" | "Regex") {
        test["IgnoreCase"] = json!(often(rng, 30));
    }
    test
}

fn header_test(rng: &mut Rng, operator: &str) -> Value {
    let operand = match operator {
        "Present" => json!(true),
        "Regex" => json!(pick(rng, &VALUE_REGEX)),
        _ => json!(pick(rng, &VALUES)),
    };
    let mut test = json!({"Name": pick(rng, &HEADERS), "Invert": often(rng, 30)});
    test[operator] = operand;
    test
}

/// A route of a `service-router` for `db`, to `db` itself or to `alt`.
pub fn route(rng: &mut Rng) -> Value {
    let mut http = path_and_methods(rng);
    let (literal, regex) = (http.get("PathExact").or(http.get("PathPrefix")).is_some(), http.get("PathRegex").is_some());
    if literal || regex {
        http["CaseInsensitive"] = json!(often(rng, 25));
    }
    if often(rng, 35) {
        let operator = pick(rng, &["Present", "Exact", "Prefix", "Suffix", "Regex"]);
        http["Header"] = json!([header_test(rng, operator)]);
    }
    if often(rng, 25) {
        let test = [json!({"Present": true}), json!({"Exact": "1"}), json!({"Regex": "[0-9]*"})];
        http["QueryParam"] = json!([test[rng.usize(..test.len())]]);
        http["QueryParam"][0]["Name"] = json!("q");
    }
    let mut destination = json!({"RequestHeaders": edits(rng, &["x-one", "X-Two", "x-new"])});
    destination["ResponseHeaders"] = edits(rng, &["x-app", "X-New"]);
    if often(rng, 50) {
        destination["Service"] = json!("alt");
    }
    if literal && often(rng, 50) {
        destination["PrefixRewrite"] = json!(pick(rng, &["/", "/b", "/b/", "/new?n=1"]));
    }
    json!({"Match": {"HTTP": http}, "Destination": destination})
}

fn edits(rng: &mut Rng, names: &[&str]) -> Value {
    let mut edits = json!({});
    for edit in ["Add", "Set"] {
        if often(rng, 25) {
            edits[edit] = json!({pick(rng, names): pick(rng, &["edited", "100%%", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"])});
        }
    }
    if often(rng, 20) {
        edits["Remove"] = json!([pick(rng, names)]);
    }
    edits
}

/// Who sends a request.
pub fn caller(rng: &mut Rng) -> &'static str {
    if often(rng, 60) { SOURCES[0] } else { pick(rng, &SOURCES) }
}

/// A request without body.
#[derive(Debug)]
pub struct Request {
    pub target: String,
    /// The whole of it, as it goes over the wire.
    pub bytes: Vec<u8>,
}

impl Request {
    /// Aralez answers 400 and Envoy serves it: characters that no URI has (RFC 3986).
    pub fn is_no_uri(&self) -> bool {
        self.target.contains(['<', '>', '`'])
    }

    /// A whole URI: Aralez answers 400 when its host is not that of `Host`, Envoy serves it.
    pub fn is_absolute(&self) -> bool {
        self.target.starts_with("http://")
    }

    /// `*`: Aralez answers 404, Envoy 400 but for OPTIONS.
    pub fn is_asterisk(&self) -> bool {
        self.target.split('?').next() == Some("*")
    }

    /// Pingora escapes blanks and control bytes before Aralez can see them. Envoy drops blanks at either end and refuses the others.
    pub fn is_escaped_by_pingora(&self) -> bool {
        self.target.contains(|c: char| c == ' ' || c.is_ascii_control())
    }
}

pub fn request(rng: &mut Rng) -> Request {
    let target = target(rng);
    let method = if often(rng, 60) { "GET" } else { pick(rng, &METHODS) };
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\n", pick(rng, &["db", "DB", "db:80", "v"]));
    for name in ["x-one", "X-Two", "cookie"] {
        for _ in 0..rng.usize(..=2) {
            head += &format!("{name}: {}\r\n", if often(rng, 10) { "" } else { pick(rng, &VALUES) });
        }
    }
    if often(rng, 10) {
        head += &format!("x_one: {}\r\n", pick(rng, &VALUES));
    }
    head += "\r\n";
    Request { target, bytes: head.into_bytes() }
}

fn target(rng: &mut Rng) -> String {
    let known: &[&str] = if often(rng, 70) { &EXACT } else { &PREFIX };
    let mut path = pick(rng, known).to_owned();
    for _ in 0..rng.usize(..=3) {
        respell(rng, &mut path);
    }
    if often(rng, 35) {
        path += pick(
            rng,
            &["?", "?/../b", "?a=%2F//b", "?%2e%2e", "?q=1", "?q", "?q=", "?q=2&q=1", "?q=x&p=1", "?%71=1", "?q=%31", "?p;q=1", "?Q=1"],
        );
    }
    if often(rng, 3) {
        path += "#top";
    }
    if often(rng, 6) {
        path.replace_range(..1, pick(rng, &["", "\\", "%2F", "./", "*", "@/", "db:80/", "http://db/", " /"]));
    }
    if often(rng, 3) {
        path.push_str(pick(rng, &[" ", " x", "\t", "\u{1}", "\u{7f}", "\r", "é"]));
    }
    path
}

/// Another spelling of the path, or nearly.
fn respell(rng: &mut Rng, path: &mut String) {
    let slashes: Vec<_> = path.match_indices('/').map(|(at, _)| at).collect();
    let slash = slashes[rng.usize(..slashes.len())];
    let at = rng.usize(..path.len());
    match rng.u8(..12) {
        0 => path.replace_range(slash..=slash, pick(rng, &["/./", "/%2e/", "/.;p/"])),
        1 => path.replace_range(slash..=slash, pick(rng, &["//", "///", "/x/../", "/x/%2e%2E/", "/x/..;p/", "/x//../"])),
        2 if slash > 0 => path.replace_range(slash..=slash, pick(rng, &["\\", "%2F", "%2f", "%5C", "%5c"])),
        3 => path.insert_str(slash + 1, pick(rng, &["../", "..\\", "..%2f", "%2e./", "..%5C", "%252e%252e/"])),
        4 | 5 if at > 0 => escape(rng, path, at),
        6 => path.push('/'),
        7 => path.push_str(pick(rng, &["/.", "/..", "/%2E", "/..;", "/...", "/.a", "/b/.."])),
        8 => path.push_str(pick(rng, &["|", "^", "{}", "\"", "<>", "`", "'", "@:", "[]", "!$()*,", "+=&"])),
        9 => path.push_str(pick(rng, &["%zz", "%", "%2", "%00", "%7f", "%20", "%3F", "%23", "%25", "%c3%a9"])),
        10 => path.push_str(pick(rng, &[";x=1", ";", ";/../b"])),
        _ => path.make_ascii_uppercase(),
    }
}

/// Writes the character at `at` as its escape, unless it is in one.
fn escape(rng: &mut Rng, path: &mut String, at: usize) {
    let byte = path.as_bytes()[at];
    if !path[at.saturating_sub(2)..=at].contains('%') {
        path.replace_range(at..=at, &if rng.bool() { format!("%{byte:02x}") } else { format!("%{byte:02X}") });
    }
}
