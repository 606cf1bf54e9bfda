//! Which message goes where.

use http::StatusCode;
use serde_json::json;

use crate::harness::{
    Stream, World, call, call_with_token, initialize, json_body, notification, post, progress, sampling,
    session_id, settle,
};

const NOW: &str = "2025-11-25";

#[tokio::test]
async fn an_answer_is_json_and_its_bytes_are_the_servers() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    let text =
        r#"{"jsonrpc": "2.0",  "result":{"big":123456789012345678901234567890,"f":1.0,"x":null},"id":1}"#;
    server.say_text(&format!("{text}\r\n")).await;
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(!response.headers().contains_key("mcp-session-id"));
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, text);
}

#[tokio::test]
async fn a_message_reaches_the_server_as_it_was_but_on_one_line() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let text = "{\"jsonrpc\":\"2.0\",\r\n  \"method\": \"notifications/x\", \"params\": {\"f\": 1.0, \"s\": \"\\n\"}}";
    let response = world.send(post(Some(&id), text)).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(server.line().await, text.replace("\r\n", "  "));
}

#[tokio::test]
async fn notifications_and_responses_are_accepted_in_order() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut sent = Vec::new();
    for n in 0..50 {
        let message = if n % 2 == 0 {
            notification(&format!("notifications/n{n}"))
        } else {
            json!({"jsonrpc": "2.0", "id": n, "result": {}})
        };
        let (status, body) = world.status(post(Some(&id), &message.to_string())).await;
        assert_eq!((status, body), (202, serde_json::Value::Null));
        sent.push(message);
    }
    for message in sent {
        assert_eq!(server.read().await, message);
    }
}

#[tokio::test]
async fn answers_find_their_requests_in_any_order() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut waiting = Vec::new();
    for n in 1..=10 {
        waiting.push((n, world.ask(&id, &mut server, call(n)).await));
    }
    // The text "1" is another id than the number 1.
    let text = world.ask(&id, &mut server, call("1")).await;
    for n in (1..=10).rev() {
        server.answer(n, json!({"n": n})).await;
    }
    server.answer("1", json!("text")).await;
    for (n, response) in waiting {
        assert_eq!(json_body(response.await.unwrap()).await["result"]["n"], n);
    }
    assert_eq!(json_body(text.await.unwrap()).await["result"], "text");
}

#[tokio::test]
async fn an_id_may_come_back_in_another_spelling() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.start(post(Some(&id), r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#));
    assert!(server.line().await.contains("1.0"));
    server.answer(1, json!({})).await;
    assert_eq!(json_body(response.await.unwrap()).await["id"], 1);
}

#[tokio::test]
async fn progress_comes_first_on_the_stream_of_its_request() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut get = world.get(&id).await;
    let a = world.ask(&id, &mut server, call_with_token(1, "a")).await;
    let b = world.ask(&id, &mut server, call_with_token(2, "b")).await;
    server.say(progress("b", 1)).await;
    server.say(progress("a", 1)).await;
    server.say(progress("b", 2)).await;
    server.answer(1, json!("A")).await;
    server.answer(2, json!("B")).await;
    server.say(progress("b", 3)).await;

    let mut a = Stream::new(a.await.unwrap());
    assert_eq!(a.next().await, Some(progress("a", 1)));
    assert_eq!(a.next().await.unwrap()["result"], "A");
    assert_eq!(a.next().await, None);
    let mut b = Stream::new(b.await.unwrap());
    assert_eq!(b.next().await, Some(progress("b", 1)));
    assert_eq!(b.next().await, Some(progress("b", 2)));
    assert_eq!(b.next().await.unwrap()["result"], "B");
    assert_eq!(b.next().await, None);
    // Its stream has ended, so this one takes the general way.
    assert_eq!(get.next().await, Some(progress("b", 3)));
}

#[tokio::test]
async fn what_no_request_waits_for_goes_to_the_get_stream_alone() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut get = world.get(&id).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    server.say(notification("notifications/message")).await;
    server.say(sampling(1)).await;
    server.answer(1, json!("done")).await;
    // The answer is JSON: nothing else was on its stream.
    assert_eq!(json_body(response.await.unwrap()).await["result"], "done");
    assert_eq!(get.next().await, Some(notification("notifications/message")));
    assert_eq!(get.next().await, Some(sampling(1)));
}

