//! The kernel's keyring: a cache that outlives a login, and never its keys' ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use thv_keychain::file::{Cost, StoreKey};
use thv_keychain::kernel::{Cached, KernelCache};
use thv_keychain::{Entry, FileStore, KeptKey, MemoryStore, Passphrase, Secret, Store, StoreError};
use thv_keygen::KeyId;

const CHEAP: Cost = Cost { memory: 8, passes: 1, lanes: 1 };
const SERVICE: &str = "THV_TEST_KERNEL";

/// A service that no other test uses, nor an earlier run.
fn service() -> String {
    format!("thv-test:{}", StoreKey::generate().unwrap().id())
}

fn cache(service: &str) -> KernelCache {
    KernelCache::new(service, Duration::from_secs(600))
}

/// Whether the kernel lets this process keep keys, which containers often may not, and `keyctl` is here.
fn present() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = match cache("thv-test:none").get(StoreKey::from_bytes([0; 32]).id()) {
        Err(error) => error.to_string(),
        Ok(_) if std::env::split_paths(&path).any(|folder| folder.join("keyctl").is_file()) => return true,
        Ok(_) => "keyctl missing; apt-get install --no-install-recommends keyutils".to_owned(),
    };
    assert!(std::env::var_os("THV_ALLOW_MISSING").is_some_and(|value| value == "1"), "{missing}");
    crate::desktop::not_run(&missing);
    false
}

#[test]
fn keeps_gives_and_forgets() {
    if !present() {
        return;
    }
    let (one, two) = (cache(&service()), cache(&service()));
    let id = StoreKey::from_bytes([1; 32]).id();
    assert!(one.get(id).unwrap().is_none());
    one.put(id, &[1; 32]).unwrap();
    one.put(id, &[1; 32]).unwrap();
    assert_eq!(*one.get(id).unwrap().unwrap(), [1; 32]);
    assert!(two.get(id).unwrap().is_none(), "another home sees nothing");
    assert!(one.forget(id).unwrap());
    assert!(!one.forget(id).unwrap());
    assert!(one.get(id).unwrap().is_none());
}

#[test]
fn a_passphrase_is_proved_also_when_the_key_is_known_and_use_prolongs_nothing() {
    if !present() {
        return;
    }
    let (dir, service) = (tempfile::tempdir().unwrap(), service());
    let path = dir.path().join("secrets.enc");
    let told = |text: &str, seconds| {
        let passphrase = Passphrase::new(Secret::from_text(text)).with_cost(CHEAP);
        let cache = KernelCache::new(&*service, Duration::from_secs(seconds));
        FileStore::new(&path, Cached::afresh(passphrase, cache))
    };
    let untold = || FileStore::new(&path, Cached::new(Passphrase::unknown(), cache(&service)));
    told("right", 600).make().unwrap();
    assert!(untold().unlock().unwrap());
    assert!(matches!(told("wrong", 600).unlock(), Err(StoreError::Contents { .. })));

    assert!(told("right", 1).unlock().unwrap());
    assert!(untold().unlock().unwrap());
    let ended = || matches!(untold().unlock(), Err(StoreError::PassphraseNeeded));
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !ended() {
        assert!(std::time::Instant::now() < deadline, "each use gave the key another lifetime");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_key_has_an_end() {
    if !present() {
        return;
    }
    let short = KernelCache::new(service(), Duration::from_secs(1));
    let id = StoreKey::from_bytes([1; 32]).id();
    short.put(id, &[1; 32]).unwrap();
    std::thread::sleep(Duration::from_millis(2_100));
    assert!(short.get(id).unwrap().is_none());
}

#[test]
fn a_file_is_opened_without_its_passphrase_by_a_process_that_outlived_its_session() {
    if !present() {
        return;
    }
    let (dir, service) = (tempfile::tempdir().unwrap(), service());
    let path = dir.path().join("secrets.enc");
    let entry = Entry::secret("a").unwrap();
    let known = Passphrase::new(Secret::from_text("correct horse")).with_cost(CHEAP);
    let store = FileStore::new(&path, Cached::new(known, cache(&service)));
    store.set(&entry, &Secret::from_text("kept")).unwrap();

    // As a supervisor: without a terminal, and with the keyring of its login revoked, as at a logout.
    let mut command = Command::new("keyctl");
    command.args(["session", "-", "sh", "-c", "keyctl revoke @s && exec setsid -w \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "kernel::detached", "--nocapture"]);
    let output = command.env(SERVICE, &service).env("FILE", &path).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("read kept"), "{said}");

    let locked = FileStore::new(&path, Cached::new(Passphrase::unknown(), cache("thv-test:none")));
    assert!(matches!(locked.get(&entry), Err(StoreError::PassphraseNeeded)));
}

/// Not a test but the second process of others; alone it does nothing.
#[test]
fn detached() {
    let (Ok(service), Ok(path)) = (std::env::var(SERVICE), std::env::var("FILE")) else {
        return;
    };
    let store = FileStore::new(path, Cached::new(Passphrase::unknown(), cache(&service)));
    let value = store.get(&Entry::secret("a").unwrap()).unwrap().unwrap();
    println!("read {}", value.expose_text().unwrap());
}

#[test]
fn only_keys_that_were_right_are_cached_and_only_until_the_file_changes() {
    if !present() {
        return;
    }
    let (dir, service) = (tempfile::tempdir().unwrap(), service());
    let path = dir.path().join("secrets.enc");
    let entry = Entry::secret("a").unwrap();
    let open = |text: &str| {
        let passphrase = Passphrase::new(Secret::from_text(text)).with_cost(CHEAP);
        FileStore::new(&path, Cached::new(passphrase, cache(&service)))
    };
    let keyless = || FileStore::new(&path, Cached::new(Passphrase::unknown(), cache(&service)));
    let value = Secret::from_text("kept");
    assert!(matches!(keyless().set(&entry, &value), Err(StoreError::PassphraseNeeded)));

    open("right").set(&entry, &value).unwrap();
    let id = key_of(&path);
    assert!(keyless().unlock().unwrap());
    assert!(cache(&service).forget(id).unwrap());
    assert!(open("wrong").get(&entry).is_err());
    assert!(cache(&service).get(id).unwrap().is_none());
    assert!(
        matches!(keyless().get(&entry), Err(StoreError::PassphraseNeeded)),
        "a wrong one is not remembered"
    );

    assert!(open("right").unlock().unwrap());
    assert!(keyless().unlock().unwrap());
    // Another file in its place wants another key: the cached one is not even tried.
    std::fs::remove_file(&path).unwrap();
    let other = MemoryStore::new();
    FileStore::new(&path, KeptKey::new(&other)).set(&entry, &value).unwrap();
    assert!(keyless().get(&entry).is_err());
}

/// The id of a file's key, from its header.
fn key_of(path: &Path) -> KeyId {
    let header = std::fs::read(path).unwrap();
    std::str::from_utf8(&header[40..56]).unwrap().parse().unwrap()
}
