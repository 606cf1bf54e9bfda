//! Event streams that break and are taken up again (MCP 2025-11-25, `basic/transports`).

use http::Method;
use serde_json::{Value, json};
use thv_proxy::stdio::Options;

use crate::harness::{
    Server, Start, Stream, World, call, call_with_token, initialize, json_body, notification, options, post,
    progress, request, resume, sampling, session_id, settle,
};

const NOW: &str = "2025-11-25";

fn answer(id: u64, result: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// A session whose request 1 has an event stream with one event of progress, read.
async fn streaming(world: &mut World, version: &str) -> (String, Server, Stream) {
    let (id, mut server) = world.open(version).await;
    let response = world.ask(&id, &mut server, call_with_token(1, "t")).await;
    server.say(progress("t", 1)).await;
    let mut stream = Stream::new(response.await.unwrap());
    assert_eq!(stream.next().await, Some(progress("t", 1)));
    (id, server, stream)
}

#[tokio::test]
async fn streams_begin_with_a_priming_event_where_clients_know_it() {
    for (version, primed) in [(NOW, true), ("2025-06-18", false)] {
        let mut world = World::new();
        let (id, mut server) = world.open(version).await;
        let response = world.ask(&id, &mut server, call_with_token(1, "t")).await;
        server.say(progress("t", 1)).await;
        let mut post = Stream::new(response.await.unwrap());
        let mut get = world.get(&id).await;
        server.say(notification("notifications/x")).await;
        let mut ids = Vec::new();
        for stream in [&mut post, &mut get] {
            let first = stream.event().await.unwrap();
            assert_eq!(first.data.as_ref().unwrap().is_empty(), primed, "{version}");
            assert_eq!(first.retry.is_some(), primed);
            ids.push(first.id.unwrap());
            if primed {
                ids.push(stream.event().await.unwrap().id.unwrap());
            }
        }
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count, "ids are unique in their session");
    }
}

#[tokio::test]
async fn a_broken_post_goes_on_with_a_get() {
    for version in [NOW, "2025-06-18"] {
        let mut world = World::new();
        let (id, mut server, stream) = streaming(&mut world, version).await;
        let last = stream.last.clone().unwrap();
        drop(stream);
        server.say(progress("t", 2)).await;
        server.say(progress("t", 3)).await;
        settle().await;
        let mut again = Stream::new(world.send(resume(&id, &last)).await);
        assert_eq!(again.next().await, Some(progress("t", 2)));
        // What comes while it is read goes on there.
        assert_eq!(again.next().await, Some(progress("t", 3)));
        server.say(progress("t", 4)).await;
        server.answer(1, json!("done")).await;
        assert_eq!(again.next().await, Some(progress("t", 4)));
        assert_eq!(again.next().await, Some(answer(1, "done")));
        assert_eq!(again.next().await, None);
    }
}

#[tokio::test]
async fn an_answer_waits_for_the_client_that_comes_back() {
    let mut world = World::new();
    let (id, mut server, stream) = streaming(&mut world, NOW).await;
    let last = stream.last.clone().unwrap();
    drop(stream);
    server.answer(1, json!("kept")).await;
    settle().await;
    assert_eq!(world.host.sessions()[0].in_flight, 0);
    // More than once, since this connection may break too.
    for _ in 0..3 {
        let mut again = Stream::new(world.send(resume(&id, &last)).await);
        assert_eq!(again.next().await, Some(answer(1, "kept")));
        assert_eq!(again.next().await, None);
    }
}

#[tokio::test]
async fn what_waited_for_a_connection_that_broke_waits_for_the_next() {
    let mut world = World::new();
    let (id, mut server, stream) = streaming(&mut world, NOW).await;
    let last = stream.last.clone().unwrap();
    // Nothing of this is written any more: the connection is not read.
    server.say(progress("t", 2)).await;
    server.say(sampling(7)).await;
    server.answer(1, json!("done")).await;
    settle().await;
    drop(stream);
    let mut again = Stream::new(world.send(resume(&id, &last)).await);
    assert_eq!(again.next().await, Some(progress("t", 2)));
    assert_eq!(again.next().await, Some(answer(1, "done")));
    assert_eq!(again.next().await, None);
    // The server's request did not wait.
    assert_eq!(world.get(&id).await.next().await, Some(sampling(7)));
}

