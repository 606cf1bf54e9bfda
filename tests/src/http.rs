//! HTTP/1.1 by hand: sends exactly the bytes that a test wants, and takes whatever comes back.

use crate::{Failure, Result, ensure};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take unless the test says otherwise.
pub const BOUND: Duration = Duration::from_secs(30);

/// Sends `bytes` to a port of 127.0.0.1 on a connection of their own and reads one response.
///
/// # Errors
/// Nobody listens, or what came back within [`BOUND`] is not the head of a response.
pub fn raw(port: u16, bytes: &[u8]) -> Result<Response> {
    let mut http = Http::open(port)?;
    http.send(bytes);
    http.response()
}

/// A request put together from parts, none of which is checked.
#[derive(Clone, Debug)]
#[must_use]
pub struct Request {
    port: u16,
    head: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request for `target` on `port`, with the right `Host` and nothing else.
    pub fn new(method: &str, target: &str, port: u16) -> Self {
        let headers = vec![("Host".into(), format!("127.0.0.1:{port}"))];
        Self { port, head: format!("{method} {target} HTTP/1.1"), headers, body: Vec::new() }
    }

    /// A POST of a JSON body to `/mcp`, with the headers of an MCP client.
    pub fn mcp(port: u16, body: &(impl ToString + ?Sized)) -> Self {
        Self::new("POST", "/mcp", port)
            .header("Accept", "application/json, text/event-stream")
            .header("Content-Type", "application/json")
            .body(body.to_string())
    }

    /// Adds a field; the same name twice gives two fields.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Takes all fields of this name away.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
        self
    }

    /// Adds the field that carries the key.
    pub fn key(self, key: &str) -> Self {
        self.header("X-ToolHive-Auth", key)
    }

    /// Sets the body, and the `Content-Length` that goes with it.
    pub fn body(self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let mut request = self.without("Content-Length").header("Content-Length", body.len().to_string());
        request.body = body;
        request
    }

    /// The bytes to send.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{}\r\n", self.head).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends it on a connection of its own.
    ///
    /// # Errors
    /// As [`raw`].
    pub fn send(&self) -> Result<Response> {
        raw(self.port, &self.bytes())
    }
}

/// A response as it came.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status line.
    pub line: String,
    /// The fields in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, without its chunk frames.
    pub body: Vec<u8>,
    /// Whether the body came to its end; a stream that goes on is cut where the bound ran out.
    pub whole: bool,
}

impl Response {
    /// The value of a field that must not be repeated.
    pub fn header(&self, name: &str) -> Option<&str> {
        match self.header_values(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The values of a field, however often it came.
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        let same = |(have, _): &&(String, String)| have.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// It is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::from(error).during(format!("{} {:?}", self.line, self.text())))
    }

    fn parse_head(head: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| Failure::new(format!("this is no status line: {line:?}")))?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Self { status, line, headers, body: Vec::new(), whole: false })
    }
}

/// One connection, for as many requests as it lives.
pub struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
    bound: Duration,
}

