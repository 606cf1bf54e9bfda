//! One history, and what must hold after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde_json::{Value, json};
use thv_bridge::{BridgeError, Locate, LocateError, Options, Target, Transport, Why};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::history::Op;
use super::world::World;
use crate::modern::with_meta;

/// In virtual time: longer than anything that a relay waits for.
const LONG: Duration = Duration::from_secs(600);

/// In real time: longer than any history takes, on whatever machine.
const REST: Duration = Duration::from_secs(60);

struct Map(Arc<World>);

impl Locate for Map {
    async fn locate(&self, _why: Why) -> Result<Target, LocateError> {
        tokio::task::yield_now().await;
        self.0.locate()
    }
}

/// The client's end.
struct Mouth {
    stdin: DuplexStream,
    /// All messages that came out, in order.
    heard: watch::Receiver<Vec<Value>>,
    /// So many of them were looked at for questions.
    looked: usize,
}

impl Mouth {
    /// Answers what the server has asked since the last time.
    async fn answer_questions(&mut self) {
        let heard: Vec<Value> = self.heard.borrow()[self.looked..].to_vec();
        self.looked += heard.len();
        for (at, question) in heard.iter().enumerate() {
            let takes_back = |m: &Value| {
                m["method"] == "notifications/cancelled" && m["params"]["requestId"] == question["id"]
            };
            if is_answer(question)
                || question.get("id").is_none()
                || heard.get(at + 1).is_some_and(takes_back)
            {
                continue;
            }
            let result = &question["params"];
            self.send(&json!({"jsonrpc": "2.0", "id": question["id"], "result": result})).await;
        }
    }

    async fn send(&mut self, message: &Value) {
        self.stdin.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn request(&mut self, id: u64, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    }

    async fn answer(&mut self, id: u64) -> Result<Value, String> {
        let find = |heard: &Vec<Value>| heard.iter().find(|m| is_answer(m) && m["id"] == id).cloned();
        let waiting = self.heard.wait_for(|heard| find(heard).is_some());
        let heard = timeout(LONG, waiting).await.map_err(|_| format!("request {id} was never answered"))?;
        Ok(find(&heard.unwrap()).unwrap())
    }

    /// The usual opening. Whether it succeeded.
    async fn open(&mut self, id: u64) -> Result<bool, String> {
        self.request(id, "initialize", json!({"protocolVersion": "2025-11-25"})).await;
        let begun = self.answer(id).await?.get("result").is_some();
        if begun {
            self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        }
        Ok(begun)
    }
}

fn uri(which: usize) -> String {
    format!("a:{which}")
}

fn is_answer(message: &Value) -> bool {
    message.get("method").is_none()
}

/// Runs a history. What does not hold is returned.
///
/// # Panics
/// It does not come to rest: something spins, so that virtual time stands still.
pub(crate) fn run(transport: Transport, history: &[Op]) -> Result<(), String> {
    let (done, outcome) = mpsc::channel();
    let ops = history.to_vec();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        let _ = done.send(runtime.block_on(live(transport, &ops)));
    });
    match outcome.recv_timeout(REST) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => panic!("in {transport:?} this does not come to rest: {history:#?}"),
        Err(RecvTimeoutError::Disconnected) => Err("it panicked".to_owned()),
    }
}

async fn live(transport: Transport, history: &[Op]) -> Result<(), String> {
    let world = World::new(transport).await;
    let outcome = live_in(&world, history).await;
    world.end();
    outcome
}

