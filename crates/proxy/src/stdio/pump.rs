//! From a server's standard output to whoever it is for, and from them to its standard input.

use std::io;
use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use thv_wire::lines::{LineDecoder, LineError};
use thv_wire::message::peek;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use super::link::{Life, Peer};
use super::room::SMALL;

/// So many messages are written to the server together, if they are ready.
const TOGETHER: usize = 32;

/// Passes on what the server says, until it says no more.
pub(super) async fn from_server<P: Peer, R: AsyncRead + Unpin>(peer: &P, mut stdout: R) {
    let link = peer.link();
    let mut decoder = LineDecoder::new(link.options.max_message_bytes);
    let mut noise = 0_u64;
    loop {
        while let Some(line) = decoder.next_line() {
            take_line(peer, line, &mut noise).await;
        }
        match stdout.read_buf(decoder.space()).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(server = link.number, %error, "cannot read the server's output");
                break;
            }
        }
    }
    // The last line may lack its end and be whole all the same; half a line is noise.
    if let Some(line) = decoder.finish() {
        take_line(peer, line, &mut noise).await;
    }
}

async fn take_line<P: Peer>(peer: &P, line: Result<Bytes, LineError>, noise: &mut u64) {
    let server = peer.link().number;
    let line = match line {
        Ok(line) => line,
        Err(LineError::TooLong { limit, length, message }) => {
            tracing::warn!(server, length, limit, "dropped a line of the server that is over the limit");
            return peer.oversized(length, limit, &message);
        }
        Err(_) => return,
    };
    // Once it has ended there is no room to be had, and nobody who would read.
    let Ok(place) = peer.link().outward.take(line.len()).await else { return };
    let shown = line.clone();
    match peek(&shown) {
        Ok(seen) => peer.take(line, place, seen).await,
        Err(error) => {
            *noise += 1;
            // Some servers log to standard output, all the time: once is enough to find the cause.
            if *noise == 1 {
                let bytes = line.len();
                tracing::warn!(server, bytes, %error, "skipped a line of the server");
            } else {
                tracing::debug!(server, count = *noise, "skipped a line of the server");
            }
        }
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
