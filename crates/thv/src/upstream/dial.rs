//! Connections to a server that speaks HTTP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::http::HeaderValue;
#[cfg(feature = "tls")]
use thv_proxy::forward::TlsConnect;
use thv_proxy::forward::{Connect, ConnectError, Connected, TcpConnect};
use thv_workload::http::Current;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::owner::{self, Owner};

/// The ways to a server.
#[derive(Clone)]
pub enum Dial {
    /// One that we started, wherever it is now.
    Own(Own),
    /// A URL without encryption.
    Plain(TcpConnect),
    /// A URL with it.
    #[cfg(feature = "tls")]
    Tls(TlsConnect<TcpConnect>),
}

/// A server that we started.
#[derive(Clone)]
pub struct Own {
    /// Where it is now, and the key for it.
    pub current: watch::Receiver<Current<Option<HeaderValue>>>,
    /// Whether it is told to listen on the same port each time.
    pub stays: bool,
    pub owner: Arc<Owner>,
    /// What is wrong with it, until somebody reaches it.
    pub trouble: watch::Sender<Option<String>>,
}

impl Own {
    async fn connect(&self) -> Result<Connected<TcpStream>, ConnectError> {
        let Current { addr, guardian, given: key, .. } = self.current.borrow().clone();
        let Some(guardian) = guardian else {
            // Whoever has its port now is told from a server that is not there.
            if let Some(stranger) = owner::somebody(addr).filter(|_| self.stays) {
                return Err(stranger);
            }
            let why = "the server has exited and is being started again";
            return Err(io::Error::new(io::ErrorKind::NotConnected, why).into());
        };
        let mut connect = TcpConnect::to(addr);
        if let Some(key) = key {
            connect = connect.with_key(key);
        }
        // Before and after: a port can be handed over while somebody else holds a connection from it.
        self.owner.check(addr, guardian)?;
        let connected = connect.connect().await?;
        self.owner.check(addr, guardian)?;
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
        Ok(Connected { port: Some(addr.port()), ..connected })
    }
}

impl Connect for Dial {
    type Stream = Stream;

    async fn connect(&self) -> Result<Connected<Stream>, ConnectError> {
        match self {
            Self::Own(own) => own.connect().await.map(boxed),
            Self::Plain(connect) => connect.connect().await.map(boxed),
            #[cfg(feature = "tls")]
            Self::Tls(connect) => connect.connect().await.map(boxed),
        }
    }
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
