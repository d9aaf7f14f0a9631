//! Expressions in RE2's syntax and with RE2's meaning (Envoy evaluates them with RE2; Consul does not check them).
//!
//! They are rewritten for the `regex` crate, whose syntax is close but not the same: there `\d`, `\w`, `\s` and `\b` are of Unicode,
//! `[a[b]` opens a set within a set, `\<` is an anchor, and `\Q…\E`, `\C` and octal escapes do not exist.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use serde::Serialize;

/// Most repetitions that RE2 counts, as in `a{1000}`.
const MOST_REPETITIONS: u32 = 1000;
/// The classes that may stand in `[[:…:]]`.
const POSIX: [&str; 14] =
    ["alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word", "xdigit"];

/// An RE2 expression that must match the whole value.
#[derive(Clone)]
pub struct Regex {
    source: Arc<str>,
    compiled: regex::bytes::Regex,
}

impl Regex {
    /// Compiles an expression.
    ///
    /// # Errors
    /// What is wrong with it, in one line: RE2 refuses it too, or it is larger than 10 MiB once compiled.
    pub fn parse(source: &str) -> Result<Self, String> {
        let translated = Translator::translate(source).map_err(|why| format!("{source:?} is no RE2 expression: {why}"))?;
        let compiled = regex::bytes::Regex::new(&format!(r"\A(?:{translated})\z")).map_err(|e| {
            let why = e.to_string();
            format!("{source:?} cannot be used: {}", why.lines().last().unwrap_or_default().trim_start_matches("error: "))
        })?;
        Ok(Self { source: source.into(), compiled })
    }

    /// Whether it matches the whole of `value`. As with RE2, `.` and classes take whole characters of UTF-8; a stray byte is matched by
    /// `\C` alone. (RE2's `.` also takes some sequences that only look like a character, such as `E0 80 80`; here nothing does.)
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.compiled.is_match(value)
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Regex {}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Serialize for Regex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// What stands before the place that is read: a repetition needs something to repeat, which is no repetition itself.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Item,
    Repetition,
}

/// Rewrites an expression from left to right.
struct Translator<'a> {
    rest: &'a str,
    out: String,
    open_groups: usize,
    before: Before,
}

impl<'a> Translator<'a> {
    fn translate(source: &'a str) -> Result<String, String> {
        let mut this = Self { rest: source, out: String::with_capacity(source.len() * 2), open_groups: 0, before: Before::Nothing };
        while let Some(next) = this.take() {
            this.step(next)?;
        }
        match this.open_groups {
            0 => Ok(this.out),
            _ => Err("a group is not closed".to_owned()),
        }
    }

    fn take(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = self.rest.get(next.len_utf8()..).unwrap_or_default();
        Some(next)
    }

    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn step(&mut self, next: char) -> Result<(), String> {
        match next {
            '*' | '+' | '?' => return self.repetition(&next.to_string()),
            '{' => match self.counts() {
                Some(counts) => return self.repetition(&counts?),
                None => self.literal('{'),
            },
            '(' => return self.group(),
            ')' => {
                self.open_groups = self.open_groups.checked_sub(1).ok_or("a ')' closes no group")?;
                self.out.push(')');
            }
            '|' => {
                self.out.push('|');
                self.before = Before::Nothing;
                return Ok(());
            }
            '[' => self.class()?,
            '\\' => return self.escape(),
            '.' | '^' | '$' => self.out.push(next),
            literal => self.literal(literal),
        }
        self.before = Before::Item;
        Ok(())
    }

    /// A character that stands for itself, also within a class.
    fn literal(&mut self, literal: char) {
        if literal.is_ascii_alphanumeric() {
            self.out.push(literal);
        } else {
            // Writing into a string does not fail.
            let _ = write!(self.out, "\\x{{{:x}}}", u32::from(literal));
        }
    }

    fn repetition(&mut self, operator: &str) -> Result<(), String> {
        match self.before {
            Before::Nothing => return Err(format!("{operator:?} has nothing to repeat")),
            Before::Repetition => return Err(format!("{operator:?} repeats a repetition")),
            Before::Item => {}
        }
        self.out.push_str(operator);
        if self.eat("?") {
            self.out.push('?');
        }
        self.before = Before::Repetition;
        Ok(())
    }

