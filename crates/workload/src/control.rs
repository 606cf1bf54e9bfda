//! The control socket: how commands talk to a live supervisor.
//!
//! One request and one answer a connection, each a line of JSON. The socket lies in a folder that only its owner can
//! enter, is itself 0600, and each end checks that the other runs as the same user.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thv_keygen::KeySet;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use zeroize::Zeroizing;

use crate::keyset::KeySetText;
use crate::process::ProcessRef;
pub use crate::sys::ControlListener;
use crate::sys::{ControlStream, connect_control};

/// The longest request or answer, in bytes. A full key set stays far below it.
const LIMIT: u64 = 1 << 20;

/// How long a supervisor may take to answer, and a command to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many commands may be in conversation at once. The oldest gives way to one more: commands ask at once, and it has
/// said nothing for the longest time.
const CONVERSATIONS: usize = 16;

/// What a command asks of a supervisor.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "op")]
#[non_exhaustive]
pub enum Request {
    /// How are you?
    Status,
    /// Put this key set in force.
    Keys {
        /// All of it.
        set: KeySetText,
    },
    /// End, because the user wants so.
    Stop {
        /// Whether the user wants it to run again afterwards.
        #[serde(default)]
        again: bool,
    },
}

/// What a supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub supervisor: ProcessRef,
    /// How many sessions are open.
    pub sessions: usize,
    /// The public names of the keys in force, the newest first.
    #[serde(default)]
    pub key_ids: Vec<String>,
    /// Why the request was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why a supervisor could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The path is longer than the operating system allows for a socket.
    #[error("{} is too long for a socket; a shorter THV_HOME helps", .0.display())]
    TooLong(PathBuf),
    /// Nobody listens there.
    #[error("nobody answers on {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other end runs as somebody else.
    #[error("the other end of {} runs as another user", .0.display())]
    Stranger(PathBuf),
    /// It said nothing in time, or something that is no answer.
    #[error("{} gave no answer: {reason}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
}

/// What answers a supervisor's control socket.
pub trait Controlled {
    /// The state now.
    fn answer(&self) -> Answer;
    /// Puts a key set in force.
    fn replace_keys(&self, set: KeySet);
    /// Begins the end; `again` if the workload is wanted again afterwards.
    fn stop(&self, again: bool);
}

/// Opens a workload's control socket, in place of what a dead supervisor left there. The caller holds the workload's
/// lock.
///
/// # Errors
/// The path is too long or cannot be bound.
pub fn listen(path: &Path) -> Result<ControlListener, ControlError> {
    ControlListener::bind(path).map_err(|source| match source.kind() {
        io::ErrorKind::InvalidInput => ControlError::TooLong(path.to_owned()),
        _ => ControlError::Unreachable { path: path.to_owned(), source },
    })
}

