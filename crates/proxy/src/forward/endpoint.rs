//! The `endpoint` event of the transport of 2024-11-05: it says where messages are to be posted.

use bytes::Bytes;

use super::fault::Fault;
use super::reference::Base;

/// The most bytes that an event may have before the endpoint is known.
const MAX_BLOCK: usize = 64 * 1024;

const MARK: &[u8] = b"\xef\xbb\xbf";

/// Looks for the first `endpoint` event of a stream and makes its URI one of ours. Whole events go on as they are
/// complete; of one that is not, nothing.
pub(super) struct EndpointScan {
    base: Base,
    /// The block that is not complete yet.
    block: Vec<u8>,
    /// Where its last line begins.
    line: usize,
    /// The byte before was CR: a LF belongs to it.
    after_cr: bool,
    at_start: bool,
}

/// What may go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// These bytes, and the endpoint is still to come.
    More(Bytes),
    /// These bytes, and all that follow, unread.
    Done(Bytes),
}

impl EndpointScan {
    pub(super) fn new(base: Base) -> Self {
        Self { base, block: Vec::new(), line: 0, after_cr: false, at_start: true }
    }

    pub(super) fn feed(&mut self, chunk: &[u8]) -> Result<Step, Fault> {
        let mut out = Vec::with_capacity(self.block.len() + chunk.len());
        for (at, byte) in chunk.iter().copied().enumerate() {
            let belongs_to_cr = std::mem::replace(&mut self.after_cr, byte == b'\r') && byte == b'\n';
            if belongs_to_cr && self.block.is_empty() {
                out.push(byte);
                continue;
            }
            self.block.push(byte);
            if belongs_to_cr {
                self.line = self.block.len();
            } else if byte == b'\n' || byte == b'\r' {
                let is_blank = self.line + 1 == self.block.len();
                self.line = self.block.len();
                if is_blank && self.end_block(&mut out)? {
                    out.extend_from_slice(&chunk[at + 1..]);
                    return Ok(Step::Done(out.into()));
                }
            } else if self.block.len() > MAX_BLOCK {
                return Err(Fault::ForeignEndpoint);
            }
        }
        Ok(Step::More(out.into()))
    }

    /// Appends the block that is complete now. Returns whether it was the endpoint.
    fn end_block(&mut self, out: &mut Vec<u8>) -> Result<bool, Fault> {
        let block = std::mem::take(&mut self.block);
        self.line = 0;
        let mark = if std::mem::take(&mut self.at_start) && block.starts_with(MARK) { MARK.len() } else { 0 };
        let lines = lines(&block[mark..]);
        let last = |name: &[u8]| lines.iter().rfind(|line| line.name == name);
        let is_endpoint = last(b"event").is_some_and(|line| line.value == b"endpoint");
        let data = lines.iter().filter(|line| line.name == b"data").count();
        // Without data it is no event.
        if !is_endpoint || data == 0 {
            out.extend_from_slice(&block);
            return Ok(false);
        }
        let uri = last(b"data").filter(|_| data == 1).and_then(|line| std::str::from_utf8(line.value).ok());
        let ours = uri.and_then(|uri| self.base.ours(uri)).ok_or(Fault::ForeignEndpoint)?;
        out.extend_from_slice(&block[..mark]);
        for line in &lines {
            if line.name == b"data" && line.value != ours.as_bytes() {
                out.extend_from_slice(b"data: ");
                out.extend_from_slice(ours.as_bytes());
                out.extend_from_slice(line.end);
            } else {
                out.extend_from_slice(line.raw);
            }
        }
        Ok(true)
    }
}

struct Line<'b> {
    /// With its end.
    raw: &'b [u8],
    name: &'b [u8],
    value: &'b [u8],
    end: &'b [u8],
}