impl Http {
    /// Connects to a port of 127.0.0.1.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn open(port: u16) -> Result<Self> {
        Self::open_at((Ipv4Addr::LOCALHOST, port).into())
    }

    /// Connects to an address.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn open_at(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, BOUND)
            .map_err(|error| Failure::from(error).during(format!("connecting to {addr}")))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), bound: BOUND })
    }

    /// How long to wait for answers from now on.
    pub fn set_bound(&mut self, bound: Duration) {
        self.bound = bound;
    }

    /// Our end of the connection.
    ///
    /// # Errors
    /// The system would not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.stream.local_addr()?)
    }

    /// Sends bytes. A far end that stops reading is no failure: it may have answered early, and the answer is
    /// what a test wants to see.
    pub fn send(&mut self, bytes: &[u8]) {
        // A full socket buffer must not hold the test for ever.
        let _ = self.stream.set_write_timeout(Some(self.bound));
        let _ = self.stream.write_all(bytes);
    }

    /// Reads one response; interim ones (1xx) are skipped.
    ///
    /// # Errors
    /// What came is not the head of a response, or none came in time.
    pub fn response(&mut self) -> Result<Response> {
        let end = Instant::now() + self.bound;
        loop {
            let Some(head) = self.take_through(b"\r\n\r\n", end)? else {
                let seen = String::from_utf8_lossy(&self.buffer);
                return Err(Failure::new(format!("no response, only {seen:?}")));
            };
            let mut response = Response::parse_head(&head[..head.len() - 4])?;
            if response.status >= 200 {
                self.read_body(&mut response, end)?;
                return Ok(response);
            }
        }
    }

    /// Reads on until `needle` has come, and returns everything through it. Chunk frames are left in.
    ///
    /// # Errors
    /// It did not come in time or before the connection closed.
    pub fn read_through(&mut self, needle: &str) -> Result<Vec<u8>> {
        let end = Instant::now() + self.bound;
        self.take_through(needle.as_bytes(), end)?.ok_or_else(|| {
            Failure::new(format!("no {needle:?}, only {:?}", String::from_utf8_lossy(&self.buffer)))
        })
    }

    /// Whether the far end closes the connection within the bound without sending anything more.
    ///
    /// # Errors
    /// It sent something instead.
    pub fn closes(&mut self) -> Result<bool> {
        let end = Instant::now() + self.bound;
        let more = self.fill(end)?;
        ensure!(self.buffer.is_empty(), "it sent {:?}", String::from_utf8_lossy(&self.buffer));
        Ok(more == Fill::Closed)
    }

    fn read_body(&mut self, response: &mut Response, end: Instant) -> Result {
        if matches!(response.status, 204 | 304) {
            response.whole = true;
        } else if let Some(length) = response.header("content-length").and_then(|text| text.parse().ok()) {
            while self.buffer.len() < length && self.fill(end)? == Fill::More {}
            response.whole = self.buffer.len() >= length;
            let length = length.min(self.buffer.len());
            response.body = self.buffer.drain(..length).collect();
        } else if response.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.take_chunk(end)? {
                if chunk.is_empty() {
                    response.whole = true;
                    break;
                }
                response.body.extend_from_slice(&chunk);
            }
        } else {
            let mut last = Fill::More;
            while last == Fill::More {
                last = self.fill(end)?;
            }
            response.whole = last == Fill::Closed;
            response.body = std::mem::take(&mut self.buffer);
        }
        Ok(())
    }

    /// The next chunk without its frame; an empty one is the last. `None` when it does not come to its end.
    fn take_chunk(&mut self, end: Instant) -> Result<Option<Vec<u8>>> {
        let Some(line) = self.take_through(b"\r\n", end)? else { return Ok(None) };
        let line = String::from_utf8_lossy(&line);
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16)
            .map_err(|_| Failure::new(format!("this is no chunk size: {line:?}")))?;
        while self.buffer.len() < size + 2 {
            if self.fill(end)? != Fill::More {
                return Ok(None);
            }
        }
        let chunk = self.buffer.drain(..size).collect();
        self.buffer.drain(..2);
        Ok(Some(chunk))
    }

    fn take_through(&mut self, needle: &[u8], end: Instant) -> Result<Option<Vec<u8>>> {
        let mut searched = 0_usize;
        loop {
            let at = self.buffer[searched..].windows(needle.len()).position(|window| window == needle);
            if let Some(at) = at {
                return Ok(Some(self.buffer.drain(..searched + at + needle.len()).collect()));
            }
            searched = self.buffer.len().saturating_sub(needle.len() - 1);
            if self.fill(end)? != Fill::More {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self, end: Instant) -> Result<Fill> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Fill::TimedOut);
        }
        self.stream.set_read_timeout(Some(left))?;
        let mut block = [0; 16 * 1024];
        match self.stream.read(&mut block) {
            Ok(0) => Ok(Fill::Closed),
            Ok(count) => {
                self.buffer.extend_from_slice(&block[..count]);
                Ok(Fill::More)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Fill::TimedOut),
                // A refusal of a request that was not read to its end often ends so.
                ErrorKind::ConnectionReset => Ok(Fill::Closed),
                ErrorKind::Interrupted => Ok(Fill::More),
                _ => Err(error.into()),
            },
        }
    }
}

