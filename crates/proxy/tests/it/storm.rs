//! Many clients at once, on several threads, some of which leave in the middle.

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::harness::{Server, World, json_body, post, request};

const NOW: &str = "2025-11-25";
const SESSIONS: u64 = 4;
const CLIENTS: u64 = 8;
const REQUESTS: u64 = 200;

/// Answers each request with its own parameters, some after progress, until its input ends.
async fn echo(mut server: Server) {
    let mut line = String::new();
    while server.input.read_line(&mut line).await.unwrap() > 0 {
        let message: Value = serde_json::from_str(&line).unwrap();
        line.clear();
        let mut out = String::new();
        if let Some(token) = message["params"]["_meta"].get("progressToken") {
            let params = json!({"progressToken": token, "progress": 1});
            out = format!(
                "{}\n",
                json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            );
        }
        out += &format!("{}\n", json!({"jsonrpc": "2.0", "id": message["id"], "result": message["params"]}));
        server.output.write_all(out.as_bytes()).await.unwrap();
    }
    drop(server.output);
    server.stopped.wait_for(|stopped| *stopped).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_request_gets_its_own_answer() {
    let mut world = World::new();
    let mut sessions = Vec::new();
    let mut servers = Vec::new();
    for _ in 0..SESSIONS {
        let (id, server) = world.open(NOW).await;
        servers.push(tokio::spawn(echo(server)));
        sessions.push(id);
    }
    let world = std::sync::Arc::new(world);
    let mut clients = Vec::new();
    for (session, client) in
        sessions.iter().flat_map(|id| (0..CLIENTS).map(move |client| (id.clone(), client)))
    {
        let world = std::sync::Arc::clone(&world);
        clients.push(tokio::spawn(async move {
            for n in 0..REQUESTS {
                let id = client * REQUESTS + n;
                let mut params = json!({"session": session, "id": id});
                if n % 3 == 0 {
                    params["_meta"] = json!({"progressToken": id});
                }
                let message = json!({"jsonrpc": "2.0", "id": id, "method": "m", "params": params});
                let response = world.send(post(Some(&session), &message.to_string()));
                if n % 7 == 0 {
                    // Leaves when it has not been answered at once.
                    let _ = tokio::time::timeout(Duration::ZERO, response).await;
                    continue;
                }
                let response = response.await;
                let answer = if n % 3 == 0 {
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    let text = String::from_utf8(body.to_vec()).unwrap();
                    assert_eq!(text.matches("data: ").count(), 2, "{text}");
                    let last = text.trim_end().rsplit("data: ").next().unwrap();
                    serde_json::from_str(last).unwrap()
                } else {
                    json_body(response).await
                };
                assert_eq!((&answer["id"], &answer["result"]), (&json!(id), &params));
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    for session in &sessions {
        assert_eq!(world.send(request(http::Method::DELETE, Some(session), "")).await.status(), 204);
    }
    for server in servers {
        server.await.unwrap();
    }
}
