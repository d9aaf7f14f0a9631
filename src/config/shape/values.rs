//! The shapes of single values.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};

use super::{At, Definitions, Shape, mismatch};
use crate::config::{
    fault::Check,
    tree::{Key, Kind, Node},
};

/// What is wrong with a text, and what to do.
pub(in crate::config) type Wrong = (String, String);

/// Whatever a shape accepts, or a text with a variable of the environment in it.
fn or_variable(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "string", "pattern": "\\$\\{[A-Za-z0-9_]+\\}"}]})
}

impl Shape for String {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Text { text, .. } => Some(text.clone()),
            Kind::Integer(_) | Kind::Float(_) | Kind::Bool(_) => mismatch(node, "a text (put it in quotes)", check),
            _ => mismatch(node, "a text", check),
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"type": "string"})
    }
}

impl Shape for bool {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Bool(value) => Some(*value),
            Kind::Text { text, expanded: true } if text == "true" || text == "false" => Some(text == "true"),
            _ => mismatch(node, "true or false", check),
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        or_variable(json!({"type": "boolean"}))
    }
}

/// A whole number of a value, if it is one.
pub(in crate::config) fn integer(node: &Node) -> Option<i128> {
    match &node.kind {
        Kind::Integer(value) => Some(*value),
        Kind::Text { text, expanded: true } => text.trim().parse().ok(),
        _ => None,
    }
}

/// A whole number between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Within<const LEAST: u64, const MOST: u64>(u64);

impl<const LEAST: u64, const MOST: u64> Within<LEAST, MOST> {
    /// The number; the bounds of whoever asks are within those of `u32`.
    pub(in crate::config) fn small(self) -> u32 {
        u32::try_from(self.0).unwrap_or(u32::MAX)
    }

    /// The number.
    pub(in crate::config) fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl<const LEAST: u64, const MOST: u64> Shape for Within<LEAST, MOST> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let wanted = format!("a whole number from {LEAST} to {MOST}");
        let Some(value) = integer(node) else { return mismatch(node, &wanted, check) };
        let fitting = u64::try_from(value).ok().filter(|value| (LEAST..=MOST).contains(value));
        if fitting.is_none() {
            check.fault(&node.place, format!("{value} is not {wanted}"), "");
        }
        fitting.map(Self)
    }

    fn schema(_: &mut Definitions) -> Value {
        or_variable(json!({"type": "integer", "minimum": LEAST, "maximum": MOST}))
    }
}

/// A time: a number of seconds, or a text such as `5s`, `200ms`, `2m`, `1h`, `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Time(pub(in crate::config) Duration);

/// The longest time that a file may name: ten years.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

impl Time {
    fn parse(text: &str) -> Option<Duration> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let seconds = match unit.trim_start() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
    }
}

