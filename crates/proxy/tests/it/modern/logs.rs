//! Log messages, which say nothing of the request that they belong to.

use http::Response;
use serde_json::{Value, json};
use thv_proxy::body::ResponseBody;
use thv_proxy::stdio::Options;
use tokio::task::JoinHandle;

use crate::harness::{
    Server, Start, Stream, World, json_body, modern, modern_as, modern_post, options, seconds, settle,
};

type Waiting = JoinHandle<Response<ResponseBody>>;

fn logging(id: u64) -> Value {
    let meta = json!({"io.modelcontextprotocol/logLevel": "debug"});
    modern(id, "tools/call", json!({"name": "x", "_meta": meta}))
}

fn quiet(id: u64) -> Value {
    modern(id, "tools/call", json!({"name": "x"}))
}

fn log(text: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": text}})
}

/// A request that this server gets next.
async fn at(world: &World, server: &mut Server, message: &Value) -> (Waiting, u64) {
    let response = world.start(modern_post(&message.to_string()));
    let (_, id) = server.request("tools/call").await;
    (response, id)
}

/// A request that gets the server to itself which others have used before.
async fn alone_at(world: &World, server: &mut Server, id: u64) -> (Waiting, u64) {
    let response = world.start(modern_post(&logging(id).to_string()));
    server.settled().await;
    let (_, id) = server.request("tools/call").await;
    (response, id)
}

/// A request for which another server is started.
async fn elsewhere(world: &mut World, message: &Value) -> (Waiting, Server, u64) {
    let response = world.start(modern_post(&message.to_string()));
    let mut server = world.server().await;
    server.discovered().await;
    let (_, id) = server.request("tools/call").await;
    (response, server, id)
}

/// The messages of a response, whatever its form.
async fn messages(response: Waiting) -> Vec<Value> {
    let response = response.await.unwrap();
    if response.headers()["content-type"] == "application/json" {
        return vec![json_body(response).await];
    }
    let mut stream = Stream::new(response);
    let mut seen = Vec::new();
    while let Some(message) = stream.next().await {
        seen.push(message);
    }
    seen
}

fn result(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {}})
}

