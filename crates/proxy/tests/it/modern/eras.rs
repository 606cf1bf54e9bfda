//! Which servers are asked what, how they begin and end, and what callers learn of those of the older era.

use serde_json::{Value, json};
use thv_proxy::stdio::Options;

use crate::harness::{
    Start, World, initialize, json_body, modern, modern_as, modern_post, options, post, seconds, settle,
};

fn list(id: u64) -> Value {
    modern(id, "tools/list", json!({}))
}

/// What sends a client back to `initialize`.
fn is_fallback(status: u16, error: &Value) -> bool {
    let code = error["error"]["code"].as_i64().unwrap();
    let text = error["error"]["message"].as_str().unwrap();
    status == 400 && code == -32600 && text.contains("initialize")
}

#[tokio::test]
async fn a_server_of_the_older_era_is_found_out_once() {
    for answer in [
        json!({"error": {"code": -32601, "message": "Method not found"}}),
        json!({"error": {"code": -32602, "message": "Invalid request parameters"}}),
        json!({"error": {"code": -32000, "message": "not initialized"}}),
        json!({"result": {"supportedVersions": ["2025-11-25", "2025-06-18"]}}),
        json!({"result": {}}),
    ] {
        let mut world = World::new();
        let response = world.start(modern_post(&list(5).to_string()));
        let mut server = world.server().await;
        let probe = server.read().await;
        assert_eq!(probe["method"], "server/discover");
        let mut message = answer.clone();
        message["jsonrpc"] = "2.0".into();
        message["id"] = probe["id"].clone();
        server.say(message).await;
        let response = response.await.unwrap();
        let status = response.status().as_u16();
        let error = json_body(response).await;
        assert!(is_fallback(status, &error), "{answer} {error}");
        assert_eq!(error["id"], 5);
        // It got nothing but the probe.
        server.input_ended().await;
        drop(server.output);
        // The next caller learns it at once.
        let (status, error) = world.status(modern_as("other", &list(6))).await;
        assert!(is_fallback(status, &error), "{error}");
        // Even if it comes through a bridge that knows nothing of the newer era's headers.
        let (status, error) = world.status(post(None, &list(7).to_string())).await;
        assert!(is_fallback(status, &error), "{error}");
        // And what the client does then works.
        world.open("2025-11-25").await;
    }
}

