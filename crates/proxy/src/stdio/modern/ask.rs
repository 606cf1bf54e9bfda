//! What the host asks a server for its own use.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use thv_wire::era::Revision;
use thv_wire::message::Peek;
use thv_wire::modern::envelope::{CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION};
use thv_wire::modern::status;
use thv_wire::splice::members;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::call::Pending;
use super::worker::{PROBE_NUMBER, Worker};

/// How long a server that nobody uses has to show that it has said all that it had to say.
const SETTLE: Duration = Duration::from_secs(5);

impl Worker {
    /// Asks the server something for the host's own use. Nothing, if there is no answer in time.
    pub(super) async fn ask(&self, method: &str, params: &str, patience: Duration) -> Option<Bytes> {
        let (sender, answer) = oneshot::channel();
        let slot = timeout(patience, self.link.inbox.reserve()).await.ok()?.ok()?;
        let number = self.expect(Pending::Own(sender))?;
        // Whoever asks may be gone before the answer comes, if it ever does.
        let _asked = Asked { worker: self, number };
        slot.send(
            format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}"#).into(),
        );
        timeout(patience, answer).await.ok()?.ok()
    }

    /// Waits until the server has said what it had to say for earlier calls, so that the next is not taken for its
    /// cause: it answers a question that it was asked after them. Tells whether it did.
    pub(super) async fn settle(&self) -> bool {
        if !self.lock().usage.is_used() {
            return true;
        }
        let answered = self.ask("server/discover", &discover_params(), SETTLE).await.is_some();
        let mut state = self.lock();
        if answered {
            state.usage.settled();
        } else {
            state.usage.distrust();
        }
        answered
    }
}

/// A question of the host that waits for its answer.
struct Asked<'a> {
    worker: &'a Worker,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.worker.lock().pending.remove(&self.number);
    }
}

/// `server/discover`, as the binding to standard input and output asks of its clients (`basic/transports/stdio`,
/// "Backward Compatibility").
pub(super) fn probe() -> Bytes {
    let params = discover_params();
    format!(r#"{{"jsonrpc":"2.0","id":{PROBE_NUMBER},"method":"server/discover","params":{params}}}"#).into()
}

fn discover_params() -> String {
    let meta = json!({
        PROTOCOL_VERSION: Revision::V2026_07_28.as_str(),
        CLIENT_INFO: {"name": "thv", "version": env!("CARGO_PKG_VERSION")},
        CLIENT_CAPABILITIES: {},
    });
    json!({ "_meta": meta }).to_string()
}

/// Whether an answer to the probe shows a server that knows a modern version, whichever.
pub(super) fn speaks_modern(answer: &Peek<'_>) -> bool {
    if let Some(code) = status::error_code(answer) {
        return status::is_modern(code);
    }
    let versions = answer.result.and_then(|result| members(result, ["supportedVersions"]).ok());
    let Some([Some(versions)]) = versions else { return false };
    let versions: Vec<String> = serde_json::from_str(versions.get()).unwrap_or_default();
    // A version that is not known here is younger than this program.
    versions.iter().any(|version| Revision::parse(version).is_none_or(Revision::is_modern))
}
