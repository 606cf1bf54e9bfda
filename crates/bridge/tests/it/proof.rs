//! Strangers at the workload's port. Each records every byte that it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use thv_bridge::{Options, Target, Transport, Why};
use thv_keygen::proof::{Challenge, Endpoints, prove};
use thv_keygen::{SharedKey, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::client::Client;
use crate::failure;
use crate::server::{Server, name, read_request, usual};

/// Answers whatever comes with the bytes that the test makes of it, and never hangs up itself.
struct Stranger {
    addr: SocketAddr,
    /// What each connection sent.
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    accepting: AbortHandle,
}

/// What a stranger can see of a connection.
struct Sight {
    ends: Endpoints,
    challenge: Challenge,
}

impl Stranger {
    async fn start(answer: impl Fn(&Sight) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let all = Arc::clone(&heard);
        let answer = Arc::new(answer);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let at = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                tokio::spawn(listen(stream, Arc::clone(&all), at, Arc::clone(&answer)));
            }
        });
        Self { addr, heard, accepting: accepting.abort_handle() }
    }

    /// Fails if any connection carried more than one question, or the key in any form.
    fn heard_nothing_but_challenges(&self, key: &SharedKey) -> usize {
        let heard = self.heard.lock().unwrap();
        for bytes in heard.iter() {
            assert_nothing_but_a_challenge(bytes, key);
        }
        heard.len()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn assert_nothing_but_a_challenge(bytes: &[u8], key: &SharedKey) {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text.starts_with(&format!("GET {} HTTP/1.1\r\n", header::PROOF_PATH)), "{text}");
    assert!(text.ends_with("\r\n\r\n") && text.matches("\r\n\r\n").count() == 1, "{text}");
    let names: Vec<&str> =
        text.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name).collect();
    assert_eq!(names, ["host", header::CHALLENGE, header::KEY_ID]);
    let form = key.expose_text();
    for form in [form.as_str(), form.trim_end_matches('='), &form.replace('+', "-").replace('/', "_")] {
        assert!(!text.contains(form));
    }
    assert!(!bytes.windows(32).any(|window| window == key.expose_bytes()));
}

