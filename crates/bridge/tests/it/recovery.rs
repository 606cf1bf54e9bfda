//! What is mended without the client noticing: sessions that get lost, servers that are restarted, moved or given
//! another key.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thv_bridge::{LocateError, Options, Reason, Target, Why};
use thv_keygen::SharedKey;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;

use crate::client::Client;
use crate::failure;
use crate::server::{
    Piece, Reply, Request, Server, cut_stream, event, fed_stream, initialized, json_reply, status, stream,
    usual,
};

/// A server with sessions and streams of its own, that forgets both when it is told to.
#[derive(Default)]
struct Stateful {
    life: AtomicUsize,
    stream: Mutex<Option<UnboundedSender<Piece>>>,
}

impl Stateful {
    fn new() -> Arc<Self> {
        Arc::default()
    }

    fn forget(&self) {
        self.life.fetch_add(1, Ordering::SeqCst);
        *self.stream.lock().unwrap() = None;
    }

    fn say(&self, message: &Value) {
        self.say_raw(&event(message));
    }

    fn say_raw(&self, text: &str) {
        self.stream.lock().unwrap().as_ref().unwrap().send(Piece::Data(text.into())).unwrap();
    }

    fn answer(&self, request: &Request) -> Reply {
        let current = format!("life{}", self.life.load(Ordering::SeqCst));
        match (request.method.as_str(), request.rpc().as_str()) {
            (_, "initialize") => initialized(request, &current),
            _ if request.header("mcp-session-id") != Some(&current) => status(404),
            ("GET", _) => {
                let (sender, reply) = fed_stream();
                *self.stream.lock().unwrap() = Some(sender);
                reply
            }
            (_, "resources/subscribe") if request.json()["params"]["uri"] == "no:such" => json_reply(
                200,
                &json!({"jsonrpc": "2.0", "id": request.id(), "error": {"code": -32002, "message": "no"}}),
            ),
            (_, "hang") => Reply::Hang,
            _ => usual(request),
        }
    }

    async fn start(self: &Arc<Self>) -> Server {
        let theirs = Arc::clone(self);
        Server::start(move |request| theirs.answer(request)).await
    }

    /// The same place again, after all connections were closed.
    async fn start_again(self: &Arc<Self>, before: &Target) -> Server {
        self.forget();
        let theirs = Arc::clone(self);
        // The one before lets go of its port when its task is next run.
        let bind = async {
            loop {
                match TcpListener::bind(before.addr).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let listener = crate::soon(bind).await;
        let server = Server::start_on(listener, move |request| theirs.answer(request));
        server.set_key(before.key.clone());
        server
    }
}

fn streams(all: &[Request]) -> usize {
    all.iter().filter(|r| r.method == "GET").count()
}

fn updated(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}})
}

/// What a session was told, initialize aside.
fn told(server: &Server, session: &str) -> Vec<(String, Value)> {
    let all = server.requests();
    let of = all.iter().filter(|r| r.method == "POST" && r.header("mcp-session-id") == Some(session));
    of.map(|r| (r.rpc(), r.json()["params"].clone())).collect()
}

