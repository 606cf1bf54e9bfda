//! The trial: before a workload counts as started, its server must answer `initialize` or, if it knows nothing but the
//! newest era, `server/discover`.

pub mod http;

use std::io;
use std::time::Duration;

use thv_wire::id::Id;
use thv_wire::lines::LineDecoder;
use thv_wire::message::{Incoming, Kind, peek};
use thv_workload::server::{Server, ServerSpec};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// The longest line that a first answer may be, in bytes.
const LINE: usize = 4 << 20;

/// The newest revision that the host of stdio servers speaks with a child of its own.
const INITIALIZE: &[u8] = concat!(
    r#"{"jsonrpc":"2.0","id":"thv-trial","method":"initialize","params":{"protocolVersion":"2025-11-25","#,
    r#""capabilities":{},"clientInfo":{"name":"thv","version":""#,
    env!("CARGO_PKG_VERSION"),
    "\"}}}\n"
)
.as_bytes();

/// What a server of the 2026-07-28 era answers in its place.
const DISCOVER: &[u8] = concat!(
    r#"{"jsonrpc":"2.0","id":"thv-trial","method":"server/discover","params":{"_meta":{"#,
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"thv","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""},"io.modelcontextprotocol/clientCapabilities":{}}}}"#,
    "\n"
)
.as_bytes();

/// How long a server that has declined `initialize` may take for the other question, which most do not know.
const SECOND_CHANCE: Duration = Duration::from_secs(2);

/// Why a server failed its trial.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// No process could be made.
    #[error(transparent)]
    Spawn(io::Error),
    /// It closed its output first.
    #[error("it ended before it answered initialize")]
    Ended,
    /// It answered, but with an error.
    #[error("it answered initialize with an error: {0}")]
    Refused(String),
    /// It could not be asked, or what it said was no answer.
    #[error("initialize failed: {0}")]
    Http(String),
    /// Whoever listens there knows no such endpoint, or does not let us in.
    #[error("initialize was refused: {0}")]
    NotThere(String),
    /// The user does not want it any more.
    #[error("it was interrupted")]
    Cancelled,
    /// It took too long.
    #[error("it did not answer initialize within {}", humantime::format_duration(*.0))]
    Late(Duration),
}

/// Starts a child, waits for its answer, and ends it gently, at once if `cancel` resolves. Returns
/// when it is gone.
pub async fn trial(
    spec: &ServerSpec,
    patience: Duration,
    cancel: impl Future<Output = ()>,
) -> Result<(), TrialError> {
    let Server { mut stdin, mut stdout, handle } = spec.spawn().map_err(TrialError::Spawn)?;
    let ask = async {
        // A server that reads nothing and ends makes this fail; its silence tells more than the broken pipe.
        let _ = stdin.write_all(INITIALIZE).await;
        match answer(&mut stdout).await? {
            Answer::Result => Ok(()),
            Answer::Error(why) => {
                let _ = stdin.write_all(DISCOVER).await;
                match timeout(SECOND_CHANCE, answer(&mut stdout)).await {
                    Ok(Ok(Answer::Result)) => Ok(()),
                    // What it said first is what a person should hear.
                    _ => Err(TrialError::Refused(why)),
                }
            }
        }
    };
    let answered = tokio::select! {
        biased;
        () = cancel => Err(TrialError::Cancelled),
        answered = timeout(patience, ask) => answered.unwrap_or(Err(TrialError::Late(patience))),
    };
    drop(stdin);
    // It may have much to say still, and must not block on it.
    let drain = async { while stdout.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {} };
    if matches!(answered, Err(TrialError::Late(_) | TrialError::Cancelled)) {
        handle.hurry();
    }
    tokio::join!(drain, handle.stop());
    answered
}

/// What a server made of a question.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Result,
    /// An error, as it came.
    Error(String),
}

/// The answer to a question of ours, if the message is one.
fn answered(message: &[u8]) -> Option<Answer> {
    let Ok(Incoming::One(message)) = peek(message) else { return None };
    let ours = message.id.as_ref().is_none_or(|id| *id == Id::string("thv-trial"));
    if message.kind != Kind::Response || !ours {
        return None;
    }
    Some(message.error.map_or(Answer::Result, |error| Answer::Error(error.get().to_owned())))
}

async fn answer(stdout: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<Answer, TrialError> {
    let mut lines = LineDecoder::new(LINE);
    loop {
        if stdout.read_buf(lines.space()).await.is_ok_and(|read| read > 0) {
            while let Some(line) = lines.next_line() {
                // Banners and notifications may come first.
                let Ok(line) = line else { continue };
                if let Some(answer) = answered(&line) {
                    return Ok(answer);
                }
            }
        } else {
            return Err(TrialError::Ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(output: &[u8]) -> Result<Answer, TrialError> {
        answer(&mut &output[..]).await
    }

    #[tokio::test]
    async fn finds_the_answer_among_banners_and_notifications() {
        let output = b"Welcome!\n{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n{\"jsonrpc\":\"2.0\",\"id\":\"thv-trial\",\"result\":{}}\n";
        assert_eq!(outcome(output).await.unwrap(), Answer::Result);
    }

    #[tokio::test]
    async fn an_error_and_an_end_are_told_apart() {
        let error = b"{\"jsonrpc\":\"2.0\",\"id\":\"thv-trial\",\"error\":{\"code\":1,\"message\":\"no database\"}}\n";
        assert!(matches!(outcome(error).await, Ok(Answer::Error(text)) if text.contains("no database")));
        let other = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n";
        assert!(matches!(outcome(other).await, Err(TrialError::Ended)));
        assert!(matches!(outcome(b"").await, Err(TrialError::Ended)));
    }
}