#[tokio::test]
async fn messages_are_held_until_there_is_a_get_stream() {
    let mut world = World::new();
    let response = world.start(post(None, &initialize(NOW).to_string()));
    let mut server = world.server().await;
    server.read().await;
    // server-everything does this.
    server.say(notification("notifications/tools/list_changed")).await;
    server.answer(0, json!({"protocolVersion": NOW})).await;
    let response = response.await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let id = session_id(&response);
    server.say(notification("notifications/message")).await;
    settle().await;
    let mut get = world.get(&id).await;
    assert_eq!(get.next().await, Some(notification("notifications/tools/list_changed")));
    assert_eq!(get.next().await, Some(notification("notifications/message")));
}

#[tokio::test]
async fn without_a_get_stream_a_request_of_the_server_rides_on_the_newest_post() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let old = world.ask(&id, &mut server, call(1)).await;
    let new = world.ask(&id, &mut server, call(2)).await;
    server.say(sampling(7)).await;
    let mut new = Stream::new(new.await.unwrap());
    assert_eq!(new.next().await, Some(sampling(7)));
    let reply = json!({"jsonrpc": "2.0", "id": 7, "result": {"role": "assistant"}});
    assert_eq!(world.status(post(Some(&id), &reply.to_string())).await.0, 202);
    assert_eq!(server.read().await, reply);
    server.answer(2, json!({})).await;
    assert_eq!(new.next().await.unwrap()["id"], 2);
    assert_eq!(new.next().await, None);
    server.answer(1, json!({})).await;
    assert_eq!(json_body(old.await.unwrap()).await["id"], 1);
}

#[tokio::test]
async fn without_any_stream_a_request_of_the_server_waits_for_the_next_post() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    server.say(notification("notifications/message")).await;
    server.say(sampling(7)).await;
    settle().await;
    let response = world.ask(&id, &mut server, call(1)).await;
    let mut stream = Stream::new(response.await.unwrap());
    assert_eq!(stream.next().await, Some(sampling(7)));
    // The notification still waits for a GET stream.
    let mut get = world.get(&id).await;
    assert_eq!(get.next().await, Some(notification("notifications/message")));
}

#[tokio::test]
async fn a_ping_before_the_answer_to_initialize_gets_through() {
    let mut world = World::new();
    let response = world.start(post(None, &initialize(NOW).to_string()));
    let mut server = world.server().await;
    server.read().await;
    server.say(json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})).await;
    let response = response.await.unwrap();
    let id = session_id(&response);
    let mut stream = Stream::new(response);
    assert_eq!(stream.next().await.unwrap()["method"], "ping");
    let pong = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    assert_eq!(world.status(post(Some(&id), &pong.to_string())).await.0, 202);
    assert_eq!(server.read().await, pong);
    server.answer(0, json!({"protocolVersion": NOW})).await;
    assert_eq!(stream.next().await.unwrap()["id"], 0);
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn what_a_broken_stream_has_not_carried_goes_another_way() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let get = world.get(&id).await;
    server.say(notification("notifications/a")).await;
    server.say(sampling(1)).await;
    settle().await;
    drop(get);
    server.say(notification("notifications/b")).await;
    settle().await;
    let mut get = world.get(&id).await;
    assert_eq!(get.next().await, Some(notification("notifications/a")));
    assert_eq!(get.next().await, Some(sampling(1)));
    assert_eq!(get.next().await, Some(notification("notifications/b")));
}

#[tokio::test]
async fn a_request_that_rode_on_a_broken_post_is_asked_again() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    server.say(sampling(7)).await;
    server.say(sampling(8)).await;
    settle().await;
    // The first is on the response already; the connection breaks before the body is read.
    drop(response.await.unwrap());
    let mut get = world.get(&id).await;
    assert_eq!(get.next().await, Some(sampling(7)));
    assert_eq!(get.next().await, Some(sampling(8)));
}

#[tokio::test]
async fn a_broken_connection_is_not_a_cancellation() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    response.abort();
    assert!(response.await.is_err());
    // The id stays taken while the server works on it.
    assert_eq!(world.status(post(Some(&id), &call(1).to_string())).await.0, 400);
    server.answer(1, json!({})).await;
    settle().await;
    let again = world.ask(&id, &mut server, call(1)).await;
    server.answer(1, json!("second")).await;
    assert_eq!(json_body(again.await.unwrap()).await["result"], "second");
}

