//! What may stand in a file: shapes that read themselves from a tree and tell everything that does not fit.

use std::{collections::HashMap, time::Duration};

use super::{
    fault::{Check, Place},
    tree::{Key, Kind, Node},
};

/// Something that can stand in a file.
pub(super) trait Shape: Sized {
    /// The value, or `None` after a fault was told.
    fn read(node: &Node, check: &mut Check) -> Option<Self>;
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

/// The entries of a map in their order, each with the place of its key.
pub(super) type Entries<T> = Vec<(Key, At<T>)>;

/// A map with keys of its own: every one optional.
pub(super) trait Section: Sized {
    /// Adds its keys.
    fn keys(all: &mut Vec<Spelling>);

    /// Reads the values of its keys.
    fn take(found: &Found<'_>, check: &mut Check) -> Self;
}

/// A key and its other spellings.
pub(super) type Spelling = (&'static str, &'static [&'static str]);

/// The values of a map by their key's first spelling.
pub(super) type Found<'a> = HashMap<&'static str, &'a Node>;

impl<T: Section> Shape for T {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let mut keys = Vec::new();
        T::keys(&mut keys);
        let found = found(node, &keys, check)?;
        Some(T::take(&found, check))
    }
}

/// Declares a section: a struct of optional values, each with its place. Unknown keys are refused, and keys that stand there twice.
/// `name ["alias"]: Shape` also takes the other spelling; `..name: Section` takes all keys of another section.
macro_rules! section {
    ($(#[doc = $about:literal])* struct $name:ident {
        $(..$part:ident: $section:ty,)*
        $($(#[doc = $doc:literal])+ $key:ident $([$($alias:literal),+])? : $shape:ty,)*
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, Default)]
        pub(in crate::config) struct $name {
            $(pub(in crate::config) $part: $section,)*
            $($(#[doc = $doc])+ pub(in crate::config) $key: Option<$crate::config::shape::At<$shape>>,)*
        }

        impl $crate::config::shape::Section for $name {
            fn keys(all: &mut Vec<$crate::config::shape::Spelling>) {
                $(<$section as $crate::config::shape::Section>::keys(all);)*
                $(all.push((stringify!($key).trim_start_matches("r#"), &[$($($alias),+)?]));)*
            }

            fn take(found: &$crate::config::shape::Found<'_>, check: &mut $crate::config::fault::Check) -> Self {
                Self {
                    $($part: $crate::config::shape::Section::take(found, check),)*
                    $($key: found.get(stringify!($key).trim_start_matches("r#")).and_then(|node| $crate::config::shape::At::read(node, check)),)*
                }
            }
        }
    };
}
pub(super) use section;

/// The values of a map whose keys are `keys`. A key without a value counts as absent.
fn found<'a>(node: &'a Node, keys: &[Spelling], check: &mut Check) -> Option<Found<'a>> {
    let entries = match &node.kind {
        Kind::Map(entries) => entries,
        Kind::Null => return Some(Found::new()),
        _ => return mismatch(node, "a map", check),
    };
    let mut found: HashMap<&'static str, (&Key, &Node)> = HashMap::new();
    for (key, value) in entries {
        let known = keys.iter().find(|(name, aliases)| *name == key.text || aliases.contains(&&*key.text));
        let Some((name, _)) = known else {
            let all = keys.iter().flat_map(|(name, aliases)| std::iter::once(name).chain(aliases.iter())).copied();
            check.fault(&key.place, format!("unknown key {:?}", key.text), advice(&key.text, all));
            continue;
        };
        match found.get(name) {
            Some((first, _)) => {
                let what = if first.text == key.text { "a second".to_owned() } else { format!("{:?} is the same key as", key.text) };
                check.fault(&key.place, format!("{what} {:?}", first.text), format!("the first is in line {}; keep one", first.place.line));
            }
            None => _ = found.insert(name, (key, value)),
        }
    }
    Some(found.into_iter().filter(|(_, (_, value))| !matches!(value.kind, Kind::Null)).map(|(name, (_, value))| (name, value)).collect())
}

/// The known key that is meant, or all there are.
fn advice<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().map(|key| (distance(unknown, key), key)).min();
    match nearest {
        Some((distance, key)) if distance <= 1 + key.len() / 4 => format!("did you mean {key:?}?"),
        _ => format!("known here are {}", known.join(", ")),
    }
}

/// How many letters must be put in, left out or exchanged to make one word of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().enumerate().take(100) {
        let mut before = i;
        let mut left = i + 1;
        for (j, b) in other.chars().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or_default();
            let best = (before + usize::from(a != b)).min(above + 1).min(left + 1);
            row[j] = left;
            (before, left) = (above, best);
        }
        if let Some(last) = row.last_mut() {
            *last = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Tells that a value is not what is wanted there.
pub(super) fn mismatch<T>(node: &Node, wanted: &str, check: &mut Check) -> Option<T> {
    check.fault(&node.place, format!("{} stands here, where {wanted} is wanted", node.what()), "");
    None
}

impl Shape for String {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::Text { text, .. } => Some(text.clone()),
            Kind::Integer(_) | Kind::Float(_) | Kind::Bool(_) => mismatch(node, "a text (put it in quotes)", check),
            _ => mismatch(node, "a text", check),
        }
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
}

/// A whole number of a value, if it is one.
pub(super) fn integer(node: &Node) -> Option<i128> {
    match &node.kind {
        Kind::Integer(value) => Some(*value),
        Kind::Text { text, expanded: true } => text.trim().parse().ok(),
        _ => None,
    }
}

/// A whole number between two bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Within<const LEAST: u64, const MOST: u64>(pub(super) u64);

impl<const LEAST: u64, const MOST: u64> Shape for Within<LEAST, MOST> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let wanted = || format!("a whole number from {LEAST} to {MOST}");
        match integer(node) {
            Some(value) => match u64::try_from(value).ok().filter(|value| (LEAST..=MOST).contains(value)) {
                Some(value) => Some(Self(value)),
                None => {
                    check.fault(&node.place, format!("{value} is not {}", wanted()), "");
                    None
                }
            },
            None => mismatch(node, &wanted(), check),
        }
    }
}