async fn listen(
    mut stream: TcpStream,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    at: usize,
    answer: Arc<impl Fn(&Sight) -> Vec<u8>>,
) {
    let ends = Endpoints { client: stream.peer_addr().unwrap(), server: stream.local_addr().unwrap() };
    let mut answered = 0;
    loop {
        let mut more = Vec::new();
        if stream.read_buf(&mut more).await.unwrap_or(0) == 0 {
            return;
        }
        let questions: Vec<Vec<u8>> = {
            let mut heard = heard.lock().unwrap();
            heard[at].extend_from_slice(&more);
            let text = String::from_utf8_lossy(&heard[at]).into_owned();
            let whole = text.matches("\r\n\r\n").count();
            let challenge =
                text.lines().find_map(|line| line.strip_prefix(&format!("{}: ", header::CHALLENGE)));
            // Half a head has half a challenge, and gets no answer yet.
            let challenge = challenge.and_then(|text| Challenge::parse(text).ok());
            let challenge = challenge.unwrap_or(Challenge::from_bytes([0; 32]));
            (answered..whole).map(|_| answer(&Sight { ends, challenge })).collect()
        };
        answered += questions.len();
        for bytes in questions {
            if stream.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

fn target(addr: SocketAddr, key: &SharedKey) -> Target {
    Target {
        addr,
        path: "/mcp".into(),
        transport: Transport::Streamable,
        name: name(),
        key: Some(key.clone()),
    }
}

fn proof_head(proof: &str) -> Vec<u8> {
    format!("HTTP/1.1 204 No Content\r\n{}: {proof}\r\n\r\n", header::PROOF).into_bytes()
}

/// Sends a request where a stranger sits, and returns the reason given for its failure.
async fn refused(stranger: &Stranger, key: &SharedKey) -> String {
    let target = target(stranger.addr, key);
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    let answer = client.call(1, "initialize", json!({"secret": "message"})).await;
    assert_eq!(failure(&answer), (-33003, "stranger"));
    // It goes on like that, and so does the end.
    let answer = client.call(2, "tools/call", json!({"secret": "message"})).await;
    assert_eq!(failure(&answer), (-33003, "stranger"));
    client.notify("notifications/x", json!({"secret": "message"})).await;
    assert!(client.end().await.is_empty());
    assert!(stranger.heard_nothing_but_challenges(key) >= 2);
    answer["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn one_that_answers_200_to_everything() {
    let key = SharedKey::generate().unwrap();
    let stranger = Stranger::start(|_| {
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}".to_vec()
    })
    .await;
    refused(&stranger, &key).await;
}

#[tokio::test]
async fn one_that_makes_up_a_proof() {
    let key = SharedKey::generate().unwrap();
    let stranger = Stranger::start(|_| proof_head(&Challenge::generate().unwrap().encode())).await;
    assert!(refused(&stranger, &key).await.contains("wrong proof"));
}

#[tokio::test]
async fn one_that_holds_another_key() {
    let key = SharedKey::generate().unwrap();
    let other = SharedKey::generate().unwrap();
    let stranger = Stranger::start(move |sight| {
        proof_head(&prove(&other, &name(), &sight.ends, &sight.challenge).encode())
    })
    .await;
    refused(&stranger, &key).await;
}

#[tokio::test]
async fn one_that_speaks_for_another_workload_under_the_same_key() {
    let key = SharedKey::generate().unwrap();
    let same = key.clone();
    let other = thv_keygen::Name::parse("fetch").unwrap();
    let stranger = Stranger::start(move |sight| {
        proof_head(&prove(&same, &other, &sight.ends, &sight.challenge).encode())
    })
    .await;
    refused(&stranger, &key).await;
}

#[tokio::test]
async fn one_that_plays_back_an_old_proof() {
    let key = SharedKey::generate().unwrap();
    let (same, old) = (key.clone(), Mutex::new(None));
    // The first proof that it ever saw, for the challenge of that time, on whatever connection.
    let stranger = Stranger::start(move |sight| {
        let mut old = old.lock().unwrap();
        let other = Challenge::from_bytes([1; 32]);
        let proof = old.get_or_insert_with(|| prove(&same, &name(), &sight.ends, &other).encode());
        proof_head(proof)
    })
    .await;
    refused(&stranger, &key).await;
}

#[tokio::test]
async fn one_that_says_more_than_a_proof() {
    // It even holds the key: what it says too early could be taken for the answer to what comes next.
    let key = SharedKey::generate().unwrap();
    let same = key.clone();
    let stranger = Stranger::start(move |sight| {
        let mut answer = proof_head(&prove(&same, &name(), &sight.ends, &sight.challenge).encode());
        answer.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        answer
    })
    .await;
    assert!(refused(&stranger, &key).await.contains("surplus"));
}

#[tokio::test]
async fn one_that_never_stops_answering() {
    let key = SharedKey::generate().unwrap();
    let stranger = Stranger::start(|_| format!("HTTP/1.1 204 {}", "x".repeat(100_000)).into_bytes()).await;
    refused(&stranger, &key).await;
}

#[tokio::test]
async fn one_that_says_nothing_is_given_up_after_two_seconds() {
    let key = SharedKey::generate().unwrap();
    let stranger = Stranger::start(|_| Vec::new()).await;
    let target = target(stranger.addr, &key);
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    let answer = client.call(1, "initialize", json!({})).await;
    assert_eq!(failure(&answer), (-33003, "stranger"));
    assert!(answer["error"]["message"].as_str().unwrap().contains("within 2 s"));
    stranger.heard_nothing_but_challenges(&key);
}

#[tokio::test]
async fn one_that_does_not_know_the_key_is_asked_once_more_with_the_key_read_again() {
    let old = SharedKey::generate().unwrap();
    let new = SharedKey::generate().unwrap();
    let stranger = Stranger::start(|_| b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let (before, after) = (target(stranger.addr, &old), target(stranger.addr, &new));
    let mut client = Client::with(Options::default(), move |why, _| match why {
        // A look is what the connection that is made ahead asks for.
        Why::Refused | Why::Look => Ok(after.clone()),
        _ => Ok(before.clone()),
    });
    let answer = client.call(1, "initialize", json!({})).await;
    assert_eq!(failure(&answer), (-33003, "stranger"));
    stranger.heard_nothing_but_challenges(&old);
    stranger.heard_nothing_but_challenges(&new);
    let heard = stranger.heard.lock().unwrap();
    assert!(String::from_utf8_lossy(&heard[0]).contains(&old.id().to_string()));
    assert!(heard.iter().any(|bytes| String::from_utf8_lossy(bytes).contains(&new.id().to_string())));
}

#[tokio::test]
async fn a_server_that_does_not_know_the_old_key_gets_the_new_one() {
    let server = Server::start(usual).await;
    let stale = Target { key: Some(SharedKey::generate().unwrap()), ..server.target() };
    let fresh = server.target();
    let mut client = Client::with(Options::default(), move |why, _| match why {
        Why::Refused | Why::Look => Ok(fresh.clone()),
        _ => Ok(stale.clone()),
    });
    client.call(1, "work", json!({})).await;
    // The connection that is made ahead may have found out; it only looks.
    let asked = client.asked();
    assert!(asked == [Why::Start, Why::Refused] || asked == [Why::Start, Why::Look], "{asked:?}");
}

#[tokio::test]
async fn one_that_took_the_port_after_the_workload_moved_is_left_alone() {
    let server = Server::start(usual).await;
    let key = server.key().unwrap();
    let stranger = Stranger::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let (there, moved) = (target(stranger.addr, &key), server.target());
    let mut client = Client::with(Options::default(), move |why, _| match why {
        Why::Start => Ok(there.clone()),
        _ => Ok(moved.clone()),
    });
    client.call(1, "work", json!({})).await;
    stranger.heard_nothing_but_challenges(&key);
}

/// The port hand-over: a squatter accepts the relay's connection, lets the real supervisor have the port, and
/// splices the two. The proof that it passes on is the real one, for its own connection.
#[tokio::test]
async fn one_that_hands_its_port_over_and_splices() {
    let squatter = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = squatter.local_addr().unwrap();
    let key = SharedKey::generate().unwrap();
    let target = target(addr, &key);
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    client.request(1, "initialize", json!({"secret": "message"})).await;

    let mut caught = Vec::new();
    // The connection made ahead and the one for the request, unless the latter waited for the former.
    let (first, _) = crate::soon(squatter.accept()).await.unwrap();
    caught.push(first);
    if let Ok(Ok((second, _))) =
        tokio::time::timeout(std::time::Duration::from_millis(200), squatter.accept()).await
    {
        caught.push(second);
    }
    drop(squatter);
    let server = Server::start_on(TcpListener::bind(addr).await.unwrap(), usual);
    server.set_key(Some(key.clone()));

    let recorded: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    for mut stream in caught {
        let mut buffer = Vec::new();
        crate::soon(stream.readable()).await.unwrap();
        let mut peeked = vec![0; 4096];
        let count = stream.peek(&mut peeked).await.unwrap();
        let request = read_request(&mut stream, &mut buffer, 0).await.unwrap();
        assert_eq!(request.path, header::PROOF_PATH);
        let recorded = Arc::clone(&recorded);
        tokio::spawn(async move {
            let mut real = TcpStream::connect(addr).await.unwrap();
            real.write_all(&peeked[..count]).await.unwrap();
            // What the relay says after the challenge is heard on its way to the real server.
            let (mut from_relay, mut to_relay) = stream.into_split();
            let (mut from_real, mut to_real) = real.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_real, &mut to_relay).await });
            let mut heard = peeked[..count].to_vec();
            let mut more = [0; 4096];
            while let Ok(count @ 1..) = from_relay.read(&mut more).await {
                heard.extend_from_slice(&more[..count]);
                to_real.write_all(&more[..count]).await.unwrap();
            }
            recorded.lock().unwrap().push(heard);
        });
    }
    // Asked where the workload is, the test names the same address; whoever sits there is not asked again.
    let answer = client.recv().await;
    assert_eq!(failure(&answer), (-33003, "stranger"));
    assert!(server.requests().is_empty());
    client.end().await;
    for heard in recorded.lock().unwrap().iter() {
        assert_nothing_but_a_challenge(heard, &key);
    }
}
