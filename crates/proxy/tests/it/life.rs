//! How sessions and their servers begin and end.

use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{
    Start, Stream, World, call, initialize, json_body, notification, options, post, request, seconds, settle,
};

const NOW: &str = "2025-11-25";

#[tokio::test]
async fn session_ids_are_long_and_random() {
    let mut world = World::new();
    let (a, _a) = world.open(NOW).await;
    let (b, _b) = world.open(NOW).await;
    for id in [&a, &b] {
        assert_eq!(id.len(), 64);
        assert!(id.bytes().all(|b| b.is_ascii_hexdigit()));
    }
    assert_ne!(a, b);
}

#[tokio::test]
async fn delete_closes_the_input_then_stops_the_server() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let waiting = world.ask(&id, &mut server, call(1)).await;
    let mut get = world.get(&id).await;
    let farewell = notification("notifications/last").to_string();
    assert_eq!(world.status(post(Some(&id), &farewell)).await.0, 202);
    let response = world.send(request(Method::DELETE, Some(&id), "")).await;
    assert_eq!(response.status(), StatusCode::NO_CONTENT);

    let error = json_body(waiting.await.unwrap()).await;
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(1), &json!(-33007)));
    assert_eq!(error["error"]["data"]["reason"], "shutting_down");
    assert_eq!(get.next().await, None);
    // What was accepted before still arrives.
    assert_eq!(server.read().await["method"], "notifications/last");
    server.input_ended().await;
    assert!(!*server.stopped.borrow(), "stopped before it could exit");
    drop(server.output);
    server.stopped.wait_for(|stopped| *stopped).await.unwrap();

    for method in [Method::POST, Method::GET, Method::DELETE] {
        assert_eq!(world.status(request(method, Some(&id), &call(2).to_string())).await.0, 404);
    }
    settle().await;
    assert!(world.host.sessions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_exit_is_stopped_after_its_grace() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let before = tokio::time::Instant::now();
    world.send(request(Method::DELETE, Some(&id), "")).await;
    server.stopped().await;
    assert_eq!(before.elapsed().as_secs(), options().exit_grace.as_secs());
}

#[tokio::test]
async fn when_the_server_exits_all_that_wait_are_told() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let a = world.ask(&id, &mut server, call(1)).await;
    let b = world.ask(&id, &mut server, call("b")).await;
    let mut get = world.get(&id).await;
    server.answer(1, json!("in time")).await;
    drop(server.output);
    assert_eq!(json_body(a.await.unwrap()).await["result"], "in time");
    let error = json_body(b.await.unwrap()).await;
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!("b"), &json!(-33002)));
    assert_eq!(error["error"]["data"]["reason"], "connection_lost");
    assert!(error["error"]["message"].as_str().unwrap().ends_with("See `logs`"));
    assert_eq!(get.next().await, None);
    assert_eq!(world.status(post(Some(&id), &call(2).to_string())).await.0, 404);
    server.stopped.wait_for(|stopped| *stopped).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_comes_with_the_exit_still_counts() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let waiting = world.ask(&id, &mut server, call(1)).await;
    // No line end, as from a server that exits without flushing its terminal habits.
    server.say_text(r#"{"jsonrpc":"2.0","id":1,"result":"last words"}"#).await;
    drop(server);
    assert_eq!(json_body(waiting.await.unwrap()).await["result"], "last words");
}

#[tokio::test]
async fn a_server_that_exits_at_once() {
    let mut world = World::new();
    let response = world.start(post(None, &initialize(NOW).to_string()));
    drop(world.server().await);
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("mcp-session-id"));
    let error = json_body(response).await;
    assert_eq!((&error["id"], &error["error"]["code"]), (&json!(0), &json!(-33004)));
    assert!(error["error"]["message"].as_str().unwrap().contains("exited"));
}

