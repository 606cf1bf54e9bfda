//! Key sets: all the keys that open one workload's door at one time.

use std::time::SystemTime;

use crate::{KeyId, Name, SharedKey};

/// One key that opens the door, whose it is and until when.
#[derive(Clone)]
pub struct LiveKey {
    key: SharedKey,
    id: KeyId,
    label: Option<Name>,
    ends: Option<SystemTime>,
}

impl LiveKey {
    /// Describes a key: `label` names the client it was issued to (`None`: the workload's own key), `ends` the
    /// moment from which it opens nothing any more.
    #[must_use]
    pub fn new(key: SharedKey, label: Option<Name>, ends: Option<SystemTime>) -> Self {
        let id = key.id();
        Self { key, id, label, ends }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &SharedKey {
        &self.key
    }

    /// The key's public name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The client that the key was issued to; `None` for the workload's own key.
    #[must_use]
    pub fn label(&self) -> Option<&Name> {
        self.label.as_ref()
    }

    /// When the key stops to open the door, if that is known.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        self.ends
    }

    /// Whether the key opens the door at `now`.
    #[must_use]
    pub fn is_live(&self, now: SystemTime) -> bool {
        self.ends.is_none_or(|end| now < end)
    }
}

/// The live keys of one workload.
#[derive(Clone, Default)]
pub struct KeySet {
    keys: Vec<LiveKey>,
}

impl KeySet {
    /// Makes a set. An empty one opens for nobody.
    #[must_use]
    pub fn new(keys: Vec<LiveKey>) -> Self {
        Self { keys }
    }

    /// How many keys the set holds, ended ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the set holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys, in the order given.
    pub fn iter(&self) -> std::slice::Iter<'_, LiveKey> {
        self.keys.iter()
    }

    /// Finds the live key that equals the one presented.
    ///
    /// Every key is compared, each in constant time and without leaving early, so the time taken tells how many
    /// keys there are and nothing of what is in them. A key that has ended never matches.
    #[must_use]
    pub fn check(&self, presented: &SharedKey, now: SystemTime) -> Option<&LiveKey> {
        let mut hit = None;
        for live in &self.keys {
            let equal = live.key.ct_eq(presented);
            if equal & live.is_live(now) {
                hit = Some(live);
            }
        }
        hit
    }

    /// Finds a live key by its public name.
    #[must_use]
    pub fn by_id(&self, id: KeyId, now: SystemTime) -> Option<&LiveKey> {
        self.keys.iter().find(|live| live.id == id && live.is_live(now))
    }
}

impl<'a> IntoIterator for &'a KeySet {
    type Item = &'a LiveKey;
    type IntoIter = std::slice::Iter<'a, LiveKey>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn key(n: u8) -> SharedKey {
        SharedKey::from_bytes([n; 32])
    }

    #[test]
    fn finds_each_key_and_no_other() {
        let set = KeySet::new((1..=9).map(|n| LiveKey::new(key(n), None, None)).collect());
        let now = SystemTime::now();
        for n in 1..=9 {
            assert_eq!(set.check(&key(n), now).map(LiveKey::id), Some(key(n).id()));
            assert_eq!(set.by_id(key(n).id(), now).map(LiveKey::id), Some(key(n).id()));
        }
        assert!(set.check(&key(10), now).is_none());
        assert!(set.by_id(key(10).id(), now).is_none());
        assert!(KeySet::default().check(&key(0), now).is_none());
    }

    #[test]
    fn an_ended_key_opens_nothing_from_its_end_on() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let set = KeySet::new(vec![LiveKey::new(key(1), None, Some(end))]);
        assert!(set.check(&key(1), end - Duration::from_nanos(1)).is_some());
        assert!(set.check(&key(1), end).is_none());
        assert!(set.by_id(key(1).id(), end).is_none());
    }
}
