//! Builds the local endpoints.

use tower_layer::Layer;

use super::Local;
use crate::{LiveKeys, Realm};

/// Applies [`Local`].
#[derive(Clone)]
pub struct LocalLayer {
    lock: Option<(LiveKeys, Realm)>,
}

impl LocalLayer {
    /// The endpoints of a server that `keys` open; proofs are made with those keys under the realm's name.
    #[must_use]
    pub fn locked(keys: LiveKeys, realm: Realm) -> Self {
        Self { lock: Some((keys, realm)) }
    }

    /// The endpoints of a server without a key.
    #[must_use]
    pub fn open() -> Self {
        Self { lock: None }
    }
}

impl<S> Layer<S> for LocalLayer {
    type Service = Local<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Local { inner, lock: self.lock.clone() }
    }
}