#[tokio::test]
async fn errors_of_the_newer_era_show_a_modern_server() {
    for (code, data) in
        [(-32022, json!({"supported": ["2027-01-01"], "requested": "2026-07-28"})), (-32021, json!({}))]
    {
        let mut world = World::new();
        let response = world.start(modern_post(&list(1).to_string()));
        let mut server = world.server().await;
        let id = server.read().await["id"].clone();
        server
            .say(json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": "x", "data": data}}))
            .await;
        let (_, id) = server.request("tools/list").await;
        server.answer(id, json!({})).await;
        assert_eq!(response.await.unwrap().status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_the_probe_counts_as_older_for_a_while() {
    let mut world = World::new();
    let response = world.start(modern_post(&list(1).to_string()));
    let mut silent = world.server().await;
    silent.read().await;
    let before = tokio::time::Instant::now();
    let response = response.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 15);
    let status = response.status().as_u16();
    assert!(is_fallback(status, &json_body(response).await));
    silent.stopped().await;
    let (status, error) = world.status(modern_post(&list(2).to_string())).await;
    assert!(is_fallback(status, &error));
    tokio::time::sleep(seconds(61)).await;
    world.modern_server().await;
}

#[tokio::test]
async fn a_server_that_exits_instead_of_answering_sends_callers_back_too() {
    let mut world = World::new();
    let response = world.start(modern_post(&list(1).to_string()));
    drop(world.server().await);
    let response = response.await.unwrap();
    let status = response.status().as_u16();
    assert!(is_fallback(status, &json_body(response).await));
    settle().await;
    // It may have been an accident.
    world.modern_server().await;
}

#[tokio::test]
async fn a_server_that_cannot_be_started() {
    let world = World::with(options(), Start::Fails);
    let (status, error) = world.status(modern_post(&list(3).to_string())).await;
    assert_eq!((status, &error["id"], &error["error"]["code"]), (200, &json!(3), &json!(-33004)));
    settle().await;
    assert!(world.host.sessions().is_empty());
}

#[tokio::test]
async fn a_modern_server_says_itself_what_it_thinks_of_initialize() {
    let mut world = World::new();
    let _modern = world.modern_server().await;
    let response = world.start(post(None, &initialize("2025-11-25").to_string()));
    let mut server = world.server().await;
    assert_eq!(server.read().await, initialize("2025-11-25"));
    let data = json!({"supported": ["2026-07-28"], "requested": "2025-11-25"});
    let error = json!({"jsonrpc": "2.0", "id": 0, "error": {"code": -32022, "message": "no", "data": data}});
    server.say(error.clone()).await;
    assert_eq!(json_body(response.await.unwrap()).await, error);
}

#[tokio::test(start_paused = true)]
async fn an_idle_server_ends_and_another_starts_on_demand() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (response, id) = world.begin(&mut server, &list(1)).await;
    // A request that waits is a use.
    tokio::time::sleep(options().session_ttl * 3).await;
    server.answer(id, json!({})).await;
    drop(response.await.unwrap());
    assert_eq!(world.host.sessions().len(), 1);
    tokio::time::sleep(options().session_ttl - seconds(1)).await;
    assert_eq!(world.host.sessions().len(), 1);
    tokio::time::sleep(seconds(2)).await;
    assert!(world.host.sessions().is_empty());
    server.stopped().await;
    let info = {
        world.modern_server().await;
        world.host.sessions().remove(0)
    };
    assert_eq!((info.number, info.version.as_deref()), (2, Some("2026-07-28")));
}

#[tokio::test]
async fn when_the_server_exits_each_request_is_told_and_the_next_starts_another() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (a, _) = world.begin(&mut server, &list(1)).await;
    let (b, _) = world.begin(&mut server, &modern("b", "tools/list", json!({}))).await;
    drop(server);
    for (response, id) in [(a, json!(1)), (b, json!("b"))] {
        let error = json_body(response.await.unwrap()).await;
        assert_eq!((&error["id"], &error["error"]["code"]), (&id, &json!(-33002)));
    }
    world.modern_server().await;
}

#[tokio::test(start_paused = true)]
async fn servers_are_counted_and_idle_ones_make_room() {
    let mut world = World::with(Options { max_sessions: 1, ..options() }, Start::Works);
    let mut server = world.modern_server().await;
    assert_eq!(world.status(modern_as("bob", &list(1))).await.0, 503);
    tokio::time::sleep(seconds(61)).await;
    let response = world.start(modern_as("bob", &list(1)));
    server.stopped().await;
    let mut bobs = world.server().await;
    bobs.discovered().await;
    let (_, id) = bobs.request("tools/list").await;
    bobs.answer(id, json!({})).await;
    assert_eq!(response.await.unwrap().status(), 200);
}

#[tokio::test]
async fn both_eras_at_once_never_share_a_server() {
    let mut world = World::new();
    let mut modern_server = world.modern_server().await;
    let (session, mut legacy_server) = world.open("2025-11-25").await;
    let legacy = world.ask(&session, &mut legacy_server, crate::harness::call(1)).await;
    let (response, id) = world.begin(&mut modern_server, &list(1)).await;
    modern_server.answer(id, json!("modern")).await;
    legacy_server.answer(1, json!("legacy")).await;
    assert_eq!(json_body(response.await.unwrap()).await["result"], "modern");
    assert_eq!(json_body(legacy.await.unwrap()).await["result"], "legacy");
    assert_eq!(world.host.sessions().len(), 2);
}
