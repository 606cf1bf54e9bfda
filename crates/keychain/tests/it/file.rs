//! The encrypted file on a real disk: damage, permissions, links, writers at once.
#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thv_keychain::file::Fault;
use thv_keychain::vault::Nobody;
use thv_keychain::{Entry, FileStore, KeyFile, Secret, Store, StoreError, Vault};

use crate::world::{HOUR, name};

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A home whose store holds three secrets.
    fn filled() -> Self {
        let home = Self::new();
        for n in 0..3 {
            home.open().set(&entry(n), &Secret::from_text(&format!("value {n}"))).unwrap();
        }
        home
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("secrets.enc")
    }

    fn master(&self) -> PathBuf {
        self.dir.path().join("master.key")
    }

    fn open(&self) -> FileStore<KeyFile> {
        FileStore::new(self.store(), KeyFile::new(self.master()))
    }

    /// Every file with its contents.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let paths = fs::read_dir(self.dir.path()).unwrap().map(|file| file.unwrap().path());
        paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// Every operation fails with the same sort of error and leaves every file as it is.
    fn all_refuse(&self, expected: impl Fn(&StoreError) -> bool, context: &str) {
        let (before, store) = (self.files(), self.open());
        let errors = [
            store.get(&entry(0)).map(drop).err(),
            store.get_many(&[entry(0)]).map(drop).err(),
            store.set(&entry(9), &Secret::from_text("new")).err(),
            store.delete(&entry(0)).map(drop).err(),
            store.entries().map(drop).err(),
        ];
        for error in errors {
            let error = error.unwrap_or_else(|| panic!("{context}: accepted"));
            assert!(expected(&error), "{context}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("value"), "{context}");
        }
        assert!(self.files() == before, "{context}: a file was changed");
    }
}

fn entry(n: usize) -> Entry {
    Entry::secret(&format!("s{n}")).unwrap()
}

fn rewrite(path: &Path, bytes: &[u8]) {
    // Truncates and keeps the mode.
    fs::write(path, bytes).unwrap();
}

#[test]
fn keeps_what_it_is_given_over_many_openings() {
    let home = Home::filled();
    assert!(home.open().delete(&entry(1)).unwrap());
    assert!(!home.open().delete(&entry(1)).unwrap());
    home.open().set(&entry(2), &Secret::new(vec![0, 255, 10])).unwrap();
    let values = home.open().get_many(&[entry(2), entry(1), entry(0)]).unwrap();
    let values: Vec<_> = values.iter().map(|value| value.as_ref().map(Secret::expose)).collect();
    assert_eq!(values, [Some(&[0, 255, 10][..]), None, Some(b"value 0")]);
    assert_eq!(home.open().entries().unwrap().unwrap(), [entry(0), entry(2)]);
}

#[test]
fn an_empty_home_is_an_empty_store_and_reading_makes_nothing() {
    let home = Home::new();
    assert!(home.open().get(&entry(0)).unwrap().is_none());
    assert_eq!(home.open().entries().unwrap(), Some(Vec::new()));
    assert!(!home.open().delete(&entry(0)).unwrap());
    assert!(!home.store().exists() && !home.master().exists());
}

#[test]
fn every_cut_is_refused_and_left_alone() {
    let home = Home::filled();
    let whole = fs::read(home.store()).unwrap();
    for length in 0..whole.len() {
        rewrite(&home.store(), &whole[..length]);
        let truncated =
            |error: &StoreError| matches!(error, StoreError::Contents { fault: Fault::Truncated, .. });
        home.all_refuse(truncated, &format!("cut to {length}"));
    }
}

#[test]
fn every_flipped_bit_is_refused_and_left_alone() {
    let home = Home::filled();
    let whole = fs::read(home.store()).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        rewrite(&home.store(), &bytes);
        home.all_refuse(|error| matches!(error, StoreError::Contents { .. }), &format!("bit {bit}"));
    }
    rewrite(&home.store(), &whole);
    assert_eq!(home.open().get(&entry(0)).unwrap().unwrap().expose(), b"value 0");
}

