//! Texts with `%COMMAND%` places in them, in Envoy's language: access log lines and header values.

use std::{borrow::Cow, fmt, sync::Arc};

use serde::Serialize;

/// A parsed format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Format {
    /// Its pieces in order.
    pub pieces: Vec<Piece>,
}

/// A piece of a format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// Text as it stands.
    Text(Arc<str>),
    /// A command's value.
    Command(Command),
}

/// `%NAME(ARGUMENT):LENGTH%`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Command {
    /// The command, for example `REQ`.
    pub name: Arc<str>,
    /// What stands in parentheses, if anything.
    pub argument: Option<Arc<str>>,
    /// The most bytes of the value that are taken.
    pub length: Option<usize>,
}

impl Format {
    /// A format that is nothing but text.
    pub fn text(text: &str) -> Self {
        Self { pieces: if text.is_empty() { Vec::new() } else { vec![Piece::Text(text.into())] } }
    }

    /// Parses a format; `%%` is a percent sign.
    ///
    /// # Errors
    /// What is wrong, with the place in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            let (before, after) = rest.split_at(at);
            literal += before;
            let after = after.get(1..).unwrap_or_default();
            if let Some(more) = after.strip_prefix('%') {
                literal.push('%');
                rest = more;
                continue;
            }
            let (command, more) = Command::parse(after).ok_or_else(|| format!("byte {}: not a command", text.len() - rest.len() + at))?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(Piece::Command(command));
            rest = more;
        }
        literal += rest;
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self { pieces })
    }
}

/// The text that [`Format::parse`] reads.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pieces.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(&text.replace('%', "%%")),
            Piece::Command(Command { name, argument, length }) => {
                write!(f, "%{name}")?;
                argument.iter().try_for_each(|argument| write!(f, "({argument})"))?;
                length.iter().try_for_each(|length| write!(f, ":{length}"))?;
                f.write_str("%")
            }
        })
    }
}

/// What commands stand for, for one request or connection.
pub trait Values {
    /// The value of a command; `None` when there is none, or when the command is not known.
    fn value(&self, command: &Command) -> Option<Cow<'_, str>>;
}

impl Format {
    /// The text, with `absent` (Envoy's `-`) for commands that have no value.
    pub fn render(&self, values: &dyn Values, absent: &str) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text += piece,
                Piece::Command(command) => {
                    let value = values.value(command).unwrap_or(Cow::Borrowed(absent));
                    let end = command.length.map_or(value.len(), |most| value.floor_char_boundary(most));
                    text += value.get(..end).unwrap_or_default();
                }
            }
        }
        text
    }
}

impl Command {
    /// Parses what follows the percent sign up to the closing one; gives what comes after it.
    fn parse(text: &str) -> Option<(Self, &str)> {
        let name_end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
        let (name, mut rest) = text.split_at(name_end);
        if name.is_empty() {
            return None;
        }
        let mut argument = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let (inside, after) = inner.split_once(')')?;
            argument = Some(inside.into());
            rest = after;
        }
        let mut length = None;
        if let Some(after) = rest.strip_prefix(':') {
            let (digits, _) = after.split_once('%')?;
            length = Some(digits.parse().ok()?);
            rest = after.get(digits.len()..)?;
        }
        Some((Self { name: name.into(), argument, length }, rest.strip_prefix('%')?))
    }
}
