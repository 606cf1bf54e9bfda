//! Messages on standard input and output: one a line (MCP, `basic/transports`, "stdio").

use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::{memchr, memchr2};

use crate::skim::{Skim, Skimmed};

/// The room that is made ready for a read.
pub(crate) const READ: usize = 8 * 1024;

/// Why a line was not handed out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// It was longer than the limit and is gone; the line after it is whole again.
    #[error("a line of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The most bytes that a line may have.
        limit: usize,
        /// The bytes that it had.
        length: u64,
        /// Whom it concerned, so that a request can still be answered.
        message: Skimmed,
    },
}

/// Cuts a stream of bytes into lines.
///
/// A line ends with LF or CRLF. Empty lines, and lines of nothing but spaces, are passed over; so is a byte
/// order mark at the very start, which some runtimes write. A line over the limit is dropped as it arrives.
#[derive(Debug)]
pub struct LineDecoder {
    limit: usize,
    buffer: BytesMut,
    /// So many bytes of the buffer are known to hold no LF.
    searched: usize,
    at_start: bool,
    dropping: Option<Dropping>,
}

#[derive(Debug, Default)]
struct Dropping {
    skim: Skim,
    length: u64,
}

impl LineDecoder {
    /// A decoder for lines of at most `limit` bytes, the end of the line not counted.
    pub fn new(limit: usize) -> Self {
        Self { limit, buffer: BytesMut::new(), searched: 0, at_start: true, dropping: None }
    }

    /// Takes bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Where a reader can put its bytes itself, which spares a copy. There is always room. Bytes may only be
    /// added to it.
    pub fn space(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < READ / 4 {
            self.buffer.reserve(READ);
        }
        &mut self.buffer
    }

    /// The next line that is whole, without its end. Nothing means that more bytes are needed: a caller that
    /// takes lines until then holds no more than the limit and what it pushed last.
    pub fn next_line(&mut self) -> Option<Result<Bytes, LineError>> {
        loop {
            let Some(end) = memchr(b'\n', &self.buffer[self.searched..]).map(|at| self.searched + at) else {
                self.searched = self.buffer.len();
                if self.dropping.is_some() || self.is_over(self.searched) {
                    self.drop_bytes(self.searched);
                }
                return None;
            };
            self.searched = 0;
            if self.dropping.is_some() || self.is_over(end) {
                self.drop_bytes(end);
                self.buffer.advance(1);
                return self.end_dropping().map(Err);
            }
            let line = self.buffer.split_to(end + 1);
            part_with(&mut self.buffer, end);
            if let Some(line) = self.trim(line, end) {
                return Some(Ok(line));
            }
        }
    }

    /// What is left when the stream has ended: a last line without its end, which is more often half a line.
    /// The decoder is empty after that.
    pub fn finish(&mut self) -> Option<Result<Bytes, LineError>> {
        if self.dropping.is_some() {
            self.drop_bytes(self.buffer.len());
            return self.end_dropping().map(Err);
        }
        self.searched = 0;
        let rest = self.buffer.split();
        let end = rest.len();
        self.trim(rest, end).map(Ok)
    }

    /// Whether a line whose first `seen` bytes are in the buffer is too long. The byte that may be the CR of
    /// a CRLF does not count.
    fn is_over(&self, seen: usize) -> bool {
        let cr = usize::from(self.buffer[..seen].last() == Some(&b'\r'));
        seen - cr > self.limit
    }

    fn drop_bytes(&mut self, count: usize) {
        let dropping = self.dropping.get_or_insert_default();
        dropping.skim.feed(&self.buffer[..count]);
        dropping.length += count as u64;
        self.buffer.advance(count);
        self.searched = 0;
        self.at_start = false;
    }

    fn end_dropping(&mut self) -> Option<LineError> {
        let Dropping { skim, length } = self.dropping.take()?;
        Some(LineError::TooLong { limit: self.limit, length, message: skim.finish() })
    }

    fn trim(&mut self, line: BytesMut, end: usize) -> Option<Bytes> {
        let mut line = line.freeze();
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.truncate(end - 1);
        }
        if std::mem::take(&mut self.at_start) && line.starts_with(b"\xef\xbb\xbf") {
            line.advance(3);
        }
        if line.iter().all(u8::is_ascii_whitespace) { None } else { Some(line) }
    }
}

/// Moves what is left of a buffer out of the memory of a big part that was just taken from it. Else one small
/// line after a big one would keep all of that memory for as long as it lives.
pub(crate) fn part_with(buffer: &mut BytesMut, taken: usize) {
    if taken > 2 * READ {
        *buffer = BytesMut::from(&buffer[..]);
    }
}