#[test]
fn every_cut_and_every_flipped_bit_of_the_master_key_is_refused() {
    let home = Home::filled();
    let whole = fs::read(home.master()).unwrap();
    // The line break and the padding may be missing; the key's own characters may not.
    for length in 0..whole.len() - 2 {
        rewrite(&home.master(), &whole[..length]);
        let malformed = |error: &StoreError| matches!(error, StoreError::MasterKeyMalformed { .. });
        home.all_refuse(malformed, &format!("key cut to {length}"));
    }
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        rewrite(&home.master(), &bytes);
        let expected = |error: &StoreError| {
            matches!(
                error,
                StoreError::MasterKeyMalformed { .. }
                    | StoreError::Contents { fault: Fault::WrongMasterKey { .. }, .. }
            )
        };
        home.all_refuse(expected, &format!("key bit {bit}"));
    }
}

#[test]
fn a_lost_master_key_is_never_replaced() {
    let home = Home::filled();
    fs::remove_file(home.master()).unwrap();
    home.all_refuse(|error| matches!(error, StoreError::MasterKeyMissing { .. }), "no master key");
    assert!(!home.master().exists());
}

#[test]
fn a_newer_version_is_named_even_without_the_key() {
    let home = Home::filled();
    let mut bytes = fs::read(home.store()).unwrap();
    bytes[9] = 2;
    rewrite(&home.store(), &bytes);
    fs::remove_file(home.master()).unwrap();
    let newer =
        |error: &StoreError| matches!(error, StoreError::Contents { fault: Fault::NewerVersion(2), .. });
    home.all_refuse(newer, "version 2");
}

#[test]
fn an_older_version_than_the_first_is_damage() {
    let home = Home::filled();
    let mut bytes = fs::read(home.store()).unwrap();
    bytes[9] = 0;
    rewrite(&home.store(), &bytes);
    let damaged = |error: &StoreError| matches!(error, StoreError::Contents { fault: Fault::Damaged, .. });
    home.all_refuse(damaged, "version 0");
}

#[test]
fn two_homes_side_by_side_open_nothing_of_each_other() {
    let (one, two) = (Home::filled(), Home::filled());
    let before = one.files();
    assert!(two.open().delete(&entry(0)).unwrap());
    two.open().set(&entry(1), &Secret::from_text("other")).unwrap();
    assert!(one.files() == before, "the other home was touched");
    assert_eq!(one.open().get(&entry(1)).unwrap().unwrap().expose(), b"value 1");

    // Not even when one's file lies in the other's place.
    fs::copy(two.store(), one.store()).unwrap();
    let other = |error: &StoreError| {
        matches!(error, StoreError::Contents { fault: Fault::WrongMasterKey { .. }, .. })
    };
    one.all_refuse(other, "the other's file");
}

#[test]
fn a_crash_between_the_master_key_and_the_first_store_is_taken_up() {
    let home = Home::new();
    let first = Home::filled();
    fs::copy(first.master(), home.master()).unwrap();
    home.open().set(&entry(0), &Secret::from_text("x")).unwrap();
    assert_eq!(fs::read(home.master()).unwrap(), fs::read(first.master()).unwrap());
    assert!(home.open().get(&entry(0)).unwrap().is_some());
}

#[test]
fn what_a_crash_in_the_middle_of_a_write_left_is_ignored_and_cleared() {
    let home = Home::filled();
    let stray = home.dir.path().join(".secrets.enc.new");
    fs::write(&stray, b"half a fi").unwrap();
    assert_eq!(home.open().get(&entry(0)).unwrap().unwrap().expose(), b"value 0");
    home.open().set(&entry(5), &Secret::from_text("x")).unwrap();
    let files: Vec<_> = home.files().into_keys().collect();
    assert_eq!(
        files,
        ["master.key", "secrets.enc", "secrets.enc.lock"].map(|file| home.dir.path().join(file))
    );
}

#[test]
fn a_value_that_would_burst_the_file_is_refused() {
    let home = Home::filled();
    let before = home.files();
    for size in [5 << 20, (4 << 20) - 100] {
        let error = home.open().set(&entry(0), &Secret::new(vec![7; size])).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    }
    assert!(home.files() == before);
}

#[test]
fn a_missing_folder_is_an_error_that_names_the_file() {
    let home = Home::new();
    let store = FileStore::new(home.dir.path().join("no/secrets.enc"), KeyFile::new(home.master()));
    let error = store.set(&entry(0), &Secret::from_text("x")).unwrap_err();
    assert!(error.to_string().contains("secrets.enc"), "{error}");
    assert!(!home.master().exists());
}

