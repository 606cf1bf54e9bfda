//! Servers of the 2024-11-05 transport.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use thv_bridge::{Options, Target, Transport, Why};
use tokio::sync::mpsc::UnboundedSender;

use crate::client::Client;
use crate::failure;
use crate::server::{Piece, Reply, Request, Server, event, fed_stream, json_reply, status, stream};

/// A server of the old kind: each GET is a session, and ends the one before it.
#[derive(Default)]
pub(crate) struct Old {
    sessions: Mutex<Vec<UnboundedSender<Piece>>>,
}

impl Old {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) async fn start(self: &Arc<Self>) -> Server {
        let theirs = Arc::clone(self);
        Server::start(move |request| theirs.reply(request)).await
    }

    /// Says something on the stream of the current session.
    pub(crate) fn say(&self, message: &Value) {
        self.raw(event(message));
    }

    fn raw(&self, text: impl Into<Vec<u8>>) {
        let _ = self.sessions.lock().unwrap().last().unwrap().send(Piece::Data(text.into()));
    }

    /// Breaks the current stream off; the session is lost with it.
    fn cut(&self) {
        let _ = self.sessions.lock().unwrap().last().unwrap().send(Piece::Cut);
    }

    fn count(&self) -> usize {
        self.sessions.lock().unwrap().len()
    }

    fn reply(&self, request: &Request) -> Reply {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/sse") => {
                let (sender, reply) = fed_stream();
                let mut sessions = self.sessions.lock().unwrap();
                let endpoint = format!("event: endpoint\ndata: /messages/?session={}\n\n", sessions.len());
                sender.send(Piece::Data(endpoint.into())).unwrap();
                sessions.push(sender);
                reply
            }
            ("POST", path) if path == format!("/messages/?session={}", self.count().wrapping_sub(1)) => {
                self.take(request)
            }
            ("POST", _) => status(404),
            _ => status(405),
        }
    }

    fn take(&self, request: &Request) -> Reply {
        let message = request.json();
        let answer = |result: Value| json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
        match (request.rpc().as_str(), message.get("id")) {
            ("initialize", _) => {
                self.say(&answer(json!({"protocolVersion": "2024-11-05", "capabilities": {}})));
            }
            ("silent", _) => {}
            ("refused", _) => {
                let error = json!({"code": -32602, "message": "no such thing"});
                return json_reply(400, &json!({"jsonrpc": "2.0", "id": null, "error": error}));
            }
            ("hang", _) => return Reply::Hang,
            (_, None) | ("", _) => {}
            _ => self.say(&answer(message["params"].clone())),
        }
        // The body means nothing.
        let headers = vec![("content-type", "text/plain".to_owned())];
        Reply::Full { status: 202, headers, body: b"Accepted".to_vec() }
    }
}

pub(crate) fn target(server: &Server) -> Target {
    Target { path: "/sse".into(), transport: Transport::Sse, ..server.target() }
}

fn client(server: &Server) -> Client {
    let target = target(server);
    Client::with(Options::default(), move |_, _| Ok(target.clone()))
}

fn params() -> Value {
    json!({"protocolVersion": "2024-11-05", "capabilities": {"x": 1.0}, "clientInfo": {"name": "c"}})
}

pub(crate) async fn open(client: &mut Client) {
    let answer = client.call(0, "initialize", params()).await;
    assert_eq!(answer["result"]["protocolVersion"], "2024-11-05", "{answer}");
    client.notify("notifications/initialized", json!({})).await;
}

fn gets(all: &[Request]) -> usize {
    all.iter().filter(|r| r.method == "GET").count()
}

