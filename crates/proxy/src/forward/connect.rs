//! Where connections to the upstream come from.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http::HeaderValue;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long a connection is silent before the system asks whether the other end is still there, and how long it waits
/// before it asks again. An event stream may be silent for hours, and its far end gone without a word.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));

/// Makes connections to one upstream.
///
/// It is asked for each new connection, so it is also the place to look who is at the other end: towards a server
/// that we started, its implementation compares the owner of the listening port with that server, and refuses with
/// [`ConnectError::Stranger`]. [`Options::connect_timeout`](super::Options::connect_timeout) bounds it; when the
/// time is up, or the client leaves, the future is dropped.
pub trait Connect: Send + Sync + 'static {
    /// The connection's bytes. TLS, where there is any, is below.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    /// Makes one connection.
    fn connect(&self) -> impl Future<Output = Result<Connected<Self::Stream>, ConnectError>> + Send;
}

/// A connection, and what goes with it.
pub struct Connected<S> {
    /// Its bytes.
    pub stream: S,
    /// Our end, read from the socket.
    pub local: SocketAddr,
    /// The upstream's end, read from the socket.
    pub peer: SocketAddr,
    /// The value of `X-ToolHive-Auth` for all requests on this connection, if the upstream is to get one. Since it
    /// belongs to the connection, a server that was started anew never sees the key of the one before it. Make it
    /// with [`secret_value`].
    pub key: Option<HeaderValue>,
    /// The upstream's port, if it is not that of the [`Upstream`](super::Upstream)'s URL: a server that was started anew
    /// may listen on another one. It stands in `Host`, and in the references by which the server names itself.
    pub port: Option<u16>,
}

impl<S> fmt::Debug for Connected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody took it, or its beginning failed.
    #[error("no connection to it: {0}")]
    Unreachable(#[from] io::Error),
    /// Somebody took it who is not the upstream. The text says who, for a log: no client sees it.
    #[error("its port is held by somebody else: {0}")]
    Stranger(String),
}

/// Dials over TCP, without proxies.
#[derive(Clone)]
pub struct TcpConnect {
    target: Target,
    key: Option<HeaderValue>,
}

#[derive(Clone, Debug)]
enum Target {
    Addr(SocketAddr),
    Host(String, u16),
}

impl TcpConnect {
    /// Dials this address.
    pub fn to(addr: SocketAddr) -> Self {
        Self { target: Target::Addr(addr), key: None }
    }

    /// Asks the system's resolver for the addresses of `host` (a name, or an address without brackets) on each
    /// connection, and dials them in their order until one takes it.
    pub fn to_host(host: impl Into<String>, port: u16) -> Self {
        Self { target: Target::Host(host.into(), port), key: None }
    }

    /// Gives each connection this key, see [`Connected::key`].
    #[must_use]
    pub fn with_key(mut self, key: HeaderValue) -> Self {
        self.key = Some(sensitive(key));
        self
    }
}

impl fmt::Debug for TcpConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnect").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Connect for TcpConnect {
    type Stream = TcpStream;

    async fn connect(&self) -> Result<Connected<TcpStream>, ConnectError> {
        let stream = match &self.target {
            Target::Addr(addr) => TcpStream::connect(addr).await?,
            Target::Host(host, port) => TcpStream::connect((host.as_str(), *port)).await?,
        };
        // Events are small and must not wait for each other.
        stream.set_nodelay(true)?;
        let (time, interval) = KEEPALIVE;
        SockRef::from(&stream)
            .set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(interval))?;
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        Ok(Connected { stream, local, peer, key: self.key.clone(), port: None })
    }
}

/// A header value that is never shown, and whose bytes belong to `secret`: one that zeroizes itself when dropped
/// does so when the last copy of the value is gone.
///
/// # Errors
/// If the bytes cannot stand in a header field.
pub fn secret_value<T>(secret: T) -> Result<HeaderValue, http::header::InvalidHeaderValue>
where
    T: AsRef<[u8]> + Send + 'static,
{
    HeaderValue::from_maybe_shared(bytes::Bytes::from_owner(secret)).map(sensitive)
}

pub(super) fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Secret(Arc<AtomicBool>);

    impl AsRef<[u8]> for Secret {
        fn as_ref(&self) -> &[u8] {
            b"hush"
        }
    }

    impl Drop for Secret {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn the_system_watches_over_silent_connections() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let connect = TcpConnect::to(listener.local_addr().unwrap());
        let connected = connect.connect().await.unwrap();
        let socket = SockRef::from(&connected.stream);
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
    }

    #[test]
    fn a_secret_value_is_not_shown_and_keeps_its_owner() {
        let gone = Arc::new(AtomicBool::new(false));
        let value = secret_value(Secret(gone.clone())).unwrap();
        let copy = value.clone();
        assert_eq!(value, "hush");
        let connect = TcpConnect::to(([127, 0, 0, 1], 1).into()).with_key(value);
        assert!(!format!("{copy:?} {connect:?}").contains("hush"));
        drop(connect);
        assert!(!gone.load(Ordering::Relaxed));
        drop(copy);
        assert!(gone.load(Ordering::Relaxed));
        assert!(secret_value("a\nb").is_err());
    }
}