#[test]
fn eight_writers_lose_nothing_and_readers_always_see_a_whole_file() {
    const WRITERS: usize = 8;
    const WRITES: usize = 20;
    let home = Home::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = home.open();
                scope.spawn(move || {
                    for n in 0..WRITES {
                        let at = writer * WRITES + n;
                        store.set(&entry(at), &Secret::from_text(&at.to_string())).unwrap();
                    }
                })
            })
            .collect();
        let reader = home.open();
        let mut seen = 0;
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let all: Vec<Entry> = (0..WRITERS * WRITES).map(entry).collect();
            let now = reader.get_many(&all).unwrap().iter().flatten().count();
            assert!(now >= seen, "a write was taken back");
            seen = now;
        }
    });
    for at in 0..WRITERS * WRITES {
        let value = home.open().get(&entry(at)).unwrap();
        assert_eq!(value.expect("a write was lost").expose_text(), Some(at.to_string().as_str()));
    }
}

#[test]
fn a_vault_lives_in_the_file_and_no_key_is_readable_there() {
    let home = Home::new();
    let (time, label, now) = (name("time"), name("cursor"), SystemTime::now());
    Vault::new(home.open()).create(&time, now).unwrap();
    let old = Vault::new(home.open()).current(&time).unwrap().unwrap();
    let _ = Vault::new(home.open()).rotate(&time, HOUR, now, &mut Nobody).unwrap();
    let client = Vault::new(home.open()).issue(&time, &label, now, &mut Nobody).unwrap();
    let current = Vault::new(home.open()).current(&time).unwrap().unwrap();
    let set = Vault::new(home.open()).load(&time, now).unwrap();
    assert_eq!(set.len(), 3);
    for key in [&old, &client, &current] {
        assert!(set.check(key, now).is_some());
        let text = key.expose_text();
        for (path, bytes) in home.files() {
            let found = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!found(&text.as_bytes()[..20]) && !found(&key.expose_bytes()[..]), "{}", path.display());
        }
    }
    Vault::new(home.open()).remove(&time).unwrap();
    assert!(Vault::new(home.open()).current(&time).unwrap().is_none());
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn every_file_is_for_its_owner_alone() {
        let home = Home::filled();
        for path in home.files().into_keys() {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
    }

    #[test]
    fn files_open_to_others_are_refused_with_the_command_that_mends_it() {
        for file in ["master.key", "secrets.enc"] {
            for mode in [0o640, 0o604, 0o620, 0o644, 0o700, 0o777] {
                let home = Home::filled();
                let path = home.dir.path().join(file);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                let told = |error: &StoreError| {
                    let advice = format!("chmod 600 '{}'", path.display());
                    matches!(error, StoreError::Permissions { .. }) && error.to_string().contains(&advice)
                };
                home.all_refuse(told, &format!("{file} {mode:o}"));
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                assert!(home.open().get(&entry(0)).unwrap().is_some(), "the advice does not help");
            }
        }
    }

    #[test]
    fn links_in_place_of_files_are_refused() {
        for file in ["master.key", "secrets.enc"] {
            let home = Home::filled();
            let path = home.dir.path().join(file);
            let moved = home.dir.path().join("elsewhere");
            fs::rename(&path, &moved).unwrap();
            symlink(&moved, &path).unwrap();
            home.all_refuse(|error| matches!(error, StoreError::NotRegular { .. }), file);
        }
    }

    #[test]
    fn a_linked_lock_stops_writers_and_not_readers() {
        let home = Home::filled();
        let lock = home.dir.path().join("secrets.enc.lock");
        fs::remove_file(&lock).unwrap();
        symlink(home.dir.path().join("absent"), &lock).unwrap();
        let error = home.open().set(&entry(0), &Secret::from_text("x")).unwrap_err();
        assert!(matches!(error, StoreError::NotRegular { .. }), "{error}");
        assert_eq!(home.open().get(&entry(0)).unwrap().unwrap().expose(), b"value 0");
    }

    #[test]
    fn the_file_of_another_user_is_refused() {
        let home = Home::filled();
        // Only root can give a file away.
        if std::os::unix::fs::chown(home.master(), Some(65_534), None).is_err() {
            return;
        }
        home.all_refuse(|error| matches!(error, StoreError::Owner { owner: 65_534, .. }), "master key");
    }
}
