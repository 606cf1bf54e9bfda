//! Where a user's workloads live: three folders, and the name of every file in them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thv_keygen::Name;

use crate::files::FileError;
use crate::sys;

/// The folders of one user's workloads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Home {
    /// Tells a home that the user named from all others; nothing for the platform's own.
    id: Option<String>,
    /// The folder that all others lie in, if there is one.
    root: Option<PathBuf>,
    config: PathBuf,
    state: PathBuf,
    run: PathBuf,
}

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// A relative path means another place in every terminal.
    #[error("{} is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// A folder that others could have written to, or that is not ours.
    #[error("{} cannot be trusted with keys: {reason}", path.display())]
    Untrusted {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, and what mends it where a command does.
        reason: String,
    },
    /// A folder could not be made or looked at.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Home {
    /// A home whose parts all lie below one folder, as `THV_HOME` asks for.
    #[must_use]
    pub fn below(dir: &Path) -> Self {
        // As written but for doubled and trailing slashes: the folder may not exist yet.
        let plain: PathBuf = dir.components().collect();
        Self {
            id: Some(short_hash(plain.as_os_str().as_encoded_bytes())),
            root: Some(dir.to_owned()),
            config: dir.join("config"),
            state: dir.join("state"),
            run: dir.join("run"),
        }
    }

    /// A home in the platform's own folders.
    #[must_use]
    pub fn at(config: PathBuf, state: PathBuf, run: PathBuf) -> Self {
        Self { id: None, root: None, config, state, run }
    }

    /// The same home as the one that is used when none is named.
    #[must_use]
    pub fn by_default(self) -> Self {
        Self { id: None, ..self }
    }

    /// What tells this home from the others of its user in a keychain that all of them share: 16 hex digits; `None`
    /// for the one that is used when none is named.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Makes the folders that are missing and refuses to work in any that others may enter.
    ///
    /// # Errors
    /// A path is relative, a folder is a link, is not ours, is open to others, or cannot be made.
    pub fn prepare(&self) -> Result<(), HomeError> {
        let (locks, workloads) = (self.locks(), self.workloads());
        let below = [&self.config, &self.state, &self.run, &locks, &workloads];
        for dir in self.root.iter().chain(below) {
            private_dir(dir)?;
        }
        Ok(())
    }

    /// Refuses a home that others may enter and makes nothing; a home that does not exist passes.
    ///
    /// # Errors
    /// As [`Home::prepare`].
    pub fn check(&self) -> Result<(), HomeError> {
        for dir in self.folders() {
            if !dir.is_absolute() {
                return Err(HomeError::Relative(dir));
            }
            check_dir(&dir)?;
        }
        Ok(())
    }

    /// The folders of this home that exist or should, outermost first.
    #[must_use]
    pub fn folders(&self) -> Vec<PathBuf> {
        let below =
            [self.config.clone(), self.state.clone(), self.run.clone(), self.locks(), self.workloads()];
        self.root.iter().cloned().chain(below).collect()
    }

    /// Where control sockets are.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// Settings: which store keeps the keys, and defaults.
    #[must_use]
    pub fn config_toml(&self) -> PathBuf {
        self.config.join("config.toml")
    }

    /// The user's catalog of servers.
    #[must_use]
    pub fn servers_toml(&self) -> PathBuf {
        self.config.join("servers.toml")
    }

    /// The key of the encrypted store, where no keychain holds it.
    #[must_use]
    pub fn master_key(&self) -> PathBuf {
        self.config.join("master.key")
    }

    /// The encrypted store, `secrets.enc` unless its choice names another file beside it.
    #[must_use]
    pub fn secrets(&self, file: Option<&str>) -> PathBuf {
        self.state.join(file.unwrap_or("secrets.enc"))
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.state.join("locks")
    }

    pub(crate) fn workloads(&self) -> PathBuf {
        self.state.join("workloads")
    }

    /// Files that could not be read, kept when their workload was removed.
    pub(crate) fn damaged(&self) -> PathBuf {
        self.state.join("damaged")
    }

    /// A workload's lock, which is never deleted: two holders of a deleted and a new file would both be sure.
    #[must_use]
    pub fn lock(&self, name: &Name) -> PathBuf {
        self.locks().join(format!("{}.lock", name.lower()))
    }

    /// A workload's files.
    #[must_use]
    pub fn workload(&self, name: &Name) -> PathBuf {
        self.workloads().join(name.lower())
    }

    /// What was asked for.
    #[must_use]
    pub fn run_config(&self, name: &Name) -> PathBuf {
        self.workload(name).join("runconfig.json")
    }

    /// What is running.
    #[must_use]
    pub fn status(&self, name: &Name) -> PathBuf {
        self.workload(name).join("status.json")
    }

    /// The process groups of the workload's servers, a file each.
    #[must_use]
    pub fn groups(&self, name: &Name) -> PathBuf {
        self.workload(name).join("groups")
    }

    /// What the server wrote to its standard error.
    #[must_use]
    pub fn server_log(&self, name: &Name) -> PathBuf {
        self.workload(name).join("server.log")
    }

    /// What the supervisor has to say.
    #[must_use]
    pub fn proxy_log(&self, name: &Name) -> PathBuf {
        self.workload(name).join("proxy.log")
    }

    /// A workload's control socket. Hashed, since a socket's path has room for 104 bytes at most.
    #[must_use]
    pub fn socket(&self, name: &Name) -> PathBuf {
        self.run.join(format!("{}.sock", short_hash(name.lower().as_bytes())))
    }

    /// Held by who changes the list of users' secrets. No workload has this name.
    #[must_use]
    pub fn secrets_lock(&self) -> PathBuf {
        self.locks().join(".secrets.lock")
    }

    /// Held shared by those who write to the store, exclusive by those who exchange it. No workload has this name.
    #[must_use]
    pub fn store_lock(&self) -> PathBuf {
        self.locks().join(".store.lock")
    }
}