#[tokio::test]
async fn a_client_that_was_only_primed_comes_back_too() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call_with_token(1, "t")).await;
    server.say(progress("t", 1)).await;
    let mut stream = Stream::new(response.await.unwrap());
    let primed = stream.event().await.unwrap().id.unwrap();
    drop(stream);
    server.answer(1, json!("done")).await;
    settle().await;
    let mut again = Stream::new(world.send(resume(&id, &primed)).await);
    // The progress was written already, but did not arrive.
    assert_eq!(again.next().await, Some(progress("t", 1)));
    assert_eq!(again.next().await, Some(answer(1, "done")));
}

#[tokio::test]
async fn a_connection_that_is_still_read_gives_way() {
    let mut world = World::new();
    let (id, mut server, mut old) = streaming(&mut world, NOW).await;
    let mut new = Stream::new(world.send(resume(&id, &old.last.clone().unwrap())).await);
    assert_eq!(old.next().await, None);
    drop(old);
    server.answer(1, json!("done")).await;
    assert_eq!(new.next().await, Some(answer(1, "done")));
    assert_eq!(new.next().await, None);
}

#[tokio::test]
async fn what_is_over_cannot_be_taken_up() {
    let mut world = World::new();
    let (id, mut server, mut stream) = streaming(&mut world, NOW).await;
    server.answer(1, json!("done")).await;
    assert_eq!(stream.next().await, Some(answer(1, "done")));
    let last = stream.last.clone().unwrap();
    drop(stream);
    // The client has all of it. An empty stream would make it come back for ever.
    assert_eq!(world.status(resume(&id, &last)).await.0, 400);
    assert_eq!(world.status(resume(&id, "p99-1")).await.0, 400);
    let mut twice = resume(&id, "g1-1");
    twice.headers_mut().append("last-event-id", "g1-1".parse().unwrap());
    assert_eq!(world.status(twice).await.0, 400);
    // An id that was never ours is none at all.
    let mut get = Stream::new(world.send(resume(&id, "their-own")).await);
    server.say(notification("notifications/x")).await;
    assert_eq!(get.next().await, Some(notification("notifications/x")));
}

#[tokio::test]
async fn a_cancelled_request_is_not_taken_up() {
    let mut world = World::new();
    let (id, _server, mut stream) = streaming(&mut world, NOW).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    assert_eq!(world.status(post(Some(&id), &cancel.to_string())).await.0, 202);
    assert_eq!(stream.next().await, None);
    assert_eq!(world.status(resume(&id, &stream.last.clone().unwrap())).await.0, 400);
}

#[tokio::test]
async fn a_get_stream_goes_on_where_it_broke() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut get = world.get(&id).await;
    server.say(notification("notifications/a")).await;
    assert_eq!(get.next().await, Some(notification("notifications/a")));
    let last = get.last.clone().unwrap();
    server.say(notification("notifications/b")).await;
    // Written, but it does not arrive.
    get.raw().await;
    drop(get);
    server.say(notification("notifications/c")).await;
    settle().await;
    let mut get = Stream::new(world.send(resume(&id, &last)).await);
    for method in ["notifications/b", "notifications/c"] {
        assert_eq!(get.next().await, Some(notification(method)));
    }
    server.say(notification("notifications/d")).await;
    assert_eq!(get.next().await, Some(notification("notifications/d")));
}

#[tokio::test]
async fn nothing_is_replayed_on_another_stream() {
    let mut world = World::new();
    let (id, mut server, stream) = streaming(&mut world, NOW).await;
    let mut get = world.get(&id).await;
    drop(stream);
    server.say(progress("t", 2)).await;
    server.say(notification("notifications/x")).await;
    assert_eq!(get.next().await, Some(notification("notifications/x")));
    let last = get.last.clone().unwrap();
    drop(get);
    settle().await;
    let mut get = Stream::new(world.send(resume(&id, &last)).await);
    server.say(notification("notifications/y")).await;
    assert_eq!(get.next().await, Some(notification("notifications/y")));
}

#[tokio::test]
async fn a_request_of_the_server_does_not_wait_for_a_client_that_may_not_come_back() {
    let mut world = World::new();
    let (id, mut server, stream) = streaming(&mut world, NOW).await;
    drop(stream);
    server.say(sampling(7)).await;
    settle().await;
    let mut get = world.get(&id).await;
    assert_eq!(get.next().await, Some(sampling(7)));
}