/// Answers commands until the future is dropped.
pub async fn serve(listener: &ControlListener, controlled: &impl Controlled) {
    let mut open = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = one_ends(&mut open) => continue,
        };
        match accepted {
            Ok(Some(stream)) => {
                if open.len() == CONVERSATIONS {
                    open.pop_front();
                }
                open.push_back(Box::pin(async move {
                    let conversation = tokio::time::timeout(PATIENCE, converse(stream, controlled));
                    if let Ok(Err(error)) = conversation.await {
                        tracing::debug!(%error, "a control connection failed");
                    }
                }));
            }
            Ok(None) => tracing::warn!("another user reached the control socket and was turned away"),
            Err(error) => {
                tracing::warn!(%error, "the control socket fails");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Resolves when a conversation has ended, and takes it out.
async fn one_ends<F: Future<Output = ()>>(open: &mut VecDeque<Pin<Box<F>>>) {
    poll_fn(|cx| {
        let before = open.len();
        open.retain_mut(|conversation| conversation.as_mut().poll(cx).is_pending());
        if open.len() < before { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

async fn converse(stream: ControlStream, controlled: &impl Controlled) -> io::Result<()> {
    let (reader, mut writer) = tokio::io::split(stream);
    let line = read_line(reader).await?;
    let (answer, stop) = match serde_json::from_slice(&line) {
        Ok(Request::Status) => (controlled.answer(), None),
        Ok(Request::Stop { again }) => (controlled.answer(), Some(again)),
        Ok(Request::Keys { set }) => match KeySet::try_from(&set) {
            Ok(set) => {
                controlled.replace_keys(set);
                (controlled.answer(), None)
            }
            Err(error) => (refusal(controlled, &error.to_string()), None),
        },
        // The parser's own words would quote the request, and keys are in requests.
        Err(_) => (refusal(controlled, "this request is not understood"), None),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    let sent = writer.write_all(&text).await;
    if let Some(again) = stop {
        controlled.stop(again);
    }
    sent?;
    writer.shutdown().await
}

fn refusal(controlled: &impl Controlled, why: &str) -> Answer {
    Answer { error: Some(why.to_owned()), ..controlled.answer() }
}

async fn read_line(reader: impl tokio::io::AsyncRead + Unpin) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(16 << 10));
    BufReader::new(reader.take(LIMIT)).read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// Asks a live supervisor.
///
/// # Errors
/// Every [`ControlError`]. An answer with an error in it is an answer.
pub fn ask(path: &Path, request: &Request) -> impl Future<Output = Result<Answer, ControlError>> + use<> {
    let path = path.to_owned();
    let text = serde_json::to_vec(request).map(|mut text| {
        text.push(b'\n');
        Zeroizing::new(text)
    });
    async move {
        let no_answer = |reason: String| ControlError::NoAnswer { path: path.clone(), reason };
        let text = text.map_err(|_| no_answer("the request cannot be written".to_owned()))?;
        let talk = async {
            let unreachable = |source| ControlError::Unreachable { path: path.clone(), source };
            let Some(stream) = connect_control(&path).await.map_err(unreachable)? else {
                return Err(ControlError::Stranger(path.clone()));
            };
            let (reader, mut writer) = tokio::io::split(stream);
            writer.write_all(&text).await.map_err(|error| no_answer(error.to_string()))?;
            let line = read_line(reader).await.map_err(|error| no_answer(error.to_string()))?;
            serde_json::from_slice(&line).map_err(|error| no_answer(error.to_string()))
        };
        tokio::time::timeout(PATIENCE, talk)
            .await
            .unwrap_or_else(|_| Err(no_answer(format!("none came within {} s", PATIENCE.as_secs()))))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};
    use thv_keygen::{LiveKey, SharedKey};

    #[derive(Default)]
    struct Fake {
        set: Mutex<KeySet>,
        stopped: AtomicBool,
    }

    impl Controlled for Fake {
        fn answer(&self) -> Answer {
            Answer {
                supervisor: ProcessRef::current().unwrap(),
                sessions: 3,
                key_ids: self.set.lock().unwrap().iter().map(|key| key.id().to_string()).collect(),
                error: None,
            }
        }

        fn replace_keys(&self, set: KeySet) {
            *self.set.lock().unwrap() = set;
        }

        fn stop(&self, _again: bool) {
            self.stopped.store(true, Ordering::SeqCst);
        }
    }

    async fn with_server<T>(test: impl AsyncFnOnce(&Path, &Fake) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let listener = listen(&path).unwrap();
        let fake = Fake::default();
        tokio::select! {
            () = serve(&listener, &fake) => unreachable!("serve never ends by itself"),
            result = test(&path, &fake) => result,
        }
    }

    #[tokio::test]
    async fn status_keys_and_stop() {
        with_server(async |path, fake| {
            let answer = ask(path, &Request::Status).await.unwrap();
            assert_eq!((answer.sessions, answer.supervisor.pid), (3, std::process::id()));

            let key = SharedKey::from_bytes([9; 32]);
            let set = KeySet::new(vec![LiveKey::new(key.clone(), None, None)]);
            let answer = ask(path, &Request::Keys { set: KeySetText::from(&set) }).await.unwrap();
            assert_eq!(answer.key_ids, [key.id().to_string()]);

            assert!(!fake.stopped.load(Ordering::SeqCst));
            ask(path, &Request::Stop { again: false }).await.unwrap();
            assert!(fake.stopped.load(Ordering::SeqCst));
        })
        .await;
    }

    #[tokio::test]
    async fn nonsense_is_refused_and_the_socket_goes_on() {
        with_server(async |path, _| {
            for nonsense in
                ["", "{", "{\"op\":\"format\"}\n", "{\"op\":\"keys\",\"set\":[{\"key\":\"hush\"}]}\n"]
            {
                let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
                stream.write_all(nonsense.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                assert!(text.contains("error") && !text.contains("hush"), "{nonsense}: {text}");
            }
            assert_eq!(ask(path, &Request::Status).await.unwrap().error, None);
        })
        .await;
    }

    #[tokio::test]
    async fn silence_keeps_nobody_waiting() {
        with_server(async |path, _| {
            let mut silent = Vec::new();
            for _ in 0..2 * CONVERSATIONS {
                silent.push(tokio::net::UnixStream::connect(path).await.unwrap());
                assert_eq!(ask(path, &Request::Status).await.unwrap().error, None);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_socket_of_another_is_left_alone_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        let old = listen(&path).unwrap();
        let new = listen(&path).unwrap();
        drop(old);
        assert!(path.exists(), "it is the new supervisor's");
        drop(new);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_supervisors_socket_is_replaced_and_the_new_one_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.sock");
        drop(listen(&path).unwrap());
        assert!(matches!(ask(&path, &Request::Status).await, Err(ControlError::Unreachable { .. })));
        let _listener = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_named() {
        let path = PathBuf::from("/tmp").join("x".repeat(120));
        assert!(matches!(listen(&path), Err(ControlError::TooLong(_))));
    }
}
