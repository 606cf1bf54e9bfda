//! A request reaches the upstream at most once, whatever happens to connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value;
use thv_proxy::forward::{Forward, Options, TcpConnect, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::harness::{Front, Task, post, soon};

/// What the upstream does with one connection, after it has served some requests properly.
#[derive(Debug, Clone)]
struct Plan {
    served: usize,
    fate: Fate,
    reset: bool,
}

#[derive(Debug, Clone)]
enum Fate {
    /// Closes at once, before a further request or together with it.
    Closes,
    /// Reads so much of the next request, and closes.
    ReadsSome(usize),
    /// Reads all of it, and closes.
    ReadsAll,
    /// Reads all of it, answers with so many bytes of what it should, and closes.
    AnswersSome(usize),
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// How often each request was read in full.
type Counts = Arc<Mutex<HashMap<String, usize>>>;

/// Reads a request in full, and counts it. False at the connection's end.
async fn read_request(stream: &mut TcpStream, counts: &Counts) -> bool {
    let mut seen = Vec::new();
    while !seen.ends_with(b"<end>") {
        match stream.read_u8().await {
            Ok(byte) => seen.push(byte),
            Err(_) => return false,
        }
    }
    let text = String::from_utf8(seen).unwrap();
    let id = text.rsplit("\r\n\r\n").next().unwrap().to_owned();
    *counts.lock().unwrap().entry(id).or_default() += 1;
    true
}

async fn play(mut stream: TcpStream, plan: Plan, counts: Counts) {
    for _ in 0..plan.served {
        if !read_request(&mut stream, &counts).await {
            return;
        }
        stream.write_all(ANSWER).await.unwrap();
    }
    match plan.fate {
        Fate::Closes => {}
        Fate::ReadsSome(count) => {
            let mut some = vec![0; count];
            let _ = stream.read_exact(&mut some).await;
        }
        Fate::ReadsAll => {
            read_request(&mut stream, &counts).await;
        }
        Fate::AnswersSome(count) => {
            if read_request(&mut stream, &counts).await {
                stream.write_all(&ANSWER[..count]).await.unwrap();
            }
        }
    }
    if plan.reset {
        stream.set_zero_linger().unwrap();
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    let fate = prop_oneof![
        Just(Fate::Closes),
        (1_usize..60).prop_map(Fate::ReadsSome),
        Just(Fate::ReadsAll),
        (0..ANSWER.len()).prop_map(Fate::AnswersSome),
    ];
    (0_usize..4, fate, any::<bool>()).prop_map(|(served, fate, reset)| Plan { served, fate, reset })
}

async fn run(plans: Vec<Plan>, requests: usize, at_once: usize) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let counts = Counts::default();
    let counting = Arc::clone(&counts);
    let _upstream = Task::spawn(async move {
        for plan in plans.into_iter().cycle() {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(play(stream, plan, Arc::clone(&counting)));
        }
    });
    let upstream = Upstream::parse(&format!("http://{addr}/")).unwrap();
    let options = Options { connect_timeout: Duration::from_secs(30), ..Options::default() };
    let front = Arc::new(Front::new(Forward::new(TcpConnect::to(addr), upstream, options).unwrap()).await);

    let mut tasks = Vec::new();
    for worker in 0..at_once {
        let front = Arc::clone(&front);
        tasks.push(tokio::spawn(async move {
            let mut outcomes = Vec::new();
            for number in 0..requests {
                let id = format!("{worker}-{number}<end>");
                let response = front.send(post("/", id.clone())).await;
                let status = response.status().as_u16();
                let body = soon(http_body_util::BodyExt::collect(response.into_body())).await;
                outcomes.push((id, status, body.ok().map(http_body_util::Collected::to_bytes)));
            }
            outcomes
        }));
    }
    for task in tasks {
        for (id, status, body) in soon(task).await.unwrap() {
            let count = counts.lock().unwrap().get(&id).copied().unwrap_or(0);
            assert!(count <= 1, "{id} was sent {count} times");
            match status {
                // Whether or not its body came through.
                200 => assert_eq!(count, 1, "{id} was answered, but never read"),
                502 => {
                    let body: Value = serde_json::from_slice(&body.expect("a whole refusal")).unwrap();
                    match body["error"]["code"].as_i64() {
                        Some(-33002) => {}
                        Some(-33004) => assert_eq!(count, 0, "{id} was read, and said not to be"),
                        other => panic!("{other:?}"),
                    }
                }
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn never_twice() {
    let runtime = Runtime::new().unwrap();
    let config = ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() };
    let plans = prop::collection::vec(plan(), 1..6);
    proptest!(config, |(plans in plans, requests in 1_usize..8, at_once in 1_usize..4)| {
        runtime.block_on(run(plans, requests, at_once));
    });
}
