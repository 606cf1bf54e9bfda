//! The way out: messages one a line, within bounded memory, written by one writer.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

/// How many messages may wait for a client that does not read.
const MAX_LINES: usize = 256;

/// How many bytes of them, in KiB. A bigger message waits until it is alone.
const MAX_KIB: u32 = 16 * 1024;

/// Messages up to this size are gathered into one write.
const SMALL: usize = 16 * 1024;

/// The sending end.
pub(crate) struct Outbox {
    lines: mpsc::Sender<Line>,
    room: Arc<Semaphore>,
    closing: Arc<Notify>,
}

/// The end that writes.
pub(crate) struct Writer {
    lines: mpsc::Receiver<Line>,
    closing: Arc<Notify>,
}

struct Line {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Room for one message. Between having it and sending there is nothing to wait for, so an answer that was
/// taken off the list of those owed cannot get lost on its way.
pub(crate) struct Slot<'a> {
    permit: mpsc::Permit<'a, Line>,
    room: OwnedSemaphorePermit,
}

impl Slot<'_> {
    /// Sends what is one line already, or several with line ends between them.
    pub(crate) fn send(self, bytes: Bytes) {
        self.permit.send(Line { bytes, _room: self.room });
    }
}

/// Makes both ends.
pub(crate) fn channel() -> (Outbox, Writer) {
    let (sender, receiver) = mpsc::channel(MAX_LINES);
    let closing = Arc::new(Notify::new());
    let room = Arc::new(Semaphore::new(MAX_KIB as usize));
    (Outbox { lines: sender, room, closing: Arc::clone(&closing) }, Writer { lines: receiver, closing })
}

impl Outbox {
    /// Waits for room; nothing when nobody writes any more.
    pub(crate) async fn reserve(&self, length: usize) -> Option<Slot<'_>> {
        let kib = u32::try_from(length / 1024 + 1).unwrap_or(MAX_KIB).min(MAX_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.ok()?;
        let permit = self.lines.reserve().await.ok()?;
        Some(Slot { permit, room })
    }

    /// Waits for room and sends.
    pub(crate) async fn send(&self, line: Bytes) {
        if let Some(slot) = self.reserve(line.len()).await {
            slot.send(line);
        }
    }

    /// Lets the writer end once it has written what was sent.
    pub(crate) fn close(&self) {
        self.closing.notify_one();
    }
}

impl Writer {
    /// Writes until closed.
    ///
    /// # Errors
    /// The client's end is gone, or writing failed otherwise.
    pub(crate) async fn run<W: AsyncWrite + Unpin>(mut self, mut out: W) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut gathered = Vec::new();
        loop {
            let count = tokio::select! {
                count = self.lines.recv_many(&mut lines, MAX_LINES) => count,
                () = self.closing.notified() => {
                    self.lines.close();
                    continue;
                }
            };
            if count == 0 {
                return Ok(());
            }
            for Line { bytes, _room } in lines.drain(..) {
                if bytes.len() > SMALL {
                    out.write_all(&gathered).await?;
                    gathered.clear();
                    out.write_all(&bytes).await?;
                } else {
                    gathered.extend_from_slice(&bytes);
                }
                gathered.push(b'\n');
                if gathered.len() > SMALL {
                    out.write_all(&gathered).await?;
                    gathered.clear();
                }
            }
            out.write_all(&gathered).await?;
            gathered.clear();
            out.flush().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn writes_lines_in_order_small_and_big() {
        let (outbox, writer) = channel();
        let big = Bytes::from(vec![b'b'; SMALL + 1]);
        let sizes = [1, SMALL, SMALL + 1, 2, SMALL + 1, 0];
        let mut out = Vec::new();
        for size in sizes {
            outbox.send(big.slice(..size)).await;
        }
        outbox.close();
        writer.run(&mut out).await.unwrap();
        let lengths: Vec<usize> = out.split(|b| *b == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lengths, [1, SMALL, SMALL + 1, 2, SMALL + 1, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_stops_the_senders_and_not_the_memory() {
        let (outbox, writer) = channel();
        let (mut client, stdout) = tokio::io::duplex(64);
        let writing = tokio::spawn(writer.run(stdout));
        let line = Bytes::from_static(b"message");
        let mut sent = 0;
        while timeout(Duration::from_secs(1), outbox.send(line.clone())).await.is_ok() {
            sent += 1;
            assert!(sent < 10 * MAX_LINES);
        }
        // One message of more than the whole room is not refused, it waits.
        let huge = Bytes::from(vec![b'x'; (MAX_KIB as usize + 1) * 1024]);
        assert!(timeout(Duration::from_secs(1), outbox.send(huge.clone())).await.is_err());

        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.map(|_| all)
        });
        outbox.send(huge.clone()).await;
        outbox.close();
        writing.await.unwrap().unwrap();
        let all = reading.await.unwrap().unwrap();
        assert_eq!(all.len(), sent * (line.len() + 1) + huge.len() + 1);
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_an_error_and_senders_do_not_wait_for_it() {
        let (outbox, writer) = channel();
        let (client, stdout) = tokio::io::duplex(64);
        drop(client);
        outbox.send(Bytes::from_static(b"x")).await;
        let error = writer.run(stdout).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        outbox.send(Bytes::from_static(b"y")).await;
    }
}
