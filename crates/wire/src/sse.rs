//! The `text/event-stream` format (WHATWG HTML, "Server-sent events"), as MCP uses it.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr2;

use crate::lines::part_with;
use crate::skim::{Skim, Skimmed};

/// The media type of an event stream.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// A comment, which keeps a quiet connection from being taken for a dead one.
pub const KEEP_ALIVE: &[u8] = b":\n\n";

/// How a line of data begins.
const DATA: &[u8] = b"data:";

/// One block of an event stream.
///
/// Blocks without `data` are no events to a browser, but MCP needs them: an id or a `retry` may come alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `event` field. Absent means `message`.
    pub event: Option<String>,
    /// The `data` fields, joined by LF. `Some` of nothing is what a priming event has.
    pub data: Option<Bytes>,
    /// The `id` field. An empty one takes the last id back.
    pub id: Option<String>,
    /// The `retry` field: how long to wait before connecting again.
    pub retry: Option<Duration>,
}

/// Why a block was not handed out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// It was bigger than the limit and is gone; the block after it is whole again.
    #[error("an event of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The most bytes that a block may have.
        limit: usize,
        /// The bytes that it had.
        length: u64,
        /// Its `id` field, if that came before the limit was reached.
        id: Option<String>,
        /// Whom the message in it concerned, so that a request can still be answered.
        message: Skimmed,
    },
}

/// Cuts an event stream into its blocks.
///
/// A line ends with LF, CR or CRLF; a byte order mark at the start is passed over, comments and unknown fields
/// too. A block over the limit is dropped as it arrives. A block that the stream's end cuts off is not handed
/// out, as the format demands.
#[derive(Debug)]
pub struct EventDecoder {
    limit: usize,
    buffer: BytesMut,
    /// So many bytes of the buffer are known to hold no end of a line.
    searched: usize,
    at_start: bool,
    /// The last line ended with CR: a LF that follows belongs to it.
    after_cr: bool,
    block: Block,
    length: u64,
    dropping: Option<Dropping>,
}

/// The fields of the block that is being read.
#[derive(Debug, Default)]
struct Block {
    fields: Event,
    /// `data`, once it has more than one line.
    joined: Option<BytesMut>,
    any: bool,
}

#[derive(Debug, Default)]
struct Dropping {
    skim: Skim,
    /// What the line that is now being dropped is.
    line: Line,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Line {
    #[default]
    Start,
    Data,
    Other,
}

impl EventDecoder {
    /// A decoder for blocks of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: BytesMut::new(),
            searched: 0,
            at_start: true,
            after_cr: false,
            block: Block::default(),
            length: 0,
            dropping: None,
        }
    }

    /// Takes bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next block that is whole. Nothing means that more bytes are needed.
    pub fn next_event(&mut self) -> Option<Result<Event, EventError>> {
        if self.at_start {
            let mark = b"\xef\xbb\xbf";
            let seen = self.buffer.len().min(mark.len());
            if self.buffer[..seen] == mark[..seen] {
                if seen < mark.len() {
                    return None;
                }
                self.buffer.advance(mark.len());
            }
            self.at_start = false;
        }
        loop {
            if self.after_cr && !self.buffer.is_empty() {
                self.after_cr = false;
                if self.buffer[0] == b'\n' {
                    self.buffer.advance(1);
                }
            }
            let Some(end) = memchr2(b'\n', b'\r', &self.buffer[self.searched..]).map(|at| self.searched + at)
            else {
                self.searched = self.buffer.len();
                if self.dropping.is_none() && self.is_over(self.searched) {
                    self.dropping = Some(self.start_dropping());
                }
                // The name of a field is not looked at in pieces.
                if let Some(dropping) = &self.dropping
                    && (dropping.line != Line::Start || self.searched >= DATA.len())
                {
                    self.drop_bytes(self.searched);
                }
                return None;
            };
            self.searched = 0;
            if self.dropping.is_none() && self.is_over(end) {
                self.dropping = Some(self.start_dropping());
            }
            let ends_block = match &self.dropping {
                Some(dropping) => end == 0 && dropping.line == Line::Start,
                None => end == 0,
            };
            let terminated_by_cr = self.buffer[end] == b'\r';
            if self.dropping.is_some() {
                self.drop_bytes(end);
                self.buffer.advance(1);
                if let Some(dropping) = &mut self.dropping {
                    dropping.line = Line::Start;
                }
            } else {
                let mut line = self.buffer.split_to(end + 1).freeze();
                part_with(&mut self.buffer, end);
                line.truncate(end);
                self.length += end as u64;
                self.block.take_line(&line);
            }
            self.after_cr = terminated_by_cr;
            if ends_block && let Some(done) = self.end_block() {
                return Some(done);
            }
        }
    }

    /// The bytes that it keeps of a block that is not whole yet.
    pub fn held(&self) -> usize {
        let block =
            if self.dropping.is_none() { usize::try_from(self.length).unwrap_or(usize::MAX) } else { 0 };
        self.buffer.len().saturating_add(block)
    }

    fn is_over(&self, seen: usize) -> bool {
        self.length + seen as u64 > self.limit as u64
    }

    /// Gives up the block: what it holds so far is only looked at.
    fn start_dropping(&mut self) -> Dropping {
        let mut dropping = Dropping::default();
        let id = self.block.fields.id.take();
        if let Some(data) = std::mem::take(&mut self.block).into_event().and_then(|event| event.data) {
            dropping.skim.feed(&data);
        }
        self.block.fields.id = id;
        dropping
    }

    fn drop_bytes(&mut self, count: usize) {
        if let Some(dropping) = &mut self.dropping {
            let mut bytes = &self.buffer[..count];
            if dropping.line == Line::Start && !bytes.is_empty() {
                let data = bytes.strip_prefix(DATA);
                dropping.line = if data.is_some() { Line::Data } else { Line::Other };
                bytes = data.unwrap_or(bytes);
            }
            if dropping.line == Line::Data {
                dropping.skim.feed(bytes);
            }
        }
        self.length += count as u64;
        self.buffer.advance(count);
        self.searched = 0;
    }

    fn end_block(&mut self) -> Option<Result<Event, EventError>> {
        let length = std::mem::take(&mut self.length);
        let block = std::mem::take(&mut self.block);
        match self.dropping.take() {
            Some(Dropping { skim, .. }) => {
                let message = skim.finish();
                Some(Err(EventError::TooLong { limit: self.limit, length, id: block.fields.id, message }))
            }
            None => block.into_event().map(Ok),
        }
    }
}

