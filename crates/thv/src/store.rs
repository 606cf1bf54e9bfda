//! The store that was chosen for a home: how it is chosen, once, and how it is opened.
//!
//! Nothing here ever turns to another store because the chosen one fails.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use thv_keychain::file::Fault;
use thv_keychain::os::ProbeState;
use thv_keychain::{Entry, FileStore, KeptKey, KeyFile, OsOptions, OsStore, Store, StoreError};
use thv_workload::home::Home;
use thv_workload::lock::{LockError, StoreLock};
use thv_workload::status::timestamp;

use crate::failure::{Exit, Failure, Outcome};
use crate::passphrase;
use crate::say;
use crate::settings::{self, Choice, Provider};

/// Any of the stores.
pub type AnyStore = Box<dyn Store>;

/// How long a command waits for another one that exchanges the store.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often it looks again.
const POLL: Duration = Duration::from_millis(10);

/// The name under which the entries of this home stand in a keychain that all homes of a user share.
pub fn service(home: &Home) -> String {
    home.id().map_or_else(|| "thv".to_owned(), |id| format!("thv:{id}"))
}

/// The keychain of the operating system; nothing is connected yet.
pub fn keychain(home: &Home) -> OsStore {
    OsStore::new(OsOptions::new(service(home)))
}

/// What was chosen, or what follows from the files of a home that is older than the choice; `None` if nothing was
/// chosen and nothing stored yet.
pub fn known(home: &Home) -> Outcome<Option<Choice>> {
    match settings::read(home)? {
        None => inherited(home),
        choice => Ok(choice),
    }
}

/// What follows from the files of a home whose settings name no store. A file that only a move can have made means that
/// they did once: whatever were chosen now, what is in that file would seem to be gone.
fn inherited(home: &Home) -> Outcome<Option<Choice>> {
    let usual = home.secrets(None);
    if let Some(path) = moved_to(&usual) {
        let settings = home.config_toml();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let why = format!(
            "{} does not say which store is used, and there is {}",
            settings.display(),
            path.display()
        );
        return Err(Failure::new(Exit::Failed, why)
            .hint(format!("bring {} back from a backup", settings.display()))
            .hint(format!(
                "write into it, below [store]: file = {name:?}, and provider = \"file\", \"file-keychain\" or \
                 \"passphrase\", whichever it was"
            )));
    }
    Ok(usual.exists().then(|| choice(Provider::File, "an encrypted file was there already")))
}

/// An encrypted file beside the usual one.
fn moved_to(usual: &Path) -> Option<PathBuf> {
    let entries = usual.parent().and_then(|folder| std::fs::read_dir(folder).ok())?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths.find(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        path != usual && name.starts_with("secrets") && name.ends_with(".enc")
    })
}

/// A choice made now.
pub fn choice(provider: Provider, seen: impl Into<String>) -> Choice {
    Choice { provider, file: None, unclean: None, chosen_at: timestamp(SystemTime::now()), seen: seen.into() }
}

/// Opens a store as a process does that has nobody to ask for a passphrase. Nothing is read or made yet.
pub fn open(home: &Home, choice: &Choice) -> Outcome<AnyStore> {
    let file = home.secrets(choice.file.as_deref());
    Ok(match choice.provider {
        Provider::Keychain => Box::new(keychain(home)),
        Provider::FileKeychain => Box::new(FileStore::new(file, KeptKey::new(keychain(home)))),
        Provider::File => Box::new(FileStore::new(file, KeyFile::new(home.master_key()))),
        Provider::Passphrase => passphrase::cached(home, file)?,
    })
}

/// Takes part in using the store for as long as the lock is held, and chooses one if none was chosen yet.
pub fn chosen(home: &Home) -> Outcome<(Choice, StoreLock)> {
    let start = Instant::now();
    loop {
        if let Some(choice) = settings::read(home)? {
            let lock = shared(home)?;
            // It may have been exchanged while we waited.
            if settings::read(home)?.as_ref() == Some(&choice) {
                return Ok((choice, lock));
            }
            continue;
        }
        match StoreLock::exclusive(home, Duration::ZERO) {
            Ok(_lock) if settings::read(home)?.is_none() => first(home)?,
            Err(LockError::StoreBusy { .. }) if start.elapsed() < PATIENCE => thread::sleep(POLL),
            Err(error) => return Err(busy(&error)),
            Ok(_) => {}
        }
    }
}

