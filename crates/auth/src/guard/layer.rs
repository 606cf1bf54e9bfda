//! Builds the guard.

use std::sync::Arc;

use tower_layer::Layer;

use super::{Guard, Guards};

/// Applies [`Guard`].
#[derive(Clone, Debug)]
pub struct GuardLayer {
    guards: Arc<Guards>,
}

impl GuardLayer {
    /// Enforces `guards`.
    #[must_use]
    pub fn new(guards: Guards) -> Self {
        Self { guards: Arc::new(guards) }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard { inner, guards: self.guards.clone() }
    }
}
