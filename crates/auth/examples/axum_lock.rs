//! An MCP server that locks itself: it lets in only who sends the key in `TOOLHIVE_SHARED_KEY`.
//!
//! ```text
//! TOOLHIVE_SHARED_KEY=$(head -c 32 /dev/urandom | base64) cargo run -p thv-auth --example axum_lock
//! ```
#![allow(clippy::print_stdout)]

use axum::{Router, routing::post};
use thv_auth::{Guards, LiveKeys, LockLayer, Realm};
use thv_keygen::{KeySet, LiveKey, Name, SharedKey};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = SharedKey::parse(std::env::var("TOOLHIVE_SHARED_KEY")?)?;
    let keys = LiveKeys::new(KeySet::new(vec![LiveKey::new(key, None, None)]));
    let realm = Realm::new(Name::parse("example")?, "Send the key in X-ToolHive-Auth")?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    let lock = LockLayer::new(Guards::new(listener.local_addr()?)?, keys, realm);
    let app = Router::new().route("/mcp", post(|| async { "in" })).layer(lock);
    println!("locked: http://{}/mcp", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
