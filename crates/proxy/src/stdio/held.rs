//! Messages of the server that no stream can carry yet.

use std::collections::VecDeque;

use super::queue::{Item, What};

/// So many bytes of messages are held. One message always fits.
const MAX_BYTES: usize = 1024 * 1024;
/// So many messages are held.
const MAX_ITEMS: usize = 256;

/// Held messages, oldest first.
#[derive(Debug, Default)]
pub(super) struct Held {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Held {
    /// Holds messages behind the others. What there is no room for any more is returned: the oldest
    /// notifications first, requests last, since the server waits for their answers.
    pub(super) fn append(&mut self, items: impl IntoIterator<Item = Item>) -> Vec<Item> {
        for item in items {
            self.bytes += item.text.len();
            self.items.push_back(item);
        }
        self.shrink()
    }

    /// Holds messages before the others, in their order: they were under way already.
    pub(super) fn prepend(&mut self, items: VecDeque<Item>) -> Vec<Item> {
        let behind = std::mem::take(self);
        self.append(items).into_iter().chain(self.append(behind.items)).collect()
    }

    /// All that is held.
    pub(super) fn take(&mut self) -> VecDeque<Item> {
        self.bytes = 0;
        std::mem::take(&mut self.items)
    }

    /// The requests that are held.
    pub(super) fn take_requests(&mut self) -> Vec<Item> {
        if self.items.iter().all(|item| item.what != What::Request) {
            return Vec::new();
        }
        let (requests, rest) = self.take().into_iter().partition(|item| item.what == What::Request);
        self.items = rest;
        self.bytes = self.items.iter().map(|item| item.text.len()).sum();
        Vec::from(requests)
    }

    fn shrink(&mut self) -> Vec<Item> {
        let mut dropped = Vec::new();
        while self.items.len() > 1 && (self.bytes > MAX_BYTES || self.items.len() > MAX_ITEMS) {
            let oldest = self.items.iter().position(|item| item.what == What::Notification).unwrap_or(0);
            if let Some(item) = self.items.remove(oldest) {
                self.bytes -= item.text.len();
                dropped.push(item);
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn item(text: &str, what: What) -> Item {
        Item { text: Bytes::copy_from_slice(text.as_bytes()), what }
    }

    fn texts(items: impl IntoIterator<Item = Item>) -> Vec<Bytes> {
        items.into_iter().map(|item| item.text).collect()
    }

    #[test]
    fn notifications_go_before_requests() {
        let mut held = Held::default();
        assert!(held.append([item("r0", What::Request), item("n0", What::Notification)]).is_empty());
        let more = (1..MAX_ITEMS).map(|n| item(&format!("r{n}"), What::Request));
        assert_eq!(texts(held.append(more)), ["n0"]);
        assert_eq!(texts(held.append([item("r-last", What::Request)])), ["r0"]);
        assert_eq!(texts(held.append([item("n", What::Notification)])), ["n"]);
    }

    #[test]
    fn bytes_count_too_and_one_message_always_fits() {
        let mut held = Held::default();
        let big = "x".repeat(MAX_BYTES + 1);
        assert!(held.append([item(&big, What::Notification)]).is_empty());
        assert_eq!(texts(held.append([item("next", What::Notification)])), [big]);
        assert_eq!(texts(held.take()), ["next"]);
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn order_is_kept() {
        let mut held = Held::default();
        held.append([item("c", What::Notification), item("d", What::Request)]);
        held.prepend(VecDeque::from([item("a", What::Request), item("b", What::Notification)]));
        assert_eq!(texts(held.take_requests()), ["a", "d"]);
        assert_eq!(texts(held.take()), ["b", "c"]);
    }
}
