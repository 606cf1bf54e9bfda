//! macOS Keychain and Windows Credential Manager, through the stores of the `keyring` project.

use std::collections::HashMap;
use std::sync::Arc;

use keyring_core::api::CredentialStoreApi as _;
use keyring_core::{Entry, Error};
use zeroize::Zeroizing;

use super::fault::{Failure, KeychainFault};

#[cfg(target_os = "macos")]
use apple_native_keyring_store::keychain::Store;
#[cfg(windows)]
use windows_native_keyring_store::Store;

/// A store of the library; there is no connection that could die.
pub(super) struct Session(Arc<Store>);

/// The system asks by itself where it must; nothing can be done ahead.
pub(super) fn unlock(_seconds: u64) -> Result<(), Failure> {
    Session::open()?.probe()
}

impl Session {
    pub(super) fn open() -> Result<Self, Failure> {
        Store::new().map(Self).map_err(failure)
    }

    pub(super) fn probe(&self) -> Result<(), Failure> {
        // Any answer about an entry that is not there proves a keychain that can be read.
        self.get("thv", "probe").map(drop)
    }

    pub(super) fn get(&self, service: &str, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        match self.entry(service, name)?.get_secret() {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(Error::NoEntry) => Ok(None),
            Err(error) => Err(failure(error)),
        }
    }

    pub(super) fn set(&self, service: &str, name: &str, text: &[u8]) -> Result<(), Failure> {
        self.entry(service, name)?.set_secret(text).map_err(failure)
    }

    pub(super) fn delete(&self, service: &str, name: &str) -> Result<bool, Failure> {
        match self.entry(service, name)?.delete_credential() {
            Ok(()) => Ok(true),
            Err(Error::NoEntry) => Ok(false),
            Err(error) => Err(failure(error)),
        }
    }

    /// The names under a service. Attributes alone are asked for, which takes no permission.
    #[cfg(target_os = "macos")]
    pub(super) fn items(&self, service: &str) -> Result<Option<Vec<String>>, Failure> {
        let found = self.0.search(&HashMap::from([("service", service)])).map_err(failure)?;
        let name = |entry: &Entry| Some(entry.get_specifiers()?.1);
        Ok(found.iter().map(name).collect())
    }

    /// The system's only list comes with the secrets of all programs; it is not asked for.
    #[cfg(windows)]
    pub(super) fn items(&self, _service: &str) -> Result<Option<Vec<String>>, Failure> {
        Ok(None)
    }

    /// They are listed by name.
    #[allow(clippy::unnecessary_wraps, clippy::unused_self, reason = "elsewhere the keychain is asked")]
    pub(super) fn name(&self, item: &str) -> Result<Option<String>, Failure> {
        Ok(Some(item.to_owned()))
    }

    fn entry(&self, service: &str, name: &str) -> Result<Entry, Failure> {
        // The default would take the entry along to every machine of a domain's user.
        #[cfg(windows)]
        let modifiers = Some(HashMap::from([("persistence", "Local")]));
        #[cfg(target_os = "macos")]
        let modifiers = None;
        self.0.build(service, name, modifiers.as_ref()).map_err(failure)
    }
}

/// Never the text of a library's error: some of them show the secret.
fn failure(error: Error) -> Failure {
    let fault = match error {
        Error::NoStorageAccess(cause) | Error::PlatformFailure(cause) => platform_fault(cause.as_ref()),
        Error::TooLong(_, limit) => {
            KeychainFault::TooLong { limit: usize::try_from(limit).unwrap_or(usize::MAX) }
        }
        Error::Ambiguous(items) => {
            KeychainFault::Failed { reason: format!("{} items have this name", items.len()) }
        }
        _ => KeychainFault::Failed { reason: "its answer was not understood".to_owned() },
    };
    fault.into()
}

/// See `SecBase.h` for the numbers.
#[cfg(target_os = "macos")]
fn platform_fault(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> KeychainFault {
    let Some(error) = cause.downcast_ref::<security_framework::base::Error>() else {
        return KeychainFault::Failed { reason: "for an unknown reason".to_owned() };
    };
    let reason = format!("OSStatus {}", error.code());
    match error.code() {
        // errSecInteractionNotAllowed: it would have to ask, and may not.
        -25308 => KeychainFault::Locked,
        // errSecAuthFailed, errSecUserCanceled, errSecInvalidOwnerEdit, errSecMissingEntitlement
        -25293 | -128 | -25244 | -34018 => KeychainFault::Denied { reason },
        // errSecNotAvailable, errSecNoDefaultKeychain, errSecNoSuchKeychain, errSecInvalidKeychain
        -25291 => KeychainFault::Unavailable { reason },
        -25307 | -25294 | -25295 => KeychainFault::NoCollection,
        _ => KeychainFault::Failed { reason },
    }
}

#[cfg(windows)]
fn platform_fault(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> KeychainFault {
    // Only Windows' own numbers come this way; a session without a profile, a service's for instance, has no store.
    KeychainFault::Unavailable { reason: cause.to_string() }
}
