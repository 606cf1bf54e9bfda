//! A scripted HTTP server on the loopback: it proves itself and checks the key like a supervisor, records
//! every byte, and answers as the test says.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use thv_bridge::{Target, Transport};
use thv_keygen::proof::{Challenge, Endpoints, prove};
use thv_keygen::{Name, SharedKey, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

/// One request that came in, proofs left out.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Counts the server's connections.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The method of the message in it.
    pub(crate) fn rpc(&self) -> String {
        self.json()["method"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn id(&self) -> Value {
        self.json()["id"].clone()
    }
}

/// What the server does with a request.
pub(crate) enum Reply {
    /// A whole response.
    Full { status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8> },
    /// An event stream whose pieces come from a channel. It ends when the channel does.
    Stream { headers: Vec<(&'static str, String)>, pieces: mpsc::UnboundedReceiver<Piece> },
    /// An event stream that says as much as the other side takes.
    Flood(Arc<Flood>),
    /// A body of so many bytes, of which is counted what the other side takes.
    Counted { media: &'static str, body: Vec<u8>, taken: Arc<AtomicUsize> },
    /// Decided later.
    Later(oneshot::Receiver<Reply>),
    /// The connection is closed without an answer.
    Cut,
    /// Bytes as they are, and the connection is closed.
    Raw(Vec<u8>),
    /// Nothing, for ever.
    Hang,
}

/// Numbered notifications without end.
#[derive(Default)]
pub(crate) struct Flood {
    /// What comes before the first of them.
    pub(crate) first: String,
    /// How long each is made.
    pub(crate) padding: usize,
    /// How many bytes were taken so far.
    pub(crate) written: AtomicUsize,
    /// No more shall be said.
    pub(crate) stop: AtomicBool,
}

impl Flood {
    async fn run(&self, stream: &mut TcpStream) -> bool {
        let mut text = self.first.clone();
        for n in 0_u64.. {
            let params = json!({"n": n, "pad": "x".repeat(self.padding)});
            text += &event(&json!({"jsonrpc": "2.0", "method": "notifications/x", "params": params}));
            if stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.is_err() {
                return false;
            }
            self.written.fetch_add(text.len(), Ordering::SeqCst);
            text.clear();
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
        }
        // The stream stays open.
        let _ = stream.read(&mut [0]).await;
        false
    }

    /// Returns when the other side takes no more; how much it took.
    pub(crate) async fn dammed(&self) -> usize {
        dammed(&self.written).await
    }
}

/// Returns when a count grows no more; what it is then.
pub(crate) async fn dammed(count: &AtomicUsize) -> usize {
    crate::soon(async {
        let mut before = 0;
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            match count.load(Ordering::SeqCst) {
                now if now > 0 && now == before => return now,
                now => before = now,
            }
        }
    })
    .await
}

/// A piece of a stream.
pub(crate) enum Piece {
    Data(Vec<u8>),
    /// The connection breaks off.
    Cut,
}

pub(crate) fn status(status: u16) -> Reply {
    Reply::Full { status, headers: Vec::new(), body: Vec::new() }
}

pub(crate) fn json_reply(status: u16, body: &Value) -> Reply {
    text_reply(status, &body.to_string())
}

pub(crate) fn text_reply(status: u16, body: &str) -> Reply {
    let headers = vec![("content-type", "application/json".to_owned())];
    Reply::Full { status, headers, body: body.as_bytes().to_vec() }
}

/// The plain answer to a request.
pub(crate) fn result(request: &Request, result: &Value) -> Reply {
    json_reply(200, &json!({"jsonrpc": "2.0", "id": request.id(), "result": result}))
}

/// An event stream with these pieces and no more.
pub(crate) fn stream<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Reply {
    let (sender, pieces_in) = mpsc::unbounded_channel();
    for piece in pieces {
        sender.send(Piece::Data(piece.into())).unwrap();
    }
    Reply::Stream { headers: Vec::new(), pieces: pieces_in }
}

/// An event stream that breaks off after these pieces.
pub(crate) fn cut_stream<'a>(pieces: impl IntoIterator<Item = &'a str>) -> Reply {
    let (sender, pieces_in) = mpsc::unbounded_channel();
    for piece in pieces {
        sender.send(Piece::Data(piece.into())).unwrap();
    }
    sender.send(Piece::Cut).unwrap();
    Reply::Stream { headers: Vec::new(), pieces: pieces_in }
}

/// An event stream that the test feeds.
pub(crate) fn fed_stream() -> (mpsc::UnboundedSender<Piece>, Reply) {
    let (sender, pieces) = mpsc::unbounded_channel();
    (sender, Reply::Stream { headers: Vec::new(), pieces })
}

pub(crate) fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

/// What most servers say: a session `s1` of 2025-11-25, 202 to what needs no answer, no stream of its own, and
/// the parameters of any other request as its result.
pub(crate) fn usual(request: &Request) -> Reply {
    match (request.method.as_str(), request.rpc().as_str()) {
        ("POST", "initialize") => initialized(request, "s1"),
        ("POST", _) if request.json().get("id").is_none() || request.json().get("method").is_none() => {
            status(202)
        }
        ("POST", _) => result(request, &request.json()["params"]),
        ("DELETE", _) => status(200),
        _ => status(405),
    }
}

/// The answer to `initialize` with a session.
pub(crate) fn initialized(request: &Request, session: &str) -> Reply {
    let result = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x"}});
    let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": result});
    let headers =
        vec![("content-type", "application/json".to_owned()), ("mcp-session-id", session.to_owned())];
    Reply::Full { status: 200, headers, body: answer.to_string().into_bytes() }
}

type Script = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

struct Shared {
    script: Script,
    key: Mutex<Option<SharedKey>>,
    /// Refuse the key although it was proved, this many times.
    refuse: Mutex<usize>,
    requests: watch::Sender<Vec<Request>>,
    connections: watch::Sender<usize>,
    proofs: watch::Sender<usize>,
    /// Requests that carried a key which the server had not proved on the same connection.
    unproved: AtomicUsize,
    children: Mutex<Vec<AbortHandle>>,
}

/// A running server. It ends, connections and all, when it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

pub(crate) fn name() -> Name {
    Name::parse("time").unwrap()
}

impl Server {
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), script)
    }

    pub(crate) fn start_on(
        listener: TcpListener,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            script: Arc::new(script),
            key: Mutex::new(Some(SharedKey::generate().unwrap())),
            refuse: Mutex::new(0),
            requests: watch::Sender::new(Vec::new()),
            connections: watch::Sender::new(0),
            proofs: watch::Sender::new(0),
            unproved: AtomicUsize::new(0),
            children: Mutex::default(),
        });
        let addr = listener.local_addr().unwrap();
        let for_all = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            for connection in 1.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                for_all.connections.send_modify(|count| *count += 1);
                let one = tokio::spawn(serve(stream, Arc::clone(&for_all), connection));
                for_all.children.lock().unwrap().push(one.abort_handle());
            }
        });
        Self { addr, shared, accepting: accepting.abort_handle() }
    }

    /// Where it is and what opens it, as a `Locate` would say.
    pub(crate) fn target(&self) -> Target {
        Target {
            addr: self.addr,
            path: "/mcp".into(),
            transport: Transport::Streamable,
            name: name(),
            key: self.key(),
        }
    }

    pub(crate) fn key(&self) -> Option<SharedKey> {
        self.shared.key.lock().unwrap().clone()
    }

    pub(crate) fn set_key(&self, key: Option<SharedKey>) {
        *self.shared.key.lock().unwrap() = key;
    }

    pub(crate) fn refuse_keys(&self, times: usize) {
        *self.shared.refuse.lock().unwrap() = times;
    }

    /// Closes all connections; the listener stays.
    pub(crate) fn hang_up(&self) {
        for child in self.shared.children.lock().unwrap().drain(..) {
            child.abort();
        }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.borrow().clone()
    }

    /// The methods of all messages that came by POST, in order.
    pub(crate) fn posted(&self) -> Vec<String> {
        self.requests().iter().filter(|r| r.method == "POST").map(Request::rpc).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    pub(crate) fn proofs(&self) -> usize {
        *self.shared.proofs.borrow()
    }

    /// How often a key came over a connection that was not proved with it.
    pub(crate) fn unproved(&self) -> usize {
        self.shared.unproved.load(Ordering::SeqCst)
    }

    /// Waits until what came in satisfies the test.
    pub(crate) async fn saw(&self, enough: impl Fn(&[Request]) -> bool) {
        let mut requests = self.shared.requests.subscribe();
        crate::soon(requests.wait_for(|all| enough(all))).await.unwrap();
    }

    /// Waits for that many messages of a method.
    pub(crate) async fn saw_rpc(&self, method: &str, count: usize) {
        self.saw(|all| all.iter().filter(|r| r.rpc() == method).count() >= count).await;
    }

    /// Waits for that many challenges to be answered.
    pub(crate) async fn saw_proofs(&self, count: usize) {
        let mut proofs = self.shared.proofs.subscribe();
        crate::soon(proofs.wait_for(|seen| *seen >= count)).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.hang_up();
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>, connection: usize) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    let mut proved = None;
    loop {
        let Some(request) = read_request(&mut stream, &mut buffer, connection).await else { return };
        let presented = request.header(header::AUTH).and_then(|text| SharedKey::parse(text).ok());
        if presented.as_ref().is_some_and(|presented| proved != Some(presented.id())) {
            shared.unproved.fetch_add(1, Ordering::SeqCst);
        }
        let key = shared.key.lock().unwrap().clone();
        if let Some(key) = key {
            if request.path == header::PROOF_PATH {
                let answer = answer_challenge(&stream, &request, &key);
                proved = Some(key.id());
                shared.proofs.send_modify(|count| *count += 1);
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
            let refuse = {
                let mut refuse = shared.refuse.lock().unwrap();
                let now = *refuse > 0;
                *refuse = refuse.saturating_sub(1);
                now
            };
            if refuse || !presented.is_some_and(|presented| presented.ct_eq(&key)) {
                let answer = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: ToolHive-SharedKey realm=\"time\"\r\n\
                              content-length: 0\r\n\r\n";
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
        }
        let reply = (shared.script)(&request);
        shared.requests.send_modify(|all| all.push(request));
        if !send(&mut stream, reply).await {
            return;
        }
    }
}

fn answer_challenge(stream: &TcpStream, request: &Request, key: &SharedKey) -> String {
    if request.header(header::KEY_ID) != Some(&*key.id().to_string()) {
        return "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into();
    }
    let ends = Endpoints { client: stream.peer_addr().unwrap(), server: stream.local_addr().unwrap() };
    let challenge = Challenge::parse(request.header(header::CHALLENGE).unwrap()).unwrap();
    let proof = prove(key, &name(), &ends, &challenge);
    format!("HTTP/1.1 204 No Content\r\n{}: {}\r\n\r\n", header::PROOF, proof.encode())
}

pub(crate) async fn read_request(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    connection: usize,
) -> Option<Request> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let mut headers = HashMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        assert!(headers.insert(name.to_ascii_lowercase(), value.to_owned()).is_none(), "{name} twice");
    }
    let length = headers.get("content-length").map_or(0, |value| value.parse().unwrap());
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    Some(Request { method, path, headers, body, connection })
}

