//! Callers who share a host: each sees what is its own, whatever the order.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::AsyncBufRead;

use crate::harness::{Server, Start, Stream, World, modern, modern_as, options, seconds};

/// The callers of a history. Two of them have one owner, and so share servers.
const OWNERS: [&str; 3] = ["alice", "bob", "bob"];

/// What a caller asks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Quiet,
    Logs,
    Listens,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A caller sends a request, with an id that others use too.
    Ask { caller: usize, id: u8, kind: Kind },
    /// The server of a request says something for it.
    Say { which: usize },
    /// The same in a log message, or another that does not say whose it is.
    Log { which: usize, custom: bool },
    /// It answers, and may say something more.
    Answer { which: usize, late: bool },
    /// The caller closes the response. The server may go on, and may answer.
    Leave { which: usize, late: bool, answer: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0_usize..64;
    let kind = prop_oneof![Just(Kind::Quiet), Just(Kind::Logs), Just(Kind::Listens)];
    let flags = (any::<bool>(), any::<bool>());
    prop_oneof![
        3 => (0..OWNERS.len(), 0_u8..3, kind).prop_map(|(caller, id, kind)| Step::Ask { caller, id, kind }),
        3 => which.clone().prop_map(|which| Step::Say { which }),
        4 => (which.clone(), any::<bool>()).prop_map(|(which, custom)| Step::Log { which, custom }),
        2 => (which.clone(), any::<bool>()).prop_map(|(which, late)| Step::Answer { which, late }),
        1 => (which, flags).prop_map(|(which, (late, answer))| Step::Leave { which, late, answer }),
    ]
}

/// A server, and the calls that it may be working on.
struct Played {
    owner: &'static str,
    server: Server,
    calls: BTreeSet<u64>,
    /// The call that was never in the company of others.
    alone: Option<u64>,
}

/// A request in flight, with what its caller must see.
struct Open {
    at: usize,
    /// Both the caller's id and its progress token.
    id: Value,
    ours: u64,
    kind: Kind,
    stream: Stream,
    said: Vec<Value>,
}

fn request(id: &Value, kind: Kind) -> Value {
    let method = if kind == Kind::Listens { "subscriptions/listen" } else { "tools/list" };
    let mut meta = json!({"progressToken": id});
    if kind == Kind::Logs {
        meta["io.modelcontextprotocol/logLevel"] = "debug".into();
    }
    modern(id.clone(), method, json!({"_meta": meta}))
}

/// What the server says for a request, with that id in it.
fn said(kind: Kind, id: &Value, n: usize) -> Value {
    if kind == Kind::Listens {
        let meta = json!({"io.modelcontextprotocol/subscriptionId": id});
        let params = json!({"_meta": meta, "uri": format!("u{n}")});
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params})
    } else {
        let params = json!({"progressToken": id, "progress": n});
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
    }
}

/// What it says without an id.
fn nameless(n: usize, custom: bool) -> Value {
    let method = if custom { "notifications/custom" } else { "notifications/message" };
    json!({"jsonrpc": "2.0", "method": method, "params": {"level": "info", "data": n}})
}

#[derive(Default)]
struct Servers {
    played: BTreeMap<usize, Played>,
    count: usize,
}

impl Servers {
    fn get(&mut self, at: usize) -> &mut Played {
        self.played.get_mut(&at).unwrap()
    }

    /// The server that a request of this owner reaches, one that has begun by then among them.
    async fn reached(&mut self, world: &mut World, owner: &'static str) -> (usize, Value) {
        loop {
            let next = poll_fn(|cx| {
                if let Poll::Ready(server) = world.poll_server(cx) {
                    return Poll::Ready((server, None));
                }
                for (at, played) in &mut self.played {
                    if let Poll::Ready(bytes) = Pin::new(&mut played.server.input).poll_fill_buf(cx) {
                        return Poll::Ready((None, Some((*at, bytes.unwrap().is_empty()))));
                    }
                }
                Poll::Pending
            });
            match next.await {
                (Some(mut server), _) => {
                    server.discovered().await;
                    self.count += 1;
                    let played = Played { owner, server, calls: BTreeSet::new(), alone: None };
                    self.played.insert(self.count, played);
                }
                (_, Some((at, true))) => {
                    let ended = self.played.remove(&at).unwrap();
                    // Calls that nobody waits for keep none.
                    assert_eq!(ended.alone, None);
                }
                (_, Some((at, false))) => {
                    let played = self.get(at);
                    assert_eq!(played.owner, owner);
                    let message = played.server.read().await;
                    if message["method"] != "server/discover" {
                        return (at, message);
                    }
                    played.server.answer(message["id"].clone(), json!({})).await;
                }
                _ => panic!("the world has ended"),
            }
        }
    }
}

