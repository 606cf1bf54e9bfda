//! A budget for the bytes of the server's big messages, from the first of them that is kept to the last that is written.
//!
//! Whoever reads a big message takes room as it grows, and waits where there is none: a client that does not read stops
//! the servers' connections and not the memory. So that messages which grow together do not wait for each other, one at
//! a time may grow without room until it is done, whatever its size.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A message up to this size needs no room: one for each connection is little.
pub(crate) const SMALL: usize = 64 * 1024;

/// The room for all others together, in KiB.
const ROOM_KIB: usize = 64 * 1024;

/// What is left of the budget.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// In KiB.
    shared: Arc<Semaphore>,
    /// For the one that needs no room.
    exempt: Arc<Semaphore>,
}

/// What one message has taken of it.
#[derive(Debug, Default)]
pub(crate) struct Place {
    shared: Option<OwnedSemaphorePermit>,
    exempt: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::new(Semaphore::new(ROOM_KIB)), exempt: Arc::new(Semaphore::new(1)) }
    }

    /// Waits until there is room for so many bytes in this place, and gives back what it has beyond them.
    pub(crate) async fn fit(&self, place: &mut Place, bytes: usize) {
        if bytes <= SMALL {
            *place = Place::default();
            return;
        }
        let has = place.shared.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = bytes.div_ceil(1024);
        if wanted < has {
            drop(place.shared.as_mut().and_then(|permit| permit.split(has - wanted)));
        }
        if wanted <= has || place.exempt.is_some() {
            return;
        }
        let more = u32::try_from(wanted - has).unwrap_or(u32::MAX);
        // Neither semaphore is ever closed.
        tokio::select! {
            biased;
            Ok(permit) = Arc::clone(&self.shared).acquire_many_owned(more) => match &mut place.shared {
                Some(before) => before.merge(permit),
                none => *none = Some(permit),
            },
            Ok(permit) = Arc::clone(&self.exempt).acquire_owned() => place.exempt = Some(permit),
            else => {}
        }
    }
}

impl Place {
    /// Keeps this place taken for as long as the bytes live.
    pub(crate) fn bind(self, bytes: Bytes) -> Bytes {
        struct Bound(Bytes, #[expect(dead_code, reason = "kept for its destructor")] Place);
        impl AsRef<[u8]> for Bound {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        if self.shared.is_none() && self.exempt.is_none() {
            return bytes;
        }
        Bytes::from_owner(Bound(bytes, self))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    const ALL: usize = ROOM_KIB * 1024;

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    fn free(room: &Room) -> (usize, usize) {
        (room.shared.available_permits(), room.exempt.available_permits())
    }

    #[test]
    fn room_comes_back_with_the_last_copy_and_small_messages_need_none() {
        let room = Room::new();
        let mut place = Place::default();
        assert!(is_ready(room.fit(&mut place, SMALL)));
        assert_eq!(free(&room), (ROOM_KIB, 1));
        assert!(is_ready(room.fit(&mut place, 3 * SMALL)));
        assert!(is_ready(room.fit(&mut place, 2 * SMALL)));
        assert_eq!(free(&room), (ROOM_KIB - 128, 1));
        let text = Bytes::from(vec![b'x'; 2 * SMALL]);
        let bound = place.bind(text.clone());
        assert_eq!(bound, text);
        let slice = bound.slice(1..2);
        drop(bound);
        assert_eq!(free(&room), (ROOM_KIB - 128, 1));
        drop(slice);
        assert_eq!(free(&room), (ROOM_KIB, 1));
    }

    #[test]
    fn of_messages_that_grow_together_one_at_a_time_grows_to_its_end() {
        let room = Room::new();
        let mut places = [Place::default(), Place::default(), Place::default(), Place::default()];
        for place in &mut places {
            assert!(is_ready(room.fit(place, ALL / 4)));
        }
        let [first, second, third, _] = &mut places;
        assert!(is_ready(room.fit(first, ALL / 2)));
        assert!(!is_ready(room.fit(second, ALL / 2)));
        // Bigger than all the room.
        assert!(is_ready(room.fit(first, 2 * ALL)));
        *first = Place::default();
        assert!(is_ready(room.fit(second, ALL / 2)));
        assert!(is_ready(room.fit(second, 2 * ALL)));
        assert!(!is_ready(room.fit(third, ALL / 2)));
    }
}
