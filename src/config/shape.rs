//! What may stand in a file: shapes that read themselves from a tree, tell everything that does not fit, and describe themselves as JSON Schema.

mod values;

use std::collections::HashMap;

use serde_json::{Map, Value, json};

pub(super) use self::values::{Entries, Of, Several, Size, Switch, Text, Time, Within, Word, Words, Wrong, integer};
use super::{
    fault::{Check, Place},
    tree::{Key, Kind, Node},
};

/// The sections that a schema refers to, by name.
pub(super) type Definitions = Map<String, Value>;

/// Something that can stand in a file.
pub(super) trait Shape: Sized {
    /// The value, or `None` after a fault was told.
    fn read(node: &Node, check: &mut Check) -> Option<Self>;

    /// What is accepted, as JSON Schema.
    fn schema(definitions: &mut Definitions) -> Value;
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<T: Shape> At<T> {
    pub(super) fn read(node: &Node, check: &mut Check) -> Option<Self> {
        Some(Self { value: T::read(node, check)?, place: node.place.clone() })
    }
}

/// Where a value stands, if it is there.
pub(super) fn place<T>(at: &Option<At<T>>) -> Option<&Place> {
    at.as_ref().map(|at| &at.place)
}

/// A map with keys of its own, every one optional.
pub(super) trait Section: Sized {
    /// Its name in schemas.
    const NAME: &'static str;
    /// What it is.
    const ABOUT: &'static [&'static str];

    /// Adds its keys.
    fn keys(all: &mut Keys);

    /// Reads the values of its keys.
    fn take(found: &Found<'_>, check: &mut Check) -> Self;

    /// Adds the schemas of its keys.
    fn properties(all: &mut Map<String, Value>, definitions: &mut Definitions);
}

/// The keys that a map may have.
#[derive(Default)]
pub(super) struct Keys {
    /// Each with its other spellings.
    pub(super) known: Vec<(&'static str, &'static [&'static str])>,
    /// Keys that other versions or parts know, and why they mean nothing here.
    pub(super) refused: Vec<(&'static str, &'static str)>,
}

/// The values of a map by their key's first spelling.
pub(super) struct Found<'a> {
    values: HashMap<&'static str, &'a Node>,
    place: &'a Place,
}

impl Found<'_> {
    /// The value of a key; `None` without it, or after a fault was told.
    pub(super) fn read<T: Shape>(&self, key: &'static str, check: &mut Check) -> Option<At<T>> {
        let read = At::read(self.values.get(key)?, check);
        if read.is_none() {
            check.spoil(self.place);
        }
        read
    }
}

impl<T: Section> Shape for T {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let mut keys = Keys::default();
        T::keys(&mut keys);
        let found = found(node, &keys, check)?;
        Some(T::take(&found, check))
    }

    fn schema(definitions: &mut Definitions) -> Value {
        if !definitions.contains_key(T::NAME) {
            definitions.insert(T::NAME.to_owned(), Value::Null);
            let mut properties = Map::new();
            T::properties(&mut properties, definitions);
            let described =
                json!({"description": described(T::ABOUT), "type": "object", "properties": properties, "additionalProperties": false});
            definitions.insert(T::NAME.to_owned(), described);
        }
        json!({"$ref": format!("#/$defs/{}", T::NAME)})
    }
}

/// Adds the schema of a key under all its spellings.
pub(super) fn property<T: Shape>(all: &mut Map<String, Value>, definitions: &mut Definitions, key: &str, aliases: &[&str], about: &[&str]) {
    let schema = |about: String, definitions: &mut Definitions| match T::schema(definitions) {
        Value::Object(mut schema) => {
            schema.insert("description".to_owned(), about.into());
            Value::Object(schema)
        }
        other => other,
    };
    all.insert(key.to_owned(), schema(described(about), definitions));
    for alias in aliases {
        all.insert((*alias).to_owned(), schema(format!("Another spelling of {key}."), definitions));
    }
}