#[tokio::test]
async fn a_server_that_cannot_be_started() {
    let world = World::with(options(), Start::Fails);
    let (status, error) = world.status(post(None, &initialize(NOW).to_string())).await;
    assert_eq!((status, &error["error"]["code"]), (200, &json!(-33004)));
    let message = error["error"]["message"].as_str().unwrap();
    assert_eq!(message, "the server could not be started: no such program. See `logs`");
    settle().await;
    assert!(world.host.sessions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_initialize() {
    for start in [Start::Works, Start::Hangs] {
        let mut world = World::with(options(), start);
        let response = world.start(post(None, &initialize(NOW).to_string()));
        let before = tokio::time::Instant::now();
        let error = json_body(response.await.unwrap()).await;
        assert_eq!(error["error"]["code"], -33004);
        assert!(error["error"]["message"].as_str().unwrap().contains("within 60 s"));
        assert_eq!(before.elapsed().as_secs(), 60);
        if start == Start::Works {
            world.server().await.stopped().await;
        }
        settle().await;
        assert!(world.host.sessions().is_empty());
    }
}

#[tokio::test]
async fn a_server_that_declines_initialize() {
    let mut world = World::new();
    let response = world.start(post(None, &initialize(NOW).to_string()));
    let mut server = world.server().await;
    server.read().await;
    server.say(json!({"jsonrpc": "2.0", "id": 0, "error": {"code": -32602, "message": "no"}})).await;
    let response = response.await.unwrap();
    assert!(!response.headers().contains_key("mcp-session-id"));
    assert_eq!(json_body(response).await["error"]["code"], -32602);
    server.input_ended().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_initialize_is_answered_leaves_nothing_behind() {
    let mut world = World::new();
    let response = world.start(post(None, &initialize(NOW).to_string()));
    let mut server = world.server().await;
    server.read().await;
    response.abort();
    server.input_ended().await;
    drop(server.output);
    server.stopped.wait_for(|stopped| *stopped).await.unwrap();
    settle().await;
    assert!(world.host.sessions().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_uses_expires() {
    let mut world = World::new();
    let ttl = options().session_ttl;
    let (idle, mut idle_server) = world.open(NOW).await;
    let (busy, mut busy_server) = world.open(NOW).await;
    let get = world.get(&busy).await;
    tokio::time::sleep(ttl - seconds(1)).await;
    assert_eq!(world.host.sessions().len(), 2);
    // A use begins the time anew.
    assert_eq!(world.status(post(Some(&idle), &notification("notifications/x").to_string())).await.0, 202);
    tokio::time::sleep(ttl - seconds(1)).await;
    assert_eq!(world.host.sessions().len(), 2);
    idle_server.read().await;
    tokio::time::sleep(seconds(2)).await;
    idle_server.stopped().await;
    assert_eq!(world.status(post(Some(&idle), &call(1).to_string())).await.0, 404);

    // An open stream is a use.
    tokio::time::sleep(ttl * 3).await;
    assert_eq!(world.host.sessions().len(), 1);
    drop(get);
    tokio::time::sleep(ttl - seconds(1)).await;
    assert_eq!(world.host.sessions().len(), 1);
    tokio::time::sleep(seconds(2)).await;
    busy_server.stopped().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_is_a_use() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    tokio::time::sleep(options().session_ttl * 3).await;
    server.answer(1, json!("at last")).await;
    // It was quiet for so long that the response has begun meanwhile.
    assert_eq!(Stream::new(response.await.unwrap()).next().await.unwrap()["result"], "at last");
}

#[tokio::test(start_paused = true)]
async fn quiet_streams_are_kept_alive() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut get = world.get(&id).await;
    assert_eq!(get.event().await.unwrap().data.unwrap(), "");
    for _ in 0..3 {
        let before = tokio::time::Instant::now();
        assert_eq!(get.raw().await, ":\n\n");
        assert_eq!(before.elapsed(), options().keep_alive);
    }
    server.say(notification("notifications/x")).await;
    assert_eq!(get.next().await, Some(notification("notifications/x")));
    let before = tokio::time::Instant::now();
    get.raw().await;
    assert_eq!(before.elapsed(), options().keep_alive);
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_all_and_waits_for_the_servers() {
    let mut world = World::new();
    let (a, mut server_a) = world.open(NOW).await;
    let (_, mut server_b) = world.open(NOW).await;
    let waiting = world.ask(&a, &mut server_a, call(1)).await;
    let unborn = world.start(post(None, &initialize(NOW).to_string()));
    let _unborn_server = world.server().await;
    world.host.shutdown().await;
    assert!(*server_a.stopped.borrow_and_update() && *server_b.stopped.borrow_and_update());
    for response in [waiting, unborn] {
        assert_eq!(json_body(response.await.unwrap()).await["error"]["code"], -33007);
    }
    let (status, error) = world.status(post(None, &initialize(NOW).to_string())).await;
    assert_eq!((status, &error["error"]["code"]), (503, &json!(-33007)));
    // Once more does no harm.
    world.host.shutdown().await;
}

#[tokio::test]
async fn status_of_a_session() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let idle = world.host.sessions().remove(0);
    assert_eq!((idle.number, idle.in_flight, idle.has_stream), (1, 0, false));
    assert!(idle.idle.is_some());
    let response = world.ask(&id, &mut server, call(1)).await;
    let _get = world.get(&id).await;
    let busy = world.host.sessions().remove(0);
    assert_eq!((busy.in_flight, busy.has_stream, busy.idle), (1, true, None));
    assert_eq!(busy.version.as_deref(), Some(NOW));
    assert!(!format!("{busy:?} {:?}", world.host).contains(&id));
    server.answer(1, json!({})).await;
    response.await.unwrap();
    assert_eq!(world.host.sessions()[0].in_flight, 0);
}