#[derive(PartialEq, Eq)]
enum Fill {
    More,
    Closed,
    TimedOut,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A connection whose far end has said `answer`, and the far end's side of it.
    fn after(answer: &str) -> (Http, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let http = Http::open(listener.local_addr().unwrap().port()).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        far.write_all(answer.as_bytes()).unwrap();
        (http, far)
    }

    #[test]
    fn bodies_are_read_by_length_by_chunks_and_to_the_end() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhellorest", false, "hello", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", true, "hello", false),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=1\r\nhell\r\n1\r\no\r\n0\r\n\r\n",
                false,
                "hello",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nwo",
                true,
                "hello",
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\nhello", true, "hello", true),
            ("HTTP/1.1 204 No Content\r\n\r\n", false, "", true),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
                false,
                "",
                true,
            ),
        ];
        for (answer, close, body, whole) in cases {
            let (mut http, far) = after(answer);
            let far = (!close).then_some(far);
            let response = http.response().unwrap();
            assert_eq!((response.text().as_str(), response.whole), (body, whole), "{answer}");
            drop(far);
        }
    }

    #[test]
    fn a_stream_that_goes_on_is_cut_at_the_bound() {
        let (mut http, _far) = after("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        http.set_bound(Duration::from_millis(50));
        let response = http.response().unwrap();
        assert_eq!((response.text().as_str(), response.whole), ("hello", false));
    }

    #[test]
    fn fields_keep_their_order_and_repetition() {
        let (mut http, _far) = after("HTTP/1.1 401 No\r\nA: 1\r\nB:2\r\na: 3\r\nContent-Length: 0\r\n\r\n");
        let response = http.response().unwrap();
        assert_eq!((response.status, response.line.as_str()), (401, "HTTP/1.1 401 No"));
        assert_eq!(response.header_values("A"), ["1", "3"]);
        assert_eq!(
            (response.header("a"), response.header("b"), response.header("c")),
            (None, Some("2"), None)
        );
    }

    #[test]
    fn a_connection_serves_several_responses_and_tells_its_end() {
        let one = "HTTP/1.1 204 No Content\r\n\r\n";
        let (mut http, far) = after(&format!("{one}{one}data: x\n\n"));
        assert_eq!(http.response().unwrap().status, 204);
        assert_eq!(http.response().unwrap().status, 204);
        assert_eq!(http.read_through("\n\n").unwrap(), b"data: x\n\n");
        drop(far);
        assert!(http.closes().unwrap());
        assert!(http.response().is_err());
    }

    #[test]
    fn what_is_not_http_is_said() {
        let (mut http, far) = after("SSH-2.0-OpenSSH\r\n\r\n");
        drop(far);
        assert!(http.response().unwrap_err().to_string().contains("SSH-2.0"));
    }

    #[test]
    fn requests_are_put_together_unchecked() {
        let request = Request::new("POST", "//mcp", 80).header("Host", "evil").body("{}").body("[]");
        let expected =
            "POST //mcp HTTP/1.1\r\nHost: 127.0.0.1:80\r\nHost: evil\r\nContent-Length: 2\r\n\r\n[]";
        assert_eq!(String::from_utf8(request.bytes()).unwrap(), expected);
        let request = Request::new("GET", "/", 80).without("host").key("k");
        assert_eq!(request.bytes(), b"GET / HTTP/1.1\r\nX-ToolHive-Auth: k\r\n\r\n");
    }
}
