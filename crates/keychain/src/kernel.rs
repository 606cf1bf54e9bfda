//! The Linux kernel's keyring as a cache of master keys.
//!
//! A key that was derived from a passphrase is kept in memory of the kernel for a while, so that a process without a terminal or a session can open the encrypted file. Other users cannot see it, nothing
//! of it is written to disk, and it is gone at reboot. Programs of the same user can read it.
//!
//! It is used directly, the user's keyring linked into the thread's: the session's keyring, which libraries prefer,
//! is revoked when the login ends, and a supervisor lives on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use linux_keyutils::{Key, KeyError, KeyRing, KeyRingIdentifier};
use thv_keygen::KeyId;
use zeroize::Zeroizing;

use crate::StoreError;
use crate::file::{MasterKey, StoreKey, Wanted};

/// Master keys in the user's keyring, each under its own id and with an end.
///
/// No entry of a store is ever kept here, so a key that a server refused is never read from it. And since a file's
/// header names its key by id, an outdated key is never found either.
pub struct KernelCache {
    service: String,
    lifetime: Duration,
}

/// Why the kernel keeps nothing: it is switched off, as in many containers, or its quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's keyring cannot be used: {0}")]
pub struct CacheError(KeyError);

impl From<KeyError> for CacheError {
    fn from(error: KeyError) -> Self {
        Self(error)
    }
}

impl KernelCache {
    /// A cache for one service, whose keys live for `lifetime`, in whole seconds and at least one.
    #[must_use]
    pub fn new(service: impl Into<String>, lifetime: Duration) -> Self {
        Self { service: service.into(), lifetime }
    }

    /// The key with this id, if it is there and has not ended.
    ///
    /// # Errors
    /// The keyring cannot be used.
    pub fn get(&self, id: KeyId) -> Result<Option<Zeroizing<[u8; 32]>>, CacheError> {
        let Some(key) = self.find(&possessed()?, id)? else {
            return Ok(None);
        };
        let mut bytes = Zeroizing::new([0; 32]);
        match key.read(&mut *bytes) {
            // The kernel tells how long the key is, whether or not it had room.
            Ok(32) => Ok(Some(bytes)),
            Ok(_) => Ok(None),
            Err(error) => absent(error),
        }
    }

    /// Keeps a key that was proved right, or gives it its whole lifetime once more.
    ///
    /// # Errors
    /// The keyring cannot be used, or the user's quota is used up.
    pub fn put(&self, id: KeyId, key: &[u8; 32]) -> Result<(), CacheError> {
        let kept = possessed()?.add_key(&self.description(id), key)?;
        let seconds = usize::try_from(self.lifetime.as_secs()).unwrap_or(usize::MAX).max(1);
        // A key without an end would stay until reboot.
        kept.set_timeout(seconds).inspect_err(|_| {
            let _ = kept.invalidate();
        })?;
        Ok(())
    }

    /// Deletes a key; says whether there was one.
    ///
    /// # Errors
    /// The keyring cannot be used.
    pub fn forget(&self, id: KeyId) -> Result<bool, CacheError> {
        let user = possessed()?;
        match self.find(&user, id)? {
            None => Ok(false),
            Some(key) => {
                user.unlink_key(key)?;
                Ok(true)
            }
        }
    }

    fn find(&self, user: &KeyRing, id: KeyId) -> Result<Option<Key>, CacheError> {
        user.search(&self.description(id)).map(Some).or_else(absent)
    }

    fn description(&self, id: KeyId) -> String {
        format!("{}:master-key:{id}", self.service)
    }
}

/// The user's keyring, linked into this thread's, since only what a thread possesses may be read.
fn possessed() -> Result<KeyRing, CacheError> {
    let thread = KeyRing::from_special_id(KeyRingIdentifier::Thread, true)?;
    thread.link_keyring_id(KeyRingIdentifier::User)?;
    Ok(KeyRing::from_special_id(KeyRingIdentifier::User, true)?)
}

fn absent<T>(error: KeyError) -> Result<Option<T>, CacheError> {
    match error {
        KeyError::KeyDoesNotExist | KeyError::KeyExpired | KeyError::KeyRevoked => Ok(None),
        other => Err(other.into()),
    }
}

/// A master key's keeper with the kernel's cache before it.
///
/// A cache that cannot be used is as good as an empty one. A key that was found in it keeps the end that it has there:
/// use does not prolong it.
pub struct Cached<M> {
    keeper: M,
    cache: KernelCache,
    /// The cache is filled and not looked at.
    afresh: bool,
    /// The key at hand came from the cache.
    found: AtomicBool,
}

impl<M: MasterKey> Cached<M> {
    /// Puts a cache before a keeper.
    #[must_use]
    pub fn new(keeper: M, cache: KernelCache) -> Self {
        Self { keeper, cache, afresh: false, found: AtomicBool::new(false) }
    }

    /// Fills the cache and does not look at it: for a passphrase that somebody has just typed, which may be another
    /// one than that of the key there.
    #[must_use]
    pub fn afresh(keeper: M, cache: KernelCache) -> Self {
        Self { afresh: true, ..Self::new(keeper, cache) }
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &KernelCache {
        &self.cache
    }
}

impl<M: MasterKey> MasterKey for Cached<M> {
    fn load(&self, wanted: Option<&Wanted>) -> Result<Option<StoreKey>, StoreError> {
        self.found.store(false, Ordering::Relaxed);
        if !self.afresh
            && let Some(Wanted { id, derivation }) = wanted
            && let Ok(Some(raw)) = self.cache.get(*id)
        {
            let key = StoreKey::derived(&raw, *derivation);
            if key.id() == *id {
                self.found.store(true, Ordering::Relaxed);
                return Ok(Some(key));
            }
        }
        self.keeper.load(wanted)
    }

    fn create(&self) -> Result<StoreKey, StoreError> {
        self.keeper.create()
    }

    fn proved(&self, key: &StoreKey) {
        if !self.found.load(Ordering::Relaxed) {
            let _ = self.cache.put(key.id(), key.expose_bytes());
        }
        self.keeper.proved(key);
    }

    fn derives(&self) -> bool {
        self.keeper.derives()
    }

    fn place(&self) -> String {
        self.keeper.place()
    }
}
