//! Connections to a server that speaks HTTP, and the look at who is at their other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::HeaderValue;
#[cfg(feature = "tls")]
use thv_proxy::forward::TlsConnect;
use thv_proxy::forward::{Connect, ConnectError, Connected, TcpConnect};
use thv_workload::http::Current;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// The ways to a server.
pub enum Dial {
    /// One that we started, wherever it is now.
    Own { current: watch::Receiver<Current>, key: Option<HeaderValue> },
    /// A URL without encryption.
    Plain(TcpConnect),
    /// A URL with it.
    #[cfg(feature = "tls")]
    Tls(TlsConnect<TcpConnect>),
}

impl Connect for Dial {
    type Stream = Stream;

    async fn connect(&self) -> Result<Connected<Stream>, ConnectError> {
        match self {
            Self::Own { current, key } => {
                let Current { addr, guardian, .. } = *current.borrow();
                if guardian.is_none() {
                    let why = "the server has exited and is being started again";
                    return Err(io::Error::new(io::ErrorKind::NotConnected, why).into());
                }
                let mut connect = TcpConnect::to(addr);
                if let Some(key) = key {
                    connect = connect.with_key(key.clone());
                }
                // Before and after: a port can be handed over while somebody else holds a connection from it.
                we_listen(addr)?;
                let connected = connect.connect().await?;
                we_listen(addr)?;
                Ok(boxed(connected))
            }
            Self::Plain(connect) => connect.connect().await.map(boxed),
            #[cfg(feature = "tls")]
            Self::Tls(connect) => connect.connect().await.map(boxed),
        }
    }
}

/// Refuses a listener of another user, one that took the port before the server did, and a port that nobody listens on:
/// whoever holds a connection from it may have been anybody.
#[cfg(target_os = "linux")]
fn we_listen(addr: SocketAddr) -> Result<(), ConnectError> {
    let us = rustix::process::geteuid().as_raw();
    let listeners = thv_audit::listeners(addr.port())?;
    let mut there = listeners
        .iter()
        .filter(|listener| listener.addr.ip() == addr.ip() || listener.addr.ip().is_unspecified())
        .peekable();
    if there.peek().is_none() {
        return Err(
            io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens on the server's port").into()
        );
    }
    match there.find(|listener| listener.uid.is_some_and(|uid| uid != us)) {
        Some(stranger) => Err(ConnectError::Stranger(stranger.to_string())),
        None => Ok(()),
    }
}

/// Elsewhere it takes another program to find out, which is too much for each connection.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn we_listen(_addr: SocketAddr) -> Result<(), ConnectError> {
    Ok(())
}

fn boxed<S: Io + 'static>(connected: Connected<S>) -> Connected<Stream> {
    let Connected { stream, local, peer, key, port } = connected;
    Connected { stream: Stream(Box::new(stream)), local, peer, key, port }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl Io for TcpStream {}
#[cfg(feature = "tls")]
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for tokio_rustls::client::TlsStream<S> {}

/// A connection of either kind.
pub struct Stream(Box<dyn Io>);

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_ours_for_as_long_as_we_listen() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let addr = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().unwrap().port()));
            we_listen(addr).unwrap();
            // Whoever took a connection holds it still, and gives the port up.
            let _guest = std::net::TcpStream::connect(addr).unwrap();
            let _taken = listener.accept().unwrap();
            drop(listener);
            let error = we_listen(addr).unwrap_err();
            assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
        }
    }

    #[test]
    fn a_listener_on_another_address_is_not_the_server() {
        let other = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = other.local_addr().unwrap().port();
        assert!(we_listen(SocketAddr::from(([127, 0, 0, 1], port))).is_err());
    }
}
