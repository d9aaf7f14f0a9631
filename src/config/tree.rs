//! A YAML file as a tree of values with their places: what every checked configuration is read from.
//!
//! Values are read from a tree rather than straight into types, so that a mistake does not hide those after it.

use std::{cell::Cell, fmt, fs, io::Read, path::Path, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Spanned, options::DuplicateKeyPolicy};

use super::fault::{self, Check, Faults, Place};

/// The most bytes of a configuration file; one with 10,000 routes has a fifth of it.
const MOST_BYTES: usize = 8 << 20;

/// The most values that aliases may stand for: far above what people write, and read within a moment.
const MOST_REPLAYED: usize = 50_000;

/// The deepest that values may be nested: three times what a file needs. Each level takes up to 40 KiB of the stack, as built for tests.
const MOST_DEPTH: usize = 24;

/// Looks an environment variable up.
pub(super) type Environment = fn(&str) -> Option<String>;

/// The environment of this process.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text {
        text: String,
        /// It came out of the environment, so that it may stand for a number or a truth value.
        expanded: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key with its place.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: String,
}

impl Node {
    /// What the value is, with its article.
    pub(super) fn what(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a truth value",
            Kind::Integer(_) | Kind::Float(_) => "a number",
            Kind::Text { .. } => "a text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    /// Parses a text; `file` names it in faults. Variables that are not set are told to `check`.
    ///
    /// # Errors
    /// When it is too large or no YAML.
    pub(super) fn parse(text: &str, file: Option<Arc<str>>, env: Environment, check: &mut Check) -> Result<Self, Faults> {
        let mut node = Self::as_written(text, file)?;
        node.expand(env, check);
        Ok(node)
    }

    /// Parses a text and leaves its variables where they are.
    ///
    /// # Errors
    /// As [`Node::parse`].
    pub(super) fn as_written(text: &str, file: Option<Arc<str>>) -> Result<Self, Faults> {
        if text.len() > MOST_BYTES {
            return Err(Faults::one(
                Place::start(file),
                format!("is larger than {} MiB", MOST_BYTES >> 20),
                "split it into files of conf.d",
            ));
        }
        let limits = serde_saphyr::alias_limits! { max_total_replayed_events: MOST_REPLAYED };
        let options =
            serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::PassThrough, strict_booleans: true, alias_limits: limits };
        let raw: Raw = serde_saphyr::from_str_with_options(text, options).map_err(|error| fault::of_parser(&error, &file))?;
        Ok(raw.node(&file))
    }

    /// Puts `${NAME}` in place in every text; `$${` stands for `${`.
    fn expand(&mut self, env: Environment, check: &mut Check) {
        match &mut self.kind {
            Kind::List(nodes) => nodes.iter_mut().for_each(|node| node.expand(env, check)),
            Kind::Map(entries) => entries.iter_mut().for_each(|(_, node)| node.expand(env, check)),
            Kind::Text { text, expanded } if text.contains("${") => match expand(text, env) {
                Ok(new) => (*text, *expanded) = (new, true),
                Err((what, advice)) => check.fault(&self.place, what, advice),
            },
            _ => {}
        }
    }
}

/// Reads the text of a file.
///
/// # Errors
/// When it cannot be read, is too large or no UTF-8.
pub(super) fn read(path: &Path) -> Result<String, Faults> {
    let name: Arc<str> = path.display().to_string().into();
    let mut bytes = Vec::new();
    // One byte more than is allowed tells that there is more; a file without end is not read to it.
    let read = fs::File::open(path).and_then(|file| file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(Faults::one(Place::start(Some(name)), format!("cannot be read: {error}"), ""));
    }
    String::from_utf8(bytes).map_err(|error| {
        let fine = String::from_utf8_lossy(error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default()).into_owned();
        let line = fine.matches('\n').count() as u64 + 1;
        let column = fine.rsplit('\n').next().unwrap_or_default().chars().count() as u64 + 1;
        Faults::one(Place { file: Some(name), line, column }, "is not UTF-8 from here on", "save the file as UTF-8")
    })
}

/// A text with its variables in place, or what is wrong and what to do.
fn expand(text: &str, env: Environment) -> Result<String, (String, &'static str)> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        let after = after.get(2..).unwrap_or_default();
        if let Some(before) = before.strip_suffix('$') {
            out += before;
            out += "${";
            rest = after;
            continue;
        }
        let (name, more) =
            after.split_once('}').ok_or(("${ has no }".to_owned(), "write ${NAME}, or $${ for the characters themselves"))?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let advice = "use letters, digits and _, or write $${ for the characters themselves";
            return Err((format!("{name:?} names no environment variable"), advice));
        }
        out += before;
        out += &env(name).ok_or_else(|| (format!("the environment variable {name} is not set"), "set it before the start"))?;
        rest = more;
    }
    Ok(out + rest)
}

/// The tree as the parser gives it.
struct Raw(Spanned<RawKind>);

enum RawKind {
    Plain(Kind),
    List(Vec<Raw>),
    Map(Vec<(Spanned<String>, Raw)>),
}

impl Raw {
    fn node(self, file: &Option<Arc<str>>) -> Node {
        let kind = match self.0.value {
            RawKind::Plain(kind) => kind,
            RawKind::List(items) => Kind::List(items.into_iter().map(|item| item.node(file)).collect()),
            RawKind::Map(entries) => Kind::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| (Key { place: fault::place(key.referenced, file), text: key.value }, value.node(file)))
                    .collect(),
            ),
        };
        Node { place: fault::place(self.0.referenced, file), kind }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

thread_local! {
    /// How deep the value that is read stands. Aliases nest too, which the parser's own bound on depth does not see.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

impl<'de> Deserialize<'de> for RawKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let depth = DEPTH.get();
        if depth == MOST_DEPTH {
            return Err(Error::custom(format_args!("nested more than {MOST_DEPTH} deep")));
        }
        DEPTH.set(depth + 1);
        let value = deserializer.deserialize_any(AnyValue);
        DEPTH.set(depth);
        value
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = RawKind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<RawKind, E> {
        Ok(RawKind::Plain(Kind::Null))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<RawKind, E> {
        Ok(RawKind::Plain(Kind::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<RawKind, E> {
        self.visit_i128(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<RawKind, E> {
        self.visit_i128(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<RawKind, E> {
        Ok(RawKind::Plain(Kind::Integer(value)))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<RawKind, E> {
        self.visit_i128(i128::try_from(value).unwrap_or(i128::MAX))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<RawKind, E> {
        Ok(RawKind::Plain(Kind::Float(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<RawKind, E> {
        Ok(RawKind::Plain(Kind::Text { text: value.to_owned(), expanded: false }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawKind, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(RawKind::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawKind, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(RawKind::Map(map))
    }
}
