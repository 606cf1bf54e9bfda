//! What tools' schemas ask of headers, and tools that the client must not see.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{ask, call, echo, mismatch, param, refusal, tool, with_meta};
use crate::client::Client;
use crate::server::{Reply, Request, Server, event, json_reply, result, status, stream, text_reply, usual};

fn calls(server: &Server) -> Vec<Request> {
    server.requests().into_iter().filter(|r| r.rpc() == "tools/call").collect()
}

#[tokio::test]
async fn annotated_parameters_of_listed_tools_are_repeated() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "tools/list" if request.json()["params"]["cursor"].is_null() => {
            result(request, &json!({"tools": [tool("text", "string", "Region")], "nextCursor": "2"}))
        }
        "tools/list" => {
            let answer =
                json!({"tools": [tool("count", "integer", "Count"), tool("flag", "boolean", "Flag")]});
            let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": answer});
            stream([&*event(&answer)])
        }
        _ => echo(request),
    })
    .await;
    let mut client = Client::to(&server);
    call(&mut client, 1, "tools/list", json!({})).await;
    call(&mut client, 2, "tools/list", json!({"cursor": "2"})).await;
    let cases = [
        ("text", json!({"p": "us-west1"}), "Region", Some("us-west1")),
        ("text", json!({"p": "Hello, 世界"}), "Region", Some("=?base64?SGVsbG8sIOS4lueVjA==?=")),
        ("text", json!({"p": null}), "Region", None),
        ("text", json!({}), "Region", None),
        ("count", json!({"p": 42}), "Count", Some("42")),
        ("flag", json!({"p": true}), "Flag", Some("true")),
        ("other", json!({"p": "x"}), "Region", None),
    ];
    for (id, (name, arguments, header, expect)) in cases.into_iter().enumerate() {
        call(&mut client, id + 10, "tools/call", json!({"name": name, "arguments": arguments})).await;
        let last = calls(&server).pop().unwrap();
        assert_eq!(param(&last, header), expect, "{name} {arguments}");
    }
    // All that was listed was listed by the client.
    assert_eq!(server.posted().iter().filter(|method| *method == "tools/list").count(), 2);
}

#[tokio::test]
async fn tools_that_nobody_listed_are_listed_once_in_silence() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "tools/list" => refusal(request).unwrap_or_else(|| {
            let page = match request.json()["params"].get("cursor") {
                None => json!({"tools": [tool("a", "string", "A")], "nextCursor": "2"}),
                Some(_) => json!({"tools": [tool("b", "string", "B")]}),
            };
            result(request, &page)
        }),
        _ => echo(request),
    })
    .await;
    let mut client = Client::to(&server);
    // Without arguments there is nothing to be learnt.
    call(&mut client, 0, "tools/call", json!({"name": "a"})).await;
    assert_eq!(server.posted(), ["tools/call"]);
    for id in 1..=20 {
        let name = if id % 2 == 0 { "a" } else { "b" };
        let meta = json!({"progressToken": id});
        ask(&mut client, id, "tools/call", json!({"name": name, "arguments": {"p": "x"}, "_meta": meta}))
            .await;
    }
    assert_eq!(client.recv_ids(20).await.len(), 20);
    assert!(client.end().await.is_empty());
    let all = server.requests();
    let lists: Vec<Value> = all.iter().filter(|r| r.rpc() == "tools/list").map(Request::json).collect();
    assert_eq!(lists.len(), 2);
    assert_eq!(lists[0]["params"], with_meta(json!({})));
    assert_eq!(lists[1]["params"], with_meta(json!({"cursor": "2"})));
    for request in &calls(&server)[1..] {
        let name = request.json()["params"]["name"].as_str().unwrap().to_owned();
        assert_eq!(param(request, &name), Some("x"));
    }
}

#[tokio::test]
async fn a_list_that_cannot_be_had_keeps_no_call_from_being_sent() {
    for (status, body) in [(500, ""), (200, "{}"), (200, "nonsense"), (404, "")] {
        let server = Server::start(move |request| match request.rpc().as_str() {
            "tools/list" => text_reply(status, body),
            _ => echo(request),
        })
        .await;
        let mut client = Client::to(&server);
        for id in 0..3 {
            let answer =
                call(&mut client, id, "tools/call", json!({"name": "a", "arguments": {"p": 1}})).await;
            assert!(answer.get("result").is_some(), "{answer}");
        }
        assert_eq!(server.posted(), ["tools/list", "tools/call", "tools/call", "tools/call"]);
        assert!(client.end().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_comes_keeps_no_call_from_being_sent() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "tools/list" => Reply::Hang,
        _ => echo(request),
    })
    .await;
    let mut client = Client::to(&server);
    call(&mut client, 1, "tools/call", json!({"name": "a", "arguments": {"p": 1}})).await;
    assert_eq!(server.posted(), ["tools/list", "tools/call"]);
}

