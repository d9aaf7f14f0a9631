//! Moments: as certificates count them, and in the formats that stand in the parentheses of `%START_TIME(…)%`.
//!
//! The conversions are those of C's `strftime` that do not depend on a locale, and those for parts of a second that Envoy's
//! library (cctz) adds. All moments are shown in UTC, as by Envoy.

use std::{
    fmt::{self, Write},
    sync::Arc,
    time::SystemTime,
};

use serde::Serialize;
use time::OffsetDateTime;

/// This moment in seconds since the Unix epoch, as certificates are compared by; 0 for a clock that is before it.
pub fn unix_now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// A parsed format of moments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MomentFormat(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Piece {
    Text(Arc<str>),
    /// The letter of a conversion without parameters.
    Conversion(char),
    /// `%3f`, `%E3f`: the first digits of the second's fraction.
    Fraction(u8),
    /// `%E3S`: the second with the first digits of its fraction.
    Second(u8),
}

/// The letters that stand for something by themselves.
const LETTERS: &str = "YCymdejHIMSpaAbBhuwsTFDRzZnt";

/// As many digits of a second's fraction as there are.
const ALL_DIGITS: u8 = 9;

impl Default for MomentFormat {
    /// RFC 3339 with milliseconds, Envoy's default: `2023-11-14T22:13:20.042Z`.
    fn default() -> Self {
        let text = |text: &str| Piece::Text(text.into());
        Self(vec![Piece::Conversion('F'), text("T"), Piece::Conversion('T'), text("."), Piece::Fraction(3), text("Z")])
    }
}

impl MomentFormat {
    /// Parses a format; `%%` is a percent sign.
    ///
    /// # Errors
    /// The conversion that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut pieces, mut literal) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal += before;
            if let Some(after) = after.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let (piece, after) = conversion(after).ok_or_else(|| {
                let shown: String = after.chars().take(3).collect();
                format!("%{shown} is no conversion of a time")
            })?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
            }
            pieces.push(piece);
            rest = after;
        }
        literal += rest;
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.into()));
        }
        Ok(Self(pieces))
    }

    /// A moment in this format.
    pub fn show(&self, at: SystemTime) -> Moment<'_> {
        Moment { format: self, at: OffsetDateTime::from(at) }
    }
}

/// The conversion at the beginning of a text, and what follows it.
fn conversion(text: &str) -> Option<(Piece, &str)> {
    let extended = text.strip_prefix('E');
    let body = extended.unwrap_or(text);
    let mut chars = body.chars();
    let first = chars.next()?;
    let digits = first.to_digit(10).filter(|digit| *digit > 0).and_then(|digit| u8::try_from(digit).ok());
    let piece = match (digits, extended) {
        (Some(digits), extended) => match (chars.next()?, extended) {
            ('f', _) => Piece::Fraction(digits),
            ('S', Some(_)) => Piece::Second(digits),
            _ => return None,
        },
        (None, None) if first == 'f' => Piece::Fraction(ALL_DIGITS),
        (None, None) if LETTERS.contains(first) => Piece::Conversion(first),
        (None, Some(_)) if first == 'z' => Piece::Text("+00:00".into()),
        _ => return None,
    };
    Some((piece, chars.as_str()))
}

/// A moment beside the format to show it in; made by [`MomentFormat::show`].
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    format: &'a MomentFormat,
    at: OffsetDateTime,
}

impl fmt::Display for Moment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.format.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Conversion(letter) => convert(*letter, &self.at, f),
            Piece::Fraction(digits) => fraction(*digits, &self.at, f),
            Piece::Second(digits) => {
                write!(f, "{:02}.", self.at.second())?;
                fraction(*digits, &self.at, f)
            }
        })
    }
}

fn fraction(digits: u8, at: &OffsetDateTime, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shown = at.nanosecond() / 10_u32.pow(u32::from(ALL_DIGITS - digits.min(ALL_DIGITS)));
    write!(f, "{shown:0width$}", width = usize::from(digits))
}

fn convert(letter: char, at: &OffsetDateTime, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let short = |f: &mut fmt::Formatter<'_>, name: &str| f.write_str(name.get(..3).unwrap_or(name));
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    match letter {
        'Y' => write!(f, "{year}"),
        'C' => write!(f, "{:02}", year / 100),
        'y' => write!(f, "{:02}", year % 100),
        'm' => write!(f, "{month:02}"),
        'd' => write!(f, "{day:02}"),
        'e' => write!(f, "{day:2}"),
        'j' => write!(f, "{:03}", at.ordinal()),
        'H' => write!(f, "{hour:02}"),
        'I' => write!(f, "{:02}", (hour + 11) % 12 + 1),
        'M' => write!(f, "{minute:02}"),
        'S' => write!(f, "{second:02}"),
        'p' => f.write_str(if hour < 12 { "AM" } else { "PM" }),
        'a' => short(f, &at.weekday().to_string()),
        'A' => write!(f, "{}", at.weekday()),
        'b' | 'h' => short(f, &at.month().to_string()),
        'B' => write!(f, "{}", at.month()),
        'u' => write!(f, "{}", at.weekday().number_from_monday()),
        'w' => write!(f, "{}", at.weekday().number_days_from_sunday()),
        's' => write!(f, "{}", at.unix_timestamp()),
        'T' => write!(f, "{hour:02}:{minute:02}:{second:02}"),
        'F' => write!(f, "{year:04}-{month:02}-{day:02}"),
        'D' => write!(f, "{month:02}/{day:02}/{:02}", year % 100),
        'R' => write!(f, "{hour:02}:{minute:02}"),
        'z' => f.write_str("+0000"),
        'Z' => f.write_str("UTC"),
        'n' => f.write_char('\n'),
        't' => f.write_char('\t'),
        // Parsing takes no other letter.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Sunday, 2026-11-22 07:58:12.792063 UTC.
    fn shown(format: &str) -> String {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_795_334_292, 792_063_000);
        MomentFormat::parse(format).unwrap().show(at).to_string()
    }

    #[test]
    fn moments_look_as_envoys_do() {
        // Both columns as seen with Envoy 1.40.
        for (format, expected) in [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2026/11/22T07:58:12+0000 1795334292"),
            ("%e %j %b %a %p %I %y %Z", "22 326 Nov Sun AM 07 26 UTC"),
            ("%T %F %D %R %h %A %B %u %w", "07:58:12 2026-11-22 11/22/26 07:58 Nov Sunday November 7 0"),
            ("%s.%3f", "1795334292.792"),
            ("%f %1f %2f %3f %6f %9f", "792063000 7 79 792 792063 792063000"),
            ("%E3S %Ez %E6f", "12.792 +00:00 792063"),
            ("100%%", "100%"),
        ] {
            assert_eq!(shown(format), expected, "{format}");
        }
        let midnight = SystemTime::UNIX_EPOCH;
        assert_eq!(MomentFormat::default().show(midnight).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(MomentFormat::parse("%I %p %C").unwrap().show(midnight).to_string(), "12 AM 19");
    }

    #[test]
    fn what_is_no_conversion_is_refused() {
        for bad in ["%", "%Q", "%3S", "%0f", "%E", "%E3x", "%E*S", "%é"] {
            assert!(MomentFormat::parse(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC*") {
            let _ = MomentFormat::parse(&text).map(|format| format.show(SystemTime::now()).to_string());
        }
    }
}