#[tokio::test]
async fn a_new_session_is_told_what_the_old_one_knew() {
    let stateful = Stateful::new();
    let server = stateful.start().await;
    let mut client = Client::to(&server);
    client.open().await;
    for (id, method, params) in [
        (1, "resources/subscribe", json!({"uri": "a:1"})),
        (2, "logging/setLevel", json!({"level": "debug"})),
        (3, "resources/subscribe", json!({"uri": "no:such"})),
        (4, "resources/subscribe", json!({"uri": "a:2", "_meta": {"x": 1.0}})),
        (5, "logging/setLevel", json!({"level": "warning"})),
        (6, "resources/unsubscribe", json!({"uri": "a:1"})),
        (7, "resources/subscribe", json!({"uri": "a:3"})),
    ] {
        client.call(id, method, params).await;
    }
    // Cancelled before its answer: the client does not count on it.
    client.request(8, "hang", json!({})).await;
    client.notify("notifications/cancelled", json!({"requestId": 8})).await;
    stateful.forget();
    for id in 10..15 {
        client.request(id, "work", json!({})).await;
    }
    assert_eq!(client.recv_ids(5).await.len(), 5);
    let new = told(&server, "life1");
    assert_eq!(
        new[..4],
        [
            ("notifications/initialized".to_owned(), Value::Null),
            ("logging/setLevel".to_owned(), json!({"level": "warning"})),
            ("resources/subscribe".to_owned(), json!({"uri": "a:2", "_meta": {"x": 1.0}})),
            ("resources/subscribe".to_owned(), json!({"uri": "a:3"})),
        ]
    );
    let of_the_client = ["work", "notifications/cancelled"];
    assert!(new[4..].iter().all(|(method, _)| of_the_client.contains(&&**method)), "{new:?}");
    // Under ids of our own, whose answers nobody sees.
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn a_session_lost_before_it_was_initialized_is_initialized_once() {
    let stateful = Stateful::new();
    let server = stateful.start().await;
    let mut client = Client::to(&server);
    client.call(0, "initialize", json!({})).await;
    stateful.forget();
    client.notify("notifications/initialized", json!({})).await;
    server.saw(|all| streams(all) == 1).await;
    client.call(1, "work", json!({})).await;
    let new = told(&server, "life1");
    assert_eq!(new.iter().filter(|(method, _)| method == "notifications/initialized").count(), 1);
    stateful.say(&updated("a:1"));
    assert_eq!(client.recv().await, updated("a:1"));
}

#[tokio::test]
async fn a_client_that_only_waits_hears_from_a_server_that_was_restarted() {
    let stateful = Stateful::new();
    let server = stateful.start().await;
    let target = server.target();
    let named = target.clone();
    let mut client = Client::with(Options::default(), move |_, _| Ok(named.clone()));
    client.open().await;
    client.call(1, "resources/subscribe", json!({"uri": "a:1"})).await;
    server.saw(|all| streams(all) == 1).await;
    drop(server);
    // Somebody else starts it again.
    let server = stateful.start_again(&target).await;
    server.saw(|all| streams(all) == 2).await;
    assert_eq!(told(&server, "life1")[1].0, "resources/subscribe");
    stateful.say(&updated("a:1"));
    assert_eq!(client.recv().await, updated("a:1"));
    // It was never asked to be started.
    assert!(client.asked().iter().skip(1).all(|why| *why == Why::Look), "{:?}", client.asked());
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn a_client_that_only_waits_follows_a_server_that_has_moved_and_got_another_key() {
    let stateful = Stateful::new();
    let first = stateful.start().await;
    let (target, next): (Target, Arc<Mutex<Option<Target>>>) = (first.target(), Arc::default());
    let theirs = Arc::clone(&next);
    let mut client = Client::with(Options::default(), move |why, _| match (why, &*theirs.lock().unwrap()) {
        (Why::Start, _) => Ok(target.clone()),
        (Why::Look, Some(next)) => Ok(next.clone()),
        (Why::Look, None) => Err(LocateError::new(Reason::NotRunning, "down")),
        _ => panic!("asked for more than a look"),
    });
    client.open().await;
    client.call(1, "work", json!({})).await;
    first.saw(|all| streams(all) == 1).await;
    drop(first);
    // For a while there is nothing, and nobody starts it.
    crate::soon(async {
        while client.asked().len() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    stateful.forget();
    let second = stateful.start().await;
    second.set_key(Some(SharedKey::generate().unwrap()));
    *next.lock().unwrap() = Some(second.target());
    second.saw(|all| streams(all) == 2).await;
    stateful.say(&updated("a:1"));
    assert_eq!(client.recv().await, updated("a:1"));
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn a_key_changed_under_a_stream_that_then_breaks_is_looked_up() {
    let stateful = Stateful::new();
    let server = Arc::new(stateful.start().await);
    let theirs = Arc::clone(&server);
    let mut client = Client::with(Options::default(), move |_, _| Ok(theirs.target()));
    client.open().await;
    client.call(1, "work", json!({})).await;
    server.saw(|all| streams(all) == 1).await;
    server.set_key(Some(SharedKey::generate().unwrap()));
    server.hang_up();
    server.saw(|all| streams(all) == 2).await;
    stateful.say(&updated("a:1"));
    assert_eq!(client.recv().await, updated("a:1"));
    assert_eq!(client.asked(), [Why::Start, Why::Look]);
}

/// As the servers of the TypeScript SDK's examples have it.
#[tokio::test]
async fn a_server_that_says_400_of_a_lost_session_and_of_an_old_event() {
    let stateful = Stateful::new();
    let theirs = Arc::clone(&stateful);
    let server = Server::start(move |request| match theirs.answer(request) {
        _ if request.header("last-event-id").is_some() => status(400),
        Reply::Full { status: 404, .. } => status(400),
        reply => reply,
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    server.saw(|all| streams(all) == 1).await;
    stateful.say_raw(&format!("id: old\n{}", event(&updated("a:1"))));
    assert_eq!(client.recv().await, updated("a:1"));
    stateful.forget();
    server
        .saw(|all| all.iter().any(|r| r.method == "GET" && r.header("mcp-session-id") == Some("life1")))
        .await;
    client.call(1, "work", json!({})).await;
    stateful.say(&updated("a:2"));
    assert_eq!(client.recv().await, updated("a:2"));
    assert!(server.requests().iter().any(|r| r.header("last-event-id") == Some("old")));
}

#[tokio::test]
async fn a_server_that_says_404_for_405_keeps_its_session() {
    let server = Server::start(|request| match request.method.as_str() {
        "GET" => status(404),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    server.saw(|all| streams(all) == 1).await;
    for id in 1..20 {
        client.call(id, "work", json!({})).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(streams(&server.requests()), 1);
    assert_eq!(server.posted().iter().filter(|m| *m == "initialize").count(), 1);
}

#[tokio::test]
async fn a_server_that_loses_each_session_at_once_is_not_overrun() {
    let opened = AtomicBool::new(false);
    let server = Server::start(move |request| match request.method.as_str() {
        "GET" if opened.swap(true, Ordering::SeqCst) => status(404),
        "GET" => stream([]),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = server.posted().iter().filter(|m| *m == "initialize").count();
    assert!((2..6).contains(&begun), "{begun}");
    client.call(1, "work", json!({})).await;
}

#[tokio::test]
async fn requests_wait_for_a_server_that_is_restarted_and_sent_ones_are_lost_once() {
    let stateful = Stateful::new();
    let server = stateful.start().await;
    let target = server.target();
    let named = target.clone();
    let mut client = Client::with(Options::default(), move |_, _| Ok(named.clone()));
    client.open().await;
    client.call(1, "work", json!({})).await;
    for id in 10..20 {
        client.request(id, "hang", json!({})).await;
    }
    server.saw_rpc("hang", 10).await;
    drop(server);
    for _ in 0..10 {
        assert_eq!(failure(&client.recv().await), (-33002, "connection_lost"));
    }
    for id in 20..30 {
        client.request(id, "work", json!({})).await;
    }
    // Longer than one round of attempts takes.
    tokio::time::sleep(Duration::from_millis(900)).await;
    let server = stateful.start_again(&target).await;
    assert_eq!(client.recv_ids(10).await, (20..30).map(|id| json!(id)).collect::<Vec<_>>());
    assert_eq!(server.posted().iter().filter(|m| *m == "initialize").count(), 1);
    assert!(client.end().await.is_empty());
    assert_eq!(server.posted().iter().filter(|m| *m == "hang").count(), 0);
}

#[tokio::test]
async fn a_supervisor_that_hangs_up_while_it_ends_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut target = Server::start(usual).await.target();
    target.addr = addr;
    let key = target.key.clone();
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    client.request(1, "work", json!({})).await;
    for _ in 0..4 {
        drop(crate::soon(listener.accept()).await.unwrap());
    }
    let server = Server::start_on(listener, usual);
    server.set_key(key);
    assert_eq!(client.recv().await["result"], json!({}));
}

#[tokio::test]
async fn an_answer_to_a_lost_session_does_not_reach_the_next_one() {
    let stateful = Stateful::new();
    let server = stateful.start().await;
    let mut client = Client::to(&server);
    client.open().await;
    client.call(1, "work", json!({})).await;
    server.saw(|all| streams(all) == 1).await;
    stateful.say(&json!({"jsonrpc": "2.0", "id": 0, "method": "sampling/createMessage"}));
    assert_eq!(client.recv().await["method"], "sampling/createMessage");
    stateful.forget();
    client.call(2, "work", json!({})).await;
    server
        .saw(|all| streams(all) >= 2 && all.iter().any(|r| r.header("mcp-session-id") == Some("life1")))
        .await;
    client.send(json!({"jsonrpc": "2.0", "id": 0, "result": "sampled"})).await;
    client.notify("notifications/last", json!({})).await;
    server.saw_rpc("notifications/last", 1).await;
    assert!(server.requests().iter().all(|r| r.json()["result"] != "sampled"));
}

#[tokio::test]
async fn a_server_is_left_alone_for_as_long_as_it_wishes() {
    let wish = Duration::from_millis(400);
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => cut_stream(["id: 1\nretry: 400\ndata:\n\n"]),
        _ => stream([&*event(&json!({"jsonrpc": "2.0", "id": 1, "result": {}}))]),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(1, "work", json!({})).await;
    server.saw_rpc("work", 1).await;
    let since = Instant::now();
    assert_eq!(client.recv().await["result"], json!({}));
    assert!(since.elapsed() >= wish - Duration::from_millis(50), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_server_that_ends_each_stream_without_a_word_is_not_overrun() {
    let server = Server::start(move |request| match request.method.as_str() {
        "POST" => cut_stream(["id: 1\nretry: 0\ndata:\n\n"]),
        _ => stream([]),
    })
    .await;
    let mut client = Client::to(&server);
    client.request(1, "work", json!({})).await;
    server.saw(|all| streams(all) == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = streams(&server.requests());
    assert!(asked < 8, "{asked}");
    // The request is not given up: a server may say nothing for as long as it works.
    assert_eq!(failure(&client.end().await[0]), (-33007, "shutting_down"));
}

/// Found as a workload that came back after its supervisor was told to end: nobody had asked for anything.
#[tokio::test]
async fn regression_a_connection_made_ahead_has_the_workload_started_at_most_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = Server::start(usual).await.target();
    target.addr = listener.local_addr().unwrap();
    let client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    for _ in 0..2 {
        drop(crate::soon(listener.accept()).await.unwrap());
    }
    // A third would come at once.
    let third = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(third.is_err(), "{third:?}");
    assert_eq!(client.asked(), [Why::Start, Why::Look]);
    assert!(client.end().await.is_empty());
}

/// The new session was told before the old one had confirmed what the client wanted.
#[tokio::test]
async fn what_the_old_session_confirms_late_the_new_one_is_told() {
    let stateful = Stateful::new();
    let theirs = Arc::clone(&stateful);
    let (late, reply) = tokio::sync::oneshot::channel();
    let reply = Mutex::new(Some(reply));
    let server = Server::start(move |request| {
        let is_late = request.json()["params"]["uri"] == "a:late";
        match reply.lock().unwrap().take_if(|_| is_late) {
            Some(reply) => Reply::Later(reply),
            None => theirs.answer(request),
        }
    })
    .await;
    let mut client = Client::to(&server);
    client.open().await;
    client.request(1, "resources/subscribe", json!({"uri": "a:late"})).await;
    server.saw_rpc("resources/subscribe", 1).await;
    stateful.forget();
    client.call(2, "work", json!({})).await;
    assert!(!told(&server, "life1").iter().any(|(method, _)| method == "resources/subscribe"));
    let answer = json_reply(200, &json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    assert!(late.send(answer).is_ok());
    // Before the client hears of it.
    assert_eq!(client.recv().await["id"], 1);
    let last = told(&server, "life1").pop().unwrap();
    assert_eq!(last, ("resources/subscribe".to_owned(), json!({"uri": "a:late"})));
    assert!(client.end().await.is_empty());
}

/// The relay makes a connection ahead; the first request may come before that is ready.
#[tokio::test]
async fn a_connection_made_ahead_and_the_first_request_ask_once() {
    for _ in 0..20 {
        let server = Server::start(usual).await;
        let mut client = Client::to(&server);
        client.call(1, "work", json!({})).await;
        client.call(2, "work", json!({})).await;
        assert_eq!(client.asked(), [Why::Start]);
        assert!(server.connections() <= 2, "{}", server.connections());
        assert!(client.end().await.is_empty());
    }
    // Nor do they ask one after the other about what neither of them finds.
    let mut client =
        Client::with(Options::default(), |_, _| Err(LocateError::new(Reason::KeychainLocked, "locked")));
    assert_eq!(failure(&client.call(1, "work", json!({})).await), (-33001, "keychain_locked"));
    assert!(client.asked().len() <= 2, "{:?}", client.asked());
}

/// Found while the transport of 2024-11-05 was built: what was left of the first request answered the second.
#[tokio::test]
async fn regression_a_request_that_is_done_does_not_answer_a_later_one_of_its_id() {
    let streams: Arc<Mutex<Vec<UnboundedSender<Piece>>>> = Arc::default();
    let theirs = Arc::clone(&streams);
    let server = Server::start(move |request| match request.rpc().as_str() {
        "work" => {
            let (sender, reply) = fed_stream();
            theirs.lock().unwrap().push(sender);
            reply
        }
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    let say = |at: usize, piece| streams.lock().unwrap()[at].send(piece).unwrap();
    let answer = event(&json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    client.request(1, "work", json!({})).await;
    server.saw_rpc("work", 1).await;
    say(0, Piece::Data(answer.clone().into()));
    assert_eq!(client.recv().await["result"], json!({}));
    client.request(1, "work", json!({})).await;
    server.saw_rpc("work", 2).await;
    say(0, Piece::Cut);
    tokio::time::sleep(Duration::from_millis(50)).await;
    say(1, Piece::Data(answer.into()));
    assert_eq!(client.recv().await["result"], json!({}));
}