#[tokio::test]
async fn a_call_whose_tool_has_changed_is_sent_again_with_other_headers() {
    // The header that the server wants changes with each list.
    let lists = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&lists);
    let ran = Arc::new(AtomicUsize::new(0));
    let their_ran = Arc::clone(&ran);
    let server = Server::start(move |request| match request.rpc().as_str() {
        "tools/list" => {
            let n = theirs.fetch_add(1, Ordering::SeqCst);
            result(request, &json!({"tools": [tool("a", "string", ["Old", "New"][n.min(1)])]}))
        }
        _ if param(request, "New") != Some("x") => mismatch(request),
        _ => {
            their_ran.fetch_add(1, Ordering::SeqCst);
            echo(request)
        }
    })
    .await;
    let mut client = Client::to(&server);
    call(&mut client, 1, "tools/list", json!({})).await;
    let answer = call(&mut client, 2, "tools/call", json!({"name": "a", "arguments": {"p": "x"}})).await;
    assert!(answer.get("result").is_some(), "{answer}");
    assert_eq!(server.posted(), ["tools/list", "tools/call", "tools/list", "tools/call"]);
    assert_eq!((param(&calls(&server)[0], "Old"), param(&calls(&server)[1], "Old")), (Some("x"), None));
    // What no list mends is told, and not sent a second time.
    let answer = call(&mut client, 3, "tools/call", json!({"name": "b", "arguments": {"p": "x"}})).await;
    assert_eq!(answer["error"]["code"], -32020);
    assert_eq!(calls(&server).len(), 3);
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn another_error_is_no_reason_to_send_anything_again() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "tools/list" => result(request, &json!({"tools": []})),
        method => {
            let (http, code) = match request.json()["params"]["name"].as_str() {
                Some("invalid") => (400, -32602),
                Some("late") => (200, -32020),
                _ => (500, -32020),
            };
            let error = json!({"code": code, "message": method});
            json_reply(http, &json!({"jsonrpc": "2.0", "id": request.id(), "error": error}))
        }
    })
    .await;
    let mut client = Client::to(&server);
    for (id, name) in ["invalid", "late", "broken"].into_iter().enumerate() {
        call(&mut client, id, "tools/call", json!({"name": name, "arguments": {}})).await;
    }
    assert_eq!(server.posted(), ["tools/list", "tools/call", "tools/call", "tools/call"]);
}

#[tokio::test]
async fn invalid_tools_are_left_out_and_every_other_byte_stays() {
    let good = r#"{"name":"good", "inputSchema":{"type":"object","properties":{"p":{"type":"string","x-mcp-header":"P"}}},"n":1.0}"#;
    let bad = tool("bad", "number", "P").to_string();
    let worse = tool("worse", "string", "a b").to_string();
    let list = |tools: &str| {
        format!(
            r#"{{"result":{{"ttlMs":1e3,"tools":[ {tools} ],"nextCursor":null}},"id":1,"jsonrpc":"2.0"}}"#
        )
    };
    let (sent, expect) = (list(&format!("{bad},{good},{worse}")), list(good));
    for as_stream in [false, true] {
        let sent = sent.clone();
        let server = Server::start(move |request| match request.rpc().as_str() {
            "tools/list" if as_stream => stream([&*format!("data: {sent}\n\n")]),
            "tools/list" => text_reply(200, &sent),
            _ => echo(request),
        })
        .await;
        let mut client = Client::to(&server);
        ask(&mut client, 1, "tools/list", json!({})).await;
        assert_eq!(client.line().await, expect);
        // The client may know of it all the same; the server will say what it thinks of that.
        call(&mut client, 2, "tools/call", json!({"name": "bad", "arguments": {"p": 1.5}})).await;
        assert_eq!(param(&calls(&server)[0], "P"), None);
    }
}

#[tokio::test]
async fn in_the_older_era_an_annotation_means_nothing() {
    let tools = json!({"tools": [tool("bad", "number", "P"), tool("good", "string", "P")]});
    let answer = tools.clone();
    let server = Server::start(move |request| match request.rpc().as_str() {
        "tools/list" => result(request, &answer),
        "tools/call" => status(400),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    assert_eq!(client.call(1, "tools/list", json!({})).await["result"], tools);
    client.call(2, "tools/call", json!({"name": "good", "arguments": {"p": "x"}})).await;
    assert_eq!(param(&calls(&server)[0], "P"), None);
}
