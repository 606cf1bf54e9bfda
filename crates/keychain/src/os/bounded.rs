//! Calls that may hang, on threads that nobody waits for longer than agreed.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How a bounded call ended.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome<T> {
    /// With its result.
    Done(T),
    /// Not yet; its thread goes on by itself and ends with the process.
    TimedOut,
    /// It panicked, or there was no thread to be had.
    Lost,
}

/// Runs a job on a thread of its own and waits for it, but not longer than `bound`.
///
/// A plain thread and not a runtime's: dropping a runtime waits for its blocking threads, and a hung one would keep
/// the process from ending.
pub(super) fn within<T: Send + 'static>(
    bound: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Outcome<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let worker = thread::Builder::new().name("keychain".to_owned()).spawn(move || {
        // Nobody may be there any more to take it.
        let _ = sender.send(job());
    });
    if worker.is_err() {
        return Outcome::Lost;
    }
    match receiver.recv_timeout(bound) {
        Ok(result) => Outcome::Done(result),
        Err(RecvTimeoutError::Timeout) => Outcome::TimedOut,
        Err(RecvTimeoutError::Disconnected) => Outcome::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_job_is_waited_for_and_no_longer_than_agreed() {
        assert_eq!(within(LONG, || 7), Outcome::Done(7));
        let (release, wait) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || wait.recv().is_ok()), Outcome::TimedOut);
        drop(release);
    }

    #[test]
    fn a_panic_is_an_outcome() {
        let quiet: fn() = || std::panic::resume_unwind(Box::new(()));
        assert_eq!(within(LONG, quiet), Outcome::Lost);
    }
}
