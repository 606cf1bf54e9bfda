//! Request ids and progress tokens.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use crate::message::text;

/// A plain integer up to this many bytes is its own canonical form; a longer number is brought into one.
const PLAIN: usize = 400;

/// The id of a JSON-RPC message, or a progress token, which has the same grammar.
///
/// It keeps the JSON text that it was read from, so that an answer can carry the very same one, and it is
/// compared by value: `1`, `1.0` and `10e-1` are one id, since a server may answer with another spelling
/// than it was asked with, `"A"` and `"\u0041"` are one, `1` and `"1"` are two. Integers beyond 64 bits
/// keep every digit.
#[derive(Clone)]
pub struct Id {
    json: Box<str>,
    /// The canonical text, where it differs from `json`.
    canonical: Option<Box<str>>,
}

impl Id {
    /// The `null` id, which only an error response may carry.
    pub fn null() -> Self {
        Self { json: "null".into(), canonical: None }
    }

    /// An id made of a number of ours.
    pub fn number(value: u64) -> Self {
        Self { json: value.to_string().into(), canonical: None }
    }

    /// An id made of a string of ours.
    pub fn string(value: &str) -> Self {
        Self { json: serde_json::Value::from(value).to_string().into(), canonical: None }
    }

    /// Reads the JSON text of an id: a string, a number or `null`. `json` must be one valid JSON value
    /// without surrounding space; nothing is returned for any other kind of value, nor for a string that
    /// holds half a surrogate pair, which is no text.
    pub(crate) fn from_valid_json(json: &str) -> Option<Self> {
        let canonical = match json.as_bytes().first()? {
            b'"' => {
                let value = text(json)?;
                json.contains('\\').then(|| serde_json::Value::from(value).to_string().into())
            }
            b'-' | b'0'..=b'9' => canonical_number(json),
            b'n' => None,
            _ => return None,
        };
        Some(Self { json: json.into(), canonical })
    }

    /// The JSON text as it was read.
    pub fn as_json(&self) -> &str {
        &self.json
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        &*self.json == "null"
    }

    /// The number it is, however it is spelled; nothing for a text, a fraction, or a number of more than 64 bits.
    pub fn as_u64(&self) -> Option<u64> {
        self.canonical().parse().ok()
    }

    pub(crate) fn canonical(&self) -> &str {
        self.canonical.as_deref().unwrap_or(&self.json)
    }
}

/// The canonical form of a JSON number where it is not the text itself: an integer without exponent if that
/// stays short, else digits and an exponent.
fn canonical_number(json: &str) -> Option<Box<str>> {
    if json.len() <= PLAIN && json != "-0" && !json.contains(['.', 'e', 'E']) {
        return None;
    }
    let (mantissa, exponent) = json.split_once(['e', 'E']).unwrap_or((json, "0"));
    // An exponent beyond 64 bits is nobody's id: such a number equals its own text only.
    let exponent: i64 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let stripped = digits.trim_end_matches('0');
    let moved = (digits.len() - stripped.len()) as i64 - fraction.len() as i64;
    let exponent = exponent.checked_add(moved)?;
    let stripped = stripped.trim_start_matches('0');
    if stripped.is_empty() {
        return Some("0".into());
    }
    let room = PLAIN - stripped.len().min(PLAIN);
    Some(match usize::try_from(exponent) {
        Ok(zeros) if zeros <= room => format!("{sign}{stripped}{}", "0".repeat(zeros)).into(),
        _ => format!("{sign}{stripped}e{exponent}").into(),
    })
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl Eq for Id {}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical().cmp(other.canonical())
    }
}

impl Hash for Id {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.canonical().hash(state);
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({})", self.json)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.json)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(json: &str) -> Id {
        Id::from_valid_json(json).unwrap()
    }

    #[test]
    fn spellings_of_one_value_are_one_id() {
        for (a, b) in [
            ("1", "1.0"),
            ("1", "10e-1"),
            ("1", "0.1E+1"),
            ("100", "1e2"),
            ("-0", "0"),
            ("0", "0.000e5"),
            ("-3", "-3.00"),
            ("0.5", "5e-1"),
            ("18446744073709551617", "18446744073709551617.0"),
            (r#""A""#, r#""\u0041""#),
            (r#""/""#, r#""\/""#),
            (r#""😀""#, r#""\ud83d\ude00""#),
        ] {
            assert_eq!(id(a), id(b), "{a} {b}");
        }
        let many = format!("1{}", "0".repeat(500));
        assert_eq!(id(&many), id("1e500"));
    }

    #[test]
    fn different_values_are_different_ids() {
        for (a, b) in [
            ("1", "\"1\""),
            ("1", "-1"),
            ("1", "10"),
            ("1", "1.00000000000000000000001"),
            ("9007199254740993", "9007199254740992"),
            ("18446744073709551617", "18446744073709551616"),
            ("null", "\"null\""),
            ("0", "\"\""),
        ] {
            assert_ne!(id(a), id(b), "{a} {b}");
        }
    }

    #[test]
    fn the_text_stays_as_it_was() {
        for json in
            ["1.0", "1e0", "-0", r#""\u0041""#, "123456789012345678901234567890", "1e99999999999999999999"]
        {
            assert_eq!(id(json).as_json(), json);
        }
        assert_eq!(Id::number(7), id("7"));
        assert_eq!(Id::string("a\"b"), id(r#""a\u0022b""#));
        for (json, number) in
            [("7", Some(7)), ("7.0", Some(7)), ("70e-1", Some(7)), ("\"7\"", None), ("-7", None)]
        {
            assert_eq!(id(json).as_u64(), number);
        }
        assert!(Id::null().is_null() && id("null").is_null() && !id("0").is_null());
    }

    #[test]
    fn other_kinds_of_value_are_no_id() {
        for json in ["true", "false", "{}", "[]", "[1]", r#""\ud800""#, ""] {
            assert!(Id::from_valid_json(json).is_none(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn numbers_equal_when_their_values_do(value in -1_000_000_i64..1_000_000, zeros in 0_usize..6) {
            let plain = id(&value.to_string());
            let fraction = format!("{value}.{}", "0".repeat(zeros + 1));
            prop_assert_eq!(&plain, &id(&fraction));
            let scaled = format!("{value}{}e-{zeros}", "0".repeat(zeros));
            prop_assert_eq!(&plain, &id(&scaled));
            prop_assert_ne!(&plain, &id(&(value + 1).to_string()));
        }

        #[test]
        fn strings_equal_when_their_texts_do(value in any::<String>()) {
            let plain = Id::string(&value);
            let escaped: String = value.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            prop_assert_eq!(&plain, &id(&format!("\"{escaped}\"")));
            prop_assert_eq!(&plain, &id(plain.as_json()));
        }
    }
}
