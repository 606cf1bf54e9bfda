//! The ordinary course of things.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use thv_bridge::Options;
use tokio::sync::oneshot;

use crate::client::Client;
use crate::failure;
use crate::server::{Reply, Server, json_reply, result, status, text_reply, usual};

/// A server that keeps some replies until the test lets them go, by the id or the method of their request.
struct Held(Arc<Mutex<Vec<Waiting>>>);

type Waiting = (Value, oneshot::Sender<Reply>);

impl Held {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn hold(&self, what: impl Into<Value>) -> Reply {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().unwrap().push((what.into(), sender));
        Reply::Later(receiver)
    }

    fn let_go(&self, what: impl Into<Value>, reply: Reply) {
        let what = what.into();
        let mut held = self.0.lock().unwrap();
        let at = held.iter().position(|(held, _)| *held == what).expect("held");
        let _ = held.remove(at).1.send(reply);
    }

    fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn a_session_from_initialize_to_its_end() {
    let server = Server::start(usual).await;
    let mut client = Client::to(&server);
    client.open().await;
    let answer = client.call("a", "tools/call", json!({"n": 1})).await;
    assert_eq!(answer["result"], json!({"n": 1}));
    assert!(client.end().await.is_empty());

    let all = server.requests();
    let key = server.key().unwrap();
    for request in &all {
        assert_eq!(request.path, "/mcp");
        assert_eq!(request.header("host"), Some(&*server.addr.to_string()));
        assert_eq!(request.header("x-toolhive-auth"), Some(key.expose_text().as_str()));
        if request.method == "POST" {
            assert_eq!(request.header("content-type"), Some("application/json"));
            assert_eq!(request.header("accept"), Some("application/json, text/event-stream"));
        }
        let expected =
            if request.rpc() == "initialize" { (None, None) } else { (Some("s1"), Some("2025-11-25")) };
        assert_eq!((request.header("mcp-session-id"), request.header("mcp-protocol-version")), expected);
    }
    assert_eq!(server.posted(), ["initialize", "notifications/initialized", "tools/call"]);
    assert_eq!(all.iter().filter(|r| r.method == "GET").count(), 1);
    assert_eq!(all.last().unwrap().method, "DELETE");
}

#[tokio::test]
async fn bytes_pass_unchanged_both_ways() {
    let question = "{ \"params\":{\"n\":1.0,\"big\":123456789012345678901234567890,\"s\":\"\\u00e9\\ud800 é\\n\"},\
                    \"x\":null, \"jsonrpc\":\"2.0\",\"id\":\"\\u0041\" ,\"method\":\"m\"}";
    let answer = "{\r\n  \"result\" : {\"n\": 1.0,\n\t\"cursor\":null,\"e\":1e400},\n\"id\":\"A\",\"jsonrpc\":\"2.0\"}\n";
    let server = Server::start(move |_| text_reply(200, answer)).await;
    let mut client = Client::to(&server);
    client.write(format!("{question}\r\n").as_bytes()).await;
    assert_eq!(client.line().await, answer.replace(['\r', '\n'], " "));
    assert_eq!(String::from_utf8_lossy(&server.requests()[0].body), question);
}

#[tokio::test]
async fn requests_run_at_the_same_time_and_are_answered_as_answers_come() {
    let held = Held::new();
    let theirs = held.share();
    let server = Server::start(move |request| theirs.hold(request.id())).await;
    let mut client = Client::to(&server);
    for id in 0..40 {
        client.request(id, "work", json!({})).await;
    }
    server.saw_rpc("work", 40).await;
    for id in (0..40).rev() {
        held.let_go(id, json_reply(200, &json!({"jsonrpc": "2.0", "id": id, "result": {}})));
        assert_eq!(client.recv().await["id"], id);
    }
    // The connections are kept for the next forty.
    let before = server.connections();
    for id in 40..80 {
        client.request(id, "work", json!({})).await;
    }
    server.saw_rpc("work", 80).await;
    assert_eq!(server.connections(), before);
}

#[tokio::test]
async fn one_after_the_other_they_share_a_connection() {
    let server = Server::start(usual).await;
    server.saw_proofs(0).await;
    let mut client = Client::to(&server);
    server.saw_proofs(1).await;
    for id in 0..20 {
        client.call(id, "work", json!({})).await;
    }
    // The first request may have come before the connection that was made ahead of it was ready.
    assert!(server.connections() <= 2, "{}", server.connections());
}

#[tokio::test]
async fn no_more_requests_are_with_the_server_than_allowed() {
    let held = Held::new();
    let theirs = held.share();
    let server = Server::start(move |request| theirs.hold(request.id())).await;
    let target = server.target();
    let options = Options { max_in_flight: 2, ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    for id in 0..5 {
        client.request(id, "work", json!({})).await;
    }
    server.saw_rpc("work", 2).await;
    // What the server waits for gets through all the same.
    client.send(json!({"jsonrpc": "2.0", "id": 9, "result": {}})).await;
    server.saw(|all| all.iter().any(|r| r.id() == 9)).await;
    assert_eq!(server.requests().len(), 3);
    held.let_go(9, status(202));
    for id in 0..5 {
        server.saw_rpc("work", id + 1).await;
        held.let_go(id, json_reply(200, &json!({"jsonrpc": "2.0", "id": id, "result": {}})));
        assert_eq!(client.recv().await["id"], id);
    }
}

#[tokio::test]
async fn notifications_and_answers_go_in_order_each_after_the_last_was_accepted() {
    let held = Held::new();
    let theirs = held.share();
    let server = Server::start(move |request| match request.rpc().as_str() {
        "work" => usual(request),
        _ => theirs.hold(request.json()["n"].clone()),
    })
    .await;
    let mut client = Client::to(&server);
    client.send(json!({"jsonrpc": "2.0", "method": "notifications/x", "n": 1})).await;
    client.send(json!({"jsonrpc": "2.0", "id": 7, "result": {}, "n": 2})).await;
    client.send(json!({"jsonrpc": "2.0", "method": "notifications/y", "n": 3})).await;
    server.saw_rpc("notifications/x", 1).await;
    // A request does not wait for them.
    client.call(1, "work", json!({})).await;
    for n in 1..=3 {
        assert_eq!(server.requests().iter().filter(|r| r.rpc() != "work").count(), n);
        held.let_go(n, status(202));
        if n < 3 {
            server.saw(|all| all.iter().any(|r| r.json()["n"] == n + 1)).await;
        }
    }
}

#[tokio::test]
async fn what_follows_initialize_waits_for_it_and_then_for_initialized() {
    let held = Held::new();
    let theirs = held.share();
    let server = Server::start(move |request| match request.rpc().as_str() {
        "initialize" | "notifications/initialized" => theirs.hold(request.rpc()),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    // A script: all at once, without waiting for answers.
    client.request(0, "initialize", json!({})).await;
    client.notify("notifications/initialized", json!({})).await;
    client.request(1, "tools/list", json!({})).await;
    server.saw_rpc("initialize", 1).await;
    assert_eq!(server.posted(), ["initialize"]);
    held.let_go("initialize", crate::server::initialized(&server.requests()[0], "s1"));
    server.saw_rpc("notifications/initialized", 1).await;
    assert_eq!(server.posted(), ["initialize", "notifications/initialized"]);
    held.let_go("notifications/initialized", status(202));
    assert_eq!(client.recv_ids(2).await, [json!(0), json!(1)]);
    assert_eq!(
        server.requests().iter().find(|r| r.rpc() == "tools/list").unwrap().header("mcp-session-id"),
        Some("s1")
    );
}

#[tokio::test]
async fn a_refused_initialize_opens_the_way_again() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "initialize" => status(500),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(0, "initialize", json!({})).await;
    client.request(1, "ping", json!({})).await;
    assert_eq!(failure(&client.recv().await), (-33005, "upstream_http"));
    assert_eq!(client.recv().await["id"], 1);
}

#[tokio::test]
async fn a_cancelled_request_is_given_up_when_the_server_was_told() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "slow" => Reply::Hang,
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.request("x", "slow", json!({})).await;
    server.saw_rpc("slow", 1).await;
    client.notify("notifications/cancelled", json!({"requestId": "x", "reason": "bored"})).await;
    server.saw_rpc("notifications/cancelled", 1).await;
    client.call(2, "work", json!({})).await;
    // Nobody waits for it: the end comes at once, and without a word about it.
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn a_request_cancelled_before_it_was_sent_is_not_sent() {
    let held = Held::new();
    let theirs = held.share();
    let server = Server::start(move |request| match request.rpc().as_str() {
        "initialize" => theirs.hold("initialize"),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(0, "initialize", json!({})).await;
    client.request(1, "work", json!({})).await;
    client.notify("notifications/cancelled", json!({"requestId": 1})).await;
    server.saw_rpc("initialize", 1).await;
    client.request(2, "marker", json!({})).await;
    held.let_go("initialize", crate::server::initialized(&server.requests()[0], "s1"));
    assert_eq!(client.recv_ids(2).await, [json!(0), json!(2)]);
    server.saw_rpc("notifications/cancelled", 1).await;
    assert!(client.end().await.is_empty());
    assert!(!server.posted().contains(&"work".to_owned()));
}

#[tokio::test]
async fn the_late_answer_to_a_cancelled_request_is_dropped() {
    let held = Held::new();
    let theirs = held.share();
    let server = Server::start(move |request| match request.rpc().as_str() {
        "slow" | "notifications/cancelled" => theirs.hold(request.rpc()),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(1, "slow", json!({})).await;
    server.saw_rpc("slow", 1).await;
    client.notify("notifications/cancelled", json!({"requestId": 1})).await;
    server.saw_rpc("notifications/cancelled", 1).await;
    held.let_go("slow", json_reply(200, &json!({"jsonrpc": "2.0", "id": 1, "result": {}})));
    client.call(2, "work", json!({})).await;
    held.let_go("notifications/cancelled", status(202));
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn a_probe_of_the_new_era_gets_the_servers_refusal_under_its_own_id() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "server/discover" => {
            let error = json!({"code": -32600, "message": "Bad Request: no session"});
            json_reply(400, &json!({"jsonrpc": "2.0", "id": null, "error": error}))
        }
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    let answer = client.call("probe", "server/discover", json!({})).await;
    assert_eq!(answer["error"], json!({"code": -32600, "message": "Bad Request: no session"}));
    client.open().await;
    client.call(1, "tools/list", json!({})).await;
}

#[tokio::test]
async fn lines_that_are_no_messages_are_answered_and_not_forwarded() {
    let server = Server::start(usual).await;
    let mut client = Client::to(&server);
    for (line, code) in [
        ("hello", -32700),
        ("{\"jsonrpc\":\"2.0\",\"id\":1", -32700),
        ("[]", -32600),
        ("{\"id\":1,\"method\":\"m\"}", -32600),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2,\"method\":\"m\"}", -32600),
    ] {
        client.write(format!("{line}\n").as_bytes()).await;
        let answer = client.recv().await;
        assert_eq!((answer["error"]["code"].as_i64(), &answer["id"]), (Some(code), &Value::Null), "{line}");
    }
    client.write(b"\n  \r\n").await;
    client.call(1, "work", json!({})).await;
    assert_eq!(server.posted(), ["work"]);
}

#[tokio::test]
async fn an_id_that_still_waits_is_not_taken_twice() {
    let held = Held::new();
    let theirs = held.share();
    let server = Server::start(move |request| theirs.hold(request.id())).await;
    let mut client = Client::to(&server);
    client.request(1, "first", json!({})).await;
    client.request(1, "second", json!({})).await;
    let answer = client.recv().await;
    assert_eq!((answer["error"]["code"].as_i64(), &answer["id"]), (Some(-32600), &Value::Null));
    server.saw_rpc("first", 1).await;
    held.let_go(1, result(&server.requests()[0], &json!({})));
    assert_eq!(client.recv().await["result"], json!({}));
    assert_eq!(server.posted(), ["first"]);
}

#[tokio::test]
async fn a_line_over_the_limit_is_answered_and_the_next_one_passes() {
    let server = Server::start(usual).await;
    let target = server.target();
    let options = Options { max_message_bytes: 100, ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    client.request(1, "work", json!({"pad": "x".repeat(100)})).await;
    let answer = client.recv().await;
    assert_eq!(failure(&answer), (-33006, "too_large"));
    assert_eq!(answer["id"], 1);
    assert_eq!(answer["error"]["data"]["limit"], 100);
    assert!(answer["error"]["data"]["size"].as_u64().unwrap() > 100);
    // Nobody waits for a notification, but the server does for an answer.
    client.notify("notifications/x", json!({"pad": "x".repeat(100)})).await;
    client.send(json!({"jsonrpc": "2.0", "id": "s", "result": {"pad": "x".repeat(100)}})).await;
    server.saw(|all| all.iter().any(|r| r.id() == "s")).await;
    assert_eq!(server.requests()[0].json()["error"]["code"], -33006);
    client.call(2, "work", json!({})).await;
}

#[tokio::test]
async fn a_batch_is_posted_as_one_and_its_answers_pass_as_one() {
    let answer = r#"[{"jsonrpc":"2.0","id":1,"result":1.0}, {"jsonrpc":"2.0","id":2,"result":{}}]"#;
    let server = Server::start(move |_| text_reply(200, answer)).await;
    let mut client = Client::to(&server);
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"n"},{"jsonrpc":"2.0","id":2,"method":"b"}]"#;
    client.write(format!("{batch}\n").as_bytes()).await;
    assert_eq!(client.line().await, answer);
    assert_eq!(server.requests()[0].body, batch.as_bytes());
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn each_request_of_a_batch_is_answered_once_whatever_comes_back() {
    let server = Server::start(|request| {
        match request.json()[0]["method"].as_str() {
            // One answer missing, one twice, one for nobody.
            Some("odd") => text_reply(
                200,
                r#"[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","id":1,"result":2},{"jsonrpc":"2.0","id":9,"result":3}]"#,
            ),
            Some("refused") => text_reply(
                400,
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no batches"}}"#,
            ),
            _ => status(202),
        }
    })
    .await;
    let mut client = Client::to(&server);
    let batch = |method: &str| json!([{"jsonrpc": "2.0", "id": 1, "method": method}, {"jsonrpc": "2.0", "id": 2, "method": method}]);
    client.send(batch("odd")).await;
    let (first, second) = (client.recv().await, client.recv().await);
    assert_eq!((&first["id"], &first["result"]), (&json!(1), &json!(1)));
    assert_eq!((&second["id"], failure(&second)), (&json!(2), (-33005, "upstream_http")));
    client.send(batch("refused")).await;
    for _ in 0..2 {
        assert_eq!(client.recv().await["error"]["message"], "no batches");
    }
    client.send(json!([{"jsonrpc": "2.0", "method": "n"}])).await;
    server.saw(|all| all.len() == 3).await;
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn an_open_workload_is_asked_for_no_proof_and_sent_no_key() {
    let server = Server::start(usual).await;
    server.set_key(None);
    let mut client = Client::to(&server);
    client.open().await;
    client.call(1, "work", json!({})).await;
    client.end().await;
    assert_eq!(server.proofs(), 0);
    assert!(server.requests().iter().all(|r| r.header("x-toolhive-auth").is_none() && r.path == "/mcp"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_threads_are_as_good_as_one() {
    let server = Server::start(usual).await;
    let mut client = Client::to(&server);
    client.open().await;
    for id in 1..=200 {
        client.request(id, "work", json!({})).await;
    }
    assert_eq!(client.recv_ids(200).await.len(), 200);
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn ten_thousand_requests_at_once_are_all_answered() {
    let server = Server::start(usual).await;
    let mut client = Client::to(&server);
    let mut lines = Vec::new();
    for id in 0..10_000 {
        lines.extend_from_slice(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"m\"}}\n").as_bytes());
    }
    // Not read before all is written: stdin does not wait for stdout.
    client.write(&lines).await;
    let ids = client.recv_ids(10_000).await;
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
}
