//! From the server's standard output to the streams of its session, and from its session to its standard
//! input.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use thv_wire::code::Reason;
use thv_wire::lines::{LineDecoder, LineError};
use thv_wire::message::{Id, Incoming, Kind, Peek, peek};
use thv_wire::skim::Skimmed;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::queue::{Item, Queue, What};
use super::room::{SMALL, bind};
use super::session::{End, Life, Session, reply};

/// A stream whose client has read nothing for so long, while the server had more to say, is cut.
const STALLED: Duration = Duration::from_secs(60);
/// So many messages are written to the server together, if they are ready.
const TOGETHER: usize = 32;

/// Passes on what the server says, until it says no more.
pub(super) async fn from_server<R: AsyncRead + Unpin>(session: &Session, mut stdout: R) {
    let mut decoder = LineDecoder::new(session.options.max_message_bytes);
    let mut noise = 0_u64;
    loop {
        while let Some(line) = decoder.next_line() {
            take_line(session, line, &mut noise).await;
        }
        match stdout.read_buf(decoder.space()).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(session = session.number, %error, "cannot read the server's output");
                break;
            }
        }
    }
    // The last line may lack its end and be whole all the same; half a line is noise.
    if let Some(line) = decoder.finish() {
        take_line(session, line, &mut noise).await;
    }
}

async fn take_line(session: &Session, line: Result<Bytes, LineError>, noise: &mut u64) {
    let line = match line {
        Ok(line) => line,
        Err(error) => return oversized(session, &error),
    };
    // Once the session has ended there is no room to be had, and nobody who would read.
    let Ok(place) = session.outward.take(line.len()).await else { return };
    let line = bind(line, place);
    match peek(&line) {
        Ok(Incoming::One(seen)) => route(session, line.clone(), &seen).await,
        Ok(Incoming::Batch(parts)) => {
            for (part, seen) in parts {
                route(session, line.slice_ref(part.get().as_bytes()), &seen).await;
            }
        }
        Err(error) => {
            *noise += 1;
            // Some servers log to standard output, all the time: once is enough to find the cause.
            if *noise == 1 {
                let bytes = line.len();
                tracing::warn!(session = session.number, bytes, %error, "skipped a line of the server");
            } else {
                tracing::debug!(session = session.number, count = *noise, "skipped a line of the server");
            }
        }
    }
}

async fn route(session: &Session, text: Bytes, seen: &Peek<'_>) {
    match seen.kind {
        Kind::Response => {
            let Some((queue, initialize)) = seen.id.as_ref().and_then(|id| session.answered(id)) else {
                tracing::debug!(session = session.number, "dropped an answer that nobody waits for");
                return;
            };
            if initialize && seen.result.is_some() {
                session.open(seen.protocol_version().unwrap_or_default().into());
            }
            answer(session, &queue, text).await;
            if initialize && seen.error.is_some() {
                session.end(&End::Declined);
            }
        }
        Kind::Request => forward(session, Item { text, what: What::Request }, None).await,
        Kind::Notification => {
            let token = seen.progress_token();
            forward(session, Item { text, what: What::Notification }, token.as_ref()).await;
        }
    }
}

async fn answer(session: &Session, queue: &Queue, text: Bytes) {
    push(session, queue, &mut Some(Item { text, what: What::Answer })).await;
    queue.settle();
}

/// Finds a stream for a message that is no answer, and another if that one breaks meanwhile.
async fn forward(session: &Session, mut item: Item, token: Option<&Id>) {
    while let Some((queue, mine)) = session.stream_for(item, token) {
        let mut slot = Some(mine);
        push(session, &queue, &mut slot).await;
        let Some(back) = slot else { return };
        item = back;
    }
}

async fn push(session: &Session, queue: &Queue, slot: &mut Option<Item>) {
    if timeout(STALLED, queue.push(slot)).await.is_err() {
        tracing::warn!(session = session.number, "cut a stream that its client does not read");
        queue.finish();
    }
}

/// A message over the limit is gone, but whoever waits for it must learn that.
fn oversized(session: &Session, error: &LineError) {
    let LineError::TooLong { limit, length, message } = error else { return };
    tracing::warn!(
        session = session.number,
        length,
        limit,
        "dropped a line of the server that is over the limit"
    );
    let Skimmed { kind, id: Some(id) } = message else { return };
    match kind {
        Some(Kind::Response) => {
            if let Some((queue, initialize)) = session.answered(id) {
                let text = format!("the server's answer has {length} bytes, the limit is {limit}");
                let text = reply(Some(id), Reason::TooLarge, &text);
                let _ = queue.put(Item { text, what: What::Answer });
                queue.settle();
                if initialize {
                    session.end(&End::Declined);
                }
            }
        }
        Some(Kind::Request) => {
            let text = format!("the request has {length} bytes, the limit is {limit}");
            session.answer_server(id, Some(Reason::TooLarge), &text);
        }
        _ => {}
    }
}

/// Writes the client's messages to the server, and closes its input when the session has ended and all are
/// written.
pub(super) async fn to_server<W: AsyncWrite + Unpin>(
    mut stdin: W,
    mut inbox: mpsc::Receiver<Bytes>,
    mut life: watch::Receiver<Life>,
) -> io::Result<()> {
    let mut ended = pin!(life.wait_for(|life| *life == Life::Ended));
    let mut closed = false;
    let mut lines = Vec::with_capacity(TOGETHER);
    let mut out = BytesMut::new();
    loop {
        let count = tokio::select! {
            count = inbox.recv_many(&mut lines, TOGETHER) => count,
            _ = &mut ended, if !closed => {
                inbox.close();
                closed = true;
                continue;
            }
        };
        if count == 0 {
            return stdin.shutdown().await;
        }
        for line in lines.drain(..) {
            if line.len() <= SMALL {
                out.extend_from_slice(&line);
            } else {
                stdin.write_all_buf(&mut out).await?;
                stdin.write_all(&line).await?;
            }
            out.put_u8(b'\n');
            if out.len() > SMALL {
                stdin.write_all_buf(&mut out).await?;
            }
        }
        stdin.write_all_buf(&mut out).await?;
        stdin.flush().await?;
    }
}