fn described(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// The name of a field without the mark of keywords.
pub(super) fn plain(name: &'static str) -> &'static str {
    name.trim_start_matches("r#")
}

/// Declares a section: a struct of optional values, each with its place. Unknown keys are refused, and keys that stand there twice.
/// `..name: Section` takes all keys of another section; `name ["alias"]: Shape` also takes the other spelling; `refused "name": "why"` is a key
/// that means nothing here.
macro_rules! section {
    ($(#[doc = $about:literal])+ struct $name:ident {
        $(..$part:ident: $section:ty,)*
        $($(#[doc = $doc:literal])+ $key:ident $([$($alias:literal),+])? : $shape:ty,)*
        $(refused $refused:literal: $why:expr,)*
    }) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, Default)]
        pub(in crate::config) struct $name {
            $(pub(in crate::config) $part: $section,)*
            $($(#[doc = $doc])+ pub(in crate::config) $key: Option<$crate::config::shape::At<$shape>>,)*
        }

        impl $crate::config::shape::Section for $name {
            const NAME: &'static str = stringify!($name);
            const ABOUT: &'static [&'static str] = &[$($about),+];

            fn keys(all: &mut $crate::config::shape::Keys) {
                $(<$section as $crate::config::shape::Section>::keys(all);)*
                $(all.known.push(($crate::config::shape::plain(stringify!($key)), &[$($($alias),+)?]));)*
                $(all.refused.push(($refused, $why));)*
            }

            fn take(found: &$crate::config::shape::Found<'_>, check: &mut $crate::config::fault::Check) -> Self {
                Self {
                    $($part: $crate::config::shape::Section::take(found, check),)*
                    $($key: found.read($crate::config::shape::plain(stringify!($key)), check),)*
                }
            }

            fn properties(all: &mut serde_json::Map<String, serde_json::Value>, definitions: &mut $crate::config::shape::Definitions) {
                $(<$section as $crate::config::shape::Section>::properties(all, definitions);)*
                $($crate::config::shape::property::<$shape>(
                    all, definitions, $crate::config::shape::plain(stringify!($key)), &[$($($alias),+)?], &[$($doc),+],
                );)*
            }
        }
    };
}
pub(super) use section;

/// The values of a map with these keys.
fn found<'a>(node: &'a Node, keys: &Keys, check: &mut Check) -> Option<Found<'a>> {
    let Kind::Map(entries) = &node.kind else { return mismatch(node, "a map", check) };
    let mut found: HashMap<&'static str, (&Key, &Node)> = HashMap::new();
    for (key, value) in entries {
        let Some((name, _)) = keys.known.iter().find(|(name, aliases)| *name == key.text || aliases.contains(&&*key.text)) else {
            match keys.refused.iter().find(|(refused, _)| *refused == key.text) {
                Some((_, why)) => check.fault(&key.place, format!("{:?} means nothing here", key.text), *why),
                None => check.fault(&key.place, format!("unknown key {:?}", key.text), advice(&key.text, keys)),
            }
            check.spoil(&node.place);
            continue;
        };
        match found.get(name) {
            Some((first, _)) => {
                let what = if first.text == key.text { "a second".to_owned() } else { format!("{:?} is the same key as", key.text) };
                check.fault(&key.place, format!("{what} {:?}", first.text), format!("the first is in line {}; keep one", first.place.line));
            }
            None if matches!(value.kind, Kind::Null) => {
                check.fault(&key.place, format!("{:?} has no value", key.text), "give it one, or take the key away");
                check.spoil(&node.place);
            }
            None => _ = found.insert(name, (key, value)),
        }
    }
    Some(Found { values: found.into_iter().map(|(name, (_, value))| (name, value)).collect(), place: &node.place })
}

/// The known key that is meant, or all there are.
fn advice(unknown: &str, keys: &Keys) -> String {
    let known: Vec<&str> = keys.known.iter().flat_map(|(name, aliases)| std::iter::once(name).chain(aliases.iter())).copied().collect();
    let nearest = known.iter().map(|key| (distance(unknown, key), *key)).min();
    match nearest {
        Some((distance, key)) if distance <= 1 + key.len() / 4 => format!("did you mean {key:?}?"),
        _ if known.len() <= 12 => format!("known here are {}", known.join(", ")),
        _ => "the documentation and `aralez schema` name the known ones".to_owned(),
    }
}

/// How many letters must be put in, left out or exchanged to make one word of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().take(100).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, cell) in other.chars().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(a != b)).min(*cell + 1).min(left + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Tells that a value is not what is wanted there.
pub(super) fn mismatch<T>(node: &Node, wanted: &str, check: &mut Check) -> Option<T> {
    check.fault(&node.place, format!("{} stands here, where {wanted} is wanted", node.what()), "");
    None
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn the_distance_counts_letters_put_in_left_out_or_exchanged() {
        for (one, other, steps) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("thread", "threads", 1), ("sevrers", "servers", 2), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (steps, steps), "{one} {other}");
        }
    }
}
