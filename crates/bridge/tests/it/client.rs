//! The AI client's side: a relay with the test at its stdin and stdout.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use thv_bridge::{BridgeError, Locate, LocateError, Options, Target, Why, run};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, Lines, duplex};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::server::Server;
use crate::soon;

type Answer = Box<dyn Fn(Why, usize) -> Result<Target, LocateError> + Send + Sync>;

/// Tells the relay what the test wants it to be told, and remembers what it asked.
pub(crate) struct Map {
    answer: Answer,
    asked: Arc<Mutex<Vec<Why>>>,
}

impl Locate for Map {
    async fn locate(&self, why: Why) -> Result<Target, LocateError> {
        let count = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(why);
            asked.len()
        };
        tokio::task::yield_now().await;
        (self.answer)(why, count)
    }
}

pub(crate) struct Client {
    stdin: Option<DuplexStream>,
    stdout: Lines<BufReader<DuplexStream>>,
    shutdown: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), BridgeError>>,
    asked: Arc<Mutex<Vec<Why>>>,
}

impl Client {
    /// A relay to this server.
    pub(crate) fn to(server: &Server) -> Self {
        let target = server.target();
        Self::with(Options::default(), move |_, _| Ok(target.clone()))
    }

    /// A relay that is told where to go by a function of why it asks and for how manyth time.
    pub(crate) fn with(
        options: Options,
        answer: impl Fn(Why, usize) -> Result<Target, LocateError> + Send + Sync + 'static,
    ) -> Self {
        let asked = Arc::default();
        let map = Map { answer: Box::new(answer), asked: Arc::clone(&asked) };
        let (stdin, their_stdin) = duplex(64 * 1024);
        let (stdout, their_stdout) = duplex(64 * 1024);
        let (shutdown, asked_to_end) = oneshot::channel();
        let running = tokio::spawn(async move {
            // A test that does not care for the way out never drops its end before the relay has ended.
            let end = async {
                if asked_to_end.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            run(their_stdin, their_stdout, map, options, end).await
        });
        let stdout = BufReader::new(stdout).lines();
        Self { stdin: Some(stdin), stdout, shutdown: Some(shutdown), running, asked }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        soon(self.stdin.as_mut().unwrap().write_all(bytes)).await.unwrap();
    }

    /// Writes if the relay reads. Once it does not within two seconds, nothing may be written any more.
    pub(crate) async fn try_write(&mut self, bytes: &[u8]) -> bool {
        let write = self.stdin.as_mut().unwrap().write_all(bytes);
        tokio::time::timeout(Duration::from_secs(2), write).await.is_ok()
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.write(format!("{message}\n").as_bytes()).await;
    }

    /// Sends a request.
    pub(crate) async fn request(&mut self, id: impl Into<Value>, method: &str, params: Value) {
        self.send(json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params})).await;
    }

    pub(crate) async fn notify(&mut self, method: &str, params: Value) {
        self.send(json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    /// The next line as it came.
    pub(crate) async fn line(&mut self) -> String {
        soon(self.stdout.next_line()).await.unwrap().expect("a line, not the end")
    }

    pub(crate) async fn recv(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }

    /// The next `count` messages, by id.
    pub(crate) async fn recv_ids(&mut self, count: usize) -> Vec<Value> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.recv().await["id"].clone());
        }
        ids.sort_by_key(ToString::to_string);
        ids
    }

    /// Sends a request and returns the next message, which must be its answer.
    pub(crate) async fn call(&mut self, id: impl Into<Value>, method: &str, params: Value) -> Value {
        let id = id.into();
        self.request(id.clone(), method, params).await;
        let answer = self.recv().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// The usual opening.
    pub(crate) async fn open(&mut self) {
        let answer = self.call(0, "initialize", json!({"protocolVersion": "2025-11-25"})).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        self.notify("notifications/initialized", json!({})).await;
    }

    pub(crate) fn asked(&self) -> Vec<Why> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn ask_to_end(&mut self) {
        let _ = self.shutdown.take().unwrap().send(());
    }

    /// Closes stdin and waits for the end; what the relay still said is returned.
    pub(crate) async fn end(mut self) -> Vec<Value> {
        self.close_stdin();
        self.rest().await
    }

    /// Waits for the end; what the relay still said is returned.
    pub(crate) async fn rest(mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some(line) = soon(self.stdout.next_line()).await.unwrap() {
            rest.push(serde_json::from_str(&line).unwrap());
        }
        soon(self.running).await.unwrap().unwrap();
        rest
    }

    /// Waits for the end without reading; the relay's own outcome.
    pub(crate) async fn outcome(self) -> Result<(), BridgeError> {
        soon(self.running).await.unwrap()
    }

    /// Stops to read, as a client that is gone does.
    pub(crate) fn close_stdout(&mut self) {
        let (other, _) = duplex(1);
        self.stdout = BufReader::new(other).lines();
    }
}
