//! The messages that are exchanged while the clock runs, and the check of what came back once it has stopped.

use serde_json::{Value, json};
use thv_e2e::{Failure, PROTOCOL_VERSION, Result, ensure};

/// What `echo` is to give back.
const TEXT: &str = "The quick brown fox jumps over the lazy dog, twice as it happens";

pub(super) const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

pub(super) fn initialize() -> String {
    json!({
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": { "name": "xtask-bench", "version": env!("CARGO_PKG_VERSION") },
        },
    })
    .to_string()
}

/// A call of the tool `echo`.
pub(super) fn call(id: u64) -> String {
    let params = json!({ "name": "echo", "arguments": { "text": TEXT } });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params }).to_string()
}

/// Whether this answers `initialize`.
pub(super) fn check_initialized(answer: &[u8]) -> Result {
    let message: Value = serde_json::from_slice(answer)?;
    ensure!(message["result"]["protocolVersion"].is_string(), "initialize was refused: {message}");
    Ok(())
}

/// The id of the call that this answers, as it should be answered.
pub(super) fn check_called(answer: &[u8]) -> Result<u64> {
    let message: Value = serde_json::from_slice(answer)?;
    let id = message["id"].as_u64().filter(|_| message["result"]["content"][0]["text"] == TEXT);
    id.ok_or_else(|| Failure::new(format!("a call was not answered as it should be: {message}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_answer_is_told_from_it() {
        let content = json!([{ "type": "text", "text": TEXT }]);
        let good = json!({ "jsonrpc": "2.0", "id": 7, "result": { "content": content, "isError": false } });
        assert_eq!(check_called(good.to_string().as_bytes()).unwrap(), 7);
        for bad in [
            json!({ "jsonrpc": "2.0", "id": 7, "error": { "code": -33005, "message": "gone" } }),
            json!({ "jsonrpc": "2.0", "id": 7, "result": { "content": [{ "type": "text", "text": "" }] } }),
            json!({ "jsonrpc": "2.0", "id": null, "result": { "content": content } }),
        ] {
            assert!(check_called(bad.to_string().as_bytes()).is_err(), "{bad}");
            assert!(check_initialized(bad.to_string().as_bytes()).is_err(), "{bad}");
        }
        assert!(check_called(b"not a message").is_err());
    }
}
