//! Unix sockets, with the other end's user checked.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

/// A listening control socket; its file goes when it is dropped.
#[derive(Debug)]
pub struct ControlListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of the file.
    file: (u64, u64),
}

/// One connection, whose other end runs as the same user.
#[derive(Debug)]
pub(crate) struct ControlStream(UnixStream);

impl ControlListener {
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        let file = identity(path)?;
        Ok(Self { listener, path: path.to_owned(), file })
    }

    /// The next connection; `None` for one of another user, which is closed.
    pub(crate) async fn accept(&self) -> io::Result<Option<ControlStream>> {
        let (stream, _) = self.listener.accept().await?;
        ControlStream::of_our_user(stream)
    }
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        // A supervisor that takes long to end may have a successor.
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Connects; `None` if another user listens.
pub(crate) async fn connect_control(path: &Path) -> io::Result<Option<ControlStream>> {
    ControlStream::of_our_user(UnixStream::connect(path).await?)
}

impl ControlStream {
    fn of_our_user(stream: UnixStream) -> io::Result<Option<Self>> {
        let ours = rustix::process::geteuid().as_raw();
        Ok((stream.peer_cred()?.uid() == ours).then_some(Self(stream)))
    }
}

impl AsyncRead for ControlStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ControlStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