/// Takes part in using the store.
pub fn shared(home: &Home) -> Outcome<StoreLock> {
    StoreLock::shared(home, PATIENCE).map_err(|error| busy(&error))
}

/// Has the store to itself.
pub fn exclusive(home: &Home) -> Outcome<StoreLock> {
    StoreLock::exclusive(home, PATIENCE).map_err(|error| busy(&error))
}

fn busy(error: &LockError) -> Failure {
    Failure::new(Exit::Failed, "the store of keys cannot be used").because(error).hint("try again")
}

/// Chooses a store by looking at the keychain without writing to it, records it, and says so.
fn first(home: &Home) -> Outcome {
    if let Some(choice) = inherited(home)? {
        return settings::record(home, &choice);
    }
    let keychain = keychain(home);
    let probe = keychain.probe();
    let millis = probe.latency.as_secs_f64() * 1000.0;
    let nothing_made = |what: &str| {
        Failure::new(Exit::Keychain, format!("{what}, and no other store was chosen in its stead"))
    };
    let otherwise = "to keep keys in an encrypted file instead: thv secret provider file";
    match probe.state {
        ProbeState::Reachable => {
            settings::record(
                home,
                &choice(Provider::Keychain, format!("the keychain answered in {millis:.0} ms")),
            )?;
            say::talk(&format!("keys rest in {}, as of now", Provider::Keychain.place()));
            Ok(())
        }
        ProbeState::Unavailable | ProbeState::NoCollection => {
            // The probe tells that there is none; an attempt to read tells why.
            let why = keychain.get(&Entry::master_key()).err();
            let why = why.map_or_else(|| probe.state.as_str().to_owned(), |error| error.to_string());
            settings::record(home, &choice(Provider::File, why.clone()))?;
            say::talk(&format!("{why}; keys rest in {}, as of now", Provider::File.place()));
            say::talk(&format!(
                "the master key lies in {}, where other users cannot read it and programs of yours can",
                home.master_key().display()
            ));
            Ok(())
        }
        ProbeState::Locked => Err(nothing_made("the keychain is locked")
            .hint("unlock it (thv secret unlock, or log in to the desktop) and try again")
            .hint(otherwise)),
        ProbeState::TimedOut => {
            Err(nothing_made("the keychain does not answer").hint("thv doctor looks again").hint(otherwise))
        }
        ProbeState::Failed(fault) => {
            let failure = nothing_made("the keychain cannot be used").because(&fault);
            Err(fault.advice().into_iter().fold(failure, Failure::hint).hint(otherwise))
        }
        _ => Err(nothing_made("the keychain cannot be used").hint(otherwise)),
    }
}

/// A failure of a store, for a person.
pub fn failed(what: impl Into<String>, error: &StoreError) -> Failure {
    Failure::new(Exit::Keychain, what).because(error).hint(advice(error))
}

/// What a person can do about a failure of a store.
pub fn advice(error: &StoreError) -> String {
    let known = match error {
        StoreError::Keychain(fault) => fault.advice(),
        StoreError::Contents { fault: Fault::WrongPassphrase, .. } => {
            Some("type it again; nothing of it was kept".to_owned())
        }
        StoreError::PassphraseNeeded => Some("thv secret unlock asks for the passphrase".to_owned()),
        StoreError::Busy { .. } => Some("try again; if it stays so, end the command that hangs".to_owned()),
        _ => None,
    };
    known.unwrap_or_else(|| "thv doctor says what is wrong with the store".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thv_workload::files;

    #[test]
    fn a_file_that_only_a_move_can_have_made_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        assert!(known(&home).unwrap().is_none());
        files::write_atomic(&home.secrets(None), b"x").unwrap();
        assert_eq!(known(&home).unwrap().map(|choice| choice.provider), Some(Provider::File));
        files::write_atomic(&home.secrets(Some("secrets.enc.12.old")), b"x").unwrap();
        assert!(known(&home).is_ok());

        files::write_atomic(&home.secrets(Some("secrets-2.enc")), b"x").unwrap();
        for failure in [known(&home).err().unwrap(), chosen(&home).err().unwrap()] {
            let text = failure.render();
            assert!(text.contains("secrets-2.enc") && text.contains("from a backup"), "{text}");
        }
        assert!(!home.config_toml().exists(), "nothing is chosen in its stead");
        settings::record(&home, &choice(Provider::Keychain, "a test")).unwrap();
        assert_eq!(known(&home).unwrap().map(|choice| choice.provider), Some(Provider::Keychain));
    }
}
