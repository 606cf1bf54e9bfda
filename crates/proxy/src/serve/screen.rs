//! Watches the bytes of a connection on their way to hyper, for requests whose length two readers may take for
//! different.
//!
//! hyper drops `Content-Length` when `Transfer-Encoding` is there too, in either order, so no service can tell.
//! The screen follows the heads and the bodies with a known length, which takes no more than finding the ends of
//! lines; it numbers the heads and notes the first bad one, and the service shim answers the request of that
//! number with 400. It changes no byte. Where it cannot follow (a chunked body), the connection carries no further
//! request. What is no HTTP at all it leaves to hyper's parser.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::conn::Conn;

/// How much of a line is kept when it comes in pieces: enough for the names that matter and any honest length.
const KEPT: usize = 64;

/// How long the rest of a request is read after its response is complete.
const LINGER: Duration = Duration::from_secs(1);

/// A connection's stream with a screen before it.
pub(super) struct Screen<T> {
    stream: T,
    conn: Conn,
    scan: Scan,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<T> Screen<T> {
    pub(super) fn new(stream: T, conn: Conn) -> Self {
        Self { stream, conn, scan: Scan::default(), linger: None }
    }

    fn saw(&mut self, bytes: &[u8]) {
        let was_within = self.scan.is_within_head();
        self.scan.feed(bytes);
        let is_within = self.scan.is_within_head();
        // A head that came in one piece, or began in a piece with the end of another, started just now.
        if is_within && (!was_within || self.scan.ended_head) {
            self.conn.set_head_since(Some(Instant::now()));
        } else if was_within && !is_within {
            self.conn.set_head_since(None);
        }
        if let Some(number) = self.scan.bad {
            self.conn.set_bad_head(number);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Screen<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.saw(&buf.filled()[before..]);
        }
        polled
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Screen<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends our side. If the client is still sending, goes on reading for a moment: a socket that is closed with
    /// unread bytes resets the connection, and the reset overtakes the response.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            std::task::ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if this.scan.is_between_requests() {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut scratch = [0; 8 * 1024];
        // A bounded number of reads a poll, so that a client that never stops cannot keep the thread.
        for _ in 0..32 {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Follows the framing of the requests on one connection.
#[derive(Debug, Default)]
struct Scan {
    at: At,
    /// Heads that have ended.
    heads: u64,
    /// The number of the first head with ambiguous framing.
    bad: Option<u64>,
    /// Whether a head ended within the last piece.
    ended_head: bool,
    line: Line,
    head: Head,
}

#[derive(Debug, Default, PartialEq)]
enum At {
    #[default]
    Head,
    /// Within a body of which so many bytes are to come.
    Body(u64),
    /// No further request is followed here.
    End,
}

/// What is known of the head that is being received.
#[derive(Debug, Default)]
struct Head {
    /// The request line has gone by. Empty lines before it are not the head's end (RFC 9112 section 2.2).
    started: bool,
    length: Option<u64>,
    encoded: bool,
    bad: bool,
}

/// The beginning of a line that came in pieces.
#[derive(Debug)]
struct Line {
    kept: [u8; KEPT],
    len: usize,
    /// The line's real length so far.
    total: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { kept: [0; KEPT], len: 0, total: 0 }
    }
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(KEPT - self.len);
        self.kept[self.len..self.len + kept].copy_from_slice(&bytes[..kept]);
        self.len += kept;
        self.total += bytes.len();
    }
}

impl Scan {
    /// Some bytes of a head are there, but not its end.
    fn is_within_head(&self) -> bool {
        self.at == At::Head && (self.head.started || self.line.total > 0)
    }

    /// All that was received belongs to complete requests.
    fn is_between_requests(&self) -> bool {
        self.at == At::Head && !self.is_within_head()
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        self.ended_head = false;
        while !bytes.is_empty() {
            match &mut self.at {
                At::End => return,
                At::Body(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= here as u64;
                    bytes = &bytes[here..];
                    if *left == 0 {
                        self.at = At::Head;
                    }
                }
                At::Head => bytes = self.feed_head(bytes),
            }
        }
    }

    /// Takes one line, or what there is of it, and returns the rest.
    fn feed_head<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.line.push(bytes);
            return &[];
        };
        let (piece, rest) = (&bytes[..end], &bytes[end + 1..]);
        let ended = if self.line.total == 0 {
            self.head.line(piece, false)
        } else {
            self.line.push(piece);
            let Line { kept, len, total } = std::mem::take(&mut self.line);
            self.head.line(&kept[..len], total > len)
        };
        if ended {
            self.end_head();
        }
        rest
    }

    fn end_head(&mut self) {
        let head = std::mem::take(&mut self.head);
        self.heads += 1;
        self.ended_head = true;
        if head.bad || (head.encoded && head.length.is_some()) {
            self.bad = Some(self.heads);
            self.at = At::End;
        } else if head.encoded {
            self.at = At::End;
        } else if let Some(length @ 1..) = head.length {
            self.at = At::Body(length);
        }
    }
}

