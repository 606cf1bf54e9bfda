//! Events that may have to be sent again (MCP 2025-11-25, `basic/transports`, "Resumability and Redelivery").
//!
//! An event is kept when it was written to a connection, since the connection may break before it arrives, and when
//! its stream has no connection for now. Which of them arrived is known only when the client comes back.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

/// So many bytes of events are kept. A bigger message is not kept at all.
const MAX_BYTES: usize = 1024 * 1024;
/// So many events are kept.
const MAX_EVENTS: usize = 512;

/// What opened a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    ByGet,
    ByPost,
}

/// Names a stream within its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamId {
    pub(super) opened: Opened,
    pub(super) number: u64,
}

/// Names an event within its session: its stream, and its place among all events of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventId {
    pub(super) stream: StreamId,
    pub(super) place: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let opened = match self.stream.opened {
            Opened::ByGet => 'g',
            Opened::ByPost => 'p',
        };
        write!(f, "{opened}{}-{}", self.stream.number, self.place)
    }
}

impl EventId {
    /// Reads what [`Display`](fmt::Display) writes; nothing for any other text.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (opened, rest) = match text.as_bytes().first()? {
            b'g' => (Opened::ByGet, &text[1..]),
            b'p' => (Opened::ByPost, &text[1..]),
            _ => return None,
        };
        let (number, place) = rest.split_once('-')?;
        let id =
            Self { stream: StreamId { opened, number: number.parse().ok()? }, place: place.parse().ok()? };
        // Other spellings of a number are none of ours.
        (id.to_string() == text).then_some(id)
    }
}

#[derive(Debug)]
struct Event {
    id: EventId,
    text: Bytes,
    /// It was written to a connection.
    sent: bool,
}

/// The events of one session, oldest first.
#[derive(Debug, Default)]
pub(super) struct Replay {
    events: VecDeque<Event>,
    bytes: usize,
}

impl Replay {
    /// Keeps an event behind the others. Where there is no room, the oldest go that were sent, then the oldest that
    /// were not. Tells whether this one was kept.
    pub(super) fn keep(&mut self, id: EventId, text: &[u8], sent: bool) -> bool {
        if text.len() > MAX_BYTES {
            return false;
        }
        self.bytes += text.len();
        // A copy: a slice would hold on to the memory, and the room, of what was read together with it.
        self.events.push_back(Event { id, text: Bytes::copy_from_slice(text), sent });
        while self.bytes > MAX_BYTES || self.events.len() > MAX_EVENTS {
            let behind = self.events.len() - 1;
            let oldest = self.events.iter().take(behind).position(|event| event.sent).unwrap_or(0);
            self.remove(oldest);
        }
        true
    }

    /// The events of a stream after this one, which are sent now. Those up to it have arrived.
    pub(super) fn after(&mut self, last: EventId) -> VecDeque<(EventId, Bytes)> {
        let arrived = |event: &Event| event.id.stream == last.stream && event.id.place <= last.place;
        while let Some(at) = self.events.iter().position(arrived) {
            self.remove(at);
        }
        let of_stream = self.events.iter_mut().filter(|event| event.id.stream == last.stream);
        of_stream
            .map(|event| {
                event.sent = true;
                (event.id, event.text.clone())
            })
            .collect()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn remove(&mut self, at: usize) {
        if let Some(event) = self.events.remove(at) {
            self.bytes -= event.text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u64, place: u64) -> EventId {
        EventId { stream: StreamId { opened: Opened::ByPost, number }, place }
    }

    fn places(events: VecDeque<(EventId, Bytes)>) -> Vec<u64> {
        events.into_iter().map(|(id, _)| id.place).collect()
    }

    #[test]
    fn ids_encode_their_stream() {
        let get = EventId { stream: StreamId { opened: Opened::ByGet, number: 3 }, place: 12 };
        assert_eq!(get.to_string(), "g3-12");
        assert_eq!(EventId::parse("g3-12"), Some(get));
        assert_eq!(EventId::parse("p7-1"), Some(id(7, 1)));
        for other in [
            "",
            "g",
            "g3",
            "g3-",
            "x3-1",
            "g+3-1",
            "g03-1",
            "g3-1 ",
            "g3-1-2",
            "ä",
            "p99999999999999999999-1",
        ] {
            assert_eq!(EventId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn only_later_events_of_the_same_stream_come_again() {
        let mut replay = Replay::default();
        for (stream, place) in [(1, 1), (2, 2), (1, 3), (2, 4), (1, 5)] {
            assert!(replay.keep(id(stream, place), b"x", true));
        }
        assert_eq!(places(replay.after(id(1, 1))), [3, 5]);
        assert_eq!(places(replay.after(id(1, 1))), [3, 5]);
        assert_eq!(places(replay.after(id(1, 4))), [5]);
        // What has arrived is not kept any longer, whatever is asked for later.
        assert_eq!(places(replay.after(id(1, 0))), [5]);
        assert_eq!(places(replay.after(id(2, 0))), [2, 4]);
        assert!(replay.after(id(3, 0)).is_empty());
    }

    #[test]
    fn what_was_not_sent_stays_longest() {
        let mut replay = Replay::default();
        replay.keep(id(1, 1), b"answer", false);
        for place in 2..=2 * MAX_EVENTS as u64 {
            replay.keep(id(2, place), b"x", true);
        }
        assert_eq!(replay.events.len(), MAX_EVENTS);
        assert_eq!(places(replay.after(id(1, 0))), [1]);
        let mut replay = Replay::default();
        replay.keep(id(1, 1), &vec![0; MAX_BYTES / 2], false);
        replay.keep(id(2, 2), &vec![0; MAX_BYTES / 2], true);
        replay.keep(id(2, 3), &vec![0; MAX_BYTES / 2], true);
        assert_eq!(places(replay.after(id(2, 0))), [3]);
        assert_eq!(places(replay.after(id(1, 0))), [1]);
        assert!(!replay.keep(id(2, 4), &vec![0; MAX_BYTES + 1], false));
        assert_eq!(places(replay.after(id(2, 0))), [3]);
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_order_is_kept(
            events in prop::collection::vec((0_u64..4, 0_usize..300_000, any::<bool>()), 0..60),
        ) {
            let mut replay = Replay::default();
            for (place, (stream, size, sent)) in (1..).zip(events) {
                replay.keep(id(stream, place), &vec![0; size], sent);
                let bytes: usize = replay.events.iter().map(|event| event.text.len()).sum();
                prop_assert_eq!(bytes, replay.bytes);
                prop_assert!(bytes <= MAX_BYTES && replay.events.len() <= MAX_EVENTS);
                // The youngest is always there.
                prop_assert_eq!(replay.events.back().unwrap().id.place, place);
            }
            for stream in 0..4 {
                let seen = places(replay.after(id(stream, 0)));
                prop_assert!(seen.is_sorted());
            }
        }

        #[test]
        fn ids_survive_their_text(number in any::<u64>(), place in any::<u64>(), get in any::<bool>()) {
            let opened = if get { Opened::ByGet } else { Opened::ByPost };
            let id = EventId { stream: StreamId { opened, number }, place };
            prop_assert_eq!(EventId::parse(&id.to_string()), Some(id));
        }
    }
}
