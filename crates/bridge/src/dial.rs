//! New connections: dial an address, and have the far end prove that it holds the key (design section
//! "Server proof") before anything else is sent.
//!
//! The proof is spoken by hand rather than through an HTTP library, so that what is sent before it and what
//! may follow it are in plain sight here.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thv_keygen::proof::{Challenge, Endpoints, Proof, verify};
use thv_keygen::{SharedKey, header};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::finder::Route;

/// How long a connection may take to come about, and then the proof.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest head of an answer to a challenge.
const MAX_HEAD: usize = 8 * 1024;

/// Why there is no connection that may be used.
#[derive(Debug)]
pub(crate) enum DialError {
    /// Nobody accepts connections there.
    Unreachable(io::Error),
    /// Accepted, and closed before an answer: what a supervisor does that is just ending.
    HungUp,
    /// The far end does not know a key of this id.
    UnknownKey,
    /// The far end did not prove anything.
    Stranger(&'static str),
}

/// Connects to the route's address; if the route has a key, a connection comes back only proved with it.
pub(crate) async fn dial(route: &Route) -> Result<TcpStream, DialError> {
    let mut stream = connect(route.addr).await.map_err(DialError::Unreachable)?;
    if let Some(key) = &route.key {
        timeout(PATIENCE, prove(&mut stream, route, key))
            .await
            .unwrap_or(Err(DialError::Stranger("no proof within 2 s")))?;
    }
    Ok(stream)
}

async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(addr)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    // With no listener there, the kernel may pick the very port that is dialled and connect a socket to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn prove(stream: &mut TcpStream, route: &Route, key: &SharedKey) -> Result<(), DialError> {
    let hung_up = |_| DialError::HungUp;
    let ends = Endpoints {
        client: stream.local_addr().map_err(hung_up)?,
        server: stream.peer_addr().map_err(hung_up)?,
    };
    let challenge = Challenge::generate().map_err(|error| DialError::Unreachable(io::Error::other(error)))?;
    let question = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\n{challenge_name}: {challenge}\r\n{id_name}: {id}\r\n\r\n",
        path = header::PROOF_PATH,
        host = route.addr,
        challenge_name = header::CHALLENGE,
        challenge = challenge.encode(),
        id_name = header::KEY_ID,
        id = key.id(),
    );
    stream.write_all(question.as_bytes()).await.map_err(hung_up)?;

    let mut answer = Vec::with_capacity(512);
    loop {
        match stream.read_buf(&mut answer).await {
            Ok(0) if answer.is_empty() => return Err(DialError::HungUp),
            Ok(0) => return Err(DialError::Stranger("half an answer to the challenge")),
            Err(_) => return Err(DialError::HungUp),
            Ok(_) => {}
        }
        if let Some(proof) = read_answer(&answer)? {
            let proved = verify(key, &route.name, &ends, &challenge, &proof);
            return if proved { Ok(()) } else { Err(DialError::Stranger("wrong proof")) };
        }
        if answer.len() >= MAX_HEAD {
            return Err(DialError::Stranger("endless answer to the challenge"));
        }
    }
}

/// The proof out of an answer that is whole and nothing but a proof; nothing for half an answer.
fn read_answer(bytes: &[u8]) -> Result<Option<Proof>, DialError> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(DialError::Stranger("no HTTP answer to the challenge")),
    };
    match (head.version, head.code) {
        (Some(1), Some(204)) => {}
        (_, Some(404)) => return Err(DialError::UnknownKey),
        _ => return Err(DialError::Stranger("no proof in its answer to the challenge")),
    }
    if length != bytes.len() {
        return Err(DialError::Stranger("surplus bytes after its proof"));
    }
    let values = |name| head.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    let mut proofs = values(header::PROOF);
    let (Some(field), None) = (proofs.next(), proofs.next()) else {
        return Err(DialError::Stranger("not exactly one proof in its answer to the challenge"));
    };
    let proof = Proof::parse(field.value).map_err(|_| DialError::Stranger("malformed proof"))?;
    // A supervisor that is ending says so; this connection would not carry a request any more.
    if values("connection").any(|field| field.value.eq_ignore_ascii_case(b"close")) {
        return Err(DialError::HungUp);
    }
    Ok(Some(proof))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROOF: &str = "MWxv+okJfznsyVvi1/cwTJzNUDBx6L6v7ekU6R6LQl0=";

    fn refusal(answer: &str) -> DialError {
        match read_answer(answer.as_bytes()) {
            Err(refusal) => refusal,
            Ok(proof) => panic!("{answer:?} gave {proof:?}"),
        }
    }

    #[test]
    fn reads_a_proof_at_whatever_byte_it_is_cut() {
        let answer = format!("HTTP/1.1 204 No Content\r\nX-ToolHive-Proof: {PROOF}\r\ndate: now\r\n\r\n");
        for cut in 0..answer.len() {
            assert!(matches!(read_answer(&answer.as_bytes()[..cut]), Ok(None)), "{cut}");
        }
        let proof = read_answer(answer.as_bytes()).unwrap().unwrap();
        assert_eq!(proof.encode(), PROOF);
    }

    #[test]
    fn nothing_but_one_proof_is_a_proof() {
        let strangers = [
            format!("HTTP/1.1 200 OK\r\nx-toolhive-proof: {PROOF}\r\n\r\n"),
            format!("HTTP/1.0 204 No Content\r\nx-toolhive-proof: {PROOF}\r\n\r\n"),
            format!(
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\nx-toolhive-proof: {PROOF}\r\n\r\n"
            ),
            format!("HTTP/1.1 204 No Content\r\nx-toolhive-proof: {PROOF}\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
            format!(
                "HTTP/1.1 204 No Content\r\nx-toolhive-proof: {PROOF}\r\nx-toolhive-proof: {PROOF}\r\n\r\n"
            ),
            format!("HTTP/1.1 204 No Content\r\nx-toolhive-proof: {}\r\n\r\n", PROOF.trim_end_matches('=')),
            "HTTP/1.1 204 No Content\r\n\r\n".into(),
            "HTTP/1.1 401 Unauthorized\r\n\r\n".into(),
            "SSH-2.0-OpenSSH_9.2\r\n".into(),
        ];
        for answer in strangers {
            assert!(matches!(refusal(&answer), DialError::Stranger(_)), "{answer:?}");
        }
    }

    #[test]
    fn tells_an_unknown_key_and_an_ending_supervisor_from_a_stranger() {
        let unknown = refusal("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno");
        assert!(matches!(unknown, DialError::UnknownKey));
        let ending =
            format!("HTTP/1.1 204 No Content\r\nconnection: close\r\nx-toolhive-proof: {PROOF}\r\n\r\n");
        assert!(matches!(refusal(&ending), DialError::HungUp));
    }
}