impl Head {
    /// Takes a line without its `\n`, `cut` if it goes on beyond what is given. True at the end of the head.
    fn line(&mut self, line: &[u8], cut: bool) -> bool {
        let line = if cut { line } else { line.strip_suffix(b"\r").unwrap_or(line) };
        if !self.started {
            self.started = !line.is_empty();
            return false;
        }
        if let Some(value) = field(line, b"content-length") {
            // More than one length is refused too, though they may agree: whoever comes next may not.
            self.bad |= cut || self.length.is_some();
            match length(value) {
                Some(length) => self.length = Some(length),
                None => self.bad = true,
            }
        } else if field(line, b"transfer-encoding").is_some() {
            self.encoded = true;
        }
        line.is_empty()
    }
}

/// The value of a field line of that name. hyper's parser refuses space around the name.
fn field<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let value = line.get(name.len() + 1..)?;
    (line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name)).then_some(value)
}

/// Digits and nothing else, but for the white space around a field's value.
fn length(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
    let digits = !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit());
    if digits { value.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `input` whole and in pieces of every length; the outcome must not depend on the cuts. Returns the
    /// number of heads, the first bad one, and whether the scan ended between requests.
    fn scan(input: &str) -> (u64, Option<u64>, bool) {
        let run = |pieces: usize| {
            let mut scan = Scan::default();
            for piece in input.as_bytes().chunks(pieces) {
                scan.feed(piece);
            }
            (scan.heads, scan.bad, scan.is_between_requests())
        };
        let whole = run(input.len());
        for pieces in 1..input.len().min(200) {
            assert_eq!(run(pieces), whole, "in pieces of {pieces}: {input:?}");
        }
        whole
    }

    #[test]
    fn follows_requests_with_and_without_bodies() {
        let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        let post = "POST / HTTP/1.1\r\nhost: a\r\nContent-Length: 4\r\n\r\nab\n\n";
        assert_eq!(scan(get), (1, None, true));
        assert_eq!(scan(post), (1, None, true));
        assert_eq!(scan(&format!("{get}{post}{post}{get}")), (4, None, true));
        // Bare line feeds and empty lines before the request line, as hyper's parser takes them.
        assert_eq!(scan("\r\n\n\r\nGET / HTTP/1.1\nhost: a\n\nGET / HTTP/1.1\n\n"), (2, None, true));
        assert_eq!(
            scan("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            (2, None, true)
        );
        // Unfinished.
        assert_eq!(scan("GET / HTTP/1.1\r\nhost: a\r\n"), (0, None, false));
        assert_eq!(scan("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nabcd"), (1, None, false));
        // A body that looks like a head with ambiguous framing.
        let decoy = "content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        let wrapped = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{decoy}", decoy.len());
        assert_eq!(scan(&format!("{wrapped}{get}")), (2, None, true));
    }

    #[test]
    fn finds_length_with_encoding_in_either_order() {
        for (first, second) in [
            ("content-length: 4", "transfer-encoding: chunked"),
            ("transfer-encoding: chunked", "content-length: 4"),
            ("TRANSFER-ENCODING:chunked", "CONTENT-LENGTH:\t4 "),
            ("transfer-encoding: gzip, chunked", "content-length: 0"),
            ("transfer-encoding:", "content-length: 4"),
        ] {
            let input = format!("POST / HTTP/1.1\r\n{first}\r\nhost: a\r\n{second}\r\n\r\n0\r\n\r\n");
            assert_eq!(scan(&input), (1, Some(1), false), "{input}");
            let second = format!("GET / HTTP/1.1\r\n\r\n{input}");
            assert_eq!(scan(&second), (2, Some(2), false));
        }
    }

    #[test]
    fn a_length_is_one_plain_number() {
        for value in ["", "+4", "-4", "4,4", "4 4", "0x4", "4.0", "18446744073709551616", "४"] {
            let input = format!("POST / HTTP/1.1\r\ncontent-length: {value}\r\n\r\n");
            assert_eq!(scan(&input).1, Some(1), "{value:?}");
        }
        assert_eq!(scan("POST / HTTP/1.1\ncontent-length: 4\ncontent-length: 4\n\nabcd").1, Some(1));
        // A length that is lost in white space is none; in one piece it is.
        let spaces = " ".repeat(KEPT);
        let mut split = Scan::default();
        split.feed(format!("POST / HTTP/1.1\r\ncontent-length:{spaces}").as_bytes());
        split.feed(b"4\r\n\r\nabcd");
        assert_eq!((split.bad, split.at), (Some(1), At::End));
    }

    #[test]
    fn names_that_only_resemble_are_other_fields() {
        for name in
            ["x-content-length", "content-length2", "content_length", "content-lengt", "content-length "]
        {
            let input = format!("POST / HTTP/1.1\r\n{name}: 4\r\ntransfer-encoding: chunked\r\n\r\n");
            assert_eq!(scan(&input).1, None, "{name:?}");
        }
        // The request line is no field.
        assert_eq!(scan("content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n").1, None);
    }

    #[test]
    fn after_an_encoded_body_nothing_is_followed() {
        let input = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        assert_eq!(scan(input), (1, None, false));
    }
}