/// A time: a number of seconds, or a text such as `5s`, `200ms`, `2m`, `1h`, `1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

/// The longest time that a file may name: ten years.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

impl Time {
    fn parse(text: &str) -> Option<Duration> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = text.split_at(end);
        let seconds = match unit.trim() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
    }
}

impl Shape for Time {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let time = match &node.kind {
            Kind::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
            Kind::Text { text, .. } if integer(node).is_none() => Time::parse(text),
            _ => integer(node).and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
        };
        match time {
            Some(time) if time <= LONGEST => Some(Self(time)),
            _ => mismatch(node, "a time (seconds, or a text such as \"200ms\", \"5s\", \"2m\", \"1h\"; at most ten years)", check),
        }
    }
}

impl<T: Shape> Shape for Vec<At<T>> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        match &node.kind {
            Kind::List(items) => Some(items.iter().filter_map(|item| At::read(item, check)).collect()),
            _ => mismatch(node, "a list", check),
        }
    }
}

impl<T: Shape> Shape for Entries<T> {
    fn read(node: &Node, check: &mut Check) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else { return mismatch(node, "a map", check) };
        let mut first: HashMap<&str, u64> = HashMap::new();
        for (key, _) in entries {
            if let Some(line) = first.insert(&key.text, key.place.line) {
                check.fault(&key.place, format!("a second {:?}", key.text), format!("the first is in line {line}; keep one"));
            }
        }
        Some(entries.iter().filter_map(|(key, value)| Some((key.clone(), At::read(value, check)?))).collect())
    }
}
