//! Callers who share a host: each sees what is its own, whatever the order.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{Server, Start, Stream, World, modern, modern_as, options, seconds};

/// The callers of a history. Two of them have one owner, and so one server.
const OWNERS: [&str; 3] = ["alice", "bob", "bob"];

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A caller sends a request, with an id that others use too.
    Ask { caller: usize, id: u8, listens: bool },
    /// The server of a request says something for it.
    Say { which: usize },
    /// It answers.
    Answer { which: usize },
    /// The caller closes the response.
    Leave { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0_usize..64;
    prop_oneof![
        3 => (0..OWNERS.len(), 0_u8..3, any::<bool>()).prop_map(|(caller, id, listens)| Step::Ask { caller, id, listens }),
        4 => which.clone().prop_map(|which| Step::Say { which }),
        2 => which.clone().prop_map(|which| Step::Answer { which }),
        1 => which.prop_map(|which| Step::Leave { which }),
    ]
}

/// A request in flight, with what its caller must see.
struct Open {
    owner: &'static str,
    /// Both the caller's id and its progress token.
    id: Value,
    ours: u64,
    listens: bool,
    stream: Stream,
    said: Vec<Value>,
}

fn request(id: &Value, listens: bool) -> Value {
    let method = if listens { "subscriptions/listen" } else { "tools/list" };
    modern(id.clone(), method, json!({"_meta": {"progressToken": id}}))
}

/// What the server says for a request, with that id in it.
fn said(listens: bool, id: &Value, n: usize) -> Value {
    if listens {
        let meta = json!({"io.modelcontextprotocol/subscriptionId": id});
        let params = json!({"_meta": meta, "uri": format!("u{n}")});
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params})
    } else {
        let params = json!({"progressToken": id, "progress": n});
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
    }
}

async fn history(steps: Vec<Step>) {
    let mut world = World::with(options(), Start::Works);
    let mut servers: HashMap<&str, Server> = HashMap::new();
    let mut open: Vec<Open> = Vec::new();
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Ask { caller, id, listens } => {
                let owner = OWNERS[caller];
                let id = if id == 0 { json!("same") } else { json!(id) };
                let response = world.start(modern_as(owner, &request(&id, listens)));
                if !servers.contains_key(owner) {
                    let mut server = world.server().await;
                    server.discovered().await;
                    servers.insert(owner, server);
                }
                let server = servers.get_mut(owner).unwrap();
                let method = if listens { "subscriptions/listen" } else { "tools/list" };
                let (_, ours) = server.request(method).await;
                // The response begins with this.
                server.say(said(listens, &ours.into(), n)).await;
                let stream = Stream::new(response.await.unwrap());
                let said = vec![said(listens, &id, n)];
                open.push(Open { owner, id, ours, listens, stream, said });
            }
            Step::Say { which } if !open.is_empty() => {
                let at = which % open.len();
                let Open { owner, id, ours, listens, said: seen, .. } = &mut open[at];
                servers.get_mut(owner).unwrap().say(said(*listens, &(*ours).into(), n)).await;
                seen.push(said(*listens, id, n));
            }
            Step::Answer { which } if !open.is_empty() => {
                let one = open.swap_remove(which % open.len());
                servers.get_mut(one.owner).unwrap().answer(one.ours, json!(n)).await;
                finish(one, Some(n)).await;
            }
            Step::Leave { which } if !open.is_empty() => {
                let one = open.swap_remove(which % open.len());
                drop(one.stream);
                let server = servers.get_mut(one.owner).unwrap();
                assert_eq!(server.read().await["params"]["requestId"], one.ours);
                // Too late: for nobody, or another caller would see it.
                server.say(said(one.listens, &one.ours.into(), n)).await;
                server.answer(one.ours, json!("too late")).await;
            }
            _ => {}
        }
    }
    for one in open {
        servers.get_mut(one.owner).unwrap().answer(one.ours, json!("end")).await;
        finish(one, None).await;
    }
}

/// All that was said for a request is on its stream, in order, and nothing else.
async fn finish(one: Open, result: Option<usize>) {
    let Open { id, mut stream, said, .. } = one;
    for expect in said {
        assert_eq!(stream.next().await, Some(expect));
    }
    let result = result.map_or(json!("end"), |n| json!(n));
    assert_eq!(stream.next().await, Some(json!({"jsonrpc": "2.0", "id": id, "result": result})));
    assert_eq!(stream.next().await, None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn each_caller_sees_exactly_its_own(steps in prop::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        // A message that goes astray leaves somebody waiting.
        let done = runtime.block_on(async { tokio::time::timeout(seconds(60), history(steps)).await });
        prop_assert!(done.is_ok(), "somebody waits for ever");
    }
}

#[tokio::test]
async fn owners_have_servers_of_their_own() {
    let mut world = World::new();
    let mut alices = None;
    for (owner, id) in [("alice", 1), ("bob", 1)] {
        let response = world.start(modern_as(owner, &request(&json!(id), false)));
        let mut server = world.server().await;
        server.discovered().await;
        let (_, ours) = server.request("tools/list").await;
        server.answer(ours, json!(owner)).await;
        assert_eq!(crate::harness::json_body(response.await.unwrap()).await["result"], owner);
        alices.get_or_insert(server);
    }
    let mut owners: Vec<_> = world.host.sessions().into_iter().filter_map(|info| info.owner.0).collect();
    owners.sort();
    assert_eq!(owners, ["alice", "bob"]);
}