/// The lines of a block (WHATWG HTML, "Interpreting an event stream"). A comment has an empty name.
fn lines(mut block: &[u8]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    while let Some(at) = memchr::memchr2(b'\n', b'\r', block) {
        let length = at + if block[at..].starts_with(b"\r\n") { 2 } else { 1 };
        let (raw, rest) = block.split_at(length);
        let (text, end) = raw.split_at(at);
        let (name, value) = match memchr::memchr(b':', text) {
            Some(colon) => (&text[..colon], &text[colon + 1..]),
            None => (text, &[][..]),
        };
        lines.push(Line { raw, name, value: value.strip_prefix(b" ").unwrap_or(value), end });
        block = rest;
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::paths::Paths;
    use super::super::reference::Site;
    use super::super::upstream::Upstream;
    use super::*;

    fn scan() -> EndpointScan {
        let site = Site { upstream: Upstream::parse("http://up.test/").unwrap(), paths: Paths::one_to_one() };
        EndpointScan::new(Base { site: Arc::new(site), ours: "/sse".to_owned(), theirs: "/sse".to_owned() })
    }

    /// Feeds the stream in pieces; what came out, and whether the endpoint was found.
    fn run(stream: &[u8], size: usize) -> Result<(String, bool), Fault> {
        let mut scan = scan();
        let mut out = Vec::new();
        let mut done = false;
        for piece in stream.chunks(size) {
            if done {
                out.extend_from_slice(piece);
                continue;
            }
            match scan.feed(piece)? {
                Step::More(bytes) => out.extend_from_slice(&bytes),
                Step::Done(bytes) => {
                    out.extend_from_slice(&bytes);
                    done = true;
                }
            }
        }
        Ok((String::from_utf8_lossy(&out).into_owned(), done))
    }

    #[test]
    fn the_first_endpoint_becomes_ours() {
        for (stream, expect) in [
            ("event: endpoint\ndata: /m?s=1\n\nrest", Some("event: endpoint\ndata: /m?s=1\n\nrest")),
            ("event: endpoint\ndata:/m\n\n", Some("event: endpoint\ndata:/m\n\n")),
            (
                "event:endpoint\r\ndata:http://up.test/m?s=1\r\n\r\ndata: 1\r\n\r\n",
                Some("event:endpoint\r\ndata: /m?s=1\r\n\r\ndata: 1\r\n\r\n"),
            ),
            ("data: http://up.test/m\revent: endpoint\r\rx", Some("data: /m\revent: endpoint\r\rx")),
            (
                ": hi\n\nid: 3\nretry: 5\n: c\nevent: x\nevent: endpoint\ndata: //up.test/m\n\n",
                Some(": hi\n\nid: 3\nretry: 5\n: c\nevent: x\nevent: endpoint\ndata: /m\n\n"),
            ),
            (
                "\u{feff}event: endpoint\ndata: http://up.test\n\n",
                Some("\u{feff}event: endpoint\ndata: /\n\n"),
            ),
            (
                "event: message\ndata: endpoint\n\nevent: endpoint\n\nevent: endpoint\ndata: /m\n\nevent: endpoint\ndata: http://evil/\n\n",
                Some(
                    "event: message\ndata: endpoint\n\nevent: endpoint\n\nevent: endpoint\ndata: /m\n\nevent: endpoint\ndata: http://evil/\n\n",
                ),
            ),
            ("event: endpoint\ndata: http://evil.test/m\n\n", None),
            ("event: endpoint\ndata: /m\ndata: /n\n\n", None),
            ("event: endpoint\ndata: \n\n", None),
            ("\u{feff}event: endpoint\ndata: //evil/\r\n\r\n", None),
        ] {
            for size in 1..=stream.len() {
                let seen = run(stream.as_bytes(), size).ok();
                assert_eq!(seen, expect.map(|text| (text.to_owned(), true)), "{stream:?} by {size}");
            }
        }
    }

    #[test]
    fn what_is_complete_goes_on_at_once() {
        let mut scan = scan();
        assert_eq!(scan.feed(b": ping\n").unwrap(), Step::More(Bytes::new()));
        assert_eq!(scan.feed(b"\ndata: 1\n").unwrap(), Step::More(Bytes::from_static(b": ping\n\n")));
        assert_eq!(scan.feed(b"\r").unwrap(), Step::More(Bytes::from_static(b"data: 1\n\r")));
        assert_eq!(scan.feed(b"\n").unwrap(), Step::More(Bytes::from_static(b"\n")));
    }

    #[test]
    fn an_endless_event_is_not_kept() {
        let mut scan = scan();
        let piece = [b'x'; 4096];
        let mut fed = (0..100).map(|_| scan.feed(&piece));
        assert!(fed.any(|step| matches!(step, Err(Fault::ForeignEndpoint))));
    }

    proptest! {
        #[test]
        fn without_an_endpoint_whole_events_are_unchanged(
            lines in prop::collection::vec(("[a-z:. ]{0,8}", prop::sample::select(vec!["\n", "\r", "\r\n"])), 0..30),
            size in 1_usize..20,
        ) {
            let stream: String = lines.iter().map(|(line, end)| format!("{line}{end}")).collect();
            let (out, done) = run(stream.as_bytes(), size).unwrap();
            prop_assert!(!done);
            prop_assert!(stream.starts_with(&out));
            // Nothing but the block that is not complete is held.
            prop_assert!(!stream[out.len()..].contains("\n\n"));
        }
    }
}
