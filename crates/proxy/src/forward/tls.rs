//! TLS over another connection.

use std::io;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::connect::{Connect, ConnectError, Connected};

/// Makes connections with another [`Connect`], and speaks TLS on them (1.2 or 1.3, HTTP/1.1 by ALPN).
#[derive(Clone, Debug)]
pub struct TlsConnect<C> {
    below: C,
    name: ServerName<'static>,
    connector: Arc<ClientConfig>,
}

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The name can stand in no certificate.
    #[error("`{0}` is no name or address that a certificate could hold")]
    Name(String, #[source] InvalidDnsNameError),
    /// The system has no certificate authorities to trust.
    #[error(
        "no trusted certificate authorities were found on this system; install its package of CA certificates"
    )]
    NoRoots,
    /// The parameters do not go together.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
}

impl<C: Connect> TlsConnect<C> {
    /// Trusts the authorities that the operating system trusts. On Unix the variables `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` name others, as for most programs.
    ///
    /// `name` is the upstream's host: a DNS name, or an address without brackets.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn with_system_roots(below: C, name: &str) -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some trusted certificates cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(TlsError::NoRoots);
        }
        Self::with_roots(below, name, roots)
    }

    /// Trusts these authorities alone.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn with_roots(below: C, name: &str, roots: RootCertStore) -> Result<Self, TlsError> {
        // The provider is named, since another crate of the program may bring a second one.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name =
            ServerName::try_from(name.to_owned()).map_err(|error| TlsError::Name(name.to_owned(), error))?;
        Ok(Self { below, name, connector: Arc::new(config) })
    }
}

impl<C: Connect> Connect for TlsConnect<C> {
    type Stream = TlsStream<C::Stream>;

    async fn connect(&self) -> Result<Connected<Self::Stream>, ConnectError> {
        let Connected { stream, local, peer, key, port } = self.below.connect().await?;
        let handshake = TlsConnector::from(Arc::clone(&self.connector)).connect(self.name.clone(), stream);
        let stream = handshake.await.map_err(|error| {
            ConnectError::Unreachable(io::Error::new(error.kind(), format!("TLS: {error}")))
        })?;
        Ok(Connected { stream, local, peer, key, port })
    }
}
