//! Makes a vault in a temporary folder, creates a key, rotates it, and shows public ids only.
//!
//! `cargo run -p thv-keychain --example rotate`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::{Duration, SystemTime};

use thv_keychain::vault::Nobody;
use thv_keychain::{FileStore, KeyFile, Vault};
use thv_keygen::{KeySet, Name};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let master = KeyFile::new(folder.path().join("master.key"));
    let vault = Vault::new(FileStore::new(folder.path().join("secrets.enc"), master));
    let (name, now) = (Name::parse("time")?, SystemTime::now());

    show("created", &vault.create(&name, now)?);
    let rotation = vault.rotate(&name, Duration::from_secs(600), now, &mut Nobody)?;
    println!("rotated: {} took the place of {}", rotation.current, rotation.retired);
    vault.issue(&name, &Name::parse("cursor")?, now, &mut Nobody)?;
    show("now", &vault.load(&name, now)?);
    show("in an hour", &vault.load(&name, now + Duration::from_secs(3_600))?);

    vault.remove(&name)?;
    println!("removed: {}", if vault.current(&name)?.is_none() { "no key is left" } else { "a key is left" });
    Ok(())
}

fn show(when: &str, set: &KeySet) {
    for key in set {
        let owner = key.label().map_or("the workload", Name::as_str);
        let end = if key.ends().is_some() { ", in its grace period" } else { "" };
        println!("{when}: {} of {owner}{end}", key.id());
    }
}
