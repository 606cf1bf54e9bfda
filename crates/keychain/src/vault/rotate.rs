//! Rotation: how a new key takes the place of the current one without a reader being left outside.

use std::fmt;
use std::time::{Duration, SystemTime};

use thv_keygen::{KeyId, KeySet, Name, SharedKey};

use super::record::{Ending, MAX_PREVIOUS, Next, Seconds};
use super::{Vault, VaultError, View};
use crate::{Entry, Store};

/// The way to the supervisor that enforces a workload's keys.
pub trait Publish {
    /// Hands over the whole live set and waits until it is enforced.
    ///
    /// The first key of the set is the newest of the workload's own; its id is what the supervisor answers with.
    ///
    /// # Errors
    /// A supervisor may be running and has not confirmed. What it enforces is unknown.
    fn publish(&mut self, set: &KeySet) -> Result<Receipt, PublishError>;
}

/// What came of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// The supervisor enforces the set, whose newest key has this id.
    Enforced(KeyId),
    /// It is proved that no supervisor runs. The next one loads its keys from the store.
    NobodyRuns,
}

/// Publishes to nobody: for callers that hold the workload's lock and know that no supervisor runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Publish for Nobody {
    fn publish(&mut self, _: &KeySet) -> Result<Receipt, PublishError> {
        Ok(Receipt::NobodyRuns)
    }
}

/// Why a supervisor did not confirm.
#[derive(Debug)]
pub struct PublishError(Box<dyn std::error::Error + Send + Sync>);

impl PublishError {
    /// Wraps a cause, which must not contain a key.
    #[must_use]
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// A rotation that took place: E1 holds the new key and the supervisor admits it.
#[derive(Debug)]
#[must_use = "the old key may not have its end yet"]
pub struct Rotation {
    /// The new current key.
    pub current: KeyId,
    /// The key that it replaced.
    pub retired: KeyId,
    /// When the replaced key ends.
    pub ends: SystemTime,
    /// Why the last step is still to be done, if it is: the supervisor may not know yet when the replaced key
    /// ends. The next holder of the lock does it in [`Vault::recover`].
    pub unsettled: Option<VaultError>,
}

/// What [`Vault::recover`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// No rotation was under way.
    Clean,
    /// A rotation had got as far as E1; its last step is done now.
    Finished,
    /// A rotation had not got as far as E1; it was dropped with its new key, which nobody could have read.
    Dropped,
}

impl<S: Store> Vault<S> {
    /// Replaces the current key; the old one opens the door for another `grace`, not at all if that is zero. The
    /// caller holds the workload's lock.
    ///
    /// The steps: (a) E2 gains the new key as next and the old one as retiring; (b) the set with both goes to the
    /// supervisor; (c) E1 becomes the new key; (d) the set with the old key's end goes to the supervisor, then E2
    /// takes the old key among its previous ones. If (b) fails, (a) is undone.
    ///
    /// # Errors
    /// [`VaultError::TooManyPrevious`] before anything is changed; [`VaultError::NotPublished`] if the supervisor
    /// does not confirm, with the old key still current; [`VaultError::NoKey`]; the errors of the store, after
    /// which either key may be current and both are admitted.
    pub fn rotate(
        &self,
        name: &Name,
        grace: Duration,
        now: SystemTime,
        publish: &mut dyn Publish,
    ) -> Result<Rotation, VaultError> {
        self.recover(name, now, publish)?;
        let mut view = self.view(name)?;
        view.record.prune(now);
        let ends = Seconds::end_of(grace, now)?;
        let first_end = view.record.previous.iter().map(|ending| ending.ends).min();
        if let Some(first_end) = first_end
            && view.record.previous.len() >= MAX_PREVIOUS
            && !grace.is_zero()
        {
            return Err(VaultError::TooManyPrevious { name: name.clone(), first_end: first_end.time() });
        }

        let next = SharedKey::generate()?;
        view.record.next = Some(Next { key: next.clone(), made: Seconds::floor(now)? });
        view.record.retiring = Some(Ending { key: view.current.clone(), ends });
        self.write_record(name, &view.record)?;

        if let Err(source) = announce(&view.live(now), publish) {
            view.record.undo();
            // If this fails too, the mark stays in E2 and the next holder of the lock drops it.
            let _ = self.write_record(name, &view.record);
            return Err(not_published(name, "the key was not changed", source));
        }

        // Not undone on failure: a store that reports an error may have written, and only E1 tells which key won.
        self.write_key(&Entry::shared_key(name), &next)?;
        let retired = std::mem::replace(&mut view.current, next).id();
        view.record.settle(now);
        let unsettled = self.conclude(name, now, &view, publish).err();
        Ok(Rotation { current: view.current.id(), retired, ends: ends.time(), unsettled })
    }

