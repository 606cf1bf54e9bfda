//! `subscriptions/listen`.

use serde_json::{Value, json};

use crate::harness::{Server, Stream, World, json_body, modern, modern_as};

fn listen(id: impl Into<Value>) -> Value {
    modern(id, "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}))
}

fn stamped(method: &str, subscription: impl Into<Value>) -> Value {
    let meta = json!({"io.modelcontextprotocol/subscriptionId": subscription.into()});
    json!({"jsonrpc": "2.0", "method": method, "params": {"_meta": meta}})
}

const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
const CHANGED: &str = "notifications/tools/list_changed";

async fn opened(world: &World, server: &mut Server, id: &str) -> (Stream, u64) {
    let (response, ours) = world.begin(server, &listen(id)).await;
    server.say(stamped(ACKNOWLEDGED, ours)).await;
    let mut stream = Stream::new(response.await.unwrap());
    assert_eq!(stream.next().await, Some(stamped(ACKNOWLEDGED, id)));
    (stream, ours)
}

#[tokio::test]
async fn each_subscription_gets_its_own() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    // Two callers may use one id.
    let (mut a, a_id) = opened(&world, &mut server, "same").await;
    let (mut b, b_id) = opened(&world, &mut server, "same").await;
    server.say(stamped(CHANGED, b_id)).await;
    server.say(stamped("notifications/resources/updated", a_id)).await;
    // For nobody: no subscription, one that is not there, and the ids that callers know.
    server.say(json!({"jsonrpc": "2.0", "method": CHANGED})).await;
    for stranger in [json!(99), json!("same"), json!(null)] {
        server.say(stamped(CHANGED, stranger)).await;
    }
    assert_eq!(a.next().await, Some(stamped("notifications/resources/updated", "same")));
    assert_eq!(b.next().await, Some(stamped(CHANGED, "same")));
    let info = world.host.sessions().remove(0);
    assert_eq!((info.in_flight, info.has_stream), (0, true));
    drop(a);
    assert_eq!(server.read().await["params"]["requestId"], a_id);
    server.say(stamped(CHANGED, a_id)).await;
    server.say(stamped(CHANGED, b_id)).await;
    assert_eq!(b.next().await, Some(stamped(CHANGED, "same")));
}

#[tokio::test]
async fn the_server_closes_a_subscription() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (mut a, a_id) = opened(&world, &mut server, "a").await;
    let (mut b, b_id) = opened(&world, &mut server, "b").await;
    let meta = json!({"io.modelcontextprotocol/subscriptionId": a_id});
    server.answer(a_id, json!({"resultType": "complete", "_meta": meta})).await;
    let closed = a.next().await.unwrap();
    assert_eq!(closed["id"], "a");
    assert_eq!(closed["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "a");
    assert_eq!(a.next().await, None);

    let cancel = |id: Value| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    server.say(cancel(b_id.into())).await;
    assert_eq!(b.next().await, Some(cancel("b".into())));
    assert_eq!(b.next().await, None);
}

#[tokio::test]
async fn a_server_cannot_cancel_another_request() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (response, id) = world.begin(&mut server, &modern(1, "tools/list", json!({}))).await;
    server
        .say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}))
        .await;
    server.answer(id, json!({})).await;
    assert_eq!(json_body(response.await.unwrap()).await["id"], 1);
}

#[tokio::test]
async fn a_refused_subscription_is_json() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (response, id) = world.begin(&mut server, &listen(1)).await;
    server.say(json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}})).await;
    assert_eq!(response.await.unwrap().status(), 404);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_end_in_order_with_the_host_and_with_an_error_with_the_server() {
    let mut world = World::new();
    let mut server = world.modern_server().await;
    let (mut stream, _) = opened(&world, &mut server, "a").await;
    drop(server);
    let lost = stream.next().await.unwrap();
    assert_eq!((&lost["id"], &lost["error"]["code"]), (&json!("a"), &json!(-33002)));
    assert_eq!(stream.next().await, None);

    let mut server = world.modern_server().await;
    let (mut stream, _) = opened(&world, &mut server, "b").await;
    world.host.shutdown().await;
    let closed = stream.next().await.unwrap();
    assert_eq!((&closed["id"], &closed["result"]["resultType"]), (&json!("b"), &json!("complete")));
    assert_eq!(closed["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], "b");
    assert_eq!(world.status(modern_as("x", &listen(1))).await.0, 503);
}
