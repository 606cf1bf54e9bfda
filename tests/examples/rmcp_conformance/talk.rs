//! What a tool or a prompt needs of its client: questions, in the way of the client's revision, logs and progress.

use crate::{Answer, Context, typed, wire};
use rmcp::model::{
    ClientCapabilities, InputResponses, ProtocolVersion, RequestStateCodec, RequestStateError,
    ServerNotification, ServerRequest,
};
use rmcp::service::SubscriptionSink;
use rmcp::{ErrorData, ServiceError};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What all sessions share.
pub(crate) struct State {
    codec: RequestStateCodec,
    subscribers: Mutex<BTreeMap<u64, SubscriptionSink>>,
}

impl State {
    pub(crate) fn new() -> Result<Self, RequestStateError> {
        let codec = RequestStateCodec::try_new(*b"only a fixture: anybody may know it")?;
        Ok(Self { codec, subscribers: Mutex::default() })
    }

    fn subscribers(&self) -> MutexGuard<'_, BTreeMap<u64, SubscriptionSink>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self, sink: SubscriptionSink) -> u64 {
        let mut subscribers = self.subscribers();
        let number = subscribers.last_key_value().map_or(0, |(last, _)| last + 1);
        subscribers.insert(number, sink);
        number
    }

    pub(crate) fn unsubscribe(&self, number: u64) {
        self.subscribers().remove(&number);
    }
}

/// What a tool or a prompt says.
pub(crate) enum Said {
    Contents(Vec<Value>),
    /// Clients of 2026-07-28 call again with the answers.
    Question(Value),
}

/// The answers to questions, in their order, or what is to be said instead.
pub(crate) type Asked = Result<Vec<Value>, Said>;

/// A call under way.
pub(crate) struct Talk<'a> {
    state: &'a State,
    context: &'a Context,
    given: Map<String, Value>,
    /// Answers of earlier rounds.
    kept: Map<String, Value>,
}

impl<'a> Talk<'a> {
    pub(crate) fn new(
        state: &'a State,
        context: &'a Context,
        given: Option<&InputResponses>,
        sealed: Option<&str>,
    ) -> Answer<Self> {
        let given = given.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let changed = |_| ErrorData::invalid_params("The state is not the one that was given.", None);
        let kept = sealed.map(|sealed| state.codec.open_json(sealed).map_err(changed)).transpose()?;
        Ok(Self { state, context, given, kept: kept.unwrap_or_default() })
    }

    fn is_modern(&self) -> bool {
        self.context.meta.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
    }

    fn capabilities(&self) -> ClientCapabilities {
        let of_session = || self.context.peer.peer_info().map(|info| info.capabilities.clone());
        self.context.meta.client_capabilities().or_else(of_session).unwrap_or_default()
    }

    pub(crate) fn declared(&self, capability: &str) -> Answer<bool> {
        Ok(!wire(&self.capabilities())?[capability].is_null())
    }

    pub(crate) fn require(&self, capability: &str) -> Answer<()> {
        if self.declared(capability)? {
            return Ok(());
        }
        let needed = typed(json!({ capability: {} }))?;
        Err(ErrorData::missing_required_client_capability(needed))
    }

    /// Asks all of it at once. Older clients are asked while the call goes on; for the newer ones it ends with the
    /// questions, and what they answered in earlier rounds comes back in the state.
    pub(crate) async fn ask(&mut self, stateful: bool, questions: &[(&str, Value)]) -> Answer<Asked> {
        for (_, question) in questions {
            self.require(kind(question).0)?;
        }
        if !self.is_modern() {
            let mut answers = Vec::new();
            for (_, question) in questions {
                let request: ServerRequest = typed(question.clone())?;
                let answer = self.context.peer.send_request(request).await.map_err(|error| broken(&error))?;
                answers.push(wire(&answer)?);
            }
            return Ok(Ok(answers));
        }
        for (key, question) in questions {
            // An answer of the wrong kind is none, so that the question is asked again.
            if let Some(answer) = self.given.get(*key).filter(|answer| !answer[kind(question).1].is_null()) {
                self.kept.insert((*key).to_owned(), answer.clone());
            }
        }
        let open: Map<String, Value> = questions
            .iter()
            .filter(|(key, _)| !self.kept.contains_key(*key))
            .map(|(key, question)| ((*key).to_owned(), question.clone()))
            .collect();
        if open.is_empty() {
            return Ok(Ok(questions.iter().map(|(key, _)| self.kept[*key].clone()).collect()));
        }
        let mut question = json!({ "resultType": "input_required", "inputRequests": open });
        if stateful || !self.kept.is_empty() {
            let sealed = self.state.codec.seal_json(&self.kept);
            let sealed = sealed.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
            question["requestState"] = sealed.into();
        }
        Ok(Err(Said::Question(question)))
    }

    /// Logs, where the client wants it: newer ones say so with the request.
    pub(crate) async fn log(&self, text: &str) -> Answer<()> {
        if self.is_modern() && self.context.meta.log_level().is_none() {
            return Ok(());
        }
        let params = json!({ "level": "info", "logger": "conformance", "data": text });
        self.tell("notifications/message", params).await
    }

    pub(crate) async fn progress(&self, done: u32, total: u32) -> Answer<()> {
        let Some(token) = self.context.meta.get_progress_token() else { return Ok(()) };
        let params = json!({ "progressToken": wire(&token)?, "progress": done, "total": total });
        self.tell("notifications/progress", params).await
    }

    async fn tell(&self, method: &str, params: Value) -> Answer<()> {
        let message: ServerNotification = typed(json!({ "method": method, "params": params }))?;
        self.context.peer.send_notification(message).await.map_err(|error| broken(&error))
    }

    /// Tells all subscribers that a list has changed.
    pub(crate) async fn announce(&self, list: &str) {
        let subscribers: Vec<_> = self.state.subscribers().values().cloned().collect();
        for subscriber in subscribers {
            // One that is gone need not be told.
            let _ = match list {
                "tools" => subscriber.notify_tool_list_changed().await,
                _ => subscriber.notify_prompt_list_changed().await,
            };
        }
    }
}

/// The capability that a question takes, and a member that its answer has.
fn kind(question: &Value) -> (&'static str, &'static str) {
    match question["method"].as_str() {
        Some("sampling/createMessage") => ("sampling", "content"),
        Some("roots/list") => ("roots", "roots"),
        _ => ("elicitation", "action"),
    }
}

fn broken(error: &ServiceError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