    /// Finishes or drops a rotation that broke off. The caller holds the workload's lock; whoever starts a
    /// supervisor or changes keys calls this first.
    ///
    /// # Errors
    /// [`VaultError::NoKey`], [`VaultError::NotPublished`] with the rotation still to be recovered, and the errors
    /// of the store.
    pub fn recover(
        &self,
        name: &Name,
        now: SystemTime,
        publish: &mut dyn Publish,
    ) -> Result<Recovery, VaultError> {
        let mut view = self.view(name)?;
        let recovery = match &view.record.next {
            None => return Ok(Recovery::Clean),
            Some(next) if next.key.ct_eq(&view.current) => {
                view.record.settle(now);
                Recovery::Finished
            }
            Some(_) => {
                view.record.undo();
                Recovery::Dropped
            }
        };
        self.conclude(name, now, &view, publish)?;
        Ok(recovery)
    }

    /// Publishes a set without a rotation under way, then writes its E2. In this order the mark in E2 outlives a
    /// supervisor that does not confirm, so that somebody comes back for it.
    fn conclude(
        &self,
        name: &Name,
        now: SystemTime,
        view: &View,
        publish: &mut dyn Publish,
    ) -> Result<(), VaultError> {
        announce(&view.live(now), publish).map_err(|source| {
            not_published(name, "an earlier rotation is still to be finished there", source)
        })?;
        self.write_record(name, &view.record)
    }
}

/// Publishes and checks the receipt.
pub(super) fn announce(set: &KeySet, publish: &mut dyn Publish) -> Result<(), PublishError> {
    let newest = set.iter().next().map(thv_keygen::LiveKey::id);
    match publish.publish(set)? {
        Receipt::NobodyRuns => Ok(()),
        Receipt::Enforced(id) if Some(id) == newest => Ok(()),
        Receipt::Enforced(id) => Err(PublishError::new(format!("it answered with another newest key, {id}"))),
    }
}