async fn history(steps: Vec<Step>) {
    let mut world = World::with(options(), Start::Works);
    let mut servers = Servers::default();
    let mut open: Vec<Open> = Vec::new();
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Ask { caller, id, kind } => {
                let owner = OWNERS[caller];
                let id = if id == 0 { json!("same") } else { json!(id) };
                let response = world.start(modern_as(owner, &request(&id, kind)));
                let (at, message) = servers.reached(&mut world, owner).await;
                let ours = message["id"].as_u64().unwrap();
                let played = servers.get(at);
                if kind != Kind::Listens {
                    played.alone = played.calls.is_empty().then_some(ours);
                    played.calls.insert(ours);
                }
                // The response begins with this.
                played.server.say(said(kind, &ours.into(), n)).await;
                let stream = Stream::new(response.await.unwrap());
                let said = vec![said(kind, &id, n)];
                open.push(Open { at, id, ours, kind, stream, said });
            }
            Step::Say { which } if !open.is_empty() => {
                let index = which % open.len();
                let Open { at, id, ours, kind, said: seen, .. } = &mut open[index];
                servers.get(*at).server.say(said(*kind, &(*ours).into(), n)).await;
                seen.push(said(*kind, id, n));
            }
            Step::Log { which, custom } if !open.is_empty() => {
                let index = which % open.len();
                let Open { at, ours, kind, said: seen, .. } = &mut open[index];
                let played = servers.get(*at);
                // A server that says such things for a subscription breaks the rules.
                if *kind != Kind::Listens {
                    played.server.say(nameless(n, custom)).await;
                    if played.alone == Some(*ours) && (custom || *kind == Kind::Logs) {
                        seen.push(nameless(n, custom));
                    }
                }
            }
            Step::Answer { which, late } if !open.is_empty() => {
                let one = open.swap_remove(which % open.len());
                let played = servers.get(one.at);
                played.server.answer(one.ours, json!(n)).await;
                played.calls.remove(&one.ours);
                played.alone.take_if(|alone| *alone == one.ours);
                if late && one.kind != Kind::Listens {
                    played.server.say(nameless(n, false)).await;
                }
                finish(one, Some(n)).await;
            }
            Step::Leave { which, late, answer } if !open.is_empty() => {
                let one = open.swap_remove(which % open.len());
                drop(one.stream);
                let played = servers.get(one.at);
                assert_eq!(played.server.read().await["params"]["requestId"], one.ours);
                played.alone.take_if(|alone| *alone == one.ours);
                // Too late: for nobody, or another caller would see it.
                played.server.say(said(one.kind, &one.ours.into(), n)).await;
                if late && one.kind != Kind::Listens {
                    played.server.say(nameless(n, false)).await;
                    played.server.say(nameless(n, true)).await;
                }
                if answer {
                    played.server.answer(one.ours, json!("too late")).await;
                    played.calls.remove(&one.ours);
                }
            }
            _ => {}
        }
    }
    for one in open {
        servers.get(one.at).server.answer(one.ours, json!("end")).await;
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
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn each_caller_sees_exactly_its_own(steps in prop::collection::vec(step(), 0..60)) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        // A message that goes astray leaves somebody waiting. Who waits for a server of its own does so for seconds.
        let done = runtime.block_on(async { tokio::time::timeout(seconds(1200), history(steps)).await });
        prop_assert!(done.is_ok(), "somebody waits for ever");
    }
}

#[tokio::test]
async fn owners_have_servers_of_their_own() {
    let mut world = World::new();
    let mut alices = None;
    for (owner, id) in [("alice", 1), ("bob", 1)] {
        let response = world.start(modern_as(owner, &request(&json!(id), Kind::Quiet)));
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
