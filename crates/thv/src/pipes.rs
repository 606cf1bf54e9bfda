//! The bridge's own standard input and output, waited for without a thread.
//!
//! tokio's hand each read and write to a thread of their own, which costs more than all the rest of a relayed message.
//! Here the runtime waits until a descriptor is ready. The descriptors are not made non-blocking, for that would hold
//! for whoever shares them, a terminal's shell for instance; a look without waiting before each call does instead.
//! What cannot be waited for, such as a regular file, goes through tokio's.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A pipe that is ready to be written to has room for so many bytes (POSIX, `PIPE_BUF`): more could block.
const ROOM: usize = 4096;

/// One end of a pipe, a socket or a terminal.
struct Pipe(AsyncFd<File>);

/// Standard input. Must be called within a tokio runtime.
pub fn stdin() -> Box<dyn AsyncRead + Unpin> {
    match Pipe::of(io::stdin().as_fd(), Interest::READABLE) {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(tokio::io::stdin()),
    }
}

/// Standard output. Must be called within a tokio runtime.
pub fn stdout() -> Box<dyn AsyncWrite + Unpin> {
    match Pipe::of(io::stdout().as_fd(), Interest::WRITABLE) {
        Ok(pipe) => Box::new(pipe),
        Err(_) => Box::new(tokio::io::stdout()),
    }
}

impl Pipe {
    fn of(descriptor: BorrowedFd<'_>, interest: Interest) -> io::Result<Self> {
        let file = File::from(descriptor.try_clone_to_owned()?);
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that may change their descriptor; a File does not"
        )]
        let watched = AsyncFd::with_interest(file, interest)?;
        Ok(Self(watched))
    }
}

/// An error of the kind `WouldBlock` unless the descriptor is ready, or its other end gone.
fn check(file: &File, flags: PollFlags) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut [PollFd::new(file, flags)], Some(&now))? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let read = ready.try_io(|pipe| {
                let mut file = pipe.get_ref();
                check(file, PollFlags::IN)?;
                let count = file.read(buf.initialize_unfilled())?;
                buf.advance(count);
                Ok(())
            });
            match read {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => return Poll::Ready(read),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            let written = ready.try_io(|pipe| {
                let mut file = pipe.get_ref();
                check(file, PollFlags::OUT)?;
                file.write(&bytes[..bytes.len().min(ROOM)])
            });
            match written {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::pipe;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_pipe_carries_more_than_it_holds_and_ends() {
        let (reader, writer) = pipe().unwrap();
        let mut from = Pipe::of(reader.as_fd(), Interest::READABLE).unwrap();
        let mut to = Pipe::of(writer.as_fd(), Interest::WRITABLE).unwrap();
        drop((reader, writer));
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let write = async {
            to.write_all(&sent).await.unwrap();
            drop(to);
        };
        let mut got = Vec::new();
        let ((), read) = tokio::join!(write, from.read_to_end(&mut got));
        read.unwrap();
        assert!(got == sent);
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_is_an_error() {
        let (reader, writer) = pipe().unwrap();
        let mut to = Pipe::of(writer.as_fd(), Interest::WRITABLE).unwrap();
        drop(reader);
        assert_eq!(to.write_all(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_regular_file_cannot_be_waited_for() {
        let file = File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(Pipe::of(file.as_fd(), Interest::READABLE).is_err());
    }
}