pub(super) fn not_published(name: &Name, left: &'static str, source: PublishError) -> VaultError {
    VaultError::NotPublished { name: name.clone(), left, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryStore, Secret};

    fn setup() -> (Vault<MemoryStore>, Name, SystemTime) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (vault, name) = (Vault::new(MemoryStore::new()), Name::parse("time").unwrap());
        vault.create(&name, now).unwrap();
        (vault, name, now)
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn the_old_key_opens_until_its_end_and_not_beyond() {
        let (vault, name, now) = setup();
        let old = vault.current(&name).unwrap().unwrap();
        let rotation = vault.rotate(&name, HOUR, now, &mut Nobody).unwrap();
        let new = vault.current(&name).unwrap().unwrap();
        assert!(rotation.unsettled.is_none());
        assert_eq!((rotation.retired, rotation.current, rotation.ends), (old.id(), new.id(), now + HOUR));

        let set = vault.load(&name, now).unwrap();
        assert!(set.check(&old, now).is_some() && set.check(&new, now).is_some());
        assert!(set.check(&old, now + HOUR).is_none());
        assert_eq!(vault.load(&name, now + HOUR).unwrap().len(), 1);
    }

    #[test]
    fn without_grace_the_old_key_is_gone_at_once() {
        let (vault, name, now) = setup();
        let now = now + Duration::from_millis(999);
        let old = vault.current(&name).unwrap().unwrap();
        let _ = vault.rotate(&name, Duration::ZERO, now, &mut Nobody).unwrap();
        let set = vault.load(&name, now).unwrap();
        assert_eq!(set.len(), 1);
        assert!(set.check(&old, now).is_none());
        let record = vault.store().get(&Entry::key_set(&name)).unwrap().unwrap();
        assert!(!record.expose_text().unwrap().contains(old.expose_text().as_str()), "a dead key is kept");
    }

    #[test]
    fn a_ninth_previous_key_is_refused_before_anything_changes() {
        let (vault, name, now) = setup();
        for n in 0..8 {
            let _ = vault.rotate(&name, HOUR * (n + 1), now, &mut Nobody).unwrap();
        }
        let before: Vec<_> = vault.load(&name, now).unwrap().iter().map(thv_keygen::LiveKey::id).collect();
        assert_eq!(before.len(), 9);
        let error = vault.rotate(&name, HOUR, now, &mut Nobody).unwrap_err();
        assert_eq!(error.kind(), crate::vault::ErrorKind::Refused);
        assert!(matches!(error, VaultError::TooManyPrevious { first_end, .. } if first_end == now + HOUR));
        let after: Vec<_> = vault.load(&name, now).unwrap().iter().map(thv_keygen::LiveKey::id).collect();
        assert_eq!(before, after);

        // One that ends at once takes no place, and an ended one gives its place back.
        let _ = vault.rotate(&name, Duration::ZERO, now, &mut Nobody).unwrap();
        let _ = vault.rotate(&name, HOUR, now + HOUR, &mut Nobody).unwrap();
        assert_eq!(vault.load(&name, now + HOUR).unwrap().len(), 9);
    }

    #[test]
    fn an_answer_with_another_newest_key_is_no_confirmation() {
        struct Stale(KeyId);

        impl Publish for Stale {
            fn publish(&mut self, _: &KeySet) -> Result<Receipt, PublishError> {
                Ok(Receipt::Enforced(self.0))
            }
        }

        let (vault, name, now) = setup();
        let old = vault.current(&name).unwrap().unwrap();
        let error = vault.rotate(&name, HOUR, now, &mut Stale(old.id())).unwrap_err();
        assert!(matches!(error, VaultError::NotPublished { .. }), "{error}");
        assert!(vault.current(&name).unwrap().unwrap().ct_eq(&old));
        assert_eq!(vault.recover(&name, now, &mut Nobody).unwrap(), Recovery::Clean);
        assert_eq!(vault.load(&name, now).unwrap().len(), 1);
    }

    #[test]
    fn times_are_those_of_the_keys() {
        let (vault, name, made) = setup();
        let rotated = made + HOUR;
        let _ = vault.rotate(&name, HOUR, rotated, &mut Nobody).unwrap();
        let [facts] = vault.describe(std::slice::from_ref(&name)).unwrap().try_into().unwrap();
        let facts = facts.unwrap().unwrap();
        assert_eq!((facts.created_at, facts.rotated_at), (Some(made), Some(rotated)));
        assert_eq!(facts.key_id, vault.current(&name).unwrap().unwrap().id());
    }

    #[test]
    fn a_lost_key_set_shuts_nobody_out_and_is_made_anew() {
        let (vault, name, now) = setup();
        let old = vault.current(&name).unwrap().unwrap();
        vault.store().delete(&Entry::key_set(&name)).unwrap();
        assert!(vault.load(&name, now).unwrap().check(&old, now).is_some());
        let _ = vault.rotate(&name, HOUR, now, &mut Nobody).unwrap();
        assert!(vault.load(&name, now).unwrap().check(&old, now).is_some());
    }

    #[test]
    fn a_damaged_key_set_is_never_written_over() {
        let (vault, name, now) = setup();
        vault.store().set(&Entry::key_set(&name), &Secret::from_text("{}")).unwrap();
        assert!(matches!(vault.load(&name, now), Err(VaultError::Damaged { .. })));
        assert!(matches!(vault.rotate(&name, HOUR, now, &mut Nobody), Err(VaultError::Damaged { .. })));
        assert_eq!(vault.store().get(&Entry::key_set(&name)).unwrap().unwrap().expose(), b"{}");
    }
}
