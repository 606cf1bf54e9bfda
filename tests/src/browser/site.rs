//! A web site on a port of 127.0.0.1, and the little HTTP that this takes: one request a connection.

use crate::{Failure, Result, ensure};
use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a browser may take to send what it began, and to read its answer.
const BOUND: Duration = Duration::from_secs(30);

/// The largest body that a page of a test sends.
const MAX_BODY: usize = 1 << 20;

/// A request that reached a site.
#[derive(Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub target: String,
    /// The fields in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Asked {
    /// The first value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The next request of a connection; `None` when the far end wanted nothing, as with connections that a browser
    /// opens in advance.
    fn read(stream: &TcpStream) -> Result<Option<Self>> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(reader.read_line(&mut line)? > 0, "a request without an end of its head");
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut asked = Self { method, target, headers, body: Vec::new() };
        let length = asked.header("content-length").map_or(Ok(0), str::parse::<usize>);
        let length = length.ok().filter(|length| *length <= MAX_BODY);
        asked.body = vec![0; length.ok_or_else(|| Failure::new(format!("no such length: {asked:?}")))?];
        reader.read_exact(&mut asked.body)?;
        Ok(Some(asked))
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, target, headers, body } = self;
        write!(f, "{method} {target} {headers:?} {:?}", String::from_utf8_lossy(body))
    }
}

/// What a site answers.
#[derive(Clone, Debug)]
#[must_use]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// An answer without a body.
    pub const fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// An answer with a body.
    pub fn with(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut answer = Self::new(200).header("Content-Type", content_type);
        answer.body = body.into();
        answer
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        // Nothing of a test is to rest on disk: pages are told keys.
        let mut head =
            format!("HTTP/1.1 {} -\r\nConnection: close\r\nCache-Control: no-store\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.status != 204 {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A site, known by any host name that leads to 127.0.0.1. Dropping it ends it: nobody listens on its port then.
pub struct Site {
    port: u16,
    ended: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Site {
    /// Serves on `port`, or on any free one if it is 0. Each request gets its answer on a thread of its own.
    ///
    /// # Errors
    /// The port is taken.
    pub fn serve(port: u16, answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .map_err(|error| Failure::from(error).during(format!("a site on port {port}")))?;
        let port = listener.local_addr()?.port();
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let answer = Arc::new(answer);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    break;
                }
                let answer = Arc::clone(&answer);
                // A page that went away is no failure of the site.
                std::thread::spawn(move || converse(&stream, &*answer).ok());
            }
        });
        Ok(Self { port, ended, accepting: Some(accepting) })
    }

    /// The port that it listens on.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // The thread waits for a connection; one that cannot be made means that it waits no more.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn converse(mut stream: &TcpStream, answer: &impl Fn(&Asked) -> Answer) -> Result {
    stream.set_read_timeout(Some(BOUND))?;
    stream.set_write_timeout(Some(BOUND))?;
    if let Some(asked) = Asked::read(stream)? {
        stream.write_all(&answer(&asked).bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{Http, Request};

    #[test]
    fn a_site_answers_until_it_is_dropped() {
        let site = Site::serve(0, |asked| {
            let said = format!("{} {} {}", asked.method, asked.target, asked.body.len());
            Answer::with("text/plain", said).header("X-Host", asked.header("host").unwrap_or("none"))
        })
        .unwrap();
        let port = site.port();
        let answer = Request::new("POST", "/a?b", port).body("xyz").send().unwrap();
        assert_eq!((answer.status, answer.text().as_str(), answer.whole), (200, "POST /a?b 3", true));
        assert_eq!(answer.header("x-host"), Some(format!("127.0.0.1:{port}").as_str()));
        drop(site);
        // A child that another test is just starting has the listener until it becomes another program.
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while Http::open(port).is_ok() {
            assert!(std::time::Instant::now() < end);
        }
        // Its successor on the same port need not wait.
        drop(Site::serve(port, |_| Answer::new(204)).unwrap());
    }
}
