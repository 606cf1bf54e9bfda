//! Files that only their owner may use: opened without following links, checked, replaced as a whole.
//!
//! Everything that differs between operating systems is in `platform` at the end.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::{Builder, NamedTempFile};
use zeroize::Zeroizing;

use crate::StoreError;

/// Reads a private file as a whole; `None` if there is none.
pub(crate) fn read(path: &Path, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let file = match open(path, OpenOptions::new().read(true)) {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let failed = |source| io_error("read", path, source);
    let too_large = || StoreError::TooLarge { path: path.to_owned(), limit };
    let length = file.metadata().map_err(failed)?.len();
    let length = usize::try_from(length).ok().filter(|length| *length <= limit).ok_or_else(too_large)?;
    // Room for all of it at once: a buffer that grows leaves its older halves behind in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit {
        return Err(too_large());
    }
    Ok(Some(bytes))
}

/// How often a lock that somebody else holds is tried again.
const POLL: Duration = Duration::from_millis(2);

/// Opens a lock file, making it if need be, and waits until it is ours. Dropping the file gives it back.
///
/// Whoever holds it replaces the `guarded` file before giving it back. As long as that happens, others take their turns
/// and so shall we; when nothing has happened for as long as `patience`, somebody holds it who hangs.
///
/// The lock file is never deleted: a second process could then lock a new one while a third still waits for the old.
pub(crate) fn lock(path: &Path, guarded: &Path, patience: Duration) -> Result<File, StoreError> {
    let file = open(path, OpenOptions::new().write(true).create(true).truncate(false))?;
    let mut since = Instant::now();
    let mut seen = platform::version(guarded);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(source)) => return Err(io_error("lock", path, source)),
        }
        let now = platform::version(guarded);
        if now != seen {
            (since, seen) = (Instant::now(), now);
        } else if since.elapsed() >= patience {
            return Err(StoreError::Busy { path: guarded.to_owned(), waited: patience });
        }
        thread::sleep(POLL);
    }
}

/// Replaces a private file: all of the new contents or all of the old, whenever the machine stops.
///
/// The caller holds the file's lock.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |source| io_error("write", path, source);
    // One name for every attempt, so that a crash leaves at most one stray file, which the next write takes away.
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    match fs::remove_file(folder(path).join(&name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let file = write_new(Builder::new().prefix(&name).rand_bytes(0), path, bytes).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    platform::sync_folder(folder(path)).map_err(failed)
}

/// Makes a private file that does not exist yet, atomically; false, and nothing changed, if it does.
pub(crate) fn create(path: &Path, bytes: &[u8]) -> Result<bool, StoreError> {
    let failed = |source| io_error("create", path, source);
    let file = write_new(&Builder::new(), path, bytes).map_err(failed)?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed(error.error)),
    }
    platform::sync_folder(folder(path)).map_err(failed)?;
    Ok(true)
}

// `tempfile` makes the file exclusively and with mode 0600.
fn write_new(builder: &Builder<'_, '_>, beside: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = builder.tempfile_in(folder(beside))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn open(path: &Path, options: &mut OpenOptions) -> Result<File, StoreError> {
    platform::refuse_links(options);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(_) if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) => {
            return Err(StoreError::NotRegular { path: path.to_owned() });
        }
        Err(source) => return Err(io_error("open", path, source)),
    };
    let metadata = file.metadata().map_err(|source| io_error("inspect", path, source))?;
    if !metadata.is_file() {
        return Err(StoreError::NotRegular { path: path.to_owned() });
    }
    platform::check_private(path, &metadata)?;
    Ok(file)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { action, path: PathBuf::from(path), source }
}

#[cfg(unix)]
mod platform {
    use std::fs::{File, Metadata, OpenOptions};
    use std::io;
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
    use std::path::Path;

    use rustix::fs::OFlags;

    use crate::StoreError;

    /// Everything beyond reading and writing by the owner.
    const TOO_MUCH: u32 = 0o7777 & !0o600;

    pub(super) fn refuse_links(options: &mut OpenOptions) {
        // Without NONBLOCK a named pipe in the file's place would make the open wait for ever.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }

    pub(super) fn check_private(path: &Path, metadata: &Metadata) -> Result<(), StoreError> {
        let user = rustix::process::geteuid().as_raw();
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if owner != user {
            return Err(StoreError::Owner { path: path.to_owned(), owner, user });
        }
        if mode & TOO_MUCH != 0 {
            return Err(StoreError::Permissions { path: path.to_owned(), mode });
        }
        Ok(())
    }

    /// What changes whenever a file is replaced.
    pub(super) fn version(path: &Path) -> Option<(u64, i64, i64)> {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec()))
    }

    pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

