//! Where the program's own log goes: never to standard output, which belongs to data and to MCP.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use thv_workload::files::{self, FileError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

fn filter(debug: bool) -> EnvFilter {
    EnvFilter::new(if debug {
        "info,thv=debug,thv_bridge=debug,thv_proxy=debug,thv_workload=debug"
    } else {
        "info"
    })
}

/// Logs to standard error: warnings, and everything with `--debug`.
pub fn to_stderr(debug: bool) {
    let filter = if debug { filter(true) } else { EnvFilter::new("warn") };
    // A second call within one process, as in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(filter).with(layer(io::stderr)).try_init();
}

/// Logs to a supervisor's own file.
pub fn to_file(path: &Path, debug: bool) -> Result<(), FileError> {
    let file = LogFile::open(path, MAX_BYTES)?;
    let _ = tracing_subscriber::registry().with(filter(debug)).with(layer(Mutex::new(file))).try_init();
    Ok(())
}

/// Has panics of this process logged, too: a supervisor has no standard error on which they could be seen.
pub fn panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("{panic}");
        usual(panic);
    }));
}

/// A log larger than this, in bytes, is put aside and a new one begun; one that was put aside before goes.
const MAX_BYTES: u64 = 16 << 20;

/// A log that cannot fill the disk.
struct LogFile {
    path: PathBuf,
    file: File,
    written: u64,
    max: u64,
}

impl LogFile {
    fn open(path: &Path, max: u64) -> Result<Self, FileError> {
        let file = files::open_append(path)?;
        let written = file.metadata().map_or(0, |meta| meta.len());
        Ok(Self { path: path.to_owned(), file, written, max })
    }

    fn put_aside(&mut self) -> io::Result<()> {
        std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        *self = Self::open(&self.path, self.max).map_err(io::Error::other)?;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.written >= self.max {
            // A log that cannot be put aside is written on: losing lines would be worse.
            let _ = self.put_aside();
        }
        let written = self.file.write(line)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn layer<S, W>(writer: W) -> impl tracing_subscriber::Layer<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).with_target(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.log");
        let log = Mutex::new(LogFile::open(&path, MAX_BYTES).unwrap());
        panics();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer(log)), || {
            std::panic::catch_unwind(|| panic!("the roof is on fire")).unwrap_err();
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("ERROR") && text.contains("the roof is on fire") && text.contains("logs.rs"),
            "{text}"
        );
    }

    #[test]
    fn a_long_log_is_put_aside_and_no_line_is_lost_on_the_way() {
        let dir = std::env::temp_dir().join(format!("thv-logs-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("proxy.log");
        let mut log = LogFile::open(&path, 10).unwrap();
        for n in 0..5 {
            // As the logger does: a line at a time.
            log.write_all(format!("line {n}\n").as_bytes()).unwrap();
        }
        drop(log);
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&path.with_extension("log.1")), "line 2\nline 3\n");
        assert_eq!(read(&path), "line 4\n");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