#[tokio::test]
async fn a_session_from_initialize_to_its_end() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    assert_eq!(client.call("a", "tools/call", json!({"n": 1.0})).await["result"], json!({"n": 1.0}));
    old.say(&json!({"jsonrpc": "2.0", "id": 5, "method": "ping"}));
    assert_eq!(client.recv().await["method"], "ping");
    client.send(json!({"jsonrpc": "2.0", "id": 5, "result": {}})).await;
    server.saw(|all| all.iter().any(|r| r.id() == 5)).await;
    assert!(client.end().await.is_empty());

    let all = server.requests();
    let key = server.key().unwrap();
    assert_eq!((all[0].method.as_str(), all[0].path.as_str()), ("GET", "/sse"));
    assert_eq!(all[0].header("accept"), Some("text/event-stream"));
    for request in &all {
        assert_eq!(request.header("x-toolhive-auth"), Some(key.expose_text().as_str()));
        assert_eq!(request.header("host"), Some(&*server.addr.to_string()));
    }
    assert!(all[1..].iter().all(|r| r.method == "POST" && r.path == "/messages/?session=0"));
    assert!(all[1..].iter().all(|r| r.connection != all[0].connection));
    assert_eq!(server.posted(), ["initialize", "notifications/initialized", "tools/call", ""]);
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_stream_and_notifications_before_them() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    for id in 1..=30 {
        client.request(id, "silent", json!({})).await;
    }
    server.saw_rpc("silent", 30).await;
    for id in (1..=30).rev() {
        old.say(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": id}}));
        old.say(&json!({"jsonrpc": "2.0", "id": id, "result": {}}));
        // Again, and to nobody.
        old.say(&json!({"jsonrpc": "2.0", "id": id, "result": "again"}));
    }
    for id in (1..=30).rev() {
        assert_eq!(client.recv().await["params"]["progress"], id);
        assert_eq!(client.recv().await["id"], id);
    }
    for n in 0..20 {
        client.notify("notifications/x", json!({"n": n})).await;
    }
    assert!(client.end().await.is_empty());
    let seen: Vec<Value> = server
        .requests()
        .iter()
        .filter(|r| r.rpc() == "notifications/x")
        .map(|r| r.json()["params"]["n"].clone())
        .collect();
    assert_eq!(seen, (0..20).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn where_messages_are_posted_may_be_named_in_full_or_in_part() {
    for named in ["/elsewhere?s=1", "elsewhere?s=1", "http://AUTHORITY/elsewhere?s=1"] {
        let posted: Arc<Mutex<Option<UnboundedSender<Piece>>>> = Arc::default();
        let theirs = Arc::clone(&posted);
        let server = Server::start(move |request| {
            if request.method == "GET" {
                let (sender, reply) = fed_stream();
                let named = named.replace("AUTHORITY", request.header("host").unwrap());
                sender
                    .send(Piece::Data(
                        format!(": hello\n\nretry: 5\n\nevent: endpoint\ndata: {named}\n\n").into(),
                    ))
                    .unwrap();
                *theirs.lock().unwrap() = Some(sender);
                return reply;
            }
            let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": {}});
            theirs.lock().unwrap().as_ref().unwrap().send(Piece::Data(event(&answer).into())).unwrap();
            status(200)
        })
        .await;
        let mut client = client(&server);
        client.call(1, "work", json!({})).await;
        assert_eq!(server.requests()[1].path, "/elsewhere?s=1", "{named}");
    }
}

#[tokio::test]
async fn a_server_that_names_another_place_is_sent_nothing() {
    let elsewhere = Server::start(|_| status(202)).await;
    let place = format!("event: endpoint\ndata: http://{}/messages\n\n", elsewhere.addr);
    for first in [
        place,
        "event: endpoint\ndata: https://example.org/messages\n\n".to_owned(),
        "event: endpoint\ndata: //example.org/messages\n\n".to_owned(),
        event(&json!({"jsonrpc": "2.0", "method": "notifications/x"})),
    ] {
        let server = Server::start(move |_| {
            let (sender, reply) = fed_stream();
            sender.send(Piece::Data(first.clone().into())).unwrap();
            // It stays open.
            std::mem::forget(sender);
            reply
        })
        .await;
        let mut client = client(&server);
        let answer = client.call(1, "initialize", params()).await;
        assert_eq!(failure(&answer), (-33005, "upstream_http"));
        assert_eq!(server.posted(), Vec::<String>::new());
        assert!(client.end().await.is_empty());
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn a_server_that_opens_no_stream_is_told_with_its_status() {
    for refusal in [401, 404, 405, 500, 307] {
        let server = Server::start(move |_| Reply::Full {
            status: refusal,
            headers: vec![("location", "/other".into())],
            body: b"no".to_vec(),
        })
        .await;
        let mut client = client(&server);
        let answer = client.call(1, "initialize", params()).await;
        assert_eq!(failure(&answer), (-33005, "upstream_http"));
        assert_eq!(answer["error"]["data"]["httpStatus"], refusal);
        assert_eq!(server.requests().len(), 1);
    }
    // One that opens it and ends it without a word, as often as it is asked.
    let server = Server::start(|_| stream([])).await;
    let mut client = client(&server);
    let answer = client.call(1, "initialize", params()).await;
    assert_eq!(failure(&answer), (-33004, "not_running"));
    assert!(answer["error"]["message"].as_str().unwrap().contains("was not sent"), "{answer}");
    assert!(server.posted().is_empty());
}

#[tokio::test]
async fn a_refused_message_is_answered_with_the_servers_own_words() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    let answer = client.call(7, "refused", json!({})).await;
    assert_eq!(answer["error"], json!({"code": -32602, "message": "no such thing"}));
    client.call(8, "work", json!({})).await;
    assert_eq!(old.count(), 1);
}

#[tokio::test]
async fn when_the_stream_breaks_what_was_posted_is_lost_and_the_session_begun_anew() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    client.call(1, "logging/setLevel", json!({"level": "error"})).await;
    client.call(2, "resources/subscribe", json!({"uri": "a:1"})).await;
    client.call(3, "resources/subscribe", json!({"uri": "a:2"})).await;
    client.call(4, "resources/unsubscribe", json!({"uri": "a:1"})).await;
    for id in 10..15 {
        client.request(id, "silent", json!({})).await;
    }
    // This one is posted, and its POST never answered.
    client.request(15, "hang", json!({})).await;
    server.saw(|all| all.iter().filter(|r| ["silent", "hang"].contains(&&*r.rpc())).count() == 6).await;
    old.raw("data: {\"jsonrpc\":\"2.0\",\"id\":10,");
    old.cut();
    let mut lost = Vec::new();
    for _ in 0..6 {
        let answer = client.recv().await;
        assert_eq!(failure(&answer), (-33002, "connection_lost"));
        lost.push(answer["id"].as_u64().unwrap());
    }
    lost.sort_unstable();
    assert_eq!(lost, (10..16).collect::<Vec<_>>());

    // At once, without a further request.
    server.saw_rpc("resources/subscribe", 3).await;
    let again: Vec<(String, Value)> = server
        .requests()
        .iter()
        .filter(|r| r.path == "/messages/?session=1")
        .map(|r| (r.rpc(), r.json()["params"].clone()))
        .collect();
    assert_eq!(
        again,
        [
            ("initialize".to_owned(), params()),
            ("notifications/initialized".to_owned(), Value::Null),
            ("logging/setLevel".to_owned(), json!({"level": "error"})),
            ("resources/subscribe".to_owned(), json!({"uri": "a:2"})),
        ]
    );
    old.say(&json!({"jsonrpc": "2.0", "method": "notifications/resources/updated"}));
    assert_eq!(client.recv().await["method"], "notifications/resources/updated");
    client.call(20, "work", json!({})).await;
    assert!(client.end().await.is_empty());
    assert_eq!(old.count(), 2);
}

#[tokio::test]
async fn a_session_that_the_server_forgot_is_begun_anew_once_for_all() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    client.call(1, "work", json!({})).await;
    // Another stream is the current one now; messages for the relay's are answered with 404.
    let (sender, _kept) = fed_stream();
    old.sessions.lock().unwrap().push(sender);
    for id in 10..20 {
        client.request(id, "work", json!({})).await;
    }
    assert_eq!(client.recv_ids(10).await, (10..20).map(|id| json!(id)).collect::<Vec<_>>());
    assert_eq!(server.posted().iter().filter(|m| *m == "initialize").count(), 2);
    assert_eq!(gets(&server.requests()), 2);
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn without_a_session_a_stream_is_opened_again_by_the_next_request() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    client.call("probe", "server/discover", json!({})).await;
    client.request(1, "silent", json!({})).await;
    server.saw_rpc("silent", 1).await;
    old.cut();
    assert_eq!(failure(&client.recv().await), (-33002, "connection_lost"));
    assert_eq!(old.count(), 1);
    open(&mut client).await;
    assert_eq!(old.count(), 2);
    assert_eq!(server.posted().iter().filter(|m| *m == "initialize").count(), 1);
    client.call(2, "work", json!({})).await;
}

#[tokio::test]
async fn a_client_that_begins_again_gets_a_stream_of_its_own() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    client.call(1, "work", json!({})).await;
    open(&mut client).await;
    client.call(2, "work", json!({})).await;
    assert_eq!(old.count(), 2);
    assert_eq!(server.posted().iter().filter(|m| *m == "initialize").count(), 2);
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn a_workload_that_moved_is_followed_by_a_client_that_only_waits() {
    let (first, second) = (Old::new(), Old::new());
    let (there, moved) = (first.start().await, second.start().await);
    let (target, next) = (target(&there), target(&moved));
    let mut client = Client::with(Options::default(), move |why, _| match why {
        Why::Start => Ok(target.clone()),
        _ => Ok(next.clone()),
    });
    open(&mut client).await;
    there.saw_rpc("notifications/initialized", 1).await;
    client.call(1, "work", json!({})).await;
    drop(there);
    moved.saw_rpc("notifications/initialized", 1).await;
    second.say(&json!({"jsonrpc": "2.0", "method": "notifications/x"}));
    assert_eq!(client.recv().await["method"], "notifications/x");
    client.call(2, "work", json!({})).await;
    // Nothing but looks: what is down stays down.
    assert_eq!(client.asked(), [Why::Start, Why::Look]);
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn an_answer_to_a_lost_session_does_not_reach_the_next_one() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    client.call(1, "work", json!({})).await;
    old.say(&json!({"jsonrpc": "2.0", "id": 0, "method": "sampling/createMessage"}));
    assert_eq!(client.recv().await["method"], "sampling/createMessage");
    old.cut();
    server.saw_rpc("notifications/initialized", 2).await;
    old.say(&json!({"jsonrpc": "2.0", "id": 0, "method": "roots/list"}));
    assert_eq!(client.recv().await["method"], "roots/list");
    client.send(json!({"jsonrpc": "2.0", "id": 0, "result": "sampled"})).await;
    client.send(json!({"jsonrpc": "2.0", "id": 0, "result": "roots"})).await;
    server.saw(|all| all.iter().any(|r| r.json()["result"] == "roots")).await;
    assert!(server.requests().iter().all(|r| r.json()["result"] != "sampled"));
}

#[tokio::test]
async fn a_cancelled_request_is_given_up() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    client.request("x", "silent", json!({})).await;
    server.saw_rpc("silent", 1).await;
    client.notify("notifications/cancelled", json!({"requestId": "x"})).await;
    server.saw_rpc("notifications/cancelled", 1).await;
    old.say(&json!({"jsonrpc": "2.0", "id": "x", "result": "late"}));
    client.call(2, "work", json!({})).await;
    assert!(client.end().await.is_empty());
}

