//! The id of a message that is too big to be kept.
//!
//! A message over the limit is thrown away as it arrives, but whoever waits for it is owed an answer.
//! [`Skim`] watches the bytes go by and remembers nothing but the members that say whom it concerns.

use std::mem;

use memchr::memchr2;

use crate::id::Id;
use crate::message::{Kind, text};

/// The most bytes of a member's name, and of an id, that are remembered. A longer id is not found.
const CAP: usize = 1024;

/// What was learnt of a message that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Skimmed {
    /// What it was, if that could be told.
    pub kind: Option<Kind>,
    /// Its id, if it had exactly one.
    pub id: Option<Id>,
}

/// Watches one message go by. It does not check that the bytes are JSON: of a text that is not, what it
/// tells means nothing, and does no harm.
#[derive(Debug, Default)]
pub struct Skim {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The object has ended, or there is none.
    over: bool,
    /// What a string at the top level is now: the name of a member, or its value.
    place: Place,
    kept: Vec<u8>,
    ids: u32,
    id: Option<Id>,
    has_method: bool,
    has_answer: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Name,
    IdValue,
    OtherValue,
}

impl Skim {
    /// A watcher for one message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the message.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            if self.over {
                return;
            }
            if self.in_string && !self.escaped && !self.keeps() {
                let Some(stop) = memchr2(b'"', b'\\', rest) else { return };
                rest = &rest[stop..];
                self.step(rest[0]);
                rest = &rest[1..];
                continue;
            }
            self.step(byte);
            rest = after;
        }
    }

    /// What was learnt.
    pub fn finish(self) -> Skimmed {
        let id = if self.ids == 1 { self.id } else { None };
        let kind = match (self.has_method, self.has_answer) {
            (true, false) if self.ids > 0 => Some(Kind::Request),
            (true, false) => Some(Kind::Notification),
            (false, true) => Some(Kind::Response),
            _ => None,
        };
        Skimmed { kind, id }
    }

    fn keeps(&self) -> bool {
        self.depth == 1 && self.place != Place::OtherValue
    }

    fn keep(&mut self, byte: u8) {
        // One byte over the cap marks the text as cut.
        if self.keeps() && self.kept.len() <= CAP {
            self.kept.push(byte);
        }
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            self.keep(byte);
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.keep(byte);
            }
            b'{' | b'[' => {
                self.over = self.depth == 0 && byte == b'[';
                // An id that is an object or an array is no id.
                self.keep(byte);
                self.depth += 1;
            }
            b'}' | b']' => {
                if self.depth == 1 {
                    self.end_member();
                    self.over = true;
                }
                self.depth = self.depth.saturating_sub(1);
            }
            b',' if self.depth == 1 => {
                self.end_member();
                self.place = Place::Name;
            }
            b':' if self.depth == 1 => self.start_value(),
            b' ' | b'\t' | b'\r' | b'\n' if self.kept.is_empty() => {}
            _ if self.depth == 0 => self.over = true,
            _ => self.keep(byte),
        }
    }

    fn take_kept(&mut self) -> Option<String> {
        let kept = mem::take(&mut self.kept);
        if kept.len() > CAP {
            return None;
        }
        let kept = String::from_utf8(kept).ok()?;
        // What is kept of a text that is not JSON must not be taken for JSON.
        let json: &serde_json::value::RawValue = serde_json::from_str(kept.trim_ascii()).ok()?;
        Some(json.get().to_owned())
    }

    fn start_value(&mut self) {
        let name = self.take_kept();
        let name = name.as_deref().and_then(text);
        self.place = if name.as_deref() == Some("id") { Place::IdValue } else { Place::OtherValue };
        match name.as_deref() {
            Some("method") => self.has_method = true,
            Some("result" | "error") => self.has_answer = true,
            Some("id") => self.ids += 1,
            _ => {}
        }
    }

    fn end_member(&mut self) {
        if self.place == Place::IdValue {
            self.id = self.take_kept().and_then(|json| Id::from_valid_json(&json));
        }
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn skim(text: &str) -> Skimmed {
        let mut skim = Skim::new();
        skim.feed(text.as_bytes());
        skim.finish()
    }

    #[test]
    fn finds_the_id_wherever_it_stands() {
        let found = |kind, id| Skimmed { kind: Some(kind), id };
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"a","params":{"x""#,
                found(Kind::Request, Some(Id::number(7))),
            ),
            (r#"{"method":"a","params":{"id":8},"id" : 7 }"#, found(Kind::Request, Some(Id::number(7)))),
            (
                r#"{"result":[{"id":1},"}\",\"id\":2"],"id":"x\"y"}"#,
                found(Kind::Response, Some(Id::string("x\"y"))),
            ),
            (r#"  {"\u0069d":3,"error":{}}"#, found(Kind::Response, Some(Id::number(3)))),
            (r#"{"method":"a","params":["#, found(Kind::Notification, None)),
            (r#"{"id":{"id":1},"result":1}"#, found(Kind::Response, None)),
            (r#"{"id":1 2,"result":1}"#, found(Kind::Response, None)),
            (r#"{"id":1,"id":2,"result":1}"#, found(Kind::Response, None)),
            (r#"[{"id":1,"result":1}]"#, Skimmed::default()),
            (r#"x{"id":1,"result":1}"#, Skimmed::default()),
            (r#""{\"id\":1,\"result\":1}""#, Skimmed::default()),
            ("", Skimmed::default()),
        ] {
            assert_eq!(skim(text), expected, "{text}");
        }
    }

    #[test]
    fn remembers_little() {
        let long = "x".repeat(100_000);
        for text in [
            format!(r#"{{"id":"{long}","result":1}}"#),
            format!(r#"{{"{long}":1,"result":1}}"#),
            format!(r#"{{"id":{},"result":1}}"#, "1".repeat(100_000)),
        ] {
            let mut skim = Skim::new();
            for byte in text.as_bytes() {
                skim.feed(&[*byte]);
                assert!(skim.kept.len() <= CAP + 1);
            }
            assert_eq!(skim.finish(), Skimmed { kind: Some(Kind::Response), id: None });
        }
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(
            id in any::<String>(),
            inner in any::<String>(),
            sizes in prop::collection::vec(1_usize..9, 1..40),
        ) {
            let text = json!({"a": {"id": inner.clone()}, "method": inner, "id": id}).to_string();
            let mut skim = Skim::new();
            let mut rest = text.as_bytes();
            for size in sizes.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(size.min(rest.len()));
                skim.feed(now);
                rest = later;
            }
            let expected = Skimmed { kind: Some(Kind::Request), id: Some(Id::string(&id)) };
            prop_assert_eq!(skim.finish(), expected);
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut skim = Skim::new();
            skim.feed(&bytes);
            skim.finish();
        }
    }
}
