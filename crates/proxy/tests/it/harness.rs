//! A host, its clients, and servers that the test plays.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use thv_proxy::Owner;
use thv_proxy::body::ResponseBody;
use thv_proxy::stdio::{Child, Options, OptionsError, Spawn, StdioHost, Stop};
use thv_wire::message::{Incoming, peek};
use thv_wire::modern::{Envelope, headers};
use thv_wire::sse::{Event, EventDecoder};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt;

/// Bytes that a pipe of a played server holds.
pub(crate) const PIPE: usize = 64 * 1024;

/// Hands each server that is to be started to the test.
pub(crate) struct Script {
    servers: mpsc::UnboundedSender<Server>,
    start: Start,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Start {
    Works,
    Fails,
    Hangs,
}

pub(crate) struct Stopped(watch::Sender<bool>);

impl Stop for Stopped {
    async fn stop(self) {
        self.0.send_replace(true);
    }
}

impl Spawn for Script {
    type Stdin = DuplexStream;
    type Stdout = DuplexStream;
    type Stop = Stopped;

    async fn spawn(&self) -> io::Result<Child<DuplexStream, DuplexStream, Stopped>> {
        match self.start {
            Start::Works => {}
            Start::Fails => return Err(io::Error::new(io::ErrorKind::NotFound, "no such program")),
            Start::Hangs => std::future::pending().await,
        }
        let (stdin, input) = tokio::io::duplex(PIPE);
        let (output, stdout) = tokio::io::duplex(PIPE);
        let (stop, stopped) = watch::channel(false);
        self.servers
            .send(Server { input: BufReader::new(input), output, stopped })
            .map_err(io::Error::other)?;
        Ok(Child { stdin, stdout, stop: Stopped(stop) })
    }
}

/// A server, played by the test.
pub(crate) struct Server {
    pub(crate) input: BufReader<DuplexStream>,
    pub(crate) output: DuplexStream,
    pub(crate) stopped: watch::Receiver<bool>,
}

impl Server {
    /// The next message as text.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.input.read_line(&mut line).await.unwrap(), 0, "the input ended");
        assert!(line.ends_with('\n'));
        line.truncate(line.len() - 1);
        line
    }

    pub(crate) async fn read(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// Whether nothing more was sent before the input was closed.
    pub(crate) async fn input_ended(&mut self) {
        let mut rest = Vec::new();
        self.input.read_to_end(&mut rest).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    pub(crate) async fn say(&mut self, message: Value) {
        self.say_text(&format!("{message}\n")).await;
    }

    pub(crate) async fn say_text(&mut self, text: &str) {
        self.output.write_all(text.as_bytes()).await.unwrap();
    }

    /// Answers a request.
    pub(crate) async fn answer(&mut self, id: impl Into<Value>, result: Value) {
        self.say(json!({"jsonrpc": "2.0", "id": id.into(), "result": result})).await;
    }

    pub(crate) async fn stopped(&mut self) {
        self.stopped.wait_for(|stopped| *stopped).await.unwrap();
    }
}

pub(crate) struct World {
    pub(crate) host: StdioHost<Script>,
    servers: mpsc::UnboundedReceiver<Server>,
}

pub(crate) fn options() -> Options {
    Options { advice: "See `logs`".to_owned(), ..Options::default() }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(options(), Start::Works)
    }

    pub(crate) fn with(options: Options, start: Start) -> Self {
        Self::try_with(options, start).unwrap()
    }

    pub(crate) fn try_with(options: Options, start: Start) -> Result<Self, OptionsError> {
        let (sender, servers) = mpsc::unbounded_channel();
        let script = Script { servers: sender, start };
        Ok(Self { host: StdioHost::new(script, options)?, servers })
    }

    /// The next server that was started.
    pub(crate) async fn server(&mut self) -> Server {
        self.servers.recv().await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Response<ResponseBody> {
        self.host.clone().oneshot(request).await.unwrap()
    }

    /// Sends a request in the background, until it has a response.
    pub(crate) fn start(
        &self,
        request: Request<Full<Bytes>>,
    ) -> tokio::task::JoinHandle<Response<ResponseBody>> {
        let host = self.host.clone();
        tokio::spawn(async move { host.oneshot(request).await.unwrap() })
    }

    /// Posts a request to a session, and waits until its server has it.
    pub(crate) async fn ask(
        &self,
        session: &str,
        server: &mut Server,
        message: Value,
    ) -> tokio::task::JoinHandle<Response<ResponseBody>> {
        let response = self.start(post(Some(session), &message.to_string()));
        assert_eq!(server.read().await, message);
        response
    }

    /// Opens a session of this version.
    pub(crate) async fn open(&mut self, version: &str) -> (String, Server) {
        self.open_as(version, Owner(None)).await
    }

    pub(crate) async fn open_as(&mut self, version: &str, owner: Owner) -> (String, Server) {
        let mut request = post(None, &initialize(version).to_string());
        request.extensions_mut().insert(owner);
        let response = self.start(request);
        let mut server = self.server().await;
        assert_eq!(server.read().await, initialize(version));
        server.answer(0, json!({"protocolVersion": version})).await;
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        (session_id(&response), server)
    }

    pub(crate) async fn get(&self, session: &str) -> Stream {
        let response = self.send(request(Method::GET, Some(session), "")).await;
        assert_eq!(response.status(), StatusCode::OK);
        Stream::new(response)
    }

    pub(crate) async fn status(&self, request: Request<Full<Bytes>>) -> (u16, Value) {
        let response = self.send(request).await;
        (response.status().as_u16(), json_body(response).await)
    }
}

pub(crate) fn initialize(version: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": version}})
}

pub(crate) fn call(id: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": {"name": "x"}})
}

pub(crate) fn notification(method: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": method})
}

pub(crate) fn request(method: Method, session: Option<&str>, body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri("/mcp")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }
    request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

pub(crate) fn post(session: Option<&str>, body: &str) -> Request<Full<Bytes>> {
    request(Method::POST, session, body)
}

pub(crate) fn session_id(response: &Response<ResponseBody>) -> String {
    response.headers()["mcp-session-id"].to_str().unwrap().to_owned()
}

/// Opens a GET stream after this event.
pub(crate) fn resume(session: &str, last: &str) -> Request<Full<Bytes>> {
    let mut request = request(Method::GET, Some(session), "");
    request.headers_mut().insert("last-event-id", last.parse().unwrap());
    request
}

/// A message with a progress token in its parameters.
pub(crate) fn call_with_token(id: u64, token: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"_meta": {"progressToken": token}}})
}