#[tokio::test]
async fn an_answer_over_the_limit_is_told() {
    let old = Old::new();
    let server = old.start().await;
    let target = target(&server);
    let options = Options { max_answer_bytes: 200, ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    let answer = client.call(1, "work", json!({"pad": "x".repeat(300)})).await;
    assert_eq!(failure(&answer), (-33006, "too_large"));
    client.call(2, "work", json!({})).await;
}

#[tokio::test]
async fn ten_thousand_requests_at_once_are_all_answered() {
    let old = Old::new();
    let server = old.start().await;
    let mut client = client(&server);
    open(&mut client).await;
    let mut lines = Vec::new();
    for id in 1..=10_000 {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"work\",\"params\":{{}}}}\n");
        lines.extend_from_slice(line.as_bytes());
    }
    client.write(&lines).await;
    let ids = client.recv_ids(10_000).await;
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(old.count(), 1);
}

#[tokio::test]
async fn a_changed_key_is_followed() {
    let old = Old::new();
    let server = Arc::new(old.start().await);
    let theirs = Arc::clone(&server);
    let mut client = Client::with(Options::default(), move |_, _| Ok(target(&theirs)));
    open(&mut client).await;
    client.call(1, "work", json!({})).await;
    server.set_key(Some(thv_keygen::SharedKey::generate().unwrap()));
    // The stream goes on; what is posted is posted with the new key.
    client.call(2, "work", json!({})).await;
    assert_eq!(old.count(), 1);
    assert_eq!(client.asked(), [Why::Start, Why::Refused]);
}
