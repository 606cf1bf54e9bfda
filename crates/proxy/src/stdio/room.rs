//! A budget for the bytes of big messages.
//!
//! Whoever brings in a big message waits until there is room for it, so that a slow reader slows the writer
//! down instead of filling the memory. The room is given back when the last copy of the bytes is gone,
//! wherever that is. Small messages are bounded by the length of the queues alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Owner;

/// A message up to this size needs no room.
pub(super) const SMALL: usize = 64 * 1024;
/// A budget is enough for so many of the biggest messages.
pub(super) const BIG_MESSAGES: usize = 4;

#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

/// The budget is closed, since the session has ended.
#[derive(Debug)]
pub(super) struct Closed;

/// Room that is taken.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "kept for its destructor")] OwnedSemaphorePermit);

impl Room {
    /// A budget of so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Waits for room for a message of this size, which must not be more than the whole budget.
    pub(super) async fn take(&self, bytes: usize) -> Result<Option<Place>, Closed> {
        if bytes <= SMALL {
            return Ok(None);
        }
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        Arc::clone(&self.0)
            .acquire_many_owned(count)
            .await
            .map(|permit| Some(Place(permit)))
            .map_err(|_| Closed)
    }

    /// Wakes all who wait. Nobody gets room any more.
    pub(super) fn close(&self) {
        self.0.close();
    }
}

/// A budget for each owner's bodies that belong to no session: one owner cannot hold up another.
#[derive(Debug)]
pub(super) struct Rooms {
    bytes: usize,
    rooms: Mutex<HashMap<Owner, Arc<Room>>>,
}

impl Rooms {
    /// Budgets for a few of the biggest messages each.
    pub(super) fn new(max_message_bytes: usize) -> Self {
        Self { bytes: BIG_MESSAGES.saturating_mul(max_message_bytes), rooms: Mutex::default() }
    }

    pub(super) fn of(&self, owner: &Owner) -> Arc<Room> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if !rooms.contains_key(owner) {
            // Owners come and go. A budget of which nothing is taken is as good as a new one.
            rooms.retain(|_, room| Arc::strong_count(room) > 1 || room.0.available_permits() < self.bytes);
        }
        let room = rooms.entry(owner.clone()).or_insert_with(|| Arc::new(Room::new(self.bytes)));
        Arc::clone(room)
    }
}

/// Keeps the place taken for as long as the bytes live.
pub(super) fn bind(bytes: Bytes, place: Option<Place>) -> Bytes {
    struct Bound(Bytes, #[expect(dead_code, reason = "kept for its destructor")] Place);
    impl AsRef<[u8]> for Bound {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    match place {
        Some(place) => Bytes::from_owner(Bound(bytes, place)),
        None => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_comes_back_with_the_last_copy() {
        let room = Room::new(3 * SMALL);
        let text = Bytes::from(vec![b'x'; 2 * SMALL]);
        let bound = bind(text.clone(), room.take(text.len()).await.unwrap());
        assert_eq!(bound, text);
        let slice = bound.slice(1..2);
        drop(bound);
        assert_eq!(room.0.available_permits(), SMALL);
        drop(slice);
        assert_eq!(room.0.available_permits(), 3 * SMALL);
    }

    #[tokio::test]
    async fn small_messages_need_none_and_a_closed_budget_gives_none() {
        let room = Room::new(0);
        assert!(room.take(SMALL).await.unwrap().is_none());
        room.close();
        assert!(room.take(SMALL + 1).await.is_err());
    }

    #[tokio::test]
    async fn owners_have_budgets_of_their_own() {
        let rooms = Rooms::new(SMALL + 1);
        let (alice, bob) = (Owner(Some("alice".into())), Owner(Some("bob".into())));
        let held = rooms.of(&alice).take(BIG_MESSAGES * (SMALL + 1)).await.unwrap();
        assert_eq!(rooms.of(&bob).0.available_permits(), BIG_MESSAGES * (SMALL + 1));
        // What is taken stays taken, though nobody holds the budget itself.
        rooms.of(&Owner(None));
        assert_eq!(rooms.of(&alice).0.available_permits(), 0);
        drop(held);
        rooms.of(&Owner(Some("carol".into())));
        assert_eq!(rooms.rooms.lock().unwrap().len(), 1);
    }
}
