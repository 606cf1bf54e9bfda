//! Gates: messages that came after `initialize` wait for its answer, and those after
//! `notifications/initialized` until that was accepted.

use tokio::sync::watch;

/// Waits for an [`Opener`]; the default is open.
#[derive(Clone, Default)]
pub(crate) struct Gate(Option<watch::Receiver<()>>);

/// Keeps a gate closed until it is dropped.
pub(crate) struct Opener(#[expect(dead_code, reason = "held for its drop")] watch::Sender<()>);

impl Gate {
    /// A closed gate.
    pub(crate) fn closed() -> (Opener, Self) {
        let (sender, receiver) = watch::channel(());
        (Opener(sender), Self(Some(receiver)))
    }

    /// Returns when the gate is open.
    pub(crate) async fn passed(&self) {
        if let Some(mut receiver) = self.0.clone() {
            while receiver.changed().await.is_ok() {}
        }
    }
}