/// 16 hex digits of SHA-256.
fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a folder and those above it, the last one private, and refuses one that others may enter.
pub(crate) fn private_dir(dir: &Path) -> Result<(), HomeError> {
    if !dir.is_absolute() {
        return Err(HomeError::Relative(dir.to_owned()));
    }
    if check_dir(dir)? {
        return Ok(());
    }
    let missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
    for path in missing.into_iter().rev() {
        match sys::create_private_dir(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(FileError::new("make the folder", path, error).into());
            }
            _ => {}
        }
    }
    check_dir(dir).map(drop)
}

/// Whether a folder exists.
///
/// # Errors
/// It exists and cannot be trusted, or cannot be looked at.
pub fn check_dir(dir: &Path) -> Result<bool, HomeError> {
    match sys::distrust(dir) {
        Ok(None) => Ok(true),
        Ok(Some(reason)) => Err(HomeError::Untrusted { path: dir.to_owned(), reason }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(FileError::new("look at", dir, error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_share_every_file() {
        let home = Home::below(Path::new("/x"));
        let (a, b) = (Name::parse("Time").unwrap(), Name::parse("tIME").unwrap());
        assert_eq!(home.lock(&a), home.lock(&b));
        assert_eq!(home.status(&a), home.status(&b));
        assert_eq!(home.socket(&a), home.socket(&b));
        assert_ne!(home.socket(&a), home.socket(&Name::parse("tim").unwrap()));
    }

    #[test]
    fn a_relative_home_is_refused() {
        assert!(matches!(Home::below(Path::new("x")).prepare(), Err(HomeError::Relative(_))));
    }

    #[cfg(unix)]
    #[test]
    fn makes_private_folders_and_refuses_links_and_open_ones() {
        use std::fs::Permissions;
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("home");
        let home = Home::below(&root);
        home.check().unwrap();
        assert!(!root.exists());
        home.prepare().unwrap();
        for path in [&root, &home.locks(), &home.workloads()] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
        }
        home.prepare().unwrap();

        let state = root.join("state");
        std::fs::set_permissions(&state, Permissions::from_mode(0o770)).unwrap();
        let error = home.prepare().unwrap_err().to_string();
        assert!(error.contains("0770") && error.contains("chmod 700"), "{error}");
        assert!(home.check().is_err());
        std::fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();

        std::fs::rename(root.join("config"), root.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(root.join("elsewhere"), root.join("config")).unwrap();
        assert!(home.prepare().unwrap_err().to_string().contains("symbolic link"));
        std::fs::remove_file(root.join("config")).unwrap();

        for inner in [home.locks(), home.workloads()] {
            std::fs::rename(&inner, root.join("elsewhere/inner")).unwrap();
            std::os::unix::fs::symlink(root.join("elsewhere/inner"), &inner).unwrap();
            assert!(home.check().unwrap_err().to_string().contains("symbolic link"), "{inner:?}");
            std::fs::remove_file(&inner).unwrap();
            std::fs::rename(root.join("elsewhere/inner"), &inner).unwrap();
        }
    }
}
