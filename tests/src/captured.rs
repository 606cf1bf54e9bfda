//! Everything that the processes of one test wrote, kept so that it can be searched for secrets.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The outputs of all processes that one [`Home`](crate::Home) started.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<Entry>>>);

struct Entry {
    label: String,
    exempt: bool,
    sink: Sink,
}

impl Captured {
    /// A new stream; `exempt` ones, such as the output of `key show`, are left out of [`Captured::streams`].
    pub(crate) fn open(&self, label: String, exempt: bool) -> Sink {
        let sink = Sink::default();
        lock(&self.0).push(Entry { label, exempt, sink: sink.clone() });
        sink
    }

    /// What each stream that must not hold a key has carried so far, with the command and stream it came from.
    pub fn streams(&self) -> Vec<(String, Vec<u8>)> {
        lock(&self.0)
            .iter()
            .filter(|entry| !entry.exempt)
            .map(|entry| (entry.label.clone(), entry.sink.bytes()))
            .collect()
    }
}

/// The bytes of one stream, filled by a reader thread.
#[derive(Clone, Default)]
pub(crate) struct Sink(Arc<(Mutex<Content>, Condvar)>);

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    closed: bool,
}

impl Sink {
    pub(crate) fn push(&self, bytes: &[u8]) {
        lock(&self.0.0).bytes.extend_from_slice(bytes);
    }

    pub(crate) fn close(&self) {
        lock(&self.0.0).closed = true;
        self.0.1.notify_all();
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        lock(&self.0.0).bytes.clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.0.0).bytes).into_owned()
    }

    /// Waits until the stream has ended; false when it is still open after `bound`, which means that some
    /// process still holds its other end.
    pub(crate) fn wait_closed(&self, bound: Duration) -> bool {
        let end = Instant::now() + bound;
        let mut content = lock(&self.0.0);
        while !content.closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            content = self.0.1.wait_timeout(content, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// A test that panicked elsewhere must not hide what was captured.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exempt_streams_are_left_out() {
        let captured = Captured::default();
        captured.open("thv key show: stdout".into(), true).push(b"secret");
        captured.open("thv list: stdout".into(), false).push(b"demo");
        assert_eq!(captured.streams(), [("thv list: stdout".into(), b"demo".to_vec())]);
    }

    #[test]
    fn an_open_stream_is_told_from_a_closed_one() {
        let sink = Sink::default();
        assert!(!sink.wait_closed(Duration::ZERO));
        sink.close();
        assert!(sink.wait_closed(Duration::ZERO));
    }
}
