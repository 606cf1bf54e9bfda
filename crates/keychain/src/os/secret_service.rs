//! The Secret Service over D-Bus: gnome-keyring, KDE Wallet, KeePassXC.
//!
//! Items carry the attributes `service` and `username`, as those of the `keyring` project do, and are looked for in
//! every collection; new ones go into the default collection.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dbus_secret_service::{EncryptionType, Error, Item, SecretService};
use zeroize::Zeroizing;

use super::fault::{Failure, KeychainFault};

/// The library below gives each message of its own two seconds.
const MESSAGE_BOUND: Duration = Duration::from_secs(2);

/// A connection and the session on it that encrypts secrets on their way.
pub(super) struct Session(SecretService);

/// Unlocks the default collection; the desktop's prompt, if it takes one, stays for `seconds`.
pub(super) fn unlock(seconds: u64) -> Result<(), Failure> {
    let start = Instant::now();
    let service = SecretService::connect_with_max_prompt_timeout(EncryptionType::Dh, seconds)
        .map_err(|error| connecting(&error, start))?;
    service
        .get_default_collection()
        .and_then(|collection| collection.ensure_unlocked())
        .map_err(|error| failure(&error, start))
}

impl Session {
    pub(super) fn open() -> Result<Self, Failure> {
        let start = Instant::now();
        // No seconds for a prompt: the library then answers that one would be needed, and shows none.
        SecretService::connect_with_max_prompt_timeout(EncryptionType::Dh, 0)
            .map(Self)
            .map_err(|error| connecting(&error, start))
    }

    pub(super) fn probe(&self) -> Result<(), Failure> {
        let start = Instant::now();
        self.default_is_open().map_err(|error| failure(&error, start))
    }

    pub(super) fn get(&self, service: &str, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let start = Instant::now();
        let Some(item) = self.find(service, name)? else {
            // A locked or missing collection hides its items. Neither may be taken for an absent entry.
            self.default_is_open().map_err(|error| failure(&error, start))?;
            return Ok(None);
        };
        item.get_secret().map(|bytes| Some(Zeroizing::new(bytes))).map_err(|error| failure(&error, start))
    }

    pub(super) fn set(&self, service: &str, name: &str, text: &[u8]) -> Result<(), Failure> {
        const CONTENT: &str = "text/plain";
        let start = Instant::now();
        let result = match self.find(service, name)? {
            Some(item) => item.set_secret(text, CONTENT),
            None => self.0.get_default_collection().and_then(|collection| {
                if collection.is_locked()? {
                    return Err(Error::Locked);
                }
                let label = format!("{name} ({service})");
                collection.create_item(&label, attributes(service, name), text, true, CONTENT).map(drop)
            }),
        };
        result.map_err(|error| failure(&error, start))
    }

    pub(super) fn delete(&self, service: &str, name: &str) -> Result<bool, Failure> {
        let start = Instant::now();
        let result = match self.find(service, name)? {
            Some(item) => item.delete().map(|()| true),
            None => self.default_is_open().map(|()| false),
        };
        result.map_err(|error| failure(&error, start))
    }

    /// All items of a service, in any collection.
    pub(super) fn items(&self, service: &str) -> Result<Option<Vec<String>>, Failure> {
        let start = Instant::now();
        let items = || {
            let found = self.0.search_items(HashMap::from([("service", service)]))?;
            if !found.locked.is_empty() {
                return Err(Error::Locked);
            }
            // A locked or missing collection hides its items.
            self.default_is_open()?;
            Ok(Some(found.unlocked.into_iter().map(|item| item.path.to_string()).collect()))
        };
        items().map_err(|error| failure(&error, start))
    }

    /// The name of an item; `None` if it has none, or is gone by now.
    pub(super) fn name(&self, item: &str) -> Result<Option<String>, Failure> {
        const GONE: [&str; 3] = ["NoSuchObject", "UnknownObject", "UnknownMethod"];
        let start = Instant::now();
        match Item::new(&self.0, item.to_owned().into()).get_attributes() {
            Ok(mut attributes) => Ok(attributes.remove("username")),
            Err(Error::Dbus(error))
                if error.name().is_some_and(|name| GONE.iter().any(|gone| name.ends_with(gone))) =>
            {
                Ok(None)
            }
            Err(error) => Err(failure(&error, start)),
        }
    }

