//! Files that survive a crash and that nobody else can read.
//!
//! Every write goes to a temporary file beside the target, is flushed to the disk, and takes the target's name in
//! one step; whoever reads sees the old content or the new one. Nothing follows a link.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::sys;

/// The largest state file that is read, in bytes. A larger one is not ours.
const MAX_BYTES: u64 = 4 << 20;

/// What went wrong with a file, and with which.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }

    /// The kind of the error beneath.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// The file or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Replaces a file's content in one step: temporary file (0600), flush, rename, flush of the folder.
///
/// # Errors
/// Any step failed. The file is then as it was; no temporary file stays.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sys::sync_dir(folder)
    };
    write().map_err(|error| FileError::new("write", path, error))
}

/// Reads a file whole; `None` when it does not exist.
///
/// # Errors
/// It cannot be opened or read, is a link, is no regular file, or is larger than 4 MiB.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let read = || {
        let file = sys::open_read(path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        if meta.len() > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
        }
        let mut content = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
        file.take(MAX_BYTES).read_to_end(&mut content)?;
        Ok(content)
    };
    match read() {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("read", path, error)),
    }
}

/// Opens a log for appending, made 0600 when it is new.
///
/// # Errors
/// It cannot be opened, or is a link.
pub fn open_append(path: &Path) -> Result<File, FileError> {
    sys::open_append(path).map_err(|error| FileError::new("open", path, error))
}

/// Opens a log for reading; `None` when it does not exist.
///
/// # Errors
/// It cannot be opened, or is a link.
pub fn open_read(path: &Path) -> Result<Option<File>, FileError> {
    match sys::open_read(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::new("open", path, error)),
    }
}

/// The last `lines` lines of what a log has had written to it after its first `since` bytes, at most 64 KiB of them;
/// empty when there is no log.
///
/// # Errors
/// It exists and cannot be read.
pub fn tail(path: &Path, since: u64, lines: usize) -> Result<String, FileError> {
    use std::io::Seek as _;
    const WINDOW: u64 = 64 << 10;
    let Some(mut file) = open_read(path)? else { return Ok(String::new()) };
    let mut read = || {
        let length = file.metadata()?.len();
        // A log that is shorter than it was has been put aside, and all of the new one counts.
        let since = if length < since { 0 } else { since };
        file.seek(io::SeekFrom::Start(length.saturating_sub(WINDOW).max(since)))?;
        let mut bytes = Vec::new();
        (&mut file).take(WINDOW).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| FileError::new("read", path, error))?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_replaces_the_whole_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert!(read(&path).unwrap().is_none());
        write_atomic(&path, b"first, longer").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), b"second");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folder");
        std::fs::create_dir_all(path.join("full")).unwrap();
        let error = write_atomic(&path, b"x").unwrap_err();
        assert_eq!(error.path(), path);
        assert!(path.join("full").is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn files_are_private_and_links_are_not_followed() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let link = dir.path().join("link");
        write_atomic(&target, b"secret").unwrap();
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(read(&link).is_err());
        assert!(open_append(&link).is_err());
        // A write takes the link's place and leaves what it pointed to alone.
        write_atomic(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"secret");
        assert!(!std::fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
    }

    #[test]
    fn tail_gives_the_last_lines_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(tail(&path, 0, 3).unwrap(), "");
        let text: String = (0..50_000).map(|n| format!("{n}\n")).collect();
        write_atomic(&path, text.as_bytes()).unwrap();
        assert_eq!(tail(&path, 0, 2).unwrap(), "49998\n49999");
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!(tail(&path, length - 6, 2).unwrap(), "49999");
        assert_eq!(tail(&path, length, 2).unwrap(), "");
        assert_eq!(tail(&path, length + 1, 1).unwrap(), "49999");
    }
}
