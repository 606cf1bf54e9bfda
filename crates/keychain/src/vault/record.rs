//! E2: the keys around the current one, as JSON with a version.

use std::time::{Duration, SystemTime};

use serde::de::{Deserializer, Error as DeError, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use thv_keygen::{LiveKey, SharedKey};
use zeroize::Zeroizing;

use super::VaultError;
use crate::{Entry, Secret};

/// How many earlier keys may be in their grace periods at one time.
pub(super) const MAX_PREVIOUS: usize = 8;

/// Longer than the longest record, so that writing one never moves it in memory. Windows keeps 2,560 bytes.
const CAPACITY: usize = 2_048;

const VERSION: u64 = 1;

/// A moment in whole seconds since 1970 that a [`SystemTime`] can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub(super) struct Seconds(u64);

/// What E2 says.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    v: u64,
    /// When the workload's first key was made; unknown if E2 was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<Seconds>,
    /// When the current key was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rotated: Option<Seconds>,
    /// During a rotation: the key that is to follow, or already did if E1 holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Next>,
    /// During a rotation: the key that it replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retiring: Option<Ending>,
    /// Earlier keys in their grace periods.
    #[serde(default)]
    pub(super) previous: Vec<Ending>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Next {
    #[serde(with = "key_text")]
    pub(super) key: SharedKey,
    pub(super) made: Seconds,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ending {
    #[serde(with = "key_text")]
    pub(super) key: SharedKey,
    pub(super) ends: Seconds,
}

impl Seconds {
    /// The second that `time` lies in.
    pub(super) fn floor(time: SystemTime) -> Result<Self, VaultError> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| VaultError::Time)?;
        Ok(Self(since.as_secs()))
    }

    /// The end of a grace period: at once if it is zero, otherwise never earlier than promised.
    pub(super) fn end_of(grace: Duration, now: SystemTime) -> Result<Self, VaultError> {
        if grace.is_zero() {
            return Self::floor(now);
        }
        let end = now.checked_add(grace).ok_or(VaultError::Time)?;
        let Self(second) = Self::floor(end)?;
        // The next full second, unless the end is one.
        let up = u64::from(Self(second).time() < end);
        second.checked_add(up).and_then(|second| Self::try_from(second).ok()).ok_or(VaultError::Time)
    }

    pub(super) fn time(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)
    }
}

impl TryFrom<u64> for Seconds {
    type Error = &'static str;

    fn try_from(seconds: u64) -> Result<Self, &'static str> {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        time.map(|_| Self(seconds)).ok_or("a time beyond what the system can hold")
    }
}

impl From<Seconds> for u64 {
    fn from(seconds: Seconds) -> u64 {
        seconds.0
    }
}

impl Record {
    /// The record of a key made now.
    pub(super) fn new(now: Seconds) -> Self {
        Self { created: Some(now), rotated: Some(now), ..Self::unknown() }
    }

    /// What is said of a key whose E2 was lost: nothing. The key still opens the door.
    fn unknown() -> Self {
        Self { v: VERSION, created: None, rotated: None, next: None, retiring: None, previous: Vec::new() }
    }

    /// Reads E2.
    pub(super) fn read(entry: &Entry, text: Option<&Secret>) -> Result<Self, VaultError> {
        let Some(text) = text else {
            return Ok(Self::unknown());
        };
        read_version(entry, text.expose(), VERSION)?;
        // What serde says is not passed on: it may quote the text.
        let record: Self = serde_json::from_slice(text.expose())
            .map_err(|_| VaultError::Damaged { entry: entry.clone(), reason: "it is not a key set" })?;
        if record.next.is_some() != record.retiring.is_some() {
            return Err(VaultError::Damaged { entry: entry.clone(), reason: "half a rotation is missing" });
        }
        Ok(record)
    }

    pub(super) fn write(&self) -> Secret {
        let mut text = Zeroizing::new(Vec::with_capacity(CAPACITY));
        serde_json::to_writer(&mut *text, self).expect("texts and numbers can be written to memory");
        Secret::from(text)
    }

    /// Forgets earlier keys that have ended.
    pub(super) fn prune(&mut self, now: SystemTime) {
        self.previous.retain(|ending| now < ending.ends.time());
    }

    /// The last step of the rotation that is under way.
    pub(super) fn settle(&mut self, now: SystemTime) {
        self.rotated = self.next.take().map(|next| next.made).or(self.rotated);
        self.previous.extend(self.retiring.take());
        self.prune(now);
    }

    /// Takes back the rotation that is under way.
    pub(super) fn undo(&mut self) {
        self.next = None;
        self.retiring = None;
    }
}

impl Ending {
    pub(super) fn live(&self) -> LiveKey {
        LiveKey::new(self.key.clone(), None, Some(self.ends.time()))
    }
}