async fn live_in(world: &Arc<World>, history: &[Op]) -> Result<(), String> {
    let (stdin, their_stdin) = duplex(1 << 20);
    let (stdout, their_stdout) = duplex(1 << 20);
    let map = Map(Arc::clone(world));
    let running = tokio::spawn(thv_bridge::run(
        their_stdin,
        their_stdout,
        map,
        Options::default(),
        std::future::pending(),
    ));
    let (hear, heard) = watch::channel(Vec::new());
    let listening = tokio::spawn(async move {
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let message: Value = serde_json::from_str(&line).unwrap();
            hear.send_modify(|all| match message {
                Value::Array(parts) => all.extend(parts),
                one => all.push(one),
            });
        }
    });
    let mut client = Mouth { stdin, heard, looked: 0 };

    let mut sent = vec![0];
    let mut cancelled = BTreeSet::new();
    let mut begun = client.open(0).await?;
    // Whether the client knows that it is subscribed; nothing where it cannot know.
    let mut subscribed = [Some(false); 3];
    for (at, op) in history.iter().enumerate() {
        match *op {
            Op::Answer => client.answer_questions().await,
            Op::Request(wrong) | Op::Alone(wrong) => {
                let id = sent.len() as u64;
                sent.push(id);
                let params = json!({"wrong": wrong.number()});
                let is_alone = matches!(op, Op::Alone(_));
                client.request(id, "work", if is_alone { with_meta(params) } else { params }).await;
            }
            Op::Batch(wrong) => {
                let part = |id| {
                    let params = json!({"wrong": wrong.number()});
                    json!({"jsonrpc": "2.0", "id": id, "method": "work", "params": params})
                };
                let id = sent.len() as u64;
                sent.extend([id, id + 1]);
                client.send(&json!([part(id), part(id + 1)])).await;
            }
            Op::Notify(wrong) => {
                let params = json!({"wrong": wrong.number(), "n": at});
                client.send(&json!({"jsonrpc": "2.0", "method": "notifications/x", "params": params})).await;
            }
            Op::Subscribe(which) | Op::Unsubscribe(which) => {
                let wish = matches!(op, Op::Subscribe(_));
                let method = if wish { "resources/subscribe" } else { "resources/unsubscribe" };
                let id = sent.len() as u64;
                sent.push(id);
                client.request(id, method, json!({"uri": uri(which)})).await;
                let succeeded = client.answer(id).await?.get("result").is_some();
                // The client's own session may never have begun; then it has nothing to be remembered.
                subscribed[which] = (succeeded && begun).then_some(wish);
            }
            Op::Cancel(back) => {
                if let Some(id) = sent.iter().rev().nth(back).copied().filter(|id| *id > 0) {
                    cancelled.insert(id);
                    let params = json!({"requestId": id});
                    client
                        .send(
                            &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}),
                        )
                        .await;
                }
            }
            Op::Wait(millis) => sleep(Duration::from_millis(millis)).await,
            Op::Befalls(trouble) => world.befalls(trouble).await,
            Op::End => break,
        }
    }
    if matches!(history.last(), Some(Op::End)) {
        return end(world, client, running, listening, &sent, &cancelled).await;
    }

    // Once all is well again, it is.
    sleep(Duration::from_secs(1)).await;
    world.calm().await;
    sleep(Duration::from_secs(60)).await;
    client.answer_questions().await;
    while !begun {
        let id = sent.len() as u64;
        sent.push(id);
        begun = client.open(id).await?;
    }
    let last = sent.len() as u64;
    sent.push(last);
    client.request(last, "work", json!({})).await;
    let answer = client.answer(last).await?;
    if answer["result"] != json!({"of": last}) {
        return Err(format!("a calm server answered {answer}"));
    }
    for (which, known) in subscribed.iter().enumerate() {
        if known.is_some_and(|known| known != world.is_subscribed(&uri(which))) {
            return Err(format!("the client knows of {} that it is {known:?}", uri(which)));
        }
    }

    end(world, client, running, listening, &sent, &cancelled).await
}

/// The client ends its input; all that it sent is answered, and whatever holds in any case.
async fn end(
    world: &World,
    client: Mouth,
    running: JoinHandle<Result<(), BridgeError>>,
    listening: JoinHandle<()>,
    sent: &[u64],
    cancelled: &BTreeSet<u64>,
) -> Result<(), String> {
    let Mouth { stdin, heard, .. } = client;
    drop(stdin);
    match timeout(LONG, running).await {
        Ok(Ok(Ok(()))) => {}
        other => return Err(format!("the end was {other:?}")),
    }
    listening.await.map_err(|error| format!("what came out was no message: {error}"))?;
    let heard = heard.borrow().clone();
    check_answers(&heard, sent, cancelled)?;
    check_order(&heard)?;
    world.check()
}

fn check_answers(heard: &[Value], sent: &[u64], cancelled: &BTreeSet<u64>) -> Result<(), String> {
    let mut answers: BTreeMap<u64, usize> = BTreeMap::new();
    for message in heard.iter().filter(|message| is_answer(message)) {
        let id = message["id"].as_u64().filter(|id| sent.contains(id));
        *answers.entry(id.ok_or_else(|| format!("an answer to nobody: {message}"))?).or_default() += 1;
        if let Some(of) = message.get("result").and_then(|result| result.get("of"))
            && *of != message["id"]
        {
            return Err(format!("the answer to another request: {message}"));
        }
    }
    for id in sent {
        let count = answers.get(id).copied().unwrap_or(0);
        if count > 1 || count == 0 && !cancelled.contains(id) {
            return Err(format!("request {id} was answered {count} times"));
        }
    }
    Ok(())
}

/// What the server says on one stream comes in its order, once.
fn check_order(heard: &[Value]) -> Result<(), String> {
    let mut streams: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for message in heard.iter().filter(|message| !is_answer(message)) {
        let params = &message["params"];
        if message.get("id").is_some() {
            continue;
        }
        let of = format!("{}{}", message["method"], params["of"]);
        streams.entry(of).or_default().extend(params["n"].as_u64());
    }
    match streams.iter().find(|(_, numbers)| !numbers.is_sorted_by(|a, b| a < b)) {
        Some((of, numbers)) => Err(format!("{of} came as {numbers:?}")),
        None => Ok(()),
    }
}
