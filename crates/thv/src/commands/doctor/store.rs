//! The store: which one it is, can it be read, how quickly, and does every locked workload have its key?

use std::time::Instant;

use thv_keychain::StoreError;
use thv_keychain::vault::Facts;
use thv_keygen::Name;
use thv_workload::home::Home;
use thv_workload::registry;

use super::clock::Latest;
use super::{Finding, keychain, mending, orphans};
use crate::failure::Failure;
use crate::keys::KeyVault;
use crate::store;

const WHY: &str = "no workload can be started, and no client can reach one";

pub(super) fn look<'a>(home: &'a Home, latest: &mut Latest) -> Vec<Finding<'a>> {
    let choice = match store::known(home) {
        Ok(choice) => choice,
        Err(failure) => return vec![unknown(&failure)],
    };
    if let Some(choice) = &choice {
        latest.read(&choice.chosen_at, || "the choice of the store".to_owned());
    }
    let seen = keychain::look(home, choice.as_ref().map(|choice| choice.provider));
    let mut findings = seen.findings;
    // A keychain that does not answer would not do so for each key either.
    if seen.usable {
        match KeyVault::open(home) {
            Ok(vault) => findings.extend(contents(home, &vault, latest)),
            Err(failure) => findings.push(unknown(&failure)),
        }
    }
    findings.extend(orphans::stores(home, choice.as_ref()));
    findings
}

/// A store of which it is not known which it is.
fn unknown(failure: &Failure) -> Finding<'static> {
    Finding::problem("store", failure.summary()).why(WHY).mend(mending::of_failure(failure))
}

/// What is in the store.
fn contents<'a>(home: &'a Home, vault: &KeyVault, latest: &mut Latest) -> Vec<Finding<'a>> {
    let names: Vec<_> = registry::names(home).unwrap_or_default();
    let start = Instant::now();
    let described = vault.vault().describe(&names);
    let took = start.elapsed();
    let all = match described {
        Ok(all) => all,
        Err(error) => return vec![unreadable(&error)],
    };
    let since = vault.choice().map(|choice| format!(", since {}: {}", choice.chosen_at, choice.seen));
    let place = vault.place();
    let mut findings = match since {
        // Before a store was chosen there is nothing in it to tell of.
        None => Vec::new(),
        Some(since) => vec![Finding::fine(
            "store",
            format!("keys rest in {place}{since}; they were read in {:.1} ms", took.as_secs_f64() * 1000.0),
        )],
    };
    for (name, facts) in names.iter().zip(all) {
        if let Ok(Some(Facts { rotated_at: Some(at), .. })) = &facts {
            latest.see(*at, || format!("the key of {name}"));
        }
        findings.extend(key(home, name, facts.map_err(|error| error.to_string())));
    }
    findings.extend(orphans::keys(home, vault));
    findings
}

/// What is wrong with the key of one workload.
fn key(home: &Home, name: &Name, facts: Result<Option<Facts>, String>) -> Option<Finding<'static>> {
    let locked = registry::config(home, name).is_ok_and(|config| config.is_locked());
    match facts {
        Err(error) => Some(
            Finding::problem("key", format!("the key of {name} is damaged: {error}"))
                .why("its clients are refused")
                .mend(format!("thv rm {name}, then run it anew")),
        ),
        Ok(None) if locked => Some(
            Finding::problem("key", format!("{name} is locked and has no key"))
                .why("nobody can get in")
                .mend(format!("thv key disable {name}, then thv key enable {name}")),
        ),
        Ok(_) => None,
    }
}

/// A store that fails as a whole, with what the failure itself advises.
fn unreadable(error: &StoreError) -> Finding<'static> {
    let failure = store::failed("the keys cannot be read", error);
    Finding::problem("store", failure.summary()).why(WHY).mend(mending::of_store(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{self, Provider};

    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        settings::record(&home, &store::choice(Provider::File, "a test")).unwrap();
        (dir, home)
    }

    #[test]
    fn the_store_is_named_with_since_when_and_why() {
        let (_dir, home) = home();
        let findings = look(&home, &mut Latest::default());
        let row = &findings.iter().find(|finding| finding.row.check == "store").unwrap().row;
        let choice = settings::read(&home).unwrap().unwrap();
        assert!(row.what.contains(choice.provider.place()), "{}", row.what);
        assert!(row.what.contains(&format!("since {}: a test", choice.chosen_at)), "{}", row.what);
    }

    #[test]
    fn a_store_that_wants_a_passphrase_says_which_command_takes_it() {
        let row = unreadable(&StoreError::PassphraseNeeded).row;
        assert_eq!((row.check, row.mend.as_str()), ("store", "thv secret unlock"));
    }

    #[test]
    fn a_locked_workload_without_a_key_is_a_problem() {
        let (_dir, home) = home();
        let name = Name::parse("time").unwrap();
        let lock = crate::commands::lock(&home, &name).unwrap();
        registry::create_dir(&home, &lock).unwrap();
        let json = br#"{"name":"time","command":"/bin/cat","sharedKeyAuth":{"enabled":true}}"#;
        let config = thv_workload::config::RunConfig::parse(json).unwrap();
        registry::save_config(&home, &lock, &config).unwrap();
        let findings = look(&home, &mut Latest::default());
        let told = findings.iter().any(|finding| finding.row.what == "time is locked and has no key");
        assert!(told, "not told");
    }
}