async fn send(stream: &mut TcpStream, reply: Reply) -> bool {
    match reply {
        Reply::Full { status, headers, body } => {
            let mut bytes = head(status, &headers);
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            bytes.extend_from_slice(&body);
            stream.write_all(&bytes).await.is_ok()
        }
        Reply::Stream { headers, mut pieces } => {
            let mut bytes = head(200, &headers);
            bytes.extend_from_slice(b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
            if stream.write_all(&bytes).await.is_err() {
                return false;
            }
            let mut byte = [0];
            loop {
                let piece = tokio::select! {
                    piece = pieces.recv() => piece,
                    // The client hung up.
                    _ = stream.peek(&mut byte) => return false,
                };
                match piece {
                    Some(Piece::Data(data)) => {
                        let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
                        chunk.extend_from_slice(&data);
                        chunk.extend_from_slice(b"\r\n");
                        if stream.write_all(&chunk).await.is_err() {
                            return false;
                        }
                    }
                    Some(Piece::Cut) => return false,
                    None => return stream.write_all(b"0\r\n\r\n").await.is_ok(),
                }
            }
        }
        Reply::Flood(flood) => {
            let mut bytes = head(200, &[]);
            bytes.extend_from_slice(b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
            stream.write_all(&bytes).await.is_ok() && flood.run(stream).await
        }
        Reply::Counted { media, body, taken } => {
            let mut bytes = head(200, &[("content-type", media.to_owned())]);
            bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
            if stream.write_all(&bytes).await.is_err() {
                return false;
            }
            for piece in body.chunks(16 * 1024) {
                if stream.write_all(piece).await.is_err() {
                    return false;
                }
                taken.fetch_add(piece.len(), Ordering::SeqCst);
                // The kernel makes much room for who reads fast. Only what the relay keeps shall count.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            true
        }
        Reply::Later(reply) => {
            let mut byte = [0];
            tokio::select! {
                reply = reply => match reply {
                    Ok(reply) => Box::pin(send(stream, reply)).await,
                    Err(_) => false,
                },
                _ = stream.peek(&mut byte) => false,
            }
        }
        Reply::Cut => false,
        Reply::Raw(bytes) => {
            let _ = stream.write_all(&bytes).await;
            false
        }
        Reply::Hang => {
            let _ = stream.read(&mut [0]).await;
            false
        }
    }
}

fn head(status: u16, headers: &[(&'static str, String)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Whatever\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.into_bytes()
}
