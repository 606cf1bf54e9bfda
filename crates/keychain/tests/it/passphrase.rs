//! The encrypted file under a passphrase: wrong ones, and headers that were tampered with.
#![allow(clippy::disallowed_methods, reason = "tests damage files on purpose")]

use std::fs;
use std::path::{Path, PathBuf};

use thv_keychain::file::{Cost, Fault};
use thv_keychain::{Entry, FileStore, KeyFile, Passphrase, Secret, Store, StoreError};

const CHEAP: Cost = Cost { memory: 8, passes: 1, lanes: 1 };

fn open(path: &Path, passphrase: &str) -> FileStore<Passphrase> {
    FileStore::new(path, Passphrase::new(Secret::from_text(passphrase)).with_cost(CHEAP))
}

fn entry() -> Entry {
    Entry::secret("a").unwrap()
}

fn filled() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secrets.enc");
    open(&path, "correct horse").set(&entry(), &Secret::from_text("kept")).unwrap();
    (dir, path)
}

fn fault(error: StoreError) -> Fault {
    match error {
        StoreError::Contents { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn the_same_passphrase_opens_it_later() {
    let (_dir, path) = filled();
    let store = open(&path, "correct horse");
    assert!(store.unlock().unwrap());
    assert_eq!(store.get(&entry()).unwrap().unwrap().expose(), b"kept");
    store.set(&entry(), &Secret::from_text("new")).unwrap();
    assert_eq!(open(&path, "correct horse").get(&entry()).unwrap().unwrap().expose(), b"new");
}

#[test]
fn a_wrong_passphrase_is_named_and_changes_nothing() {
    let (_dir, path) = filled();
    let before = fs::read(&path).unwrap();
    let store = open(&path, "Correct horse");
    assert_eq!(fault(store.get(&entry()).unwrap_err()), Fault::WrongPassphrase);
    assert_eq!(fault(store.set(&entry(), &Secret::from_text("x")).unwrap_err()), Fault::WrongPassphrase);
    assert_eq!(fault(store.delete(&entry()).unwrap_err()), Fault::WrongPassphrase);
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn passphrases_and_master_keys_are_not_taken_for_each_other() {
    let (dir, path) = filled();
    let by_key = FileStore::new(&path, KeyFile::new(dir.path().join("master.key")));
    assert_eq!(fault(by_key.get(&entry()).unwrap_err()), Fault::NeedsPassphrase);
    assert_eq!(fault(by_key.set(&entry(), &Secret::from_text("x")).unwrap_err()), Fault::NeedsPassphrase);
    assert!(!by_key.master().path().exists(), "no key was made for it");

    let other = dir.path().join("other.enc");
    FileStore::new(&other, KeyFile::new(dir.path().join("master.key")))
        .set(&entry(), &Secret::from_text("x"))
        .unwrap();
    assert_eq!(fault(open(&other, "correct horse").get(&entry()).unwrap_err()), Fault::NoPassphrase);
}

#[test]
fn each_file_has_its_own_salt() {
    let ((_a, a), (_b, b)) = (filled(), filled());
    let (a, b) = (fs::read(a).unwrap(), fs::read(b).unwrap());
    assert_ne!(a[24..56], b[24..56]);
    assert_eq!(a[10..24], b[10..24]);
}

#[test]
fn every_flipped_bit_of_the_header_is_refused_and_left_alone() {
    let (_dir, path) = filled();
    let whole = fs::read(&path).unwrap();
    for bit in 0..72 * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &bytes).unwrap();
        let fault = fault(open(&path, "correct horse").set(&entry(), &Secret::from_text("x")).unwrap_err());
        let expected = match bit / 8 {
            0..8 => matches!(fault, Fault::NotAStore),
            8..10 => matches!(fault, Fault::NewerVersion(_) | Fault::Damaged),
            10..12 => matches!(fault, Fault::Damaged),
            // Parameters and salt lead to another key, unless they are out of bounds.
            12..40 => matches!(fault, Fault::WrongPassphrase | Fault::Damaged),
            40..56 => matches!(fault, Fault::WrongPassphrase | Fault::Damaged),
            56..68 => matches!(fault, Fault::Damaged),
            _ => matches!(fault, Fault::Truncated | Fault::Damaged),
        };
        assert!(expected, "bit {bit}: {fault}");
        assert!(fs::read(&path).unwrap() == bytes, "bit {bit}: the file was changed");
    }
}

#[test]
fn every_cut_is_refused_and_left_alone() {
    let (_dir, path) = filled();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let store = open(&path, "correct horse");
        for error in [
            store.get(&entry()).map(drop).unwrap_err(),
            store.set(&entry(), &Secret::from_text("x")).unwrap_err(),
            store.make().unwrap_err(),
        ] {
            assert_eq!(fault(error), Fault::Truncated, "cut to {length}");
        }
        assert!(fs::read(&path).unwrap() == whole[..length], "cut to {length}: the file was changed");
    }
}

#[test]
fn eight_first_writers_agree_on_one_key_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secrets.enc");
    let entry = |n: usize| Entry::secret(&n.to_string()).unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let store = open(&path, "correct horse");
            scope.spawn(move || store.set(&entry(n), &Secret::from_text("kept")).unwrap());
        }
    });
    let kept = open(&path, "correct horse").entries().unwrap().unwrap();
    assert_eq!(kept, (0..8).map(entry).collect::<Vec<_>>());
}

#[test]
fn other_versions_are_named_before_the_passphrase_is_tried() {
    let (_dir, path) = filled();
    for (version, expected) in [(0_u16, Fault::Damaged), (2, Fault::NewerVersion(2))] {
        let mut bytes = fs::read(&path).unwrap();
        bytes[8..10].copy_from_slice(&version.to_be_bytes());
        fs::write(&path, &bytes).unwrap();
        let nobody = FileStore::new(&path, Passphrase::unknown());
        assert_eq!(fault(nobody.get(&entry()).unwrap_err()), expected);
    }
}
