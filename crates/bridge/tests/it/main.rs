//! The relay against scripted servers, strangers among them.

mod batches;
mod client;
mod failures;
mod http_sse;
mod model;
mod modern;
mod open;
mod pressure;
mod proof;
mod questions;
mod recovery;
mod relay;
mod server;
mod session;
mod shutdown;
mod streams;
mod switch;

use std::time::Duration;

use serde_json::Value;

/// Waits for what must happen. The bound is only there so that a failing test ends.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it did not happen")
}

/// Code and reason of an error of ours.
#[track_caller]
pub(crate) fn failure(answer: &Value) -> (i64, &str) {
    let error = &answer["error"];
    (error["code"].as_i64().expect("an error"), error["data"]["reason"].as_str().unwrap_or_default())
}
