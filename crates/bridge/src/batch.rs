//! Batches of the client's (MCP 2025-03-26): what the relay must know of the messages in one, which travels as one.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::value::RawValue;
use thv_wire::message::{Id, Incoming, Kind, Peek, peek};

use crate::pending::Traits;
use crate::state::Change;

/// What is in a batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) requests: Vec<(Id, Traits)>,
    /// There are notifications in it.
    pub(crate) notifies: bool,
    /// Among them `notifications/initialized`,
    pub(crate) initializes: bool,
    /// and `notifications/cancelled`, of these requests.
    pub(crate) cancelled: Vec<Id>,
    /// The requests of the server's that it answers.
    pub(crate) answered: Vec<Id>,
}

impl Batch {
    pub(crate) fn of(parts: &[(&RawValue, Peek<'_>)]) -> Self {
        let mut batch = Self::default();
        for (_, seen) in parts {
            match (seen.kind, &seen.id) {
                (Kind::Request, Some(id)) => {
                    let traits = Traits { change: Change::of(seen), ..Traits::default() };
                    batch.requests.push((id.clone(), traits));
                }
                (Kind::Response, Some(id)) => batch.answered.push(id.clone()),
                (Kind::Notification, _) => {
                    batch.notifies = true;
                    batch.initializes |= seen.is("notifications/initialized");
                    batch.cancelled.extend(seen.cancelled_id());
                }
                _ => {}
            }
        }
        batch
    }
}

/// A message or a batch without the answers to these requests, every other message as it came; nothing if nothing is
/// left of it.
pub(crate) fn without(body: &Bytes, answers: &[Id]) -> Option<Bytes> {
    let is_out = |seen: &Peek<'_>| {
        seen.kind == Kind::Response && seen.id.as_ref().is_some_and(|id| answers.contains(id))
    };
    match peek(body) {
        Ok(Incoming::One(seen)) => (!is_out(&seen)).then(|| body.clone()),
        Ok(Incoming::Batch(parts)) => {
            let left: Vec<&str> =
                parts.iter().filter(|(_, seen)| !is_out(seen)).map(|(text, _)| text.get()).collect();
            if left.len() == parts.len() {
                return Some(body.clone());
            }
            let mut text = BytesMut::with_capacity(body.len());
            for part in &left {
                text.put_u8(if text.is_empty() { b'[' } else { b',' });
                text.put_slice(part.as_bytes());
            }
            text.put_u8(b']');
            (!left.is_empty()).then(|| text.freeze())
        }
        Err(_) => Some(body.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_batch() {
        let text = br#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","id":2,"result":{}},
            {"jsonrpc":"2.0","method":"notifications/initialized"},
            {"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"x"}}]"#;
        let Ok(Incoming::Batch(parts)) = peek(text) else { panic!() };
        let batch = Batch::of(&parts);
        assert_eq!(batch.requests.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), [Id::number(1)]);
        assert_eq!((batch.answered, batch.cancelled), (vec![Id::number(2)], vec![Id::string("x")]));
        assert!(batch.notifies && batch.initializes);
    }

    #[test]
    fn an_answer_is_cut_out_and_the_rest_is_as_it_was() {
        let [one, two, three] = [
            r#"{"jsonrpc":"2.0", "id":1.0, "result":{"a":1.0}}"#,
            r#"{"jsonrpc":"2.0","id":"x","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#,
        ];
        let body = Bytes::from(format!("[{one}, {two} ,{three}]"));
        let cut = |ids: &[Id]| without(&body, ids).map(|text| String::from_utf8(text.to_vec()).unwrap());
        assert_eq!(cut(&[Id::number(9)]).as_deref(), std::str::from_utf8(&body).ok());
        assert_eq!(cut(&[Id::number(1)]), Some(format!("[{two},{three}]")));
        assert_eq!(cut(&[Id::number(1), Id::string("x")]), Some(format!("[{three}]")));
        let answers = Bytes::from(format!("[{one}]"));
        assert_eq!(without(&answers, &[Id::number(1)]), None);
        assert_eq!(without(&Bytes::from_static(two.as_bytes()), &[Id::string("x")]), None);
    }
}
