//! The encrypted file under a passphrase. Its key is derived once and lent to every process of the user by the keyring
//! of the Linux kernel. Elsewhere there is no such store: a bridge without a terminal could never open it.

use std::path::PathBuf;
use std::time::Duration;

use thv_keychain::{FileStore, MasterKey, Secret};
use thv_workload::home::Home;

use crate::failure::Outcome;
use crate::store::AnyStore;

/// How long a key stays in the kernel's keyring unless the user says otherwise.
pub const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// The store of a process that can only hope that the passphrase was given before.
pub fn cached(home: &Home, file: PathBuf) -> Outcome<AnyStore> {
    Ok(Box::new(FileStore::new(file, keeper(home, None, LIFETIME)?)))
}

/// The store of a process that was told the passphrase. Its first use keeps the key for the others.
pub fn told(
    home: &Home,
    file: PathBuf,
    text: Secret,
    lifetime: Duration,
) -> Outcome<FileStore<impl MasterKey + use<>>> {
    Ok(FileStore::new(file, keeper(home, Some(text), lifetime)?))
}

#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
fn keeper(home: &Home, text: Option<Secret>, lifetime: Duration) -> Outcome<impl MasterKey + use<>> {
    use thv_keychain::Passphrase;
    use thv_keychain::kernel::{Cached, KernelCache};
    let cache = KernelCache::new(crate::store::service(home), lifetime);
    Ok(match text {
        Some(text) => Cached::afresh(Passphrase::new(text), cache),
        None => Cached::new(Passphrase::unknown(), cache),
    })
}

#[cfg(not(target_os = "linux"))]
fn keeper(_home: &Home, _text: Option<Secret>, _lifetime: Duration) -> Outcome<thv_keychain::Passphrase> {
    use crate::failure::{Exit, Failure};
    Err(Failure::new(Exit::Refused, "a store under a passphrase needs the keyring of the Linux kernel")
        .hint("use the keychain of the operating system: thv secret provider keychain"))
}
