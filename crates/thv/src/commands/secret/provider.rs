//! `thv secret provider`: which store keeps everything, and the move to another one, all or nothing.
//!
//! Whoever writes to the store holds its lock shared; the move holds it alone. At each moment one store holds
//! everything, and `config.toml` names one that does: copy, record, and only then empty the old one.

use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;
use thv_keychain::migrate::{self, MigrateError};
use thv_keychain::{Entry, SecretsError, Store as _, VaultError};
use thv_workload::home::Home;
use thv_workload::registry;

use crate::args::{Format, SecretProvider};
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::input;
use crate::passphrase;
use crate::say;
use crate::settings::{self, Choice, Provider};
use crate::store::{self, AnyStore};

/// The names that encrypted files take in turn, `None` being the usual one.
const NAMES: [Option<&str>; 2] = [None, Some("secrets-2.enc")];

/// Shows the store, or moves everything to another one.
pub fn provider(environment: &Environment, args: &SecretProvider) -> Outcome {
    match args.provider {
        None => show(environment.checked_home()?, args.format),
        Some(provider) => exchange(environment.prepared_home()?, provider, args.passphrase_fd),
    }
}

/// What `--format json` shows. Fields are added, never renamed or removed.
#[derive(Serialize)]
struct Shown<'a> {
    provider: Option<&'static str>,
    chosen_at: &'a str,
    seen: &'a str,
}

fn show(home: &Home, format: Format) -> Outcome {
    let choice = store::known(home)?;
    match format {
        Format::Json => {
            let shown = Shown {
                provider: choice.as_ref().map(|choice| choice.provider.as_str()),
                chosen_at: choice.as_ref().map_or("", |choice| &choice.chosen_at),
                seen: choice.as_ref().map_or("", |choice| &choice.seen),
            };
            let json = serde_json::to_string_pretty(&shown).map_err(|error| {
                Failure::new(Exit::Failed, "cannot write the store as JSON").because(&error)
            })?;
            say::data(&format!("{json}\n"));
        }
        Format::Text => match choice {
            None => {
                say::talk("no store was chosen yet; the first key or secret chooses one");
            }
            Some(Choice { provider, chosen_at, seen, .. }) => {
                say::data(&format!("{}\n", provider.as_str()));
                say::talk(&format!("keys rest in {}, since {chosen_at}: {seen}", provider.place()));
            }
        },
    }
    Ok(())
}