#[cfg(not(unix))]
mod platform {
    use std::fs::{Metadata, OpenOptions};
    use std::io;
    use std::path::Path;

    use crate::StoreError;

    pub(super) fn refuse_links(options: &mut OpenOptions) {
        #[cfg(windows)]
        {
            use std::os::windows::fs::OpenOptionsExt as _;
            // FILE_FLAG_OPEN_REPARSE_POINT: opens the link itself, which is then no regular file.
            options.custom_flags(0x0020_0000);
        }
        let _ = options;
    }

    // The user's profile folder keeps others out by its access list, which new files inherit.
    pub(super) fn check_private(_: &Path, _: &Metadata) -> Result<(), StoreError> {
        Ok(())
    }

    /// What changes whenever a file is replaced.
    pub(super) fn version(path: &Path) -> Option<std::time::SystemTime> {
        std::fs::symlink_metadata(path).ok()?.modified().ok()
    }

    // Folders cannot be flushed here; the file system orders the rename itself.
    pub(super) fn sync_folder(_: &Path) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests plant files that the crate must refuse")]

    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn plant(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"data").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn only_a_file_of_mode_0600_or_less_is_read() {
        for mode in [0o600, 0o400] {
            let (_dir, path) = plant(mode);
            assert_eq!(read(&path, 4).unwrap().unwrap().as_slice(), b"data");
        }
        for mode in [0o604, 0o620, 0o640, 0o644, 0o700, 0o660, 0o666, 0o4600, 0o1600] {
            let (_dir, path) = plant(mode);
            match read(&path, 4) {
                Err(StoreError::Permissions { mode: seen, .. }) => assert_eq!(seen, mode),
                other => panic!("mode {mode:o}: {other:?}"),
            }
        }
    }

    #[test]
    fn links_pipes_and_folders_are_refused_at_once() {
        let (dir, path) = plant(0o600);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        let dangling = dir.path().join("dangling");
        symlink(dir.path().join("absent"), &dangling).unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for path in [link.as_path(), &dangling, &pipe, dir.path()] {
            assert!(matches!(read(path, 4), Err(StoreError::NotRegular { .. })), "{}", path.display());
            let locked = lock(path, path, Duration::ZERO);
            assert!(matches!(locked, Err(StoreError::NotRegular { .. })), "{}", path.display());
        }
        assert!(!dir.path().join("absent").exists(), "a lock was made through a link");
    }

    #[test]
    fn a_link_is_replaced_and_its_target_left_alone() {
        let (dir, path) = plant(0o600);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        // The stray file of an earlier crash, here planted as a link, must not be written through either.
        symlink(&path, dir.path().join(".link.new")).unwrap();
        replace(&link, b"fresh").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"data");
        assert_eq!(read(&link, 5).unwrap().unwrap().as_slice(), b"fresh");
        assert_eq!(fs::symlink_metadata(&link).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn creating_never_overwrites() {
        let (dir, path) = plant(0o600);
        assert!(!create(&path, b"other").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"data");
        assert!(create(&dir.path().join("new"), b"new").unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no stray file");
    }

    #[test]
    fn a_holder_who_hangs_is_not_waited_for_and_those_who_work_are() {
        let (dir, path) = plant(0o600);
        let lock_path = dir.path().join("file.lock");
        let held = lock(&lock_path, &path, Duration::ZERO).unwrap();
        let patience = Duration::from_millis(200);
        match lock(&lock_path, &path, patience) {
            Err(StoreError::Busy { path: named, waited }) => {
                assert_eq!((named, waited), (path.clone(), patience));
            }
            other => panic!("{other:?}"),
        }
        thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(&lock_path, &path, patience));
            let end = Instant::now() + patience * 3;
            while Instant::now() < end {
                replace(&path, b"next").unwrap();
            }
            drop(held);
            assert!(waiting.join().unwrap().is_ok());
        });
    }

    #[test]
    fn a_limit_is_a_limit() {
        let (_dir, path) = plant(0o600);
        assert!(matches!(read(&path, 3), Err(StoreError::TooLarge { limit: 3, .. })));
        assert!(read(&path.with_file_name("absent"), 3).unwrap().is_none());
    }
}