#[tokio::test(start_paused = true)]
async fn calls_that_overlap_get_exactly_their_own_log_messages() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (one, one_id) = alone_at(&world, &mut server, 1).await;
    let (two, mut other, two_id) = elsewhere(&mut world, &logging(2)).await;
    let (three, mut third, three_id) = elsewhere(&mut world, &quiet(3)).await;
    for (server, text, id) in
        [(&mut other, "two", two_id), (&mut server, "one", one_id), (&mut third, "three", three_id)]
    {
        server.say(log(text)).await;
        server.answer(id, json!({})).await;
    }
    assert_eq!(messages(one).await, [log("one"), result(1)]);
    assert_eq!(messages(two).await, [log("two"), result(2)]);
    // It did not ask.
    assert_eq!(messages(three).await, [result(3)]);
    // One after another they stay where the others were.
    for id in 4..7 {
        let (response, ours) = alone_at(&world, &mut server, id).await;
        server.say(log("again")).await;
        server.answer(ours, json!({})).await;
        assert_eq!(messages(response).await, [log("again"), result(id)]);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_over_soon_start_no_servers() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (one, one_id) = alone_at(&world, &mut server, 1).await;
    let waiting =
        [world.start(modern_post(&logging(2).to_string())), world.start(modern_post(&quiet(3).to_string()))];
    settle().await;
    server.answer(one_id, json!({})).await;
    assert_eq!(messages(one).await, [result(1)]);
    for _ in &waiting {
        let mut message = server.read().await;
        if message["method"] == "server/discover" {
            server.answer(message["id"].clone(), json!({})).await;
            message = server.read().await;
        }
        server.answer(message["id"].clone(), json!({})).await;
    }
    for response in waiting {
        assert_eq!(response.await.unwrap().status(), 200);
    }
    assert_eq!(world.host.sessions().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_for_a_cancelled_call_is_nobodys() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (a, a_id) = alone_at(&world, &mut server, 1).await;
    server.say(log("a, in time")).await;
    let mut stream = Stream::new(a.await.unwrap());
    assert_eq!(stream.next().await, Some(log("a, in time")));
    drop(stream);
    assert_eq!(server.read().await["params"]["requestId"], a_id);
    // The server goes on with it all the same.
    server.say(log("a, too late")).await;
    let (b, mut other, b_id) = elsewhere(&mut world, &logging(2)).await;
    server.say(log("a, much too late")).await;
    other.say(log("b")).await;
    other.answer(b_id, json!({})).await;
    assert_eq!(messages(b).await, [log("b"), result(2)]);
    // Whoever does not mind the company of others has it, and what is nameless is not theirs.
    let (c, c_id) = at(&world, &mut server, &quiet(3)).await;
    server.say(log("a, still")).await;
    server.say(json!({"jsonrpc": "2.0", "method": "notifications/x"})).await;
    server.answer(c_id, json!({})).await;
    assert_eq!(messages(c).await, [result(3)]);
    // With its answer the call is over.
    server.answer(a_id, json!({})).await;
    settle().await;
    let (d, d_id) = alone_at(&world, &mut server, 4).await;
    server.say(log("d")).await;
    server.answer(d_id, json!({})).await;
    assert_eq!(messages(d).await, [log("d"), result(4)]);
}

#[tokio::test]
async fn what_is_said_after_the_answer_is_nobodys() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (a, a_id) = alone_at(&world, &mut server, 1).await;
    server.answer(a_id, json!({})).await;
    assert_eq!(messages(a).await, [result(1)]);
    let b = world.start(modern_post(&logging(2).to_string()));
    let (_, asked) = server.request("server/discover").await;
    server.say(log("a, too late")).await;
    server.answer(asked, json!({})).await;
    let (_, b_id) = server.request("tools/call").await;
    server.say(log("b")).await;
    server.answer(b_id, json!({})).await;
    assert_eq!(messages(b).await, [log("b"), result(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_settle_gets_no_such_calls() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let response = world.start(modern_post(&logging(1).to_string()));
    server.request("server/discover").await;
    let mut other = world.server().await;
    other.discovered().await;
    let (_, id) = other.request("tools/call").await;
    other.say(log("one")).await;
    other.answer(id, json!({})).await;
    assert_eq!(messages(response).await, [log("one"), result(1)]);
    // Others go on.
    let (response, id) = at(&world, &mut server, &quiet(2)).await;
    server.answer(id, json!({})).await;
    assert_eq!(messages(response).await, [result(2)]);
}

#[tokio::test(start_paused = true)]
async fn servers_of_one_owner_are_few_and_who_finds_none_free_shares_and_hears_nothing() {
    let mut world = World::new();
    let mut first = world.modern_server().await;
    let mut calls = vec![alone_at(&world, &mut first, 1).await];
    let mut servers = vec![first];
    for id in 2..=4 {
        let (response, server, ours) = elsewhere(&mut world, &logging(id)).await;
        servers.push(server);
        calls.push((response, ours));
    }
    let before = tokio::time::Instant::now();
    let last = servers.last_mut().unwrap();
    let (fifth, fifth_id) = at(&world, last, &logging(5)).await;
    assert_eq!(before.elapsed().as_secs(), 10);
    last.say(log("of two")).await;
    last.answer(fifth_id, json!({})).await;
    assert_eq!(messages(fifth).await, [result(5)]);
    // The one that was there before does not get back what it has shared.
    last.say(log("of one, but which")).await;
    for (server, (_, ours)) in servers.iter_mut().zip(&calls) {
        server.say(log(&format!("of {ours}"))).await;
        server.answer(*ours, json!({})).await;
    }
    for (id, (response, ours)) in (1..).zip(calls) {
        let expect = if id == 4 { vec![result(4)] } else { vec![log(&format!("of {ours}")), result(id)] };
        assert_eq!(messages(response).await, expect);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_server_gets_the_first_that_is_free() {
    let mut world = World::new();
    let mut first = world.modern_server().await;
    let (_one, _) = alone_at(&world, &mut first, 1).await;
    let mut others = Vec::new();
    for id in 2..=4 {
        others.push(elsewhere(&mut world, &logging(id)).await);
    }
    let fifth = world.start(modern_post(&logging(5).to_string()));
    tokio::time::sleep(seconds(5)).await;
    let (response, mut server, ours) = others.remove(1);
    server.answer(ours, json!({})).await;
    assert_eq!(messages(response).await, [result(3)]);
    server.settled().await;
    let (_, ours) = server.request("tools/call").await;
    server.say(log("five")).await;
    server.answer(ours, json!({})).await;
    assert_eq!(messages(fifth).await, [log("five"), result(5)]);
}

#[tokio::test(start_paused = true)]
async fn where_no_more_servers_may_be_calls_share_one() {
    let mut world = World::with(Options { max_sessions: 1, ..options() }, Start::Works);
    let mut server = world.modern_server().await;
    let (one, one_id) = alone_at(&world, &mut server, 1).await;
    server.say(log("one")).await;
    let mut one = Stream::new(one.await.unwrap());
    assert_eq!(one.next().await, Some(log("one")));
    let (two, two_id) = at(&world, &mut server, &quiet(2)).await;
    server.say(log("one or two")).await;
    server.answer(two_id, json!({})).await;
    server.answer(one_id, json!({})).await;
    assert_eq!(one.next().await, Some(result(1)));
    assert_eq!(messages(two).await, [result(2)]);
}

#[tokio::test(start_paused = true)]
async fn extra_servers_leave_half_of_the_places_to_others_and_are_the_first_to_go() {
    let mut world = World::with(Options { max_sessions: 2, ..options() }, Start::Works);
    let mut server = world.modern_server().await;
    let (_one, _) = alone_at(&world, &mut server, 1).await;
    let (two, mut extra, ours) = elsewhere(&mut world, &logging(2)).await;
    // In use, it stays.
    assert_eq!(world.status(modern_as("bob", &quiet(1))).await.0, 503);
    extra.answer(ours, json!({})).await;
    messages(two).await;
    let bobs = world.start(modern_as("bob", &quiet(1)));
    extra.stopped().await;
    let mut bob = world.server().await;
    bob.discovered().await;
    let (_, ours) = bob.request("tools/call").await;
    bob.answer(ours, json!({})).await;
    assert_eq!(messages(bobs).await, [result(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_shares_a_server_with_a_call_that_has_it_to_itself() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let meta = json!({"io.modelcontextprotocol/logLevel": "debug"});
    let listen = modern("s", "subscriptions/listen", json!({"notifications": {}, "_meta": meta}));
    let (listens, listens_id) = world.begin(&mut server, &listen).await;
    let (call, call_id) = alone_at(&world, &mut server, 1).await;
    // And one that comes later takes nothing away.
    let (_later, _) = world.begin(&mut server, &listen).await;
    server.say(log("of the call")).await;
    let stamp = |id: Value| {
        let meta = json!({"io.modelcontextprotocol/subscriptionId": id});
        json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": meta}})
    };
    server.say(stamp(listens_id.into())).await;
    server.answer(call_id, json!({})).await;
    assert_eq!(messages(call).await, [log("of the call"), result(1)]);
    let mut listens = Stream::new(listens.await.unwrap());
    assert_eq!(listens.next().await, Some(stamp("s".into())));
    // That a subscription ends says nothing of calls.
    drop(listens);
    assert_eq!(server.read().await["method"], "notifications/cancelled");
    alone_at(&world, &mut server, 2).await;
}

#[tokio::test(start_paused = true)]
async fn an_extra_server_that_does_not_begin_costs_nobody_an_answer() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (one, one_id) = alone_at(&world, &mut server, 1).await;
    let two = world.start(modern_post(&quiet(2).to_string()));
    // It says nothing.
    let mut silent = world.server().await;
    silent.read().await;
    let (_, two_id) = server.request("tools/call").await;
    silent.stopped().await;
    for (response, ours, id) in [(one, one_id, 1), (two, two_id, 2)] {
        server.answer(ours, json!({})).await;
        assert_eq!(messages(response).await, [result(id)]);
    }
    // Nor does it make the server one of the older era, though no other is started for a while.
    let (_three, _) = alone_at(&world, &mut server, 3).await;
    let (_four, _) = at(&world, &mut server, &quiet(4)).await;
}

#[tokio::test(start_paused = true)]
async fn extra_servers_end_sooner_than_others_and_sooner_still_with_a_call_that_nobody_waits_for() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (_one, _) = alone_at(&world, &mut server, 1).await;
    let (two, mut idle, ours) = elsewhere(&mut world, &logging(2)).await;
    let (three, mut haunted, _) = elsewhere(&mut world, &logging(3)).await;
    // As long as it takes.
    tokio::time::sleep(options().session_ttl * 2).await;
    let before = tokio::time::Instant::now();
    idle.answer(ours, json!({})).await;
    let _ = messages(two).await;
    three.abort();
    let _ = three.await;
    haunted.stopped().await;
    let after = before.elapsed();
    assert!(after >= seconds(10) && after < seconds(30), "{after:?}");
    idle.stopped().await;
    let after = before.elapsed();
    assert!(after >= seconds(300) && after < seconds(330), "{after:?}");
    assert_eq!(world.host.sessions().len(), 1);
}

#[tokio::test]
async fn a_level_of_null_asks_for_nothing() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let meta = json!({"io.modelcontextprotocol/logLevel": null});
    let (response, id) =
        at(&world, &mut server, &modern(1, "tools/call", json!({"name": "x", "_meta": meta}))).await;
    server.say(log("unasked")).await;
    server.answer(id, json!({})).await;
    assert_eq!(messages(response).await, [result(1)]);
}