impl Shape for Time {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let time = match (&node.kind, integer(node)) {
            (_, Some(seconds)) => u64::try_from(seconds).ok().map(Duration::from_secs),
            (Kind::Float(seconds), _) => Duration::try_from_secs_f64(*seconds).ok(),
            (Kind::Text { text, .. }, _) => Time::parse(text),
            _ => None,
        };
        match time.filter(|time| *time <= LONGEST) {
            Some(time) => Some(Self(time)),
            None => mismatch(node, "a time (seconds, or a text such as \"200ms\", \"5s\", \"2m\", \"1h\"; at most ten years)", check),
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        or_variable(json!({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": "^[0-9.]+ *(ms|s|m|h|d)$"}]}))
    }
}

/// A number of bytes, or a text such as `64KB` (1000 each) or `10MiB` (1024 each).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Size(pub(in crate::config) u64);

impl Size {
    fn parse(text: &str) -> Option<u64> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let bytes: u64 = match unit.trim_start() {
            "B" => 1,
            "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(bytes)
    }
}

impl Shape for Size {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let size = match (&node.kind, integer(node)) {
            (_, Some(bytes)) => u64::try_from(bytes).ok(),
            (Kind::Text { text, .. }, _) => Size::parse(text),
            _ => None,
        };
        match size {
            Some(size) => Some(Self(size)),
            None => mismatch(node, "a size (bytes, or a text such as \"64KB\" or \"10MiB\")", check),
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        or_variable(json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]+ *([KMG]i?)?B$"}]}))
    }
}

/// One of some words, in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct Word<T>(pub(in crate::config) T);

/// What words stand for.
pub(in crate::config) trait Words: Copy + 'static {
    /// What they are, for example `grade`.
    const WHAT: &'static str;
    /// The words, lower case.
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Words> Shape for Word<T> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let text = String::read(node, check)?;
        let found = T::WORDS.iter().find(|(word, _)| text.eq_ignore_ascii_case(word));
        if found.is_none() {
            let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
            check.fault(&node.place, format!("{text:?} is no {}", T::WHAT), format!("use {}", words.join(", ")));
        }
        found.map(|(_, value)| Self(*value))
    }

    fn schema(_: &mut Definitions) -> Value {
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        let any_case = |c: char| if c.is_ascii_alphabetic() { format!("[{c}{}]", c.to_ascii_uppercase()) } else { c.to_string() };
        let patterns: Vec<String> = words.iter().map(|word| word.chars().map(any_case).collect()).collect();
        or_variable(json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": format!("^({})$", patterns.join("|"))}]}))
    }
}

/// A text that stands for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Of<T>(pub(in crate::config) T);

/// What a text stands for.
pub(in crate::config) trait Text: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    fn parse(text: &str) -> Result<Self, Wrong>;
}

impl<T: Text> Shape for Of<T> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let text = String::read(node, check)?;
        T::parse(&text).map_err(|(what, advice)| check.fault(&node.place, what, advice)).ok().map(Self)
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"type": "string"})
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug)]
pub(in crate::config) struct Several<T>(pub(in crate::config) Vec<At<T>>);

impl<T: Shape> Shape for Several<T> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::List(_) => Vec::read(node, check).map(Self),
            _ => At::read(node, check).map(|one| Self(vec![one])),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        let one = T::schema(definitions);
        json!({"anyOf": [one, {"type": "array", "items": one}]})
    }
}

/// `false` for off, `true` for on as it is by default, or on with a value.
#[derive(Clone, Debug)]
pub(in crate::config) enum Switch<T> {
    /// `false`.
    Off,
    /// `true`.
    On,
    /// Something to say.
    With(T),
}

impl<T: Shape> Shape for Switch<T> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Bool(false) => Some(Self::Off),
            Kind::Bool(true) => Some(Self::On),
            Kind::Text { text, expanded: true } if text == "true" || text == "false" => {
                Some(if text == "true" { Self::On } else { Self::Off })
            }
            _ => T::read(node, check).map(Self::With),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"anyOf": [bool::schema(definitions), T::schema(definitions)]})
    }
}

impl<T: Shape> Shape for Vec<At<T>> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::List(items) => {
                let read: Self = items.iter().filter_map(|item| At::read(item, check)).collect();
                if read.len() < items.len() {
                    check.spoil(&node.place);
                }
                Some(read)
            }
            _ => mismatch(node, "a list", check),
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"type": "array", "items": T::schema(definitions)})
    }
}

/// A map with keys of the user's own, in the file's order.
pub(in crate::config) type Entries<T> = Vec<(Key, At<T>)>;

impl<T: Shape> Shape for Entries<T> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else { return mismatch(node, "a map", check) };
        let mut first: HashMap<&str, u64> = HashMap::new();
        for (key, _) in entries {
            if let Some(line) = first.insert(&key.text, key.place.line) {
                check.fault(&key.place, format!("a second {:?}", key.text), format!("the first is in line {line}; keep one"));
            }
        }
        let read: Self = entries.iter().filter_map(|(key, value)| Some((key.clone(), At::read(value, check)?))).collect();
        if read.len() < entries.len() {
            check.spoil(&node.place);
        }
        Some(read)
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"type": "object", "additionalProperties": T::schema(definitions)})
    }
}
