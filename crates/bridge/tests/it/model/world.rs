//! The server of a history, with all that it remembers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use thv_bridge::{LocateError, Reason, Target, Transport};
use thv_keygen::SharedKey;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::history::{Trouble, Wrong};
use crate::server::{
    Piece, Reply, Request, Server, cut_stream, event, fed_stream, json_reply, result, status, stream,
};

/// The next `initialize`s, and how they fail.
#[derive(Clone, Copy)]
enum Begin {
    Status,
    Error,
    Cut,
}

#[derive(Default)]
struct State {
    /// Of the current session; 0 is none.
    session: usize,
    begins: Vec<Begin>,
    /// How often each request was taken.
    taken: HashMap<String, usize>,
    /// The notifications that were taken, in order.
    notified: Vec<u64>,
    /// Of the current session.
    subscribed: HashSet<String>,
    /// Questions, which a new server numbers anew, and answers that came to another session.
    asked: u64,
    misled: Vec<Value>,
    /// Requests that belong to no session, and what was wrong with how they came.
    alone: HashSet<String>,
    misplaced: Vec<String>,
    /// Messages that were answered with 404 once.
    not_found: HashSet<String>,
    /// It says 400 of a lost session.
    says_400: bool,
    /// The server's own stream.
    stream: Option<UnboundedSender<Piece>>,
    said: u64,
    /// From now on nothing goes wrong any more.
    calm: bool,
}

/// What is on the network.
struct Place {
    server: Option<Server>,
    /// What the next questions for the place are answered, before the truth is told.
    stale: Vec<Target>,
    /// Keys that went over connections on which they were not proved, to servers that are gone.
    unproved: usize,
    strangers: Vec<Arc<Mutex<Vec<u8>>>>,
    keys: Vec<SharedKey>,
}

pub(crate) struct World {
    transport: Transport,
    state: Mutex<State>,
    place: Mutex<Place>,
}

impl State {
    /// What was is forgotten.
    fn forget(&mut self) {
        self.session += 1;
        self.stream = None;
        self.subscribed.clear();
        self.asked = 0;
    }
}

impl World {
    pub(crate) async fn new(transport: Transport) -> Arc<Self> {
        let place = Place {
            server: None,
            stale: Vec::new(),
            unproved: 0,
            strangers: Vec::new(),
            keys: vec![SharedKey::from_bytes([1; 32])],
        };
        let world = Arc::new(Self { transport, state: Mutex::default(), place: Mutex::new(place) });
        world.settle().await;
        world
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap()
    }

    /// Starts the server at a new place.
    async fn settle(self: &Arc<Self>) {
        let theirs = Arc::clone(self);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start_on(listener, move |request| theirs.reply(request));
        let mut place = self.place();
        server.set_key(place.keys.last().cloned());
        place.server = Some(server);
    }

    /// Where the server is, as a `Locate` would say.
    pub(crate) fn locate(&self) -> Result<Target, LocateError> {
        let mut place = self.place();
        if let Some(stale) = place.stale.pop() {
            return Ok(stale);
        }
        let gone = || LocateError::new(Reason::NotRunning, "it is gone");
        place.server.as_ref().map(|server| self.target(server)).ok_or_else(gone)
    }

    fn target(&self, server: &Server) -> Target {
        let path = if self.transport == Transport::Sse { "/sse" } else { "/mcp" };
        Target { path: path.into(), transport: self.transport, ..server.target() }
    }

    /// Ends the server; what it saw is kept.
    fn vanish(&self) -> Option<Target> {
        let server = {
            let mut place = self.place();
            let server = place.server.take()?;
            place.unproved += server.unproved();
            server
        };
        self.forget();
        Some(self.target(&server))
    }

    pub(crate) async fn befalls(self: &Arc<Self>, trouble: Trouble) {
        match trouble {
            Trouble::HangUp => self.hang_up(),
            Trouble::Forget => self.forget(),
            Trouble::Restart => {
                self.forget();
                self.hang_up();
            }
            Trouble::Move => {
                if let Some(old) = self.vanish() {
                    // The port is free once the accepting task was run for the last time.
                    tokio::task::yield_now().await;
                    if let Ok(listener) = TcpListener::bind(old.addr).await {
                        let heard = Arc::default();
                        self.place().strangers.push(Arc::clone(&heard));
                        tokio::spawn(stranger(listener, heard));
                    }
                    self.place().stale.push(old);
                }
                self.settle().await;
            }
            Trouble::Vanish => {
                self.vanish();
                tokio::time::sleep(Duration::from_millis(700)).await;
                self.settle().await;
            }
            Trouble::Rekey => {
                let mut place = self.place();
                let number = u8::try_from(place.keys.len() + 1).unwrap();
                let key = SharedKey::from_bytes([number; 32]);
                if let Some(server) = &place.server {
                    server.set_key(Some(key.clone()));
                }
                place.keys.push(key);
            }
            Trouble::RefuseOnce | Trouble::RefuseTwice => {
                let times = if trouble == Trouble::RefuseOnce { 1 } else { 2 };
                if let Some(server) = &self.place().server {
                    server.refuse_keys(times);
                }
            }
            Trouble::NoBegin => self.state().begins.push(Begin::Status),
            Trouble::BadBegin => self.state().begins.push(Begin::Error),
            Trouble::CutBegin => self.state().begins.push(Begin::Cut),
            Trouble::CutStream => {
                if let Some(stream) = self.state().stream.take() {
                    let _ = stream.send(Piece::Cut);
                }
            }
            Trouble::Say => self.say(),
            Trouble::OtherRefusal => {
                let mut state = self.state();
                state.says_400 = !state.says_400;
            }
        }
    }

