//! That nothing grows without bound.

use http::{Method, StatusCode};
use serde_json::json;
use thv_proxy::stdio::Options;
use tokio::io::AsyncWriteExt;

use crate::harness::{
    PIPE, Start, Stream, World, call, initialize, json_body, notification, options, post, request, seconds,
    settle,
};

const NOW: &str = "2025-11-25";

#[tokio::test(start_paused = true)]
async fn too_many_sessions() {
    let mut world = World::with(Options { max_sessions: 2, ..options() }, Start::Works);
    let (old, mut old_server) = world.open(NOW).await;
    let (_, _new_server) = world.open(NOW).await;
    let begin = || post(None, &initialize(NOW).to_string());
    // Both were used a moment ago.
    let (status, error) = world.status(begin()).await;
    assert_eq!(status, 503);
    assert!(error["error"]["message"].as_str().unwrap().contains("DELETE"), "{error}");

    tokio::time::sleep(seconds(59)).await;
    assert_eq!(world.status(begin()).await.0, 503);
    tokio::time::sleep(seconds(2)).await;
    let (third, _third_server) = world.open(NOW).await;
    assert_eq!(world.status(post(Some(&old), &call(1).to_string())).await.0, 404);
    old_server.stopped().await;
    assert_eq!(world.host.sessions().iter().map(|s| s.number).collect::<Vec<_>>(), [2, 3]);

    world.send(request(Method::DELETE, Some(&third), "")).await;
    world.open(NOW).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_in_use_is_never_given_up_for_another() {
    let mut world = World::with(Options { max_sessions: 1, ..options() }, Start::Works);
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(world.status(post(None, &initialize(NOW).to_string())).await.0, 503);
    server.answer(1, json!("still here")).await;
    assert_eq!(Stream::new(response.await.unwrap()).next().await.unwrap()["result"], "still here");
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_being_stopped_count() {
    let mut world = World::with(Options { max_sessions: 2, ..options() }, Start::Works);
    let mut stubborn = Vec::new();
    for _ in 0..4 {
        let (id, server) = world.open(NOW).await;
        stubborn.push(server);
        world.send(request(Method::DELETE, Some(&id), "")).await;
    }
    assert_eq!(world.status(post(None, &initialize(NOW).to_string())).await.0, 503);
    for server in &mut stubborn {
        server.stopped().await;
    }
    settle().await;
    world.open(NOW).await;
}

#[tokio::test]
async fn where_the_client_does_not_read_the_server_waits() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut get = world.get(&id).await;
    let text = json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"x": "x".repeat(60_000)}});
    let line = format!("{text}\n");
    let mut written = 0;
    // The pipe is full when a write does not go on although everybody else has had their turn.
    loop {
        let write = server.output.write_all(line.as_bytes());
        tokio::select! {
            biased;
            result = write => result.unwrap(),
            () = settle() => break,
        }
        written += 1;
        assert!(written < 100, "nothing held the server up");
    }
    assert!(written >= 1024 * 1024 / line.len());
    for _ in 0..written {
        assert_eq!(get.next().await, Some(text.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_is_cut_in_the_end() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let get = world.get(&id).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    let text = json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"x": "x".repeat(60_000)}});
    let writer = tokio::spawn(async move {
        for _ in 0..30 {
            server.say(text.clone()).await;
        }
        server.answer(1, json!("through")).await;
        server
    });
    assert_eq!(Stream::new(response.await.unwrap()).next().await.unwrap()["result"], "through");
    writer.await.unwrap();
    drop(get);
}

#[tokio::test]
async fn where_the_server_does_not_read_posts_wait() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let padding = "x".repeat(PIPE / 2);
    let message = json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"x": padding}});
    let posts: Vec<_> = (0..300).map(|_| world.start(post(Some(&id), &message.to_string()))).collect();
    settle().await;
    let done = posts.iter().filter(|post| post.is_finished()).count();
    assert!(done < 150, "{done} posts were taken");
    for _ in 0..300 {
        assert_eq!(server.read().await, message);
    }
    for post in posts {
        assert_eq!(post.await.unwrap().status(), StatusCode::ACCEPTED);
    }
}

#[tokio::test]
async fn big_messages_share_their_room() {
    let limit = 1024 * 1024;
    let mut world = World::with(Options { max_message_bytes: limit, ..options() }, Start::Works);
    let (id, mut server) = world.open(NOW).await;
    let big =
        |n: u64| json!({"jsonrpc": "2.0", "id": n, "method": "m", "params": {"x": "x".repeat(limit - 200)}});
    let post = |n| {
        let response = world.start(post(Some(&id), &big(n).to_string()));
        (n, tokio::spawn(async move { json_body(response.await.unwrap()).await }))
    };
    let posts: Vec<_> = (0..10).map(post).collect();
    settle().await;
    // Four are in memory, the others have not been read yet.
    assert_eq!(world.host.sessions()[0].in_flight, 4);
    for _ in 0..10 {
        let message = server.read().await;
        server.answer(message["id"].clone(), json!("x".repeat(limit - 200))).await;
    }
    for (n, response) in posts {
        assert_eq!(response.await.unwrap()["id"], n);
    }
}

#[tokio::test]
async fn requests_in_flight_are_counted() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut posts = Vec::new();
    for n in 0..1024 {
        posts.push(world.ask(&id, &mut server, call(n)).await);
    }
    assert_eq!(world.status(post(Some(&id), &call(5000).to_string())).await.0, 503);
    server.answer(3, json!({})).await;
    assert_eq!(json_body(posts.remove(3).await.unwrap()).await["id"], 3);
    world.ask(&id, &mut server, call(5000)).await;
}

#[tokio::test]
async fn held_messages_are_limited_and_the_server_learns_of_requests_that_are_lost() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    for n in 0..300 {
        server.say(notification(&format!("notifications/{n}"))).await;
    }
    for n in 0..256 {
        server.say(json!({"jsonrpc": "2.0", "id": n, "method": "roots/list"})).await;
    }
    settle().await;
    server.say(json!({"jsonrpc": "2.0", "id": 256, "method": "roots/list"})).await;
    let lost = server.read().await;
    assert_eq!((&lost["id"], &lost["error"]["code"]), (&json!(0), &json!(-32603)));
    let mut get = world.get(&id).await;
    for n in 1..=256 {
        assert_eq!(get.next().await.unwrap()["id"], n);
    }
}
