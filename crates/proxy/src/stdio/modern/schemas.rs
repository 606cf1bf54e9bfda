//! Which parameters of the server's tools its callers must repeat in headers (MCP 2026-07-28,
//! `basic/transports/streamable-http`, "Custom Headers from Tool Parameters").

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use http::HeaderMap;
use serde_json::value::RawValue;
use thv_wire::message::{Incoming, Peek, peek};
use thv_wire::modern::envelope::{CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION};
use thv_wire::modern::{Envelope, Mismatch, Param, headers, params, tools};
use thv_wire::splice::members;
use tokio::time::Instant;

use super::worker::Worker;

/// How long a page of `tools/list` may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most pages.
const MAX_PAGES: usize = 100;
/// The tools are not listed again before.
const AGAIN: Duration = Duration::from_secs(1);

/// The annotated parameters of tools, by the tool's name.
type Known = HashMap<String, Vec<Param>>;

/// What the server's tools were when they were listed last.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    known: Mutex<Known>,
    /// When they were. Held while they are being listed.
    listed: tokio::sync::Mutex<Option<Instant>>,
}

impl Worker {
    /// Compares the headers of a `tools/call` with the parameters that the tool annotates. What cannot be learnt of
    /// a tool is not compared: the check must never break a call that works.
    pub(in super::super) async fn check_params(
        &self,
        message: &Peek<'_>,
        envelope: &Envelope<'_>,
        fields: &HeaderMap,
    ) -> Result<(), Mismatch> {
        let has_arguments = message.params.and_then(|params| members(params, ["arguments"]).ok());
        if !message.is("tools/call") || matches!(has_arguments, Some([None])) && !params::are_in(fields) {
            return Ok(());
        }
        let Some(name) = headers::name(message) else { return Ok(()) };
        let check = |known: Option<Vec<Param>>| match known {
            Some(known) => params::check(&known, message, fields).map(|()| true),
            None => Ok(false),
        };
        let before = check(self.schemas.of(&name));
        if before == Ok(true) {
            return Ok(());
        }
        // A tool that is not known, or is another than it was.
        if self.list_tools(envelope).await {
            check(self.schemas.of(&name)).map(drop)
        } else {
            before.map(drop)
        }
    }

    /// Lists the tools, unless that was done a moment ago. Tells whether it succeeded, now or then.
    async fn list_tools(&self, envelope: &Envelope<'_>) -> bool {
        let mut listed = self.schemas.listed.lock().await;
        if listed.is_some_and(|when| when.elapsed() < AGAIN) {
            return true;
        }
        let mut known = Known::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let params = list_params(envelope, cursor.as_deref());
            let Some(answer) = self.ask("tools/list", &params, PATIENCE).await else { return false };
            let Ok(Incoming::One(page)) = peek(&answer) else { return false };
            let Some(tools) = tools::tools(&page) else { return false };
            for tool in tools {
                // A conforming client does not call an invalid tool, so there is nothing to compare.
                known.insert(tool.name, tool.params.unwrap_or_default());
            }
            let next = tools::next_cursor(&page).map(|cursor| cursor.get().to_owned());
            if next.is_none() || next == cursor {
                self.schemas.set(known);
                *listed = Some(Instant::now());
                return true;
            }
            cursor = next;
        }
        false
    }
}

impl Schemas {
    fn of(&self, tool: &str) -> Option<Vec<Param>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(tool).cloned()
    }

    fn set(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

/// The parameters of `tools/list`, on behalf of a caller: what it may see depends on what it says of itself.
fn list_params(envelope: &Envelope<'_>, cursor: Option<&str>) -> String {
    let version = serde_json::Value::from(&*envelope.protocol_version);
    let capabilities = envelope.client_capabilities.get();
    let info = envelope.client_info.map_or("{}", RawValue::get);
    let mut text = format!(
        r#"{{"_meta":{{"{PROTOCOL_VERSION}":{version},"{CLIENT_INFO}":{info},"{CLIENT_CAPABILITIES}":{capabilities}}}"#
    );
    if let Some(cursor) = cursor {
        text.push_str(r#","cursor":"#);
        text.push_str(cursor);
    }
    text.push('}');
    text
}