    /// `n}`, `n,}` or `n,m}` after a brace; anything else makes the brace a literal one.
    fn counts(&mut self) -> Option<Result<String, String>> {
        let (inside, rest) = self.rest.split_once('}')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.len() < 9 && text.bytes().all(|b| b.is_ascii_digit());
            (digits && (text == "0" || !text.starts_with('0'))).then(|| text.parse::<u32>().ok()).flatten()
        };
        let (low, high) = match inside.split_once(',') {
            None => (number(inside)?, None),
            Some((low, "")) => (number(low)?, None),
            Some((low, high)) => (number(low)?, Some(number(high)?)),
        };
        self.rest = rest;
        if low.max(high.unwrap_or(0)) > MOST_REPETITIONS || high.is_some_and(|high| high < low) {
            return Some(Err(format!("{{{inside}}} is not a count up to {MOST_REPETITIONS}")));
        }
        Some(Ok(format!("{{{inside}}}")))
    }

    fn group(&mut self) -> Result<(), String> {
        self.out.push('(');
        if self.eat("?P<") || self.eat("?<") {
            let (name, rest) = self.rest.split_once('>').ok_or("a group's name does not end")?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("{name:?} cannot name a group"));
            }
            self.rest = rest;
        } else if self.eat("?") {
            let end = self.rest.find([':', ')']).ok_or("a group is not closed")?;
            let (flags, rest) = self.rest.split_at(end);
            if !flags.bytes().all(|b| b"imsU-".contains(&b)) {
                return Err(format!("(?{flags} is not known"));
            }
            self.rest = rest;
            self.out.push('?');
            self.out.push_str(flags);
            if self.eat(")") {
                self.out.push(')');
                return Ok(());
            }
            self.eat(":");
            self.out.push(':');
        }
        self.open_groups += 1;
        self.before = Before::Nothing;
        Ok(())
    }

    /// What follows a backslash outside of classes.
    fn escape(&mut self) -> Result<(), String> {
        if self.eat("Q") {
            let (text, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
            self.rest = rest;
            for literal in text.chars() {
                self.literal(literal);
                self.before = Before::Item;
            }
            return Ok(());
        }
        self.before = Before::Item;
        if !self.shared_class()? {
            match self.rest.chars().next() {
                Some('A') => self.verbatim(r"\A"),
                Some('z') => self.verbatim(r"\z"),
                Some('b') => self.verbatim(r"(?-u:\b)"),
                Some('B') => self.verbatim(r"(?-u:\B)"),
                Some('C') => self.verbatim(r"(?s-u:.)"),
                _ => {
                    let literal = self.escaped()?;
                    self.literal(literal);
                }
            }
        }
        Ok(())
    }

    /// Puts `text` in the place of the next character.
    fn verbatim(&mut self, text: &str) {
        self.take();
        self.out.push_str(text);
    }

    /// A class after a backslash that may also stand in brackets: `\d`, `\pN`, `\p{Greek}` and the like. `false` if there is none.
    fn shared_class(&mut self) -> Result<bool, String> {
        match self.rest.chars().next() {
            Some('d') => self.verbatim("[0-9]"),
            Some('D') => self.verbatim("[^0-9]"),
            Some('w') => self.verbatim("[0-9A-Za-z_]"),
            Some('W') => self.verbatim("[^0-9A-Za-z_]"),
            Some('s') => self.verbatim(r"[\t\n\f\r\x20]"),
            Some('S') => self.verbatim(r"[^\t\n\f\r\x20]"),
            Some(p @ ('p' | 'P')) => {
                self.take();
                self.property(p == 'P')?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A general category of one or two letters, or a script by its full name.
    fn property(&mut self, negated: bool) -> Result<(), String> {
        let first = self.take().ok_or("\\p names no class")?;
        let mut name = first.to_string();
        if first == '{' {
            let (inside, rest) = self.rest.split_once('}').ok_or("\\p{ is not closed")?;
            self.rest = rest;
            name = inside.to_owned();
        }
        let negated_again = name.starts_with('^');
        let name = name.trim_start_matches('^');
        if !name.starts_with(|c: char| c.is_ascii_uppercase()) || !name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_') {
            return Err(format!("there is no class \\p{{{name}}}"));
        }
        let p = if negated != negated_again { 'P' } else { 'p' };
        let kind = if name.len() > 2 && name != "Any" { "sc:" } else { "" };
        let _ = write!(self.out, "\\{p}{{{kind}{name}}}");
        Ok(())
    }

    /// A class, after its opening bracket.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.eat("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if !first && self.eat("]") {
                self.out.push(']');
                return Ok(());
            }
            first = false;
            let posix = self.rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]"));
            if let Some((name, rest)) = posix {
                if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) {
                    return Err(format!("there is no class [:{name}:]"));
                }
                let _ = write!(self.out, "[:{name}:]");
                self.rest = rest;
                continue;
            }
            let before = self.rest;
            if self.eat("\\") {
                if self.shared_class()? {
                    continue;
                }
                self.rest = before;
            }
            self.range()?;
        }
    }

    /// A character or a range of them, within a class.
    fn range(&mut self) -> Result<(), String> {
        let low = self.member()?;
        self.literal(low);
        if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
            self.take();
            let high = self.member()?;
            if high < low {
                return Err(format!("{low}-{high} goes backwards"));
            }
            self.out.push('-');
            self.literal(high);
        }
        Ok(())
    }

    fn member(&mut self) -> Result<char, String> {
        match self.take() {
            None => Err("a class is not closed".to_owned()),
            Some('\\') => self.escaped(),
            Some(plain) => Ok(plain),
        }
    }

    /// The character that an escape stands for, after its backslash.
    fn escaped(&mut self) -> Result<char, String> {
        let next = self.take().ok_or("it ends in a backslash")?;
        let code = match next {
            'a' => 0x07,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'v' => 0x0b,
            'x' => self.hex().ok_or("\\x is not followed by a number")?,
            '0'..='7' => {
                let more = self.rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let (digits, rest) = self.rest.split_at(more);
                if next != '0' && digits.is_empty() {
                    return Err(format!("\\{next} refers to a group"));
                }
                self.rest = rest;
                u32::from_str_radix(&format!("{next}{digits}"), 8).unwrap_or(u32::MAX)
            }
            mark if mark.is_ascii() && !mark.is_ascii_alphanumeric() => u32::from(mark),
            other => return Err(format!("\\{other} is not known")),
        };
        char::from_u32(code).ok_or_else(|| "an escape is no character".to_owned())
    }

    /// `41` or `{41}`.
    fn hex(&mut self) -> Option<u32> {
        let (digits, rest) = match self.rest.strip_prefix('{') {
            Some(rest) => rest.split_once('}')?,
            None => self.rest.split_at_checked(2)?,
        };
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        self.rest = rest;
        plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    }
}

#[cfg(test)]
mod tests;
