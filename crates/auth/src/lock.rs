//! The three layers in their order: guard, local endpoints, key.

use http::Extensions;
use thv_keygen::LiveKey;
use tower_layer::Layer;

use crate::guard::{Guard, GuardLayer, Guards};
use crate::key::{KeyCheck, KeyLayer};
use crate::local::{Local, LocalLayer};
use crate::{LiveKeys, Realm};

/// Locks a server: [`GuardLayer`], then [`LocalLayer`], then [`KeyLayer`].
///
/// The order matters. The guard comes first, so that a web page learns nothing, not even that there is a local
/// endpoint; the endpoints come before the key, since a client asks for the proof before it shows its key.
/// Make it the outermost layer of all that must be locked: with axum, the last call to `Router::layer`.
#[derive(Clone)]
pub struct LockLayer {
    guard: GuardLayer,
    local: LocalLayer,
    key: KeyLayer,
}

impl LockLayer {
    /// A lock that opens to `keys`.
    #[must_use]
    pub fn new(guards: Guards, keys: LiveKeys, realm: Realm) -> Self {
        Self {
            guard: GuardLayer::new(guards),
            local: LocalLayer::locked(keys.clone(), realm.clone()),
            key: KeyLayer::new(keys, realm),
        }
    }

    /// See [`KeyLayer::on_accept`].
    #[must_use]
    pub fn on_accept(mut self, hook: impl Fn(&LiveKey, &mut Extensions) + Send + Sync + 'static) -> Self {
        self.key = self.key.on_accept(hook);
        self
    }
}

impl<S> Layer<S> for LockLayer {
    type Service = Guard<Local<KeyCheck<S>>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.guard.layer(self.local.layer(self.key.layer(inner)))
    }
}

/// For a server without a key: [`GuardLayer`], then [`LocalLayer::open`].
#[derive(Clone)]
pub struct OpenLayer {
    guard: GuardLayer,
    local: LocalLayer,
}

impl OpenLayer {
    /// Guards a server that anybody on this machine may use.
    #[must_use]
    pub fn new(guards: Guards) -> Self {
        Self { guard: GuardLayer::new(guards), local: LocalLayer::open() }
    }
}

impl<S> Layer<S> for OpenLayer {
    type Service = Guard<Local<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.guard.layer(self.local.layer(inner))
    }
}
