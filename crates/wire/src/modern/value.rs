//! Texts as values of `Mcp-Name` and `Mcp-Param-*` (2026-07-28, `basic/transports/streamable-http`, "Value
//! Encoding"): plain where that is safe, else Base64 between two marks.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const PREFIX: &str = "=?base64?";
const SUFFIX: &str = "?=";

/// A value that begins and ends like an encoded one, but is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value is marked as Base64, but is not canonical Base64 of UTF-8")]
pub struct NotEncoded;

/// The value that stands for a text. It consists of visible ASCII and spaces within.
///
/// A tab is encoded although a field may hold it, since the specification names it both among the characters that
/// are allowed and among the control characters that are not; a reader decodes either.
pub fn encode(text: &str) -> Cow<'_, str> {
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let padded = text.starts_with(' ') || text.ends_with(' ');
    let marked = text.starts_with(PREFIX) && text.ends_with(SUFFIX);
    if plain && !padded && !marked {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{PREFIX}{}{SUFFIX}", STANDARD.encode(text)))
}

/// The text that a value stands for.
///
/// # Errors
/// [`NotEncoded`], if it has the marks and nothing fitting between them.
pub fn decode(value: &str) -> Result<Cow<'_, str>, NotEncoded> {
    let Some(inner) = value.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX)) else {
        return Ok(Cow::Borrowed(value));
    };
    let bytes = STANDARD.decode(inner).map_err(|_| NotEncoded)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| NotEncoded)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_specification() {
        for (text, value) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(encode(text), value);
            assert_eq!(decode(value).unwrap(), text);
        }
    }

    #[test]
    fn marks_are_exact() {
        for plain in ["", "=?base64?", "?=", "=?base64?=", "=?BASE64?YQ==?=", "x=?base64?YQ==?=", "a b"] {
            assert_eq!(decode(plain).unwrap(), plain);
        }
        assert_eq!(decode("=?base64??=").unwrap(), "");
        for broken in
            ["=?base64?YQ?=", "=?base64?YR==?=", "=?base64?Y Q=?=", "=?base64?_w==?=", "=?base64?/w==?="]
        {
            assert_eq!(decode(broken), Err(NotEncoded), "{broken}");
        }
        // Where the marks overlap, the value is plain for a reader, and no writer says it plainly.
        assert_ne!(encode("=?base64?="), "=?base64?=");
    }

    proptest! {
        #[test]
        fn there_and_back(text in any::<String>()) {
            let value = encode(&text).into_owned();
            prop_assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            prop_assert_eq!(value.trim(), &value);
            prop_assert!(HeaderValue::from_str(&value).is_ok());
            prop_assert_eq!(decode(&value).unwrap(), text);
        }

        #[test]
        fn there_and_back_near_the_marks(inner in "[ -~]{0,12}", front in "(=\\?base64\\?)?", back in "(\\?=)?") {
            let text = format!("{front}{inner}{back}");
            let value = encode(&text).into_owned();
            prop_assert_eq!(decode(&value).unwrap(), text);
        }
    }
}