    fn find(&self, service: &str, name: &str) -> Result<Option<Item<'_>>, Failure> {
        let start = Instant::now();
        let found = self.0.search_items(attributes(service, name)).map_err(|error| failure(&error, start))?;
        let count = found.unlocked.len() + found.locked.len();
        if count > 1 {
            let (service, name) = (service.to_owned(), name.to_owned());
            return Err(KeychainFault::Ambiguous { service, name, count }.into());
        }
        if !found.locked.is_empty() {
            return Err(KeychainFault::Locked.into());
        }
        Ok(found.unlocked.into_iter().next())
    }

    fn default_is_open(&self) -> Result<(), Error> {
        match self.0.get_default_collection()?.is_locked()? {
            false => Ok(()),
            true => Err(Error::Locked),
        }
    }
}

fn attributes<'a>(service: &'a str, name: &'a str) -> HashMap<&'a str, &'a str> {
    HashMap::from([("service", service), ("username", name)])
}

/// A failure before there was a session.
fn connecting(error: &Error, start: Instant) -> Failure {
    let failed = failure(error, start);
    match failed.fault {
        // What the C library says of a bus that cannot be found or reached has many names.
        KeychainFault::Failed { reason } => KeychainFault::Unavailable { reason }.into(),
        KeychainFault::Denied { reason } => {
            KeychainFault::Unavailable { reason: format!("the bus refused: {reason}") }.into()
        }
        _ => failed,
    }
}

/// A failure of messages that were sent since `start`.
fn failure(error: &Error, start: Instant) -> Failure {
    let fault = match error {
        Error::Locked | Error::Prompt => KeychainFault::Locked,
        Error::NoResult => KeychainFault::NoCollection,
        Error::Unavailable => KeychainFault::Unavailable { reason: "there is no Secret Service".to_owned() },
        Error::Dbus(error) => return of_name(error.name().unwrap_or_default(), start.elapsed()),
        // Their texts could hold what was received.
        _ => KeychainFault::Failed { reason: "its answer was not understood".to_owned() },
    };
    fault.into()
}

/// A failure by the name of its D-Bus error.
fn of_name(name: &str, elapsed: Duration) -> Failure {
    let short = name.strip_prefix("org.freedesktop.").unwrap_or(name);
    let reason = || short.to_owned();
    let (fault, session_died) = match short {
        "Secret.Error.IsLocked" => (KeychainFault::Locked, false),
        // One name for two things: a service that was silent for the whole bound, and one that went away.
        "DBus.Error.NoReply" | "DBus.Error.Timeout" | "DBus.Error.TimedOut" => {
            (KeychainFault::TimedOut { bound: MESSAGE_BOUND }, elapsed < MESSAGE_BOUND * 3 / 4)
        }
        "DBus.Error.AccessDenied" | "DBus.Error.AuthFailed" => {
            (KeychainFault::Denied { reason: reason() }, false)
        }
        "DBus.Error.NoServer" | "DBus.Error.FileNotFound" | "DBus.Error.NotSupported" => {
            (KeychainFault::Unavailable { reason: format!("there is no session bus ({short})") }, false)
        }
        "DBus.Error.ServiceUnknown" | "DBus.Error.NameHasNoOwner" => {
            (KeychainFault::Unavailable { reason: format!("there is no Secret Service ({short})") }, true)
        }
        "DBus.Error.Disconnected" => (KeychainFault::Unavailable { reason: reason() }, true),
        _ if short.starts_with("DBus.Error.Spawn.") => (
            KeychainFault::Unavailable { reason: format!("the Secret Service does not start ({short})") },
            false,
        ),
        // An unknown session, an object of a service that has been started anew, or a failure of its own.
        _ => (KeychainFault::Failed { reason: reason() }, true),
    };
    Failure { fault, session_died }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(5);

    #[test]
    fn a_service_that_went_away_is_told_from_a_silent_one() {
        assert!(of_name("org.freedesktop.DBus.Error.NoReply", SOON).session_died);
        assert!(!of_name("org.freedesktop.DBus.Error.NoReply", MESSAGE_BOUND).session_died);
        assert!(of_name("org.freedesktop.Secret.Error.NoSession", SOON).session_died);
        assert!(of_name("org.freedesktop.DBus.Error.Disconnected", SOON).session_died);
        assert!(!of_name("org.freedesktop.Secret.Error.IsLocked", SOON).session_died);
    }

    #[test]
    fn what_has_no_name_of_ours_keeps_its_own() {
        let failure = of_name("org.example.Odd", SOON);
        assert_eq!(failure.fault, KeychainFault::Failed { reason: "org.example.Odd".to_owned() });
    }
}