pub(crate) fn progress(token: &str, value: u64) -> Value {
    let params = json!({"progressToken": token, "progress": value});
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
}

pub(crate) fn sampling(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "sampling/createMessage", "params": {}})
}

/// The revision without sessions.
pub(crate) const MODERN: &str = "2026-07-28";

/// A request of the modern era.
pub(crate) fn modern(id: impl Into<Value>, method: &str, mut params: Value) -> Value {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = MODERN.into();
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})
}

/// The POST of a request of the modern era, with the headers that its body asks for.
pub(crate) fn modern_post(body: &str) -> Request<Full<Bytes>> {
    let mut request = post(None, body);
    let Ok(Incoming::One(message)) = peek(body.as_bytes()) else { panic!("{body}") };
    let version = Envelope::of(&message).unwrap().protocol_version;
    let fields = headers::derive(&message, &version).unwrap();
    request.headers_mut().extend(fields.into_iter().map(|(name, value)| (Some(name), value)));
    request
}

/// The same, on behalf of an owner.
pub(crate) fn modern_as(owner: &str, message: &Value) -> Request<Full<Bytes>> {
    let mut request = modern_post(&message.to_string());
    request.extensions_mut().insert(Owner(Some(owner.to_owned())));
    request
}

impl Server {
    /// Answers the probe that each server for modern callers gets first.
    pub(crate) async fn discovered(&mut self) {
        let probe = self.read().await;
        assert_eq!(probe["method"], "server/discover");
        self.answer(probe["id"].clone(), json!({"supportedVersions": [MODERN], "capabilities": {}})).await;
    }

    /// The next request, and the id that it has here.
    pub(crate) async fn request(&mut self, method: &str) -> (Value, u64) {
        let message = self.read().await;
        assert_eq!(message["method"], method, "{message}");
        let id = message["id"].as_u64().unwrap();
        (message, id)
    }
}

impl World {
    /// Sends a modern request, and waits until the one server of its callers has it.
    pub(crate) async fn begin(
        &self,
        server: &mut Server,
        message: &Value,
    ) -> (tokio::task::JoinHandle<Response<ResponseBody>>, u64) {
        let response = self.start(modern_post(&message.to_string()));
        let (seen, id) = server.request(message["method"].as_str().unwrap()).await;
        let mut expect = message.clone();
        expect["id"] = id.into();
        if !expect["params"]["_meta"]["progressToken"].is_null() {
            expect["params"]["_meta"]["progressToken"] = id.into();
        }
        assert_eq!(seen, expect);
        (response, id)
    }

    /// Starts the server for the modern callers without an owner.
    pub(crate) async fn modern_server(&mut self) -> Server {
        let response = self.start(modern_post(&modern(0, "server/discover", json!({})).to_string()));
        let mut server = self.server().await;
        server.discovered().await;
        let (_, id) = server.request("server/discover").await;
        server.answer(id, json!({"supportedVersions": [MODERN]})).await;
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        server
    }
}

/// The body of a JSON response; null if it is empty.
pub(crate) async fn json_body(response: Response<ResponseBody>) -> Value {
    let kind = response.headers().get("content-type").cloned();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    if body.is_empty() {
        return Value::Null;
    }
    assert_eq!(kind.unwrap(), "application/json");
    serde_json::from_slice(&body).unwrap()
}

/// An event stream, read by the test.
pub(crate) struct Stream {
    body: ResponseBody,
    decoder: EventDecoder,
    /// The id of the last event.
    pub(crate) last: Option<String>,
}

impl Stream {
    pub(crate) fn new(response: Response<ResponseBody>) -> Self {
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body(), decoder: EventDecoder::new(32 * 1024 * 1024), last: None }
    }

    /// The next event; `None` when the stream has ended.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.decoder.next_event() {
                let event = event.unwrap();
                self.last = event.id.clone().or(self.last.take());
                return Some(event);
            }
            let frame = self.body.frame().await?.unwrap();
            self.decoder.push(&frame.into_data().unwrap());
        }
    }

    /// The next message; `None` when the stream has ended. Priming events are passed over.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let data = self.event().await?.data.unwrap();
            if !data.is_empty() {
                return Some(serde_json::from_slice(&data).unwrap());
            }
        }
    }

    /// The next bytes as they are.
    pub(crate) async fn raw(&mut self) -> Bytes {
        self.body.frame().await.unwrap().unwrap().into_data().unwrap()
    }
}

/// Lets all other tasks go as far as they can without time passing.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub(crate) const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