/// Makes one line of a message, as a stdio peer needs it, without the LF at its end.
///
/// JSON has CR and LF between its tokens only, where they mean nothing: they become spaces. A text without
/// them is returned as it is. `json` must be valid JSON.
pub fn to_line(json: Bytes) -> Bytes {
    let Some(first) = memchr2(b'\n', b'\r', &json) else { return json };
    let mut line = BytesMut::with_capacity(json.len());
    line.put_slice(&json);
    for byte in &mut line[first..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Id, Kind};

    fn drain(decoder: &mut LineDecoder) -> Vec<Result<String, u64>> {
        std::iter::from_fn(|| decoder.next_line()).map(plain).collect()
    }

    fn plain(line: Result<Bytes, LineError>) -> Result<String, u64> {
        match line {
            Ok(line) => Ok(String::from_utf8_lossy(&line).into_owned()),
            Err(LineError::TooLong { length, .. }) => Err(length),
        }
    }

    /// All that a stream holds, its end included, when it comes in pieces of these sizes.
    fn decode(limit: usize, stream: &[u8], sizes: &[usize]) -> Vec<Result<String, u64>> {
        let mut decoder = LineDecoder::new(limit);
        let mut lines = Vec::new();
        let mut rest = stream;
        for size in sizes.iter().copied().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(size.clamp(1, rest.len()));
            decoder.push(now);
            lines.extend(drain(&mut decoder));
            rest = later;
        }
        lines.extend(decoder.finish().map(plain));
        lines
    }

    #[test]
    fn every_border_between_two_pieces() {
        let stream = b"\xef\xbb\xbfone\r\n\n  \r\ntwo\n\r\nthree\rstill\r\nhalf";
        let expected = ["one", "two", "three\rstill", "half"].map(|s| Ok(s.to_owned()));
        for cut in 0..=stream.len() {
            assert_eq!(decode(20, stream, &[cut.max(1), stream.len()]), expected, "{cut}");
        }
        assert_eq!(decode(20, stream, &[1]), expected);
    }

    #[test]
    fn the_limit_counts_the_line_alone() {
        for end in ["\n", "\r\n"] {
            let stream = format!("12345{end}123456{end}1{end}");
            let over = if end == "\n" { 6 } else { 7 };
            for size in 1..stream.len() {
                let lines = decode(5, stream.as_bytes(), &[size]);
                assert_eq!(lines, [Ok("12345".to_owned()), Err(over), Ok("1".to_owned())], "{size}");
            }
        }
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut decoder = LineDecoder::new(1000);
        decoder.push(br#"{"jsonrpc":"2.0","id":5,"result":""#);
        let chunk = [b'x'; 4096];
        for _ in 0..2_000 {
            decoder.space().put_slice(&chunk);
            assert_eq!(decoder.next_line(), None);
            assert!(decoder.buffer.capacity() < 64 * 1024);
        }
        decoder.push(b"\"}\nnext\n");
        let Some(Err(LineError::TooLong { limit, length, message })) = decoder.next_line() else { panic!() };
        assert_eq!((limit, length), (1000, 34 + 2_000 * 4096 + 2));
        assert_eq!(message, Skimmed { kind: Some(Kind::Response), id: Some(Id::number(5)) });
        assert_eq!(drain(&mut decoder), [Ok("next".to_owned())]);
    }

    #[test]
    fn an_endless_line_that_ends_with_the_stream() {
        let mut decoder = LineDecoder::new(3);
        decoder.push(b"123456");
        assert_eq!(decoder.next_line(), None);
        decoder.push(b"78");
        assert_eq!(decoder.finish().map(plain), Some(Err(8)));
        assert_eq!(decoder.finish(), None);
    }

    #[test]
    fn a_small_line_does_not_keep_the_memory_of_a_big_one() {
        let mut decoder = LineDecoder::new(1 << 20);
        decoder.push(&[b'x'; 1 << 20]);
        decoder.push(b"\nsmall\n");
        let big = decoder.next_line().unwrap().unwrap();
        let memory = big.as_ptr_range();
        let small = decoder.next_line().unwrap().unwrap();
        assert_eq!(small, "small");
        let distance = small.as_ptr() as usize - memory.start.min(small.as_ptr()) as usize;
        assert!(!(big.len()..big.len() + 64).contains(&distance), "in the same memory");
        assert!(decoder.buffer.capacity() < 64 * 1024);
    }

    #[test]
    fn a_byte_order_mark_is_taken_at_the_start_only() {
        let stream = "\u{feff}a\n\u{feff}b\n";
        assert_eq!(decode(20, stream.as_bytes(), &[64]), [Ok("a".to_owned()), Ok("\u{feff}b".to_owned())]);
    }

    #[test]
    fn pretty_json_becomes_one_line() {
        let pretty = Bytes::from_static(b"{\r\n  \"a\": \"x\\ny\"\n}");
        assert_eq!(to_line(pretty), "{    \"a\": \"x\\ny\" }");
        let flat = Bytes::from_static(b"{\"a\":1}");
        assert_eq!(to_line(flat.clone()).as_ptr(), flat.as_ptr());
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            stream in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b' '), any::<u8>()], 0..200),
            sizes in prop::collection::vec(1_usize..20, 1..20),
            limit in 0_usize..40,
        ) {
            let whole = decode(limit, &stream, &[stream.len().max(1)]);
            prop_assert_eq!(decode(limit, &stream, &sizes), whole);
        }

        #[test]
        fn what_was_written_is_read(
            lines in prop::collection::vec("[^\r\n\u{feff}]{0,9}[^\\s\u{feff}]", 0..20),
            size in 1_usize..50,
        ) {
            let stream: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let expected: Vec<_> = lines.into_iter().map(Ok::<_, u64>).collect();
            prop_assert_eq!(decode(1 << 20, stream.as_bytes(), &[size]), expected);
        }
    }
}
