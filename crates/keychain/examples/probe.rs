//! Asks the operating system's keychain how it is, and how long it takes: `cargo run --example probe [SERVICE]`.
//!
//! With `--write` it also writes, reads and deletes a secret of its own.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use thv_keychain::{Entry, OsOptions, OsStore, Secret, Store};

fn main() -> Result<(), Box<dyn Error>> {
    let (flags, names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let service = names.first().map_or("thv-example", String::as_str);

    let probe = OsStore::new(OsOptions::new(service)).probe();
    println!("{}: {} after {:?}", probe.kind, probe.state.as_str(), probe.latency);
    if !flags.iter().any(|flag| flag == "--write") {
        return Ok(());
    }

    let store = OsStore::new(OsOptions::new(service));
    let entry = Entry::secret("probe")?;
    let timed = |what: &str, action: &dyn Fn() -> Result<bool, Box<dyn Error>>| {
        let start = Instant::now();
        action().map(|there| println!("{what}: {there} after {:?}", start.elapsed()))
    };
    timed("first read, which connects", &|| Ok(store.get(&entry)?.is_some()))?;
    timed("write", &|| Ok(store.set(&entry, &Secret::from_text("hello")).map(|()| true)?))?;
    timed("write again", &|| Ok(store.set(&entry, &Secret::from_text("world")).map(|()| true)?))?;
    timed("read", &|| Ok(store.get(&entry)?.is_some()))?;
    timed("delete", &|| Ok(store.delete(&entry)?))?;
    Ok(())
}