impl Block {
    fn take_line(&mut self, line: &Bytes) {
        let colon = memchr::memchr(b':', line);
        let (name, value) = match colon {
            Some(0) => return,
            Some(at) => {
                let value = line.slice(at + 1..);
                (&line[..at], if value.first() == Some(&b' ') { value.slice(1..) } else { value })
            }
            None => (&line[..], Bytes::new()),
        };
        let lossy = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
        match name {
            b"data" => self.take_data(value),
            b"event" => self.fields.event = Some(lossy(&value)),
            b"id" if !value.contains(&0) => self.fields.id = Some(lossy(&value)),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let millis = lossy(&value).parse().unwrap_or(u64::MAX);
                self.fields.retry = Some(Duration::from_millis(millis));
            }
            _ => return,
        }
        self.any = true;
    }

    fn take_data(&mut self, value: Bytes) {
        match (&mut self.joined, &self.fields.data) {
            (Some(joined), _) => {
                joined.extend_from_slice(b"\n");
                joined.extend_from_slice(&value);
            }
            (None, Some(first)) => {
                let mut joined = BytesMut::with_capacity(first.len() + 1 + value.len());
                joined.extend_from_slice(first);
                joined.extend_from_slice(b"\n");
                joined.extend_from_slice(&value);
                self.joined = Some(joined);
            }
            (None, None) => self.fields.data = Some(value),
        }
    }

    fn into_event(self) -> Option<Event> {
        let Self { mut fields, joined, any } = self;
        if let Some(joined) = joined {
            fields.data = Some(joined.freeze());
        }
        any.then_some(fields)
    }
}

/// Appends one block.
///
/// Data with line ends in it takes a `data` field for each line. CR, LF and NUL in `event` and `id` are left
/// out, since the format has no way to write them.
pub fn encode(out: &mut Vec<u8>, event: Option<&str>, id: Option<&str>, data: &[u8]) {
    out.reserve(data.len() + 64);
    for (name, value) in [("event: ", event), ("id: ", id)] {
        if let Some(value) = value {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(clean(value).as_bytes());
            out.push(b'\n');
        }
    }
    let mut rest = data;
    loop {
        let end = memchr2(b'\n', b'\r', rest);
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
        out.push(b'\n');
        let Some(end) = end else { break };
        let crlf = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(crlf)..];
    }
    out.push(b'\n');
}

