//! A store that breaks at a chosen write, beside a supervisor that answers as told, both watched at every step.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use thv_keychain::vault::Nobody;
use thv_keychain::{
    Entry, MemoryStore, Publish, PublishError, Receipt, Secret, Store, StoreError, StoreKind, Vault,
};
use thv_keygen::{KeyId, KeySet, LiveKey, Name, SharedKey};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn start_of_time() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// How a write breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An error, nothing written, the store works on.
    Refused,
    /// An error although it was written, the store works on: a lost answer.
    Unreported,
    /// The process is gone before the write.
    DiesBefore,
    /// The process is gone right after the write.
    DiesAfter,
}

pub(crate) const FAULTS: [Fault; 4] =
    [Fault::Refused, Fault::Unreported, Fault::DiesBefore, Fault::DiesAfter];

/// How the supervisor answers a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Takes the set and says so.
    Confirms,
    /// Never gets the set.
    NotReached,
    /// Takes the set; the answer is lost.
    Lost,
    /// Does not take the set and names a key that is not in it.
    OtherKey,
}

/// One workload: what is stored, and what its supervisor enforces (`None`: no supervisor runs).
pub(crate) struct World {
    pub(crate) store: MemoryStore,
    pub(crate) name: Name,
    enforced: Mutex<Option<KeySet>>,
    now: Mutex<SystemTime>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            name: name("time"),
            enforced: Mutex::new(None),
            now: Mutex::new(start_of_time()),
        }
    }

    pub(crate) fn vault(&self) -> Vault<&MemoryStore> {
        Vault::new(&self.store)
    }

    pub(crate) fn now(&self) -> SystemTime {
        *self.now.lock().unwrap()
    }

    pub(crate) fn pass(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
    }

    /// A supervisor starts as the contract says: under the lock, recovered, with the live set.
    pub(crate) fn start_supervisor(&self) {
        self.vault().recover(&self.name, self.now(), &mut Nobody).unwrap();
        *self.enforced.lock().unwrap() = Some(self.vault().load(&self.name, self.now()).unwrap());
    }

    pub(crate) fn stop_supervisor(&self) {
        *self.enforced.lock().unwrap() = None;
    }

    pub(crate) fn enforces(&self, key: &SharedKey) -> bool {
        self.enforced.lock().unwrap().as_ref().is_none_or(|set| set.check(key, self.now()).is_some())
    }

    pub(crate) fn enforced_ids(&self) -> Option<BTreeSet<KeyId>> {
        self.enforced.lock().unwrap().as_ref().map(|set| live_ids(set, self.now()))
    }

    pub(crate) fn loaded_ids(&self) -> BTreeSet<KeyId> {
        live_ids(&self.vault().load(&self.name, self.now()).unwrap(), self.now())
    }

    /// What must hold between any two steps: whoever reads a key can use it, and no client's key is unlisted.
    pub(crate) fn check(&self) {
        let vault = self.vault();
        let Some(current) = vault.current(&self.name).unwrap() else {
            return;
        };
        assert!(self.enforces(&current), "E1 holds a key that the supervisor refuses");
        assert!(self.loaded_ids().contains(&current.id()), "E1 is not in the live set");
        let prefix = format!("workload:{}:client:", self.name.lower());
        let stored = self.store.names().into_iter().filter(|entry| entry.as_str().starts_with(&prefix));
        let listed = vault.clients(&self.name).unwrap();
        for entry in stored {
            let key = SharedKey::parse(self.store.get(&entry).unwrap().unwrap().expose()).unwrap();
            assert!(self.enforces(&key), "{entry} holds a key that the supervisor refuses");
            assert!(listed.iter().any(|client| client.key_id == key.id()), "{entry} is in no list");
        }
    }
}

fn live_ids(set: &KeySet, now: SystemTime) -> BTreeSet<KeyId> {
    set.iter().filter(|key| key.is_live(now)).map(LiveKey::id).collect()
}

/// The world's supervisor, answering in the order told and confirming from then on.
pub(crate) struct Supervisor<'a> {
    world: &'a World,
    answers: std::slice::Iter<'a, Answer>,
}

impl<'a> Supervisor<'a> {
    pub(crate) fn new(world: &'a World, answers: &'a [Answer]) -> Self {
        Self { world, answers: answers.iter() }
    }
}

impl Publish for Supervisor<'_> {
    fn publish(&mut self, set: &KeySet) -> Result<Receipt, PublishError> {
        if self.world.enforced.lock().unwrap().is_none() {
            return Ok(Receipt::NobodyRuns);
        }
        let answer = *self.answers.next().unwrap_or(&Answer::Confirms);
        if matches!(answer, Answer::Confirms | Answer::Lost) {
            *self.world.enforced.lock().unwrap() = Some(set.clone());
        }
        self.world.check();
        match answer {
            Answer::Confirms => Ok(Receipt::Enforced(set.iter().next().unwrap().id())),
            Answer::NotReached | Answer::Lost => Err(PublishError::new("no answer")),
            Answer::OtherKey => Ok(Receipt::Enforced(SharedKey::from_bytes([7; 32]).id())),
        }
    }
}

/// The world's store, whose `at`th write (counted from 0) breaks.
pub(crate) struct Breaking<'a> {
    world: &'a World,
    at: usize,
    fault: Fault,
    writes: AtomicUsize,
    dead: AtomicBool,
}

impl<'a> Breaking<'a> {
    pub(crate) fn new(world: &'a World, at: usize, fault: Fault) -> Self {
        Self { world, at, fault, writes: AtomicUsize::new(0), dead: AtomicBool::new(false) }
    }

    /// Whether the chosen write was reached.
    pub(crate) fn broke(&self) -> bool {
        self.writes.load(Ordering::Relaxed) > self.at
    }

    fn read<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.dead.load(Ordering::Relaxed) { Err(broken()) } else { read() }
    }

    fn write<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        if self.dead.load(Ordering::Relaxed) {
            return Err(broken());
        }
        let breaks = self.writes.fetch_add(1, Ordering::Relaxed) == self.at;
        let fault = breaks.then_some(self.fault);
        if matches!(fault, Some(Fault::DiesBefore | Fault::DiesAfter)) {
            self.dead.store(true, Ordering::Relaxed);
        }
        if matches!(fault, Some(Fault::Refused | Fault::DiesBefore)) {
            return Err(broken());
        }
        let written = write();
        self.world.check();
        if breaks { Err(broken()) } else { written }
    }
}

fn broken() -> StoreError {
    StoreError::Io {
        action: "write",
        path: "store".into(),
        source: std::io::Error::other("broken on purpose"),
    }
}

impl Store for Breaking<'_> {
    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }

    fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
        self.read(|| self.world.store.get(entry))
    }

    fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError> {
        self.write(|| self.world.store.set(entry, value))
    }

    fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
        self.write(|| self.world.store.delete(entry))
    }
}
