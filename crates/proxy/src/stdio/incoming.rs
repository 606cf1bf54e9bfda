//! What a request must look like before its messages are looked at.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};
use http_body::Body;
use http_body_util::BodyExt;
use thv_wire::era::Revision;
use thv_wire::header;
use tokio::time::timeout;

use super::room::{Place, Room, SMALL};

/// A body must have arrived after this time.
const BODY_TIME: Duration = Duration::from_secs(60);

/// A header field that may be there once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Absent,
    Once(&'a str),
    /// Repeated, or not text.
    Malformed,
}

pub(super) fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Field<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Field::Absent,
        (Some(value), None) => value.to_str().map_or(Field::Malformed, Field::Once),
        _ => Field::Malformed,
    }
}

/// `MCP-Protocol-Version` of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Version<'a> {
    Absent,
    Known(Revision),
    /// Not a revision that this crate knows, though a session may have agreed on it.
    Other(&'a str),
    Malformed,
}

pub(super) fn version(headers: &HeaderMap) -> Version<'_> {
    match field(headers, &header::PROTOCOL_VERSION) {
        Field::Absent => Version::Absent,
        Field::Once(text) => Revision::parse(text).map_or(Version::Other(text), Version::Known),
        Field::Malformed => Version::Malformed,
    }
}

/// Whether the header names a revision without sessions.
pub(super) fn names_modern(headers: &HeaderMap) -> bool {
    matches!(version(headers), Version::Known(revision) if revision.is_modern())
}

/// Whether the header names something, and no revision with sessions.
pub(super) fn may_be_modern(headers: &HeaderMap) -> bool {
    match version(headers) {
        Version::Known(revision) => revision.is_modern(),
        Version::Other(_) | Version::Malformed => true,
        Version::Absent => false,
    }
}

/// Whether the client takes this media type (RFC 9110, section 12.5.1). Without the field it takes all.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut values = headers.get_all(ACCEPT).iter().peekable();
    if values.peek().is_none() {
        return true;
    }
    let main = media_type.split('/').next().unwrap_or_default();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let range = parts.next().unwrap_or_default();
        let fits = range == "*/*"
            || range.eq_ignore_ascii_case(media_type)
            || range.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(main));
        fits && !parts
            .any(|part| part.split_once('=').is_some_and(|(name, value)| is_zero_weight(name, value)))
    })
}

fn is_zero_weight(name: &str, value: &str) -> bool {
    name.trim_end().eq_ignore_ascii_case("q") && value.trim_start().parse() == Ok(0.0)
}

/// Whether the body says that it is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let Field::Once(value) = field(headers, &CONTENT_TYPE) else { return false };
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// Why a body was not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// It is over the limit.
    TooLarge,
    /// It came too slowly.
    Slow,
    /// It ended in the middle.
    Broken,
    /// The session ended meanwhile.
    Ended,
}

/// Reads a body of at most `limit` bytes. One that is not small waits for room first.
pub(super) async fn read<B>(body: B, limit: usize, room: &Room) -> Result<(Bytes, Option<Place>), BodyError>
where
    B: Body,
{
    timeout(BODY_TIME, read_all(body, limit, room)).await.unwrap_or(Err(BodyError::Slow))
}