/// Appends a block of an id, a `retry` and empty data, which primes a client to take the stream up again from here
/// (MCP 2025-11-25, `basic/transports`, "Sending Messages to the Server").
pub fn encode_prime(out: &mut Vec<u8>, id: &str, retry: Duration) {
    let id = clean(id);
    out.extend_from_slice(format!("id: {id}\nretry: {}\ndata:\n\n", retry.as_millis()).as_bytes());
}

fn clean(value: &str) -> Cow<'_, str> {
    let bad = ['\r', '\n', '\0'];
    if value.contains(bad) { Cow::Owned(value.replace(bad, "")) } else { Cow::Borrowed(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Id, Kind};

    fn decode(limit: usize, stream: &[u8], sizes: &[usize]) -> Vec<Result<Event, EventError>> {
        let mut decoder = EventDecoder::new(limit);
        let mut events = Vec::new();
        let mut rest = stream;
        for size in sizes.iter().copied().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(size.clamp(1, rest.len()));
            decoder.push(now);
            events.extend(std::iter::from_fn(|| decoder.next_event()));
            rest = later;
        }
        events
    }

    fn data(text: &str) -> Event {
        Event { data: Some(Bytes::copy_from_slice(text.as_bytes())), ..Event::default() }
    }

    #[test]
    fn every_border_between_two_pieces() {
        let stream = "\u{feff}: hello\r\n\r\nevent: message\r\nid: 1\r\ndata: {\"a\":1}\r\n\r\n\
            data:x\rdata\rdata:  y\r\rid: 2\n\nretry: 1500\n\nid: 3\ndata:\n\n:c\n\nunknown: 1\n\ndata: cut off\n";
        let expected = [
            Event { event: Some("message".into()), id: Some("1".into()), ..data("{\"a\":1}") },
            data("x\n\n y"),
            Event { id: Some("2".into()), ..Event::default() },
            Event { retry: Some(Duration::from_millis(1500)), ..Event::default() },
            Event { id: Some("3".into()), ..data("") },
        ]
        .map(Ok);
        for cut in 1..=stream.len() {
            assert_eq!(decode(100, stream.as_bytes(), &[cut, stream.len()]), expected, "{cut}");
        }
        assert_eq!(decode(100, stream.as_bytes(), &[1]), expected);
    }

    #[test]
    fn fields_that_do_not_count() {
        for text in
            ["id: a\0b\n\n", "retry: 1s\n\n", "retry:\n\n", "retry: -1\n\n", "Data: x\n\n", " data: x\n\n"]
        {
            assert_eq!(decode(100, text.as_bytes(), &[3]), [], "{text:?}");
        }
        let huge = decode(100, b"retry: 99999999999999999999999\n\n", &[5]);
        assert_eq!(huge[0].as_ref().unwrap().retry, Some(Duration::from_millis(u64::MAX)));
    }

    #[test]
    fn one_line_of_data_is_not_copied() {
        let mut decoder = EventDecoder::new(1 << 20);
        decoder.push(b"data: 0123456789\n\n");
        let from = decoder.buffer.as_ptr_range();
        let event = decoder.next_event().unwrap().unwrap();
        assert!(from.contains(&event.data.unwrap().as_ptr()));
    }

    #[test]
    fn a_block_over_the_limit_is_dropped_and_named() {
        let message = format!(r#"{{"jsonrpc":"2.0","result":"{}","id":5}}"#, "x".repeat(300));
        let skimmed = Skimmed { kind: Some(Kind::Response), id: Some(Id::number(5)) };
        let stream = format!("id: e1\ndata: {message}\n\ndata: next\n\n");
        let length = (6 + 6 + message.len()) as u64;
        for size in [1, 2, 3, 7, 64, 1000] {
            let seen = decode(100, stream.as_bytes(), &[size]);
            let error =
                EventError::TooLong { limit: 100, length, id: Some("e1".into()), message: skimmed.clone() };
            assert_eq!(seen, [Err(error), Ok(data("next"))], "{size}");
        }
    }

    #[test]
    fn many_small_lines_count_together() {
        let stream = format!("{}\ndata: next\n\n", "data: 12345\n".repeat(100));
        let seen = decode(100, stream.as_bytes(), &[9]);
        assert_eq!(seen.len(), 2);
        assert!(matches!(seen[0], Err(EventError::TooLong { limit: 100, length: 1100, .. })), "{seen:?}");
        assert_eq!(seen[1], Ok(data("next")));
    }

    #[test]
    fn an_endless_event_is_not_kept() {
        let mut decoder = EventDecoder::new(1000);
        decoder.push(b"data: ");
        for _ in 0..2_000 {
            decoder.push(&[b'x'; 4096]);
            assert_eq!(decoder.next_event(), None);
            assert!(decoder.buffer.capacity() < 64 * 1024);
        }
        decoder.push(b"\n\ndata: next\n\n");
        assert!(matches!(decoder.next_event(), Some(Err(EventError::TooLong { .. }))));
        assert_eq!(decoder.next_event(), Some(Ok(data("next"))));
    }

    #[test]
    fn an_id_is_found_in_the_later_lines_of_a_dropped_block() {
        let stream =
            format!("data: {{\"x\":\"{}\",\ndata: \"id\":5,\ndata:\"result\":1}}\n\n", "x".repeat(300));
        for size in [1, 2, 3, 64, 1000] {
            let seen = decode(100, stream.as_bytes(), &[size]);
            let [Err(EventError::TooLong { message, .. })] = &seen[..] else { panic!("{seen:?}") };
            assert_eq!(message.id, Some(Id::number(5)), "{size}");
        }
    }

    #[test]
    fn framing_cannot_be_broken_out_of() {
        let mut out = Vec::new();
        encode(&mut out, Some("a\nid: 9"), Some("1\r\n\0"), b"x\n\nevent: evil\r\ny\rz");
        let expected =
            Event { event: Some("aid: 9".into()), id: Some("1".into()), ..data("x\n\nevent: evil\ny\nz") };
        assert_eq!(decode(100, &out, &[4]), [Ok(expected)]);
        assert_eq!(decode(100, KEEP_ALIVE, &[1]), []);
    }

    #[test]
    fn a_priming_event_has_an_id_a_delay_and_nothing_to_say() {
        let mut out = Vec::new();
        encode_prime(&mut out, "p1-\n7", Duration::from_millis(1500));
        let retry = Some(Duration::from_millis(1500));
        assert_eq!(decode(100, &out, &[3]), [Ok(Event { id: Some("p1-7".into()), retry, ..data("") })]);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            stream in prop::collection::vec(
                prop_oneof![
                    Just("\n".to_owned()), Just("\r".to_owned()), Just("data:".to_owned()),
                    Just("id: 1".to_owned()), Just("retry: 2".to_owned()), Just(": c".to_owned()), ".{0,12}",
                ],
                0..40,
            ),
            sizes in prop::collection::vec(1_usize..20, 1..20),
        ) {
            let stream = stream.concat();
            let whole = decode(1 << 20, stream.as_bytes(), &[stream.len().max(1)]);
            prop_assert_eq!(decode(1 << 20, stream.as_bytes(), &sizes), whole);
        }

        #[test]
        fn what_was_encoded_is_decoded(
            events in prop::collection::vec(
                (prop::option::of("[^\r\n\0]{1,10}"), prop::option::of("[^\r\n\0]{0,10}"), any::<String>()),
                0..10,
            ),
            size in 1_usize..50,
        ) {
            let mut out = Vec::new();
            for (event, id, data) in &events {
                encode(&mut out, event.as_deref(), id.as_deref(), data.as_bytes());
            }
            let expected: Vec<_> = events
                .into_iter()
                .map(|(event, id, text)| {
                    Ok(Event { event, id, ..data(&text.replace("\r\n", "\n").replace('\r', "\n")) })
                })
                .collect();
            prop_assert_eq!(decode(1 << 20, &out, &[size]), expected);
        }

        #[test]
        fn what_is_held_is_what_was_not_handed_out(lines in 1_usize..5, length in 0_usize..30, size in 1_usize..9) {
            let mut decoder = EventDecoder::new(1000);
            let text = format!("data: {}\n", "x".repeat(length)).repeat(lines) + "\n";
            let mut pushed = 0;
            for piece in text.as_bytes().chunks(size) {
                decoder.push(piece);
                pushed += piece.len();
                if decoder.next_event().is_none() {
                    // The ends of lines are let go.
                    prop_assert!(decoder.held() <= pushed && decoder.held() + lines >= pushed);
                }
            }
            prop_assert_eq!(decoder.held(), 0);
        }

        #[test]
        fn any_bytes_do_no_harm(
            stream in prop::collection::vec(any::<u8>(), 0..300),
            limit in 0_usize..50,
            size in 1_usize..20,
        ) {
            decode(limit, &stream, &[size]);
        }
    }
}
