//! Pauses between attempts that may go on failing: doubled each time up to a bound, and never the same twice, so that
//! many relays whose server is gone do not come back to it in step.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// The pauses before further attempts.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts with `first` and goes up to `longest`.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Starts anew: an attempt has led to something.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The next pause: between three quarters and all of its nominal length.
    pub(crate) fn pause(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.longest);
        // Randomly keyed by the standard library, which is as much chance as a pause needs.
        let chance = (RandomState::new().hash_one(0_u8) % 256) as u32;
        nominal - nominal / 4 * chance / 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_with_jitter_and_starts_anew() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_millis(500));
        let mut backoff = Backoff::new(first, longest);
        for nominal in [100, 200, 400, 500, 500] {
            let pause = backoff.pause();
            let nominal = Duration::from_millis(nominal);
            assert!(pause <= nominal && pause >= nominal * 3 / 4, "{pause:?} of {nominal:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= first);
        let chances: Vec<Duration> = (0..32).map(|_| Backoff::new(longest, longest).pause()).collect();
        assert!(chances.iter().any(|pause| *pause != chances[0]), "{chances:?}");
    }
}