#[tokio::test]
async fn a_cancelled_request_gets_no_answer_and_its_stream_ends() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let quiet = world.ask(&id, &mut server, call(1)).await;
    let streaming = world.ask(&id, &mut server, call_with_token(2, "t")).await;
    server.say(progress("t", 1)).await;
    let mut streaming = Stream::new(streaming.await.unwrap());
    assert_eq!(streaming.next().await, Some(progress("t", 1)));
    for n in [1, 2] {
        let params = json!({"requestId": n});
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        assert_eq!(world.status(post(Some(&id), &cancel.to_string())).await.0, 202);
        assert_eq!(server.read().await, cancel);
    }
    assert_eq!(streaming.next().await, None);
    assert_eq!(Stream::new(quiet.await.unwrap()).next().await, None);
    // A server that answers all the same disturbs nobody, and the ids are free.
    server.answer(1, json!("late")).await;
    settle().await;
    let again = world.ask(&id, &mut server, call(1)).await;
    server.answer(1, json!("second")).await;
    assert_eq!(json_body(again.await.unwrap()).await["result"], "second");
}

#[tokio::test]
async fn a_batch_is_taken_at_one_revision_only() {
    let mut world = World::new();
    let batch = json!([call(1), notification("notifications/x"), call(2)]).to_string();

    let (id, mut server) = world.open("2025-03-26").await;
    let response = world.start(post(Some(&id), &batch));
    assert_eq!(server.read().await, call(1));
    assert_eq!(server.read().await, notification("notifications/x"));
    assert_eq!(server.read().await, call(2));
    // Servers of that revision may answer in a batch.
    let answers = json!([{"jsonrpc": "2.0", "id": 2, "result": 2}, {"jsonrpc": "2.0", "id": 1, "result": 1}]);
    server.say(answers).await;
    let mut stream = Stream::new(response.await.unwrap());
    assert_eq!(stream.next().await.unwrap()["result"], 2);
    assert_eq!(stream.next().await.unwrap()["result"], 1);
    assert_eq!(stream.next().await, None);

    let quiet = json!([notification("notifications/a"), notification("notifications/b")]).to_string();
    assert_eq!(world.status(post(Some(&id), &quiet)).await.0, 202);
    let (id, _server) = world.open(NOW).await;
    assert_eq!(world.status(post(Some(&id), &batch)).await.0, 400);
}

#[tokio::test]
async fn the_same_id_twice_is_refused_and_never_mixed_up() {
    let mut world = World::new();
    let (id, mut server) = world.open("2025-03-26").await;
    let first = world.ask(&id, &mut server, call(1)).await;
    let (status, body) = world.status(post(Some(&id), &call(1).to_string())).await;
    assert_eq!((status, &body["id"], &body["error"]["code"]), (400, &json!(null), &json!(-32600)));
    let batch = json!([call(2), call(3), call(2)]).to_string();
    assert_eq!(world.status(post(Some(&id), &batch)).await.0, 400);
    // Nothing of the refused batch is left behind.
    let second = world.ask(&id, &mut server, call(2)).await;
    server.answer(2, json!(2)).await;
    server.answer(1, json!(1)).await;
    assert_eq!(json_body(first.await.unwrap()).await["result"], 1);
    assert_eq!(json_body(second.await.unwrap()).await["result"], 2);
}

#[tokio::test]
async fn sessions_do_not_see_each_other() {
    let mut world = World::new();
    let (a, mut server_a) = world.open(NOW).await;
    let (b, mut server_b) = world.open(NOW).await;
    assert_ne!(a, b);
    let on_a = world.ask(&a, &mut server_a, call(1)).await;
    let on_b = world.ask(&b, &mut server_b, call(1)).await;
    let mut get = world.get(&b).await;
    server_a.say(notification("notifications/a")).await;
    server_b.answer(1, json!("b")).await;
    server_a.answer(1, json!("a")).await;
    assert_eq!(json_body(on_a.await.unwrap()).await["result"], "a");
    assert_eq!(json_body(on_b.await.unwrap()).await["result"], "b");
    server_b.say(notification("notifications/b")).await;
    assert_eq!(get.next().await, Some(notification("notifications/b")));
}