fn exchange(home: &Home, provider: Provider, descriptor: Option<u32>) -> Outcome {
    if descriptor.is_some() && provider != Provider::Passphrase {
        return Err(Failure::new(Exit::Usage, "--passphrase-fd goes with the provider passphrase"));
    }
    let passphrase = match provider {
        Provider::Passphrase => {
            Some(input::new_passphrase("a passphrase for the store", descriptor, "--passphrase-fd")?)
        }
        _ => None,
    };
    let _alone = store::exclusive(home)?;
    let old = store::known(home)?;
    if old.as_ref().is_some_and(|old| old.provider == provider) && provider != Provider::Passphrase {
        say::talk(&format!("keys rest in {} already", provider.place()));
        return Ok(());
    }
    let taken = old.as_ref().filter(|old| old.provider != Provider::Keychain).map(|old| old.file.as_deref());
    let file = NAMES.into_iter().find(|name| Some(*name) != taken).flatten().map(str::to_owned);
    let mut new = store::choice(provider, "chosen by the user");
    new.file = file.filter(|_| provider != Provider::Keychain);

    if provider != Provider::Keychain {
        put_aside(&home.secrets(new.file.as_deref()))?;
    }
    let to: AnyStore = match passphrase {
        Some(text) => {
            let path = home.secrets(new.file.as_deref());
            let told = passphrase::told(home, path, text, passphrase::LIFETIME)?;
            // The passphrase counts from now on, also while there is nothing to be kept under it.
            told.make().map_err(|error| store::failed("the new store cannot be made", &error))?;
            Box::new(told)
        }
        None => store::open(home, &new)?,
    };
    // A store that cannot be read is not moved to, even if there is nothing to move.
    to.get(&Entry::master_key()).map_err(|error| {
        store::failed(format!("{} cannot be used; nothing was moved", provider.place()), &error)
    })?;
    let Some(old) = old else {
        settings::record(home, &new)?;
        say::talk(&format!("keys rest in {}, as of now", provider.place()));
        return Ok(());
    };
    let from = store::open(home, &old)?;
    let names = registry::names(home)
        .map_err(|error| Failure::new(Exit::Failed, "cannot list the workloads").because(&error))?;
    // Whatever cuts this off, the next move knows which of the two holds nothing but copies.
    settings::record(home, &Choice { unclean: Some(provider), ..old.clone() })?;
    let leftovers = old.unclean == Some(provider);
    let copied = migrate::copy(&from, &to, &names, leftovers).map_err(|error| {
        // That nothing was moved is what matters, should this fail, too.
        let _ = settings::record(home, &old);
        refused(&error)
    })?;
    new.unclean = Some(old.provider);
    let count = copied.entries().len();
    if let Err(failure) = settings::record(home, &new) {
        if let Err(error) = copied.undo(&to) {
            say::talk(&format!("warning: copies stay in {}: {error}", provider.place()));
        }
        return Err(failure.hint("nothing was moved"));
    }
    match copied.delete_source(&from) {
        Ok(()) => {
            new.unclean = None;
            settings::record(home, &new)?;
        }
        Err(error) => {
            say::talk(&format!("warning: {} still holds copies: {error}", old.provider.place()));
        }
    }
    let left = from.entries();
    drop(from);
    clear_away(home, &old, left.ok().flatten());
    say::talk(&format!("moved {count} entries; keys rest in {}, as of now", provider.place()));
    if provider == Provider::File {
        let master = home.master_key();
        say::talk(&format!(
            "the master key lies in {}, where other users cannot read it and programs of yours can",
            master.display()
        ));
    }
    Ok(())
}

/// What an emptied store leaves: a file that holds nothing, and the key to it. `left` is what it still holds, if it
/// could tell.
fn clear_away(home: &Home, old: &Choice, left: Option<Vec<Entry>>) {
    let path = home.secrets(old.file.as_deref());
    if old.provider == Provider::Keychain || !path.exists() {
        return;
    }
    if !left.is_some_and(|left| left.is_empty()) {
        say::talk(&format!(
            "warning: {} stays, since it holds entries of workloads that are gone, or that this version does not know",
            path.display()
        ));
        return;
    }
    let removed = std::fs::remove_file(&path).map_err(|error| error.to_string()).and_then(|()| {
        match old.provider {
            Provider::File => std::fs::remove_file(home.master_key()).map_err(|error| error.to_string()),
            Provider::FileKeychain => store::keychain(home)
                .delete(&Entry::master_key())
                .map(drop)
                .map_err(|error| error.to_string()),
            // Its key is in nobody's keeping; what the kernel has of it ends by itself.
            Provider::Keychain | Provider::Passphrase => Ok(()),
        }
    });
    if let Err(error) = removed {
        say::talk(&format!("warning: what is left of {} is of no more use: {error}", path.display()));
    }
}

/// A file that no choice names: an earlier move broke off there. All that it holds is held elsewhere, unless somebody
/// has taken the settings away; so it is put aside and not deleted.
fn put_aside(path: &Path) -> Outcome {
    if std::fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = path.with_extension(format!("enc.{seconds}.old"));
    std::fs::rename(path, &aside).map_err(|error| {
        Failure::new(Exit::Failed, format!("{} is in the way", path.display())).because(&error)
    })?;
    say::talk(&format!("an encrypted file that nothing refers to was put aside as {}", aside.display()));
    Ok(())
}

fn refused(error: &MigrateError) -> Failure {
    let failure = Failure::new(Exit::Keychain, "nothing was moved").because(error);
    match error {
        MigrateError::Store { source, .. }
        | MigrateError::Secrets(SecretsError::Store(source))
        | MigrateError::Workload { source: VaultError::Store(source), .. } => {
            failure.hint(store::advice(source))
        }
        _ => failure.hint("the store is as it was; thv doctor says what is wrong with it"),
    }
}
