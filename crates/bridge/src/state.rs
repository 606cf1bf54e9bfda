//! What the client has told the server and expects it to remember: which resources it subscribed to, and the log
//! level. A session that is begun anew is told again.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::value::RawValue;
use thv_wire::message::{Kind, Peek};

/// How many subscriptions are remembered. Further ones work, but do not outlive their session.
const MAX_SUBSCRIPTIONS: usize = 1000;

/// The longest parameters that are remembered, in bytes.
const MAX_PARAMS: usize = 8 * 1024;

const SUBSCRIBE: &str = "resources/subscribe";
const UNSUBSCRIBE: &str = "resources/unsubscribe";
const SET_LEVEL: &str = "logging/setLevel";

/// What a request changes if it succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The parameters of `resources/subscribe`, and the URI in them.
    Subscribe { uri: String, params: Bytes },
    /// The URI of `resources/unsubscribe`.
    Unsubscribe { uri: String },
    /// The parameters of `logging/setLevel`.
    Level { params: Bytes },
}

impl Change {
    /// What this message changes, if it is a request that changes anything.
    pub(crate) fn of(seen: &Peek<'_>) -> Option<Self> {
        let method = seen.method.as_deref().filter(|_| seen.kind == Kind::Request)?;
        if ![SUBSCRIBE, UNSUBSCRIBE, SET_LEVEL].contains(&method) {
            return None;
        }
        let text = seen.params?.get();
        if text.len() > MAX_PARAMS {
            tracing::warn!(method, length = text.len(), "not remembered for the next session");
            return None;
        }
        let params = Bytes::copy_from_slice(text.as_bytes());
        if method == SET_LEVEL {
            return Some(Self::Level { params });
        }
        let members: HashMap<String, &RawValue> = serde_json::from_str(text).ok()?;
        let uri = serde_json::from_str(members.get("uri")?.get()).ok()?;
        Some(if method == SUBSCRIBE { Self::Subscribe { uri, params } } else { Self::Unsubscribe { uri } })
    }
}

impl Change {
    /// Method and parameters of the request by which another session hears of it.
    pub(crate) fn request(&self) -> (&'static str, Bytes) {
        match self {
            Self::Level { params } => (SET_LEVEL, params.clone()),
            Self::Subscribe { params, .. } => (SUBSCRIBE, params.clone()),
            Self::Unsubscribe { uri } => (UNSUBSCRIBE, serde_json::json!({ "uri": uri }).to_string().into()),
        }
    }
}

/// All that a new session has to be told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    level: Option<Bytes>,
    /// In the order in which the client subscribed.
    subscriptions: Vec<(String, Bytes)>,
}

impl Told {
    /// Takes note of a change that the server has confirmed.
    pub(crate) fn apply(&mut self, change: Change) {
        match change {
            Change::Level { params } => self.level = Some(params),
            Change::Unsubscribe { uri } => self.subscriptions.retain(|(known, _)| *known != uri),
            Change::Subscribe { uri, params } => {
                if let Some((_, old)) = self.subscriptions.iter_mut().find(|(known, _)| *known == uri) {
                    *old = params;
                } else if self.subscriptions.len() < MAX_SUBSCRIPTIONS {
                    self.subscriptions.push((uri, params));
                } else {
                    tracing::warn!("too many subscriptions; this one is not remembered for the next session");
                }
            }
        }
    }

    /// The client begins a session of its own, which knows nothing.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Method and parameters of each request that a new session needs.
    pub(crate) fn requests(&self) -> Vec<(&'static str, Bytes)> {
        let level = self.level.iter().map(|params| (SET_LEVEL, params.clone()));
        level.chain(self.subscriptions.iter().map(|(_, params)| (SUBSCRIBE, params.clone()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use thv_wire::message::{Incoming, peek};

    use super::*;

    fn change(message: &Value) -> Option<Change> {
        let text = message.to_string();
        let Ok(Incoming::One(seen)) = peek(text.as_bytes()) else { panic!("{text}") };
        Change::of(&seen)
    }

    fn request(method: &str, params: &Value) -> Value {
        json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    }

    fn subscribe(uri: &str) -> Change {
        change(&request(SUBSCRIBE, &json!({"uri": uri, "x": 1}))).unwrap()
    }

    #[test]
    fn only_requests_that_the_server_must_remember_change_anything() {
        let long = "x".repeat(MAX_PARAMS);
        for message in [
            request("tools/call", &json!({"uri": "a:b"})),
            request(SUBSCRIBE, &json!({"url": "a:b"})),
            request(SUBSCRIBE, &json!({"uri": 1})),
            request(SUBSCRIBE, &json!({"uri": long})),
            request(SUBSCRIBE, &json!(["a:b"])),
            json!({"jsonrpc": "2.0", "method": SUBSCRIBE, "params": {"uri": "a:b"}}),
            json!({"jsonrpc": "2.0", "id": 1, "method": SET_LEVEL}),
        ] {
            assert_eq!(change(&message), None, "{message}");
        }
    }

    #[test]
    fn the_last_level_and_the_subscriptions_that_still_stand_are_told_again() {
        let mut told = Told::default();
        for level in ["debug", "error"] {
            told.apply(change(&request(SET_LEVEL, &json!({"level": level}))).unwrap());
        }
        for uri in ["a:1", "a:2", "a:1", "a:3"] {
            told.apply(subscribe(uri));
        }
        // The same URI in another spelling.
        let escaped =
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/unsubscribe","params":{"uri":"\u0061:2"}}"#;
        let Ok(Incoming::One(seen)) = peek(escaped.as_bytes()) else { panic!() };
        told.apply(Change::of(&seen).unwrap());

        let requests = told.requests();
        let shown: Vec<(&str, Value)> = requests
            .iter()
            .map(|(method, params)| (*method, serde_json::from_slice(params).unwrap()))
            .collect();
        assert_eq!(
            shown,
            [
                (SET_LEVEL, json!({"level": "error"})),
                (SUBSCRIBE, json!({"uri": "a:1", "x": 1})),
                (SUBSCRIBE, json!({"uri": "a:3", "x": 1})),
            ]
        );
        told.clear();
        assert!(told.requests().is_empty());
    }

    #[test]
    fn no_more_subscriptions_are_kept_than_allowed() {
        let mut told = Told::default();
        for n in 0..MAX_SUBSCRIPTIONS + 5 {
            told.apply(subscribe(&format!("a:{n}")));
        }
        assert_eq!(told.requests().len(), MAX_SUBSCRIPTIONS);
        told.apply(Change::Unsubscribe { uri: "a:0".into() });
        told.apply(subscribe("a:again"));
        assert_eq!(told.requests().len(), MAX_SUBSCRIPTIONS);
    }
}
