//! A listener in the hands of a test, which keeps every byte that it is sent.

use crate::locked::PROOF_PATH;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use thv_e2e::{Failure, Result, SecretForms, ensure};

/// How long a connection may be silent before its listener gives up on it.
const BOUND: Duration = Duration::from_secs(30);

/// Accepts connections until it is ended or dropped, each served on a thread of its own.
pub(super) struct Listener {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ending: AtomicBool,
    /// What each connection has received, in the order of their arrival.
    received: Mutex<Vec<Vec<u8>>>,
    streams: Mutex<Vec<TcpStream>>,
    serving: Mutex<Vec<JoinHandle<()>>>,
}

impl Listener {
    /// Serves every connection with `serve`. What arrives after its return is kept, too, unless it has hung up.
    pub(super) fn start(serve: impl Fn(&mut Conn) + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let serve = Arc::new(serve);
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                while let Ok((stream, _)) = listener.accept() {
                    if shared.ending.load(Ordering::SeqCst) {
                        return;
                    }
                    let Ok(mut conn) = Conn::new(stream, &shared) else { continue };
                    let serve = Arc::clone(&serve);
                    let serving = std::thread::spawn(move || {
                        serve(&mut conn);
                        while conn.fill() {}
                    });
                    lock(&shared.serving).push(serving);
                }
            }
        });
        Ok(Self { addr, shared, accepting: Some(accepting) })
    }

    pub(super) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Ends it and returns what each connection has received.
    pub(super) fn end(mut self) -> Vec<Vec<u8>> {
        self.finish();
        std::mem::take(&mut *lock(&self.shared.received))
    }

    fn finish(&mut self) {
        let Some(accepting) = self.accepting.take() else { return };
        self.shared.ending.store(true, Ordering::SeqCst);
        // Wakes the one that accepts. If nobody does any more, that is what is wanted.
        let _ = TcpStream::connect(self.addr);
        let _ = accepting.join();
        for stream in lock(&self.shared.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let serving = std::mem::take(&mut *lock(&self.shared.serving));
        for thread in serving {
            let _ = thread.join();
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.finish();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One accepted connection.
pub(super) struct Conn {
    /// Counts the connections of this listener.
    pub(super) number: usize,
    pub(super) stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
}

impl Conn {
    fn new(stream: TcpStream, shared: &Arc<Shared>) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(BOUND))?;
        stream.set_write_timeout(Some(BOUND))?;
        stream.set_nodelay(true)?;
        lock(&shared.streams).push(stream.try_clone()?);
        let mut received = lock(&shared.received);
        received.push(Vec::new());
        Ok(Self { number: received.len() - 1, stream, buffer: Vec::new(), shared: Arc::clone(shared) })
    }

    /// Reads and keeps what comes next; false at the end.
    fn fill(&mut self) -> bool {
        let mut block = [0; 16 * 1024];
        loop {
            return match self.stream.read(&mut block) {
                Ok(0) => false,
                Ok(count) => {
                    lock(&self.shared.received)[self.number].extend_from_slice(&block[..count]);
                    self.buffer.extend_from_slice(&block[..count]);
                    true
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => false,
            };
        }
    }

    /// The next request, with a body of announced length; nothing when no more comes.
    pub(super) fn request(&mut self) -> Option<Seen> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill() {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let mut seen = Seen::parse(self.number, &String::from_utf8_lossy(&head));
        let length = seen.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        while self.buffer.len() < length {
            if !self.fill() {
                return None;
            }
        }
        seen.body = String::from_utf8_lossy(&self.buffer.drain(..length).collect::<Vec<_>>()).into_owned();
        Some(seen)
    }

    /// Whether all of it could be handed to the system.
    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    pub(super) fn hang_up(&mut self) {
        // It may be down already, from the other side.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Which connection it came on.
    pub(super) connection: usize,
    pub(super) method: String,
    pub(super) path: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn parse(connection: usize, head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let fields = lines.filter_map(|line| line.split_once(':'));
        let headers =
            fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { connection, method, path, headers, body: String::new() }
    }

    /// The first value of a field.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_challenge(&self) -> bool {
        self.method == "GET" && self.path == PROOF_PATH
    }
}

/// Makes sure that a stranger has been asked who it is and told nothing: on each connection one challenge, and
/// neither the key in any shape nor a message.
pub(super) fn check_learned_nothing(received: &[Vec<u8>], key: &str, marks: &[&str]) -> Result {
    let forms = SecretForms::of(key)?;
    let mut challenges = Vec::new();
    for bytes in received {
        let text = String::from_utf8_lossy(bytes);
        if let Some(form) = forms.find_in(bytes) {
            return Err(Failure::new(format!("it was sent the key ({form})")));
        }
        for mark in marks.iter().chain(&["POST", "DELETE", "jsonrpc", "mcp-session-id", "x-toolhive-auth"]) {
            ensure!(
                !text.to_ascii_lowercase().contains(&mark.to_ascii_lowercase()),
                "it was sent {mark}: {text}"
            );
        }
        // A connection that was broken off at once says nothing, which is fine.
        if bytes.is_empty() {
            continue;
        }
        ensure!(
            text.ends_with("\r\n\r\n") && text.matches("\r\n\r\n").count() == 1,
            "not one request: {text}"
        );
        let seen = Seen::parse(0, &text);
        ensure!(seen.is_challenge(), "no challenge: {text}");
        let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        ensure!(names == ["host", "x-toolhive-challenge", "x-toolhive-key-id"], "it was told more: {text}");
        challenges.push(seen.header("x-toolhive-challenge").unwrap_or_default().to_owned());
    }
    ensure!(!received.is_empty(), "nobody came");
    let count = challenges.len();
    challenges.sort_unstable();
    challenges.dedup();
    ensure!(challenges.len() == count, "a challenge was used twice");
    Ok(())
}