#[tokio::test]
async fn a_new_get_stream_takes_over_at_once() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    // Its client is gone, but nobody has noticed: it reads nothing any more.
    let dead = world.get(&id).await;
    server.say(notification("notifications/a")).await;
    settle().await;
    let mut get = world.get(&id).await;
    server.say(notification("notifications/b")).await;
    assert_eq!(get.next().await, Some(notification("notifications/a")));
    assert_eq!(get.next().await, Some(notification("notifications/b")));
    assert!(world.host.sessions()[0].has_stream);

    // When the younger goes, the older is as good as any.
    let mut older = dead;
    drop(get);
    server.say(notification("notifications/c")).await;
    assert_eq!(older.next().await, Some(notification("notifications/c")));
}

#[tokio::test]
async fn a_writer_that_waits_for_a_dead_stream_turns_to_the_new_one() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let _dead = world.get(&id).await;
    let text = json!({"jsonrpc": "2.0", "method": "notifications/x", "params": {"x": "x".repeat(60_000)}});
    let writer = tokio::spawn({
        let text = text.clone();
        async move {
            for _ in 0..30 {
                server.say(text.clone()).await;
            }
            server
        }
    });
    settle().await;
    assert!(!writer.is_finished());
    let mut get = world.get(&id).await;
    for _ in 0..30 {
        assert_eq!(get.next().await, Some(text.clone()));
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn get_streams_are_limited_and_the_oldest_ends() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(world.get(&id).await);
    }
    server.say(notification("notifications/x")).await;
    assert_eq!(streams[5].next().await, Some(notification("notifications/x")));
    for ended in &mut streams[..2] {
        assert_eq!(ended.next().await, None);
    }
}

#[tokio::test]
async fn what_is_kept_is_limited() {
    let mut world = World::new();
    let (id, mut server, stream) = streaming(&mut world, NOW).await;
    let last = stream.last.clone().unwrap();
    drop(stream);
    for value in 2..2000 {
        server.say(progress("t", value)).await;
    }
    settle().await;
    // The stream goes on from what is there.
    let mut again = Stream::new(world.send(resume(&id, &last)).await);
    let first = again.next().await.unwrap()["params"]["progress"].as_u64().unwrap();
    assert!((1000..2000).contains(&first), "{first}");
    for value in first + 1..2000 {
        assert_eq!(again.next().await, Some(progress("t", value)));
    }
    server.answer(1, json!("done")).await;
    assert_eq!(again.next().await, Some(answer(1, "done")));
}

#[tokio::test]
async fn an_answer_too_big_to_keep_is_lost_honestly() {
    let mut world = World::with(Options { max_message_bytes: 8 << 20, ..options() }, Start::Works);
    let (id, mut server, stream) = streaming(&mut world, NOW).await;
    let last = stream.last.clone().unwrap();
    drop(stream);
    server.answer(1, json!("x".repeat(2 << 20))).await;
    settle().await;
    assert_eq!(world.status(resume(&id, &last)).await.0, 400);
    // Its room is not held: the session goes on.
    for n in 2..8 {
        let response = world.ask(&id, &mut server, call(n)).await;
        server.answer(n, json!("x".repeat(2 << 20))).await;
        assert_eq!(json_body(response.await.unwrap()).await["id"], n);
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_response_begins_so_that_it_can_be_taken_up() {
    let mut world = World::new();
    let (id, mut server) = world.open(NOW).await;
    let response = world.ask(&id, &mut server, call(1)).await;
    tokio::time::sleep(options().keep_alive).await;
    let mut stream = Stream::new(response.await.unwrap());
    let primed = stream.event().await.unwrap();
    assert!(primed.data.unwrap().is_empty());
    drop(stream);
    server.answer(1, json!("late")).await;
    settle().await;
    let mut again = Stream::new(world.send(resume(&id, &primed.id.unwrap())).await);
    assert_eq!(again.next().await, Some(answer(1, "late")));
}

#[tokio::test]
async fn initialize_is_answered_before_its_stream_can_be_taken_up() {
    let mut world = World::new();
    let response = world.start(post(None, &initialize(NOW).to_string()));
    let mut server = world.server().await;
    server.read().await;
    server.say(json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})).await;
    let response = response.await.unwrap();
    let id = session_id(&response);
    let mut stream = Stream::new(response);
    assert_eq!(stream.next().await.unwrap()["method"], "ping");
    let last = stream.last.clone().unwrap();
    drop(stream);
    server.answer(0, json!({"protocolVersion": NOW})).await;
    settle().await;
    let mut again = Stream::new(world.send(resume(&id, &last)).await);
    assert_eq!(again.next().await.unwrap()["result"]["protocolVersion"], NOW);
    assert_eq!(world.send(request(Method::DELETE, Some(&id), "")).await.status(), 204);
    assert_eq!(world.status(resume(&id, &last)).await.0, 404);
}
