//! Go's durations: the text form (`1m30s`) and the integer form (nanoseconds).
//!
//! Consul prints either, field by field, so [`GoDuration`] reads both; a field that Consul prints as an integer is
//! marked with [`as_nanos`], every other is printed as text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A signed duration in nanoseconds, as Go's `time.Duration`. Zero stands for "not set" wherever Consul uses one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(i64);

impl GoDuration {
    /// The duration of that many nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// The duration of that many milliseconds; more than Go can hold (292 years) becomes the longest one.
    pub fn from_millis(millis: u64) -> Self {
        Self::from(Duration::from_millis(millis))
    }

    /// The length in nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whether it is zero: not set.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The same length as a standard duration, or nothing when negative (Consul's "switched off" for route timeouts).
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl From<Duration> for GoDuration {
    /// Longer than Go can hold (292 years) becomes the longest one.
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

/// Why a text is no Go duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurationError {
    text: String,
    why: &'static str,
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a duration such as \"1m30s\": {}", self.text, self.why)
    }
}

impl std::error::Error for DurationError {}

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000), // U+00B5, the micro sign
    ("μs", 1_000), // U+03BC, the Greek letter
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for GoDuration {
    type Err = DurationError;

    /// Reads what Go's `time.ParseDuration` reads: an optional sign, then one or more `number unit` pairs, or a bare `0`.
    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse(text).map(Self).map_err(|why| DurationError { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<i64, &'static str> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err("it is empty");
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err("a number is missing");
        }
        let unit_end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, scale)) => *scale,
            None if unit.is_empty() => return Err("a unit is missing"),
            None => return Err("the units are ns, us, ms, s, m and h"),
        };
        nanos = number(whole)
            .and_then(|whole| whole.checked_mul(scale))
            .and_then(|whole| nanos.checked_add(whole + fraction_of(fraction, scale)))
            .filter(|nanos| *nanos <= i64::MAX as u128 + 1)
            .ok_or("it is too long")?;
        rest = after;
    }
    let signed = if negative { -(nanos as i128) } else { nanos as i128 };
    i64::try_from(signed).map_err(|_| "it is too long")
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// The value of a run of digits; none when it is beyond any duration.
fn number(digits: &str) -> Option<u128> {
    if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok().map(u128::from) }
}

/// `0.digits * scale`, digits below a nanosecond cut off.
fn fraction_of(digits: &str, scale: u128) -> u128 {
    let mut unit = scale * 1_000_000;
    let sum: u128 = digits
        .bytes()
        .map(|digit| {
            unit /= 10;
            u128::from(digit - b'0') * unit
        })
        .sum();
    sum / 1_000_000
}

impl fmt::Display for GoDuration {
    /// Prints as Go does: the largest unit needed (`h`, `m` and `s` together; below a second one of `ms`, `µs`, `ns`),
    /// fractions without trailing zeros, zero as `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            f.write_str("-")?;
        }
        match self.0.unsigned_abs() {
            0 => f.write_str("0s"),
            nanos @ 1..1_000 => write!(f, "{nanos}ns"),
            nanos @ 1_000..1_000_000 => decimal(f, nanos, 1_000, "µs"),
            nanos @ 1_000_000..1_000_000_000 => decimal(f, nanos, 1_000_000, "ms"),
            nanos => {
                let minutes = nanos / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                decimal(f, nanos % 60_000_000_000, 1_000_000_000, "s")
            }
        }
    }
}

fn decimal(f: &mut fmt::Formatter<'_>, nanos: u64, scale: u64, unit: &str) -> fmt::Result {
    let (whole, fraction) = (nanos / scale, nanos % scale);
    if fraction == 0 {
        return write!(f, "{whole}{unit}");
    }
    let places = scale.ilog10() as usize;
    let fraction = format!("{fraction:0places$}");
    write!(f, "{whole}.{}{unit}", fraction.trim_end_matches('0'))
}

impl Serialize for GoDuration {
    /// Prints the text form.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Prints the integer form, for the fields in which Consul does.
pub(crate) fn as_nanos<S: Serializer>(duration: &GoDuration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(duration.0)
}

/// [`as_nanos`] for a field that may be unset.
pub(crate) fn as_optional_nanos<S: Serializer>(duration: &Option<GoDuration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.0).serialize(serializer)
}

impl<'de> Deserialize<'de> for GoDuration {
    /// Reads either form; empty text is zero.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EitherForm;

        impl Visitor<'_> for EitherForm {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration: text such as \"1m30s\" or integer nanoseconds")
            }

            fn visit_i64<E: de::Error>(self, nanos: i64) -> Result<GoDuration, E> {
                Ok(GoDuration(nanos))
            }

            fn visit_u64<E: de::Error>(self, nanos: u64) -> Result<GoDuration, E> {
                i64::try_from(nanos).map(GoDuration).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(nanos), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                if text.is_empty() { Ok(GoDuration::default()) } else { text.parse().map_err(E::custom) }
            }
        }

        deserializer.deserialize_any(EitherForm)
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn text_is_read_as_go_reads_it() {
        for (text, nanos) in [
            ("0", 0),
            ("22s", 22_000_000_000),
            ("1m30s", 90_000_000_000),
            ("700ms", 700_000_000),
            ("-1s", -1_000_000_000),
            ("+2h", 7_200_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5ms", 500_000),
            ("1.s", 1_000_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("3μs", 3_000),
            ("1h0m0.000000001s", 3_600_000_000_001),
            ("1.0000000019s", 1_000_000_001),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration(nanos)), "{text}");
        }
    }

    #[test]
    fn other_text_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "it is empty"),
            ("-", "it is empty"),
            ("10", "a unit is missing"),
            ("s", "a number is missing"),
            (".s", "a number is missing"),
            ("1d", "the units are"),
            ("1 s", "the units are"),
            ("1s-1s", "the units are"),
            ("9223372036854775808ns", "it is too long"),
            ("99999999999999999999999h", "it is too long"),
        ] {
            let error = text.parse::<GoDuration>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn text_is_printed_as_go_prints_it() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (700_000_000, "700ms"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (7_200_000_000_000, "2h0m0s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
            (-1_000_000_000, "-1s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration(nanos).to_string(), text);
            assert_eq!(text.parse(), Ok(GoDuration(nanos)), "{text}");
        }
    }

    #[test]
    fn json_is_read_in_either_form() {
        let read = |json: &str| serde_json::from_str::<GoDuration>(json);
        assert_eq!(read("\"3s\"").unwrap(), GoDuration(3_000_000_000));
        assert_eq!(read("\"\"").unwrap(), GoDuration(0));
        assert_eq!(read("7000000000").unwrap(), GoDuration(7_000_000_000));
        assert_eq!(read("-1").unwrap(), GoDuration(-1));
        assert!(read("18446744073709551615").is_err());
        assert!(read("true").is_err());
        assert_eq!(serde_json::to_string(&GoDuration(3_000_000_000)).unwrap(), "\"3s\"");
    }

    #[test]
    fn a_negative_one_has_no_standard_form() {
        assert_eq!(GoDuration(-1).to_std(), None);
        assert_eq!(GoDuration::from_millis(700).to_std(), Some(Duration::from_millis(700)));
        assert_eq!(GoDuration::from_millis(u64::MAX).as_nanos(), i64::MAX);
    }
}