async fn read_all<B>(body: B, limit: usize, room: &Room) -> Result<(Bytes, Option<Place>), BodyError>
where
    B: Body,
{
    let announced = body.size_hint().lower();
    let announced = usize::try_from(announced).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLarge);
    }
    let take = async |bytes| room.take(bytes).await.map_err(|_| BodyError::Ended);
    let mut place = take(announced).await?;
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.frame().await {
        let Ok(mut data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        let length = first.len() + rest.len() + data.remaining();
        if length > limit {
            return Err(BodyError::TooLarge);
        }
        if length > SMALL && place.is_none() {
            // A body that does not announce its length may grow up to the limit.
            place = take(limit).await?;
        }
        let data = data.copy_to_bytes(data.remaining());
        if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(length.max(announced) - first.len());
            }
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok((first, place));
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok((whole.freeze(), place))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use http_body_util::Full;
    use proptest::prelude::*;

    use super::*;

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn accept() {
        for (values, json, events) in [
            (&[][..], true, true),
            (&["application/json, text/event-stream"], true, true),
            (&["application/json", "text/event-stream"], true, true),
            (&["Application/JSON;q=0.5,TEXT/*"], true, true),
            (&["*/*"], true, true),
            (&["application/json"], true, false),
            (&["text/event-stream, application/json; q=0"], false, true),
            (&["text/event-stream;Q=0.0"], false, false),
            (&["text/html, application/*"], true, false),
            (&["text"], false, false),
            (&[""], false, false),
        ] {
            let headers = headers(&ACCEPT, values);
            assert_eq!(accepts(&headers, "application/json"), json, "{values:?}");
            assert_eq!(accepts(&headers, "text/event-stream"), events, "{values:?}");
        }
    }

    #[test]
    fn content_type() {
        for (values, fits) in [
            (&[][..], false),
            (&["application/json"], true),
            (&["Application/JSON ; charset=utf-8"], true),
            (&["application/json", "application/json"], false),
            (&["application/jsonl"], false),
            (&["text/plain"], false),
        ] {
            assert_eq!(is_json(&headers(&CONTENT_TYPE, values)), fits, "{values:?}");
        }
    }

    #[test]
    fn protocol_version() {
        let seen = |values: &[&str]| format!("{:?}", version(&headers(&header::PROTOCOL_VERSION, values)));
        assert_eq!(seen(&[]), "Absent");
        assert_eq!(seen(&["2025-06-18"]), "Known(V2025_06_18)");
        assert_eq!(seen(&["DRAFT"]), "Other(\"DRAFT\")");
        assert_eq!(seen(&["2025-06-18", "2025-06-18"]), "Malformed");
    }

    /// A body that does not announce its length.
    struct Chunks(std::vec::IntoIter<Bytes>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.next().map(|chunk| Ok(Frame::data(chunk))))
        }
    }

    fn chunked(text: &[u8], size: usize) -> Chunks {
        let chunks: Vec<_> = text.chunks(size).map(Bytes::copy_from_slice).collect();
        Chunks(chunks.into_iter())
    }

    #[tokio::test]
    async fn a_body_is_limited_whether_it_is_announced_or_not() {
        let room = Room::new(1 << 20);
        let text = vec![b'x'; 100_000];
        let full = |text: &[u8]| Full::new(Bytes::copy_from_slice(text));
        assert_eq!(read(full(&text), 100_000, &room).await.unwrap().0, text);
        assert_eq!(read(full(&text), 99_999, &room).await.unwrap_err(), BodyError::TooLarge);
        assert_eq!(read(chunked(&text, 999), 100_000, &room).await.unwrap().0, text);
        assert_eq!(read(chunked(&text, 999), 99_999, &room).await.unwrap_err(), BodyError::TooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_big_body_waits_for_room_but_not_for_ever() {
        let room = Room::new(2 * SMALL);
        let held = room.take(2 * SMALL).await.unwrap();
        let text = vec![b'x'; SMALL + 1];
        let body = || Full::new(Bytes::copy_from_slice(&text));
        assert_eq!(read(body(), 2 * SMALL, &room).await.unwrap_err(), BodyError::Slow);
        assert!(read(chunked(b"small", 2), 2 * SMALL, &room).await.is_ok());
        drop(held);
        assert!(read(body(), 2 * SMALL, &room).await.is_ok());
        room.close();
        assert_eq!(read(body(), 2 * SMALL, &room).await.unwrap_err(), BodyError::Ended);
    }

    proptest! {
        #[test]
        fn chunks_make_no_difference(text in prop::collection::vec(any::<u8>(), 0..500), size in 1_usize..60) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let room = Room::new(1 << 20);
            let (seen, _) = runtime.block_on(read(chunked(&text, size), 500, &room)).unwrap();
            prop_assert_eq!(seen, text);
        }
    }
}
