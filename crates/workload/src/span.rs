//! Spans of time as ToolHive writes them into run configs: Go's durations, such as `30m`, `1h30m0s` or `1.5h`.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

/// Units and their length in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    // The micro sign, and the Greek letter that looks like it.
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a span; nothing and an empty text are none.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    let text: Option<String> = Option::deserialize(input)?;
    text.filter(|text| !text.is_empty())
        .map(|text| {
            let wrong = || D::Error::custom(format_args!("{text:?} is not a duration such as 30m or 1h30m"));
            parse(&text).ok_or_else(wrong)
        })
        .transpose()
}

pub(crate) fn serialize<S: Serializer>(span: &Option<Duration>, output: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => output.serialize_str(&text(*span)),
        None => output.serialize_none(),
    }
}

/// Numbers with their units, all added up. Nothing below zero.
fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *scale)?)?;
        rest = after;
    }
    Some(Duration::from_nanos(total))
}

/// A decimal number, times the length of its unit.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        // Beyond the nanosecond there is nothing to add.
        nanos = nanos.checked_add(u64::from(digit - b'0').checked_mul(place)? / 10)?;
        place /= 10;
    }
    Some(nanos)
}

/// As Go writes it, but for spans below a second: `1h30m0s`, `0.5s`.
fn text(span: Duration) -> String {
    let (seconds, nanos) = (span.as_secs(), span.subsec_nanos());
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut last = format!("{seconds}.{nanos:09}");
    last.truncate(last.trim_end_matches('0').trim_end_matches('.').len());
    match (hours, minutes) {
        (0, 0) => format!("{last}s"),
        (0, _) => format!("{minutes}m{last}s"),
        _ => format!("{hours}h{minutes}m{last}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_go_are_understood() {
        for (given, millis) in [
            ("0", 0),
            ("0s", 0),
            ("30m", 30 * 60_000),
            ("30m0s", 30 * 60_000),
            ("1h30m0s", 90 * 60_000),
            ("168h0m0s", 168 * 3_600_000),
            ("1.5h", 90 * 60_000),
            ("+2h", 2 * 3_600_000),
            (".5s", 500),
            ("1.s", 1000),
            ("500ms", 500),
            ("1500\u{b5}s500us", 2),
            ("1m500ms", 60_500),
        ] {
            assert_eq!(parse(given), Some(Duration::from_millis(millis)), "{given}");
        }
        assert_eq!(parse("1.123456789123s"), Some(Duration::from_nanos(1_123_456_789)));
    }

    #[test]
    fn everything_else_is_refused() {
        let huge = format!("{}h", u64::MAX);
        for given in [
            "", "+", "-1s", "1", "600", "s", ".s", "1..5s", "1.2.3s", "1d", "1 h", "soon", "1hour", "1s5",
            &huge,
        ] {
            assert_eq!(parse(given), None, "{given:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (nanos, expected) in [
            (0, "0s"),
            (90 * 60_000_000_000, "1h30m0s"),
            (600_000_000_000, "10m0s"),
            (1_500_000_000, "1.5s"),
            (1, "0.000000001s"),
        ] {
            let span = Duration::from_nanos(nanos);
            assert_eq!(text(span), expected);
            assert_eq!(parse(expected), Some(span));
        }
    }
}
