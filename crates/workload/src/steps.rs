//! The steps by which a workload comes and goes, by name: a seam for tests that cut a command off after each.
//!
//! Nothing listens unless a program installs an observer; the call then costs one atomic load.

use std::sync::OnceLock;

/// A change of state that has just been made and is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// `run`: the workload's folder is there.
    FolderMade,
    /// `run`: the workload is marked as being created.
    MarkedCreating,
    /// `run`: the run config is written.
    ConfigWritten,
    /// `run`: the key is in the store.
    KeyMade,
    /// `run`, `start`: the supervisor's process is there.
    SupervisorStarted,
    /// `run`, `start`: the server has answered, the port is bound, the supervisor waits for its go.
    Prepared,
    /// `run`, `start`: the port is in the run config.
    PortSaved,
    /// `run`, `start`: the supervisor was told to go.
    Released,
    /// `stop`, `rm`: the supervisor is gone.
    Stopped,
    /// `rm`: the workload is marked as being removed.
    MarkedRemoving,
    /// `rm`: its keys are gone from the store.
    KeysRemoved,
    /// `rm`: its files are gone.
    FilesRemoved,
}

impl Step {
    /// Every step.
    pub const ALL: [Self; 12] = [
        Self::FolderMade,
        Self::MarkedCreating,
        Self::ConfigWritten,
        Self::KeyMade,
        Self::SupervisorStarted,
        Self::Prepared,
        Self::PortSaved,
        Self::Released,
        Self::Stopped,
        Self::MarkedRemoving,
        Self::KeysRemoved,
        Self::FilesRemoved,
    ];

    /// A stable word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FolderMade => "folder-made",
            Self::MarkedCreating => "marked-creating",
            Self::ConfigWritten => "config-written",
            Self::KeyMade => "key-made",
            Self::SupervisorStarted => "supervisor-started",
            Self::Prepared => "prepared",
            Self::PortSaved => "port-saved",
            Self::Released => "released",
            Self::Stopped => "stopped",
            Self::MarkedRemoving => "marked-removing",
            Self::KeysRemoved => "keys-removed",
            Self::FilesRemoved => "files-removed",
        }
    }
}

static OBSERVER: OnceLock<Box<dyn Fn(Step) + Send + Sync>> = OnceLock::new();

/// Installs the observer of this process; only the first one counts.
pub fn observe(observer: impl Fn(Step) + Send + Sync + 'static) {
    let _ = OBSERVER.set(Box::new(observer));
}

/// Tells the observer, if there is one.
pub fn reached(step: Step) {
    if let Some(observer) = OBSERVER.get() {
        observer(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_word_of_its_own() {
        let mut words: Vec<_> = Step::ALL.iter().map(|step| step.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Step::ALL.len());
    }
}
