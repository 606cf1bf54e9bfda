//! The keys that open the door right now, exchangeable while requests run.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::ArcSwap;
use thv_keygen::KeySet;

/// A key set that many requests read and one owner replaces. Clones share the set.
///
/// A request is judged by the set that is live at the moment of its check. Requests that have already passed
/// are not called back.
#[derive(Clone)]
pub struct LiveKeys(Arc<ArcSwap<KeySet>>);

impl LiveKeys {
    /// Starts with `set`. An empty set opens for nobody.
    #[must_use]
    pub fn new(set: KeySet) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(set)))
    }

    /// The set as it is now.
    #[must_use]
    pub fn load(&self) -> Arc<KeySet> {
        self.0.load_full()
    }

    /// Replaces the set; every check that begins after the return sees the new one.
    pub fn store(&self, set: KeySet) {
        self.0.store(Arc::new(set));
    }

    /// The set for the length of one check, without touching its reference count.
    pub(crate) fn peek(&self) -> impl Deref<Target = Arc<KeySet>> {
        self.0.load()
    }
}
