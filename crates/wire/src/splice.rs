//! Members of JSON objects as they stand in the text, and texts in which some are replaced.
//!
//! This is how an id or a progress token is changed on the way while every other byte stays as it was.

use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Why the members of an object cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MembersError {
    /// The value is not an object.
    #[error("not an object")]
    NotAnObject,
    /// One of the members asked for is there twice: two readers could take it differently.
    #[error("a member appears twice")]
    Twice,
    /// A member's name is no text, for it holds half a surrogate pair.
    #[error("the name of a member is no text")]
    NotText,
}

/// The members of these names, as they stand in the text of `object`. Nothing below them is looked at.
///
/// # Errors
/// [`MembersError`], if `object` is none, or its members are ambiguous.
pub fn members<'a, const N: usize>(
    object: &'a RawValue,
    names: [&str; N],
) -> Result<[Option<&'a RawValue>; N], MembersError> {
    if !object.get().starts_with('{') {
        return Err(MembersError::NotAnObject);
    }
    let mut reader = serde_json::Deserializer::from_str(object.get());
    let mut twice = false;
    let found = Members { names, twice: &mut twice }.deserialize(&mut reader);
    if twice { Err(MembersError::Twice) } else { found.map_err(|_| MembersError::NotText) }
}

struct Members<'n, const N: usize> {
    names: [&'n str; N],
    twice: &'n mut bool,
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(name) = map.next_key_seed(Name(&self.names))? {
            let Some(slot) = name.and_then(|at| found.get_mut(at)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if slot.replace(map.next_value()?).is_some() {
                *self.twice = true;
            }
        }
        Ok(found)
    }
}

/// Reads a member's name and tells which of the wanted ones it is.
struct Name<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a member")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| *wanted == name))
    }
}

/// Where `part` stands in `whole`; nothing if it is not a slice of it.
pub fn position(whole: &[u8], part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

/// `whole` with each part replaced by the text beside it, in any order. Nothing, if a part is not a slice of
/// `whole`, or two of them overlap.
pub fn splice(whole: &[u8], edits: &[(&str, &str)]) -> Option<Bytes> {
    let mut places: Vec<(Range<usize>, &str)> = Vec::with_capacity(edits.len());
    for (part, with) in edits {
        places.push((position(whole, part)?, with));
    }
    places.sort_by_key(|(range, _)| range.start);
    let longer: usize = edits.iter().map(|(_, with)| with.len()).sum();
    let mut out = BytesMut::with_capacity(whole.len() + longer);
    let mut done = 0;
    for (range, with) in places {
        out.put(whole.get(done..range.start)?);
        out.put(with.as_bytes());
        done = range.end;
    }
    out.put(&whole[done..]);
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn members_are_slices_of_the_text() {
        let text = r#"{"a" : [1, {"b":2}], "\u0062":1.0 ,"c":null,"d":"b"}"#;
        let [b, c, a, x] = members(raw(text), ["b", "c", "a", "x"]).unwrap();
        assert_eq!(a.map(RawValue::get), Some(r#"[1, {"b":2}]"#));
        assert_eq!(b.map(RawValue::get), Some("1.0"));
        assert_eq!(c.map(RawValue::get), Some("null"));
        assert!(x.is_none());
        let whole = text.as_bytes();
        assert_eq!(&whole[position(whole, b.unwrap().get()).unwrap()], b"1.0");
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for (text, error) in [
            ("[1]", MembersError::NotAnObject),
            ("\"a\"", MembersError::NotAnObject),
            (r#"{"a":1,"\u0061":1}"#, MembersError::Twice),
            (r#"{"\ud800":1}"#, MembersError::NotText),
        ] {
            assert_eq!(members(raw(text), ["a"]).err(), Some(error), "{text}");
        }
        // Of a member that nobody asked for, two are fine.
        assert!(members(raw(r#"{"b":1,"b":2,"a":3}"#), ["a"]).unwrap()[0].is_some());
    }

    #[test]
    fn only_what_was_named_changes() {
        let text = r#"{ "id" : 1.0, "x":{"t" :"a\u0062"}, "big":123456789012345678901234567890 }"#;
        let [id, x] = members(raw(text), ["id", "x"]).unwrap();
        let [t] = members(x.unwrap(), ["t"]).unwrap();
        let edited =
            splice(text.as_bytes(), &[(t.unwrap().get(), "7"), (id.unwrap().get(), r#""seven""#)]).unwrap();
        let expected = r#"{ "id" : "seven", "x":{"t" :7}, "big":123456789012345678901234567890 }"#;
        assert_eq!(edited, expected);
    }

    #[test]
    fn parts_of_other_texts_and_overlaps_are_refused() {
        let whole = "0123456789";
        assert_eq!(splice(whole.as_bytes(), &[("3", "x")]), None);
        assert_eq!(splice(whole.as_bytes(), &[(&whole[2..5], "x"), (&whole[4..6], "y")]), None);
        assert_eq!(splice(&whole.as_bytes()[..5], &[(&whole[4..6], "x")]), None);
        assert_eq!(splice(whole.as_bytes(), &[]).unwrap(), whole);
        assert_eq!(
            splice(whole.as_bytes(), &[(&whole[4..6], ""), (&whole[2..4], "ab")]).unwrap(),
            "01ab6789"
        );
    }

    proptest! {
        #[test]
        fn a_replaced_member_is_the_only_difference(
            names in prop::collection::btree_set("[a-z]{1,4}", 1..6),
            value in any::<String>(),
            with in any::<u32>(),
        ) {
            let names: Vec<_> = names.into_iter().collect();
            let mut object = serde_json::Map::new();
            for name in &names {
                object.insert(name.clone(), json!({"in": value}));
            }
            let text = Value::Object(object.clone()).to_string();
            let [found] = members(raw(&text), [&names[0]]).unwrap();
            let edited = splice(text.as_bytes(), &[(found.unwrap().get(), &with.to_string())]).unwrap();
            object.insert(names[0].clone(), json!(with));
            prop_assert_eq!(serde_json::from_slice::<Value>(&edited).unwrap(), Value::Object(object));
        }
    }
}