/// Looks at the version alone, so that a newer layout is not called damage.
pub(super) fn read_version(entry: &Entry, text: &[u8], known: u64) -> Result<(), VaultError> {
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }

    match serde_json::from_slice(text) {
        Ok(Version { v }) if v == known => Ok(()),
        Ok(Version { v }) if v > known => Err(VaultError::NewerVersion { entry: entry.clone(), version: v }),
        _ => Err(VaultError::Damaged { entry: entry.clone(), reason: "its version cannot be read" }),
    }
}

mod key_text {
    use std::fmt;

    use super::{Deserializer, Serializer, SharedKey, Visitor};

    pub(super) fn serialize<S: Serializer>(key: &SharedKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&key.expose_text())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SharedKey, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = SharedKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the text of a key")
            }

            fn visit_str<E: super::DeError>(self, text: &str) -> Result<SharedKey, E> {
                SharedKey::parse(text).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use thv_keygen::Name;

    fn entry() -> Entry {
        Entry::key_set(&Name::parse("time").unwrap())
    }

    fn key(n: u8) -> SharedKey {
        SharedKey::from_bytes([n; 32])
    }

    fn read(text: &str) -> Result<Record, VaultError> {
        Record::read(&entry(), Some(&Secret::from_text(text)))
    }

    fn longest() -> Record {
        let latest = Seconds::try_from(i64::MAX as u64).unwrap_or(Seconds(u64::from(u32::MAX)));
        let ending = |n| Ending { key: key(n), ends: latest };
        Record {
            v: VERSION,
            created: Some(latest),
            rotated: Some(latest),
            next: Some(Next { key: key(100), made: latest }),
            retiring: Some(ending(101)),
            previous: (0..MAX_PREVIOUS).map(|n| ending(n as u8)).collect(),
        }
    }

    #[test]
    fn the_layout_is_the_one_documented() {
        let mut record = Record::new(Seconds(1_700_000_000));
        assert_eq!(
            record.write().expose_text(),
            Some(r#"{"v":1,"created":1700000000,"rotated":1700000000,"previous":[]}"#)
        );
        record.next = Some(Next { key: key(0), made: Seconds(5) });
        record.retiring = Some(Ending { key: key(1), ends: Seconds(6) });
        let text = key(0).expose_text();
        let text = format!(r#""next":{{"key":"{}","made":5}},"retiring":{{"key":""#, *text);
        assert!(record.write().expose_text().unwrap().contains(&text));
    }

    #[test]
    fn the_longest_record_is_written_in_place_and_fits_every_keychain() {
        let text = longest().write();
        assert!(text.expose().len() <= CAPACITY);
        let read = Record::read(&entry(), Some(&text)).unwrap();
        assert_eq!(read.write().expose(), text.expose());
    }

    #[test]
    fn what_the_vault_did_not_write_is_damage_and_is_not_quoted() {
        let half = format!(r#"{{"v":1,"next":{{"key":"{}","made":1}}}}"#, *key(1).expose_text());
        for text in [
            "",
            "hunter2",
            "[]",
            r#"{"v":0}"#,
            r#"{"v":"hunter2"}"#,
            r#"{"created":1}"#,
            r#"{"v":1,"hunter2":1}"#,
            r#"{"v":1,"created":"hunter2"}"#,
            r#"{"v":1,"created":-1}"#,
            r#"{"v":1,"created":18446744073709551615}"#,
            r#"{"v":1,"previous":[{"key":"hunter2","ends":1}]}"#,
            r#"{"v":1,"previous":[]}x"#,
            &half,
        ] {
            let error = read(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(matches!(error, VaultError::Damaged { .. }), "{text}: {error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_newer_version_is_named_whatever_it_holds() {
        let error = read(r#"{"v":2,"keys":{"a":[]}}"#).err().unwrap();
        assert!(matches!(error, VaultError::NewerVersion { version: 2, .. }), "{error}");
    }

    #[test]
    fn every_cut_of_a_record_is_damage() {
        let text = longest().write();
        for length in 0..text.expose().len() {
            let cut = Secret::new(text.expose()[..length].to_vec());
            assert!(
                matches!(Record::read(&entry(), Some(&cut)), Err(VaultError::Damaged { .. })),
                "{length}"
            );
        }
    }

    #[test]
    fn a_clock_before_1970_and_an_endless_grace_are_refused() {
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert!(matches!(Seconds::floor(early), Err(VaultError::Time)));
        assert!(matches!(Seconds::end_of(Duration::MAX, SystemTime::now()), Err(VaultError::Time)));
    }

    proptest! {
        #[test]
        fn a_grace_period_is_never_shorter_than_promised(
            now in 0u64..5_000_000_000, nanos in 0u32..1_000_000_000, grace in 1u64..10_000_000_000_000,
        ) {
            let now = SystemTime::UNIX_EPOCH + Duration::new(now, nanos);
            let grace = Duration::from_micros(grace);
            let end = Seconds::end_of(grace, now).unwrap().time();
            prop_assert!(end >= now + grace);
            prop_assert!(end < now + grace + Duration::from_secs(1));
            prop_assert!(Seconds::end_of(Duration::ZERO, now).unwrap().time() <= now);
        }
    }
}