    fn hang_up(&self) {
        if let Some(server) = &self.place().server {
            server.hang_up();
        }
    }

    fn forget(&self) {
        self.state().forget();
    }

    fn say(&self) {
        let mut state = self.state();
        state.said += 1;
        let message =
            json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": state.said}});
        if let Some(stream) = &state.stream {
            let _ = stream.send(Piece::Data(event(&message).into()));
        }
    }

    /// Nothing goes wrong from now on.
    pub(crate) async fn calm(self: &Arc<Self>) {
        {
            let mut state = self.state();
            state.calm = true;
            state.begins.clear();
        }
        let is_gone = {
            let mut place = self.place();
            place.stale.clear();
            if let Some(server) = &place.server {
                server.refuse_keys(0);
            }
            place.server.is_none()
        };
        if is_gone {
            self.settle().await;
        }
    }

    /// Lets go of the server, which knows this world as this world knows it.
    pub(crate) fn end(&self) {
        self.vanish();
    }

    /// Whether the current session has this subscription.
    pub(crate) fn is_subscribed(&self, uri: &str) -> bool {
        self.state().subscribed.contains(uri)
    }

    /// What must hold at the server's end.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (state, place) = (self.state(), self.place());
        if let Some((id, times)) = state.taken.iter().find(|(_, times)| **times > 1) {
            return Err(format!("request {id} was executed {times} times"));
        }
        if !state.notified.is_sorted_by(|a, b| a < b) {
            return Err(format!("notifications came as {:?}", state.notified));
        }
        let unproved = place.unproved + place.server.as_ref().map_or(0, Server::unproved);
        if unproved > 0 {
            return Err(format!("{unproved} keys went over unproved connections"));
        }
        if let Some(answer) = state.misled.first() {
            return Err(format!("an answer reached another session than the one that asked: {answer}"));
        }
        if let Some(message) = state.misplaced.first() {
            return Err(format!("what belongs to no session came otherwise: {message}"));
        }
        for heard in &place.strangers {
            let text = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
            if place.keys.iter().any(|key| text.contains(key.expose_text().as_str())) || text.contains("POST")
            {
                return Err(format!("a stranger heard {text}"));
            }
        }
        Ok(())
    }

    fn reply(self: &Arc<Self>, request: &Request) -> Reply {
        let message = request.json();
        let is_sse = self.transport == Transport::Sse;
        let mut state = self.state();
        let session = state.session.to_string();
        if request.method == "DELETE" {
            return status(200);
        }
        if request.method == "GET" && is_sse {
            state.forget();
            let (sender, reply) = fed_stream();
            let endpoint = format!("event: endpoint\ndata: /messages?session={}\n\n", state.session);
            sender.send(Piece::Data(endpoint.into())).unwrap();
            state.stream = Some(sender);
            return reply;
        }
        let belongs = if is_sse {
            request.path == format!("/messages?session={session}")
        } else {
            request.header("mcp-session-id") == Some(&session)
        };
        let is_alone = !is_sse && message["params"].get("_meta").is_some();
        if is_alone {
            state.alone.insert(format!("yes{}", request.id()));
            if request.header("mcp-session-id").is_some() || crate::modern::refusal(request).is_some() {
                state.misplaced.push(format!("{request:?}"));
            }
        }
        let belongs = belongs || is_alone;
        if request.rpc() == "initialize" && (belongs || !is_sse) {
            let refusal = json!({"code": -32603, "message": "not now"});
            let refusal = json!({"jsonrpc": "2.0", "id": message["id"], "error": refusal});
            return match state.begins.pop() {
                Some(Begin::Status) => status(503),
                Some(Begin::Cut) => Reply::Cut,
                Some(Begin::Error) => self.answer(&state, &refusal),
                None => self.begin(&mut state, request),
            };
        }
        if !belongs {
            return self.no_session(&state);
        }
        if let Some(parts) = message.as_array() {
            return self.work_batch(&mut state, parts);
        }
        if request.method == "GET" {
            return match request.header("last-event-id") {
                Some(id) => {
                    if state.alone.contains(id) {
                        state.misplaced.push(format!("{request:?}"));
                    }
                    resumed(id)
                }
                None => {
                    let (sender, reply) = fed_stream();
                    state.stream = Some(sender);
                    reply
                }
            };
        }
        let wrong = message["params"]["wrong"].as_u64().map_or(Wrong::Nothing, |n| Wrong::ALL[n as usize]);
        let wrong = if state.calm { Wrong::Nothing } else { wrong };
        // Refused before it was looked at.
        if wrong == Wrong::NotFound && state.not_found.insert(message.to_string()) {
            return self.no_session(&state);
        }
        if let Some(of) = message["result"]["session"].as_u64()
            && of != state.session as u64
        {
            state.misled.push(message.clone());
        }
        let uri = message["params"]["uri"].as_str().unwrap_or_default().to_owned();
        match request.rpc().as_str() {
            method @ ("resources/subscribe" | "resources/unsubscribe") => {
                if method == "resources/subscribe" {
                    state.subscribed.insert(uri);
                } else {
                    state.subscribed.remove(&uri);
                }
                let done = json!({"jsonrpc": "2.0", "id": message["id"], "result": {}});
                self.answer(&state, &done)
            }
            "work" => {
                *state.taken.entry(message["id"].to_string()).or_default() += 1;
                self.work(&mut state, request, wrong)
            }
            "notifications/x" => {
                let taken = !matches!(wrong, Wrong::Unauthorized | Wrong::Unavailable | Wrong::BadRequest);
                if taken {
                    state.notified.push(message["params"]["n"].as_u64().unwrap());
                }
                match wrong {
                    Wrong::Unauthorized => status(401),
                    Wrong::Unavailable => status(503),
                    Wrong::BadRequest => status(400),
                    Wrong::Reset => Reply::Cut,
                    Wrong::HalfHead => Reply::Raw(b"HTTP/1.1 202".into()),
                    Wrong::Slow => later(status(202)),
                    _ => status(202),
                }
            }
            _ => status(202),
        }
    }

    /// The session is lost.
    fn no_session(&self, state: &State) -> Reply {
        if !state.says_400 || self.transport == Transport::Sse {
            return status(404);
        }
        let error = json!({"code": -32000, "message": "Bad Request: No valid session ID provided"});
        json_reply(400, &json!({"jsonrpc": "2.0", "id": null, "error": error}))
    }

    /// What goes wrong with a whole batch goes wrong, and all else goes well.
    fn work_batch(&self, state: &mut State, parts: &[Value]) -> Reply {
        let wrong = parts[0]["params"]["wrong"].as_u64().map_or(Wrong::Nothing, |n| Wrong::ALL[n as usize]);
        let wrong = if state.calm { Wrong::Nothing } else { wrong };
        if wrong == Wrong::NotFound && state.not_found.insert(parts[0].to_string()) {
            return self.no_session(state);
        }
        let mut answers = Vec::new();
        for part in parts {
            *state.taken.entry(part["id"].to_string()).or_default() += 1;
            answers.push(json!({"jsonrpc": "2.0", "id": part["id"], "result": {"of": part["id"]}}));
        }
        match wrong {
            Wrong::Reset => return Reply::Cut,
            Wrong::HalfHead => return Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-".into()),
            Wrong::Unauthorized => return status(401),
            Wrong::Unavailable => return status(503),
            Wrong::Never => drop(answers.pop()),
            Wrong::Twice => answers.extend(answers.clone()),
            Wrong::ForNobody => answers.insert(0, json!({"jsonrpc": "2.0", "id": "nobody", "result": {}})),
            Wrong::HalfEvent if self.transport == Transport::Streamable => {
                return cut_stream([&*event(&answers[0]), &event(&answers[1])[..20]]);
            }
            _ => {}
        }
        if wrong == Wrong::Never && self.transport == Transport::Sse {
            // Its connection would have told.
            return status(503);
        }
        self.answer(state, &Value::from(answers))
    }

    fn begin(&self, state: &mut State, request: &Request) -> Reply {
        let begun = json!({"protocolVersion": "2025-11-25", "capabilities": {}});
        let begun = json!({"jsonrpc": "2.0", "id": request.id(), "result": begun});
        if self.transport == Transport::Sse {
            return self.answer(state, &begun);
        }
        state.forget();
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            ("mcp-session-id", state.session.to_string()),
        ];
        Reply::Full { status: 200, headers, body: begun.to_string().into_bytes() }
    }

    /// A message of the server's, by the way on which it belongs, and what the POST is replied.
    fn answer(&self, state: &State, message: &Value) -> Reply {
        if self.transport == Transport::Streamable {
            return json_reply(200, message);
        }
        if let Some(stream) = &state.stream {
            let _ = stream.send(Piece::Data(event(message).into()));
        }
        status(202)
    }

    fn work(self: &Arc<Self>, state: &mut State, request: &Request, wrong: Wrong) -> Reply {
        let id = request.id();
        let answer = json!({"jsonrpc": "2.0", "id": id, "result": {"of": id}});
        let nobody = json!({"jsonrpc": "2.0", "id": "nobody", "result": {}});
        let talk = |n: u64| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"of": id, "n": n}});
        state.asked += 1;
        let params = json!({"session": state.session});
        let question = json!({"jsonrpc": "2.0", "id": state.asked, "method": "sampling/createMessage", "params": params});
        let taken_back = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": state.asked}});
        let null_error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "no"}});
        match wrong {
            Wrong::Never if self.transport == Transport::Sse => return status(202),
            Wrong::Never => return Reply::Hang,
            Wrong::Reset => return Reply::Cut,
            Wrong::HalfHead => return Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-".into()),
            Wrong::HalfBody => {
                return Reply::Raw(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
                        .into(),
                );
            }
            Wrong::Unauthorized => return status(401),
            Wrong::Unavailable => return status(503),
            Wrong::BadRequest => return json_reply(400, &null_error),
            _ => {}
        }
        if self.transport == Transport::Sse {
            if wrong == Wrong::AskInVain {
                self.hear(state, Wrong::Nothing, &question, &nobody, &[talk(0), talk(1)]);
                self.hear(state, Wrong::Nothing, &taken_back, &nobody, &[talk(0), talk(1)]);
            }
            if wrong == Wrong::Ask {
                self.hear(state, Wrong::Nothing, &question, &nobody, &[talk(0), talk(1)]);
            }
            self.hear(state, wrong, &answer, &nobody, &[talk(0), talk(1)]);
            return status(202);
        }
        let half = &event(&answer)[..20];
        match wrong {
            Wrong::Talk => stream([&*event(&talk(0)), &*event(&talk(1)), &*event(&answer)]),
            Wrong::Slow => later(result(request, &json!({"of": id}))),
            Wrong::HalfEvent => cut_stream([&*event(&talk(0)), half]),
            Wrong::Resumable => cut_stream([&*format!("id: yes{id}\ndata:\n\n"), half]),
            Wrong::NotResumable => cut_stream([&*format!("retry: 10\nid: no\n{}", event(&talk(0)))]),
            Wrong::Twice => stream([&*event(&answer), &*event(&answer)]),
            Wrong::ForNobody => stream([&*event(&nobody), &*event(&answer)]),
            Wrong::OnlyForNobody => json_reply(200, &nobody),
            Wrong::Ask => stream([&*event(&question), &*event(&answer)]),
            Wrong::AskInVain => stream([&*event(&question), &*event(&taken_back), &*event(&answer)]),
            _ => json_reply(200, &answer),
        }
    }

    /// What is heard on the stream of the old transport.
    fn hear(&self, state: &State, wrong: Wrong, answer: &Value, nobody: &Value, talk: &[Value; 2]) {
        let Some(stream) = state.stream.clone() else { return };
        let say = |text: String| drop(stream.send(Piece::Data(text.into())));
        match wrong {
            Wrong::Talk => say(event(&talk[0]) + &event(&talk[1]) + &event(answer)),
            Wrong::HalfEvent | Wrong::Resumable | Wrong::NotResumable => {
                say(event(&talk[0]) + &event(answer)[..20]);
                let _ = stream.send(Piece::Cut);
            }
            Wrong::Twice => say(event(answer) + &event(answer)),
            Wrong::ForNobody => say(event(nobody) + &event(answer)),
            Wrong::OnlyForNobody => say(event(nobody)),
            Wrong::Slow => {
                let text = event(answer);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    let _ = stream.send(Piece::Data(text.into()));
                });
            }
            _ => say(event(answer)),
        }
    }
}

fn later(reply: Reply) -> Reply {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = sender.send(reply);
    });
    Reply::Later(receiver)
}

/// What follows the event of this id.
fn resumed(last: &str) -> Reply {
    match last.strip_prefix("yes").and_then(|id| serde_json::from_str::<Value>(id).ok()) {
        Some(id) => stream([&*event(&json!({"jsonrpc": "2.0", "id": id, "result": {"of": id}}))]),
        None => status(400),
    }
}

/// Somebody who accepts what comes and answers 200 to it.
async fn stranger(listener: TcpListener, heard: Arc<Mutex<Vec<u8>>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    while let Ok((mut stream, _)) = listener.accept().await {
        let heard = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                heard.lock().unwrap().extend_from_slice(&bytes[..count]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        });
    }
}
