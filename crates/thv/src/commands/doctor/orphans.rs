//! Keys of workloads that are gone, and stores that nothing refers to any more.

use std::path::Path;

use thv_keychain::StoreError;
use thv_keygen::Name;
use thv_workload::home::Home;
use thv_workload::registry;

use super::{Finding, mending, quoted};
use crate::commands::lock;
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::{self, KeyVault};
use crate::settings::{Choice, Provider};
use crate::store;

const CHECK: &str = "orphan-key";
const WHY: &str = "it opens no door, but a key that nobody needs should lie nowhere";

/// The keys of workloads that are gone.
pub(super) fn keys<'a>(home: &'a Home, vault: &KeyVault) -> Vec<Finding<'a>> {
    let orphans = match seen_twice(home, vault) {
        Ok(Some(orphans)) => orphans,
        Ok(None) => {
            return vec![
                Finding::note(CHECK, format!("{} cannot list what is in it", vault.place()))
                    .why("keys of workloads that are gone, if any were left, are not found")
                    .mend("look for items named workload:… of workloads that are gone in its own program"),
            ];
        }
        Err(error) => {
            let failure = store::failed("the entries of the store cannot be listed", &error);
            let finding = Finding::problem(CHECK, failure.summary());
            return vec![
                finding.why("keys of workloads that are gone are not found").mend(mending::of_store(&error)),
            ];
        }
    };
    let finding = |name: Name| {
        let what = format!("keys of {name} are left in {}, and there is no such workload", vault.place());
        Finding::problem(CHECK, what).why(WHY).mend("thv doctor --fix").fix(move || delete(home, &name))
    };
    orphans.into_iter().map(finding).collect()
}

/// The workloads that have keys and no folder, seen twice in a row.
///
/// Keys come after their workload's folder and go before it. So whatever was being created at the first look has its
/// folder at the second, and whatever was being removed has no keys then.
fn seen_twice(home: &Home, vault: &KeyVault) -> Result<Option<Vec<Name>>, StoreError> {
    let look = || -> Result<Option<Vec<Name>>, StoreError> {
        let Some(mut names) = vault.vault().workloads()? else { return Ok(None) };
        names.retain(|name| !registry::exists(home, name));
        Ok(Some(names))
    };
    let Some(first) = look()? else { return Ok(None) };
    if first.is_empty() {
        return Ok(Some(first));
    }
    Ok(look()?.map(|second| second.into_iter().filter(|name| first.contains(name)).collect()))
}

/// Deletes what is left, unless the workload has come back meanwhile.
fn delete(home: &Home, name: &Name) -> Outcome {
    let vault = KeyVault::to_change(home)?;
    let _lock = lock(home, name)?;
    if registry::exists(home, name) {
        return Err(Failure::new(
            Exit::Failed,
            format!("workload {name} was created meanwhile; its keys stay"),
        ));
    }
    vault
        .vault()
        .purge(name)
        .map_err(|error| keys::failed("cannot delete what is left of the keys", name, &error))
}

/// Encrypted files and a master key that the chosen store does not use. Nobody deletes them unasked: what is in them
/// may exist nowhere else.
pub(super) fn stores(home: &Home, choice: Option<&Choice>) -> Vec<Finding<'static>> {
    let provider = choice.map(|choice| choice.provider);
    let used = choice
        .filter(|choice| choice.provider != Provider::Keychain)
        .map(|choice| home.secrets(choice.file.as_deref()));
    let usual = home.secrets(None);
    let folder = usual.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let files = folder.into_iter().flatten().flatten().map(|entry| entry.path());
    let mut left: Vec<_> = files.filter(|path| is_store(path) && Some(path) != used.as_ref()).collect();
    left.sort();
    let mut findings: Vec<_> = left.iter().map(|path| unused(path, "an encrypted file")).collect();
    let master = home.master_key();
    // As long as there is a file that it may open, it is no more useless than that file.
    if left.is_empty() && provider.is_some_and(|provider| provider != Provider::File) && master.exists() {
        findings.push(unused(&master, "a master key"));
    }
    findings
}

fn is_store(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("secrets") && (name.ends_with(".enc") || name.ends_with(".old"))
}

fn unused(path: &Path, what: &str) -> Finding<'static> {
    Finding::note("unused-store", format!("{} is {what} that this home does not use", path.display()))
        .why("keys and secrets that were left behind may be in reach of whoever gets hold of it")
        .mend(format!("make sure that you miss nothing, then: rm {}", quoted(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use std::time::SystemTime;
    use thv_workload::files;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    /// A home with the encrypted file and the keys of two workloads, of which one is there.
    fn home() -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        settings::record(&home, &store::choice(Provider::File, "a test")).unwrap();
        let vault = KeyVault::to_fill(&home).unwrap();
        for workload in ["here", "gone"] {
            vault.vault().create(&name(workload), SystemTime::now()).unwrap();
        }
        registry::create_dir(&home, &lock(&home, &name("here")).unwrap()).unwrap();
        (dir, home)
    }

    fn has_key(home: &Home, workload: &str) -> bool {
        KeyVault::open(home).unwrap().vault().current(&name(workload)).unwrap().is_some()
    }

    #[test]
    fn keys_without_a_workload_are_found_and_deleted_when_asked() {
        let (_dir, home) = home();
        let mut findings = keys(&home, &KeyVault::open(&home).unwrap());
        let mut finding = findings.pop().unwrap();
        assert!(findings.is_empty());
        assert_eq!(finding.row.check, "orphan-key");
        assert!(finding.row.what.contains("keys of gone are left"), "{}", finding.row.what);
        assert!(has_key(&home, "gone"), "looking deletes nothing");
        finding.fix.take().unwrap()().unwrap();
        assert!(!has_key(&home, "gone") && has_key(&home, "here"));
        assert!(keys(&home, &KeyVault::open(&home).unwrap()).is_empty());
    }

    #[test]
    fn a_workload_that_came_back_keeps_its_keys() {
        let (_dir, home) = home();
        let mut findings = keys(&home, &KeyVault::open(&home).unwrap());
        registry::create_dir(&home, &lock(&home, &name("gone")).unwrap()).unwrap();
        assert!(findings.pop().unwrap().fix.take().unwrap()().is_err());
        assert!(has_key(&home, "gone"));
    }

    #[test]
    fn stores_that_nothing_refers_to_are_named_and_locks_are_not() {
        let (_dir, home) = home();
        let choice = settings::read(&home).unwrap();
        let what = |choice: Option<&Choice>| {
            let rows = stores(&home, choice).into_iter().map(|finding| finding.row.what);
            rows.map(|what| what.rsplit_once('/').unwrap().1.to_owned()).collect::<Vec<_>>()
        };
        assert!(what(choice.as_ref()).is_empty());
        let keychain = Some(Choice { provider: Provider::Keychain, ..choice.clone().unwrap() });
        assert_eq!(what(keychain.as_ref()), ["secrets.enc is an encrypted file that this home does not use"]);

        let moved = Choice { file: Some("secrets-2.enc".into()), ..choice.unwrap() };
        let passphrase = Some(Choice { provider: Provider::Passphrase, ..moved });
        files::write_atomic(&home.secrets(Some("secrets.enc.12.old")), b"x").unwrap();
        assert_eq!(what(passphrase.as_ref()).len(), 2);
        std::fs::remove_file(home.secrets(None)).unwrap();
        std::fs::remove_file(home.secrets(Some("secrets.enc.12.old"))).unwrap();
        assert_eq!(what(passphrase.as_ref()), ["master.key is a master key that this home does not use"]);
    }
}
