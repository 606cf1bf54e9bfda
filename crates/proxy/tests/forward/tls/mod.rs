//! TLS to the upstream. The certificate is for `up.test` and 127.0.0.1, the tests' alone, and its own authority.

use std::sync::Arc;

use thv_proxy::forward::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use thv_proxy::forward::rustls::{RootCertStore, ServerConfig, crypto::ring};
use thv_proxy::forward::{Forward, Options, TcpConnect, TlsConnect, TlsError, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Front, Task, post, soon, text};

fn certificate() -> CertificateDer<'static> {
    CertificateDer::from(include_bytes!("cert.der").as_slice())
}

fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).unwrap();
    roots
}

/// A server that says over TLS which path it was asked for and which protocol was agreed on.
async fn server() -> (std::net::SocketAddr, Task) {
    let key = PrivatePkcs8KeyDer::from(include_bytes!("key.der").as_slice());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate()], key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = Task::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let protocol = stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec();
                let head = String::from_utf8(head).unwrap();
                let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
                let body = format!("{} {host}", String::from_utf8(protocol).unwrap());
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read_u8().await;
            });
        }
    });
    (addr, task)
}

async fn front(connect: TlsConnect<TcpConnect>) -> Front {
    let upstream = Upstream::parse("https://up.test/mcp").unwrap();
    Front::new(Forward::new(connect, upstream, Options::default()).unwrap()).await
}

#[tokio::test]
async fn a_trusted_server_of_the_right_name() {
    let (addr, _server) = server().await;
    for name in ["up.test", "127.0.0.1"] {
        let front = front(TlsConnect::with_roots(TcpConnect::to(addr), name, roots()).unwrap()).await;
        let response = soon(front.send(post("/", ""))).await;
        assert_eq!(text(response).await, "http/1.1 up.test");
    }
}

#[tokio::test]
async fn others_get_nothing() {
    let (addr, _server) = server().await;
    let below = || TcpConnect::to(addr);
    let mut connects = vec![TlsConnect::with_roots(below(), "other.test", roots()).unwrap()];
    // Where no authorities are installed, there is nothing to trust, and that is said.
    match TlsConnect::with_system_roots(below(), "up.test") {
        Ok(connect) => connects.push(connect),
        Err(error) => assert!(matches!(error, TlsError::NoRoots)),
    }
    for connect in connects {
        let (status, error) = front(connect).await.error(post("/", "secret")).await;
        assert_eq!((status.as_u16(), error["code"].as_i64()), (502, Some(-33004)));
        assert!(error["message"].as_str().unwrap().contains("certificate"), "{error}");
    }
    assert!(matches!(TlsConnect::with_roots(below(), "no name", roots()), Err(TlsError::Name(..))));
}

#[tokio::test]
async fn a_server_without_tls() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let _server = Task::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let front = front(TlsConnect::with_roots(TcpConnect::to(addr), "up.test", roots()).unwrap()).await;
    let (status, error) = front.error(post("/", "x")).await;
    assert_eq!((status.as_u16(), error["code"].as_i64()), (502, Some(-33004)));
}
