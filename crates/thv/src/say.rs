//! The one place that writes to the terminal: data to standard output, talk to standard error.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether data was lost on its way out for another reason than that nobody wants it any more.
static LOST: AtomicBool = AtomicBool::new(false);

/// Writes data. A reader that has gone away, as in `thv list | head -1`, is no failure.
pub fn data(text: &str) {
    raw(text.as_bytes());
}

/// Writes data as it is. Whether anybody still reads it.
pub fn raw(bytes: &[u8]) -> bool {
    let mut out = io::stdout().lock();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    if let Err(error) = &written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        LOST.store(true, Ordering::Relaxed);
    }
    written.is_ok()
}

/// Whether all data that was written has arrived, or nobody wanted it.
pub fn all_arrived() -> bool {
    !LOST.load(Ordering::Relaxed)
}

/// Writes one line of talk. Nobody may be listening, which is no reason to stop.
pub fn talk(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a text of several lines that ends with its own line break.
pub fn complaint(text: &str) {
    let _ = write!(io::stderr(), "{text}");
}
