//! Builds the key check.

use std::sync::Arc;

use http::Extensions;
use thv_keygen::LiveKey;
use tower_layer::Layer;

use super::KeyCheck;
use crate::{Identity, LiveKeys, Realm};

pub(super) type Hook = Arc<dyn Fn(&LiveKey, &mut Extensions) + Send + Sync>;

/// Applies [`KeyCheck`].
#[derive(Clone)]
pub struct KeyLayer {
    keys: LiveKeys,
    realm: Realm,
    hook: Option<Hook>,
}

impl KeyLayer {
    /// Opens to `keys`, as they are at the time of each request.
    #[must_use]
    pub fn new(keys: LiveKeys, realm: Realm) -> Self {
        Self { keys, realm, hook: None }
    }

    /// Runs `hook` on each request whose key was accepted, before it is passed on, in place of inserting an
    /// [`Identity`] into its extensions.
    ///
    /// This is the place to log an accepted key, to mark its connection as trusted, and to hand later layers
    /// what they need to know of the caller. The hook must not block.
    #[must_use]
    pub fn on_accept(mut self, hook: impl Fn(&LiveKey, &mut Extensions) + Send + Sync + 'static) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }
}

impl<S> Layer<S> for KeyLayer {
    type Service = KeyCheck<S>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyCheck { inner, keys: self.keys.clone(), realm: self.realm.clone(), hook: self.hook.clone() }
    }
}

pub(super) fn accepted(hook: Option<&Hook>, key: &LiveKey, extensions: &mut Extensions) {
    match hook {
        Some(hook) => hook(key, extensions),
        None => {
            extensions.insert(Identity::from(key));
        }
    }
}
