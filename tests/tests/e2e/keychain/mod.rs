//! Keys in the keychain of the operating system: the whole life with a real gnome-keyring, what happens when it fails,
//! how a store is chosen and exchanged, and the secrets that users keep beside the keys.

mod again;
mod bare;
mod bus;
mod doctor;
mod duplicates;
mod faults;
mod first;
mod import;
mod midcall;
mod passphrase;
mod prompts;
mod providers;
mod secrets;
mod side_by_side;

use crate::DEMO_SERVER;
use crate::fixture::{call_text, refused};
use crate::locked::key_id;
use bus::Bus;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::time::{Duration, Instant};
use thv_e2e::{Detached, Exit, Home, McpStdio, Output, Result, Thv, ensure};

/// The three seconds that are promised for an answer about a keychain that fails, and the start of a process.
const SOON: Duration = Duration::from_secs(3 + 1);

/// The name under which the entries of a home stand in the keychain.
fn service(home: &Home) -> String {
    service_of(&home.path())
}

fn service_of(home: &Path) -> String {
    let digest = Sha256::digest(home.as_os_str().as_encoded_bytes());
    digest[..8].iter().fold("thv:".to_owned(), |id, byte| format!("{id}{byte:02x}"))
}

/// The names of a home's entries in the keychain, each with the id of its key if it holds one.
pub(crate) fn entries(home: &Home) -> Result<Value> {
    entries_of(home.bus(), &service(home))
}

fn entries_of(bus: &str, service: &str) -> Result<Value> {
    let items = Bus::open(bus)?.items(service)?;
    let id = |value: &[u8]| key_id(std::str::from_utf8(value).ok()?).ok();
    Ok(items.into_iter().map(|(name, value)| (name, json!(id(&value)))).collect::<Map<_, _>>().into())
}

/// What was chosen, to the byte.
fn settings(home: &Home) -> Result<String> {
    Ok(std::fs::read_to_string(home.path().join("config/config.toml"))?)
}

/// The provider, as the file and the command say with one voice.
fn provider(home: &Home) -> Result<String> {
    let told = home.thv(["secret", "provider", "--format", "json"]).output()?.expect(0)?.json()?;
    let told = told["provider"].as_str().unwrap_or_default().to_owned();
    let settings = settings(home)?;
    ensure!(settings.contains(&format!("provider = \"{told}\"")), "{told:?} is not in\n{settings}");
    Ok(told)
}

/// A locked workload with the demo server, in the background.
fn demo(home: &Home, name: &str) -> Result<Detached> {
    home.detached(["--name", name, "--shared-key-auth", "--", DEMO_SERVER])
}

/// Runs a command that must be refused for the sake of the keychain, in time.
fn refused_soon(thv: Thv<'_>, words: &[&str]) -> Result<Output> {
    let begun = Instant::now();
    let output = refused(thv, 5, words)?;
    let took = begun.elapsed();
    ensure!(took < SOON, "`{}` took {took:?}", output.label);
    Ok(output)
}

/// A call that shows that a session reaches the demo server.
fn add(session: &mut McpStdio) -> Result {
    assert_eq!(call_text(session, "add", &json!({ "a": 19, "b": 23 }))?, "42");
    Ok(())
}

fn end(session: McpStdio) -> Result {
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    Ok(())
}

/// Asks over a bridge that has no key, and checks that it says so in time.
fn no_key(session: &mut McpStdio, reason: &str) -> Result<Value> {
    let begun = Instant::now();
    let answer = session.request("server/discover", &json!({}))?;
    let took = begun.elapsed();
    let error = &answer["error"];
    ensure!(error["code"] == -33001 && error["data"]["reason"] == reason, "{reason} was expected: {answer}");
    ensure!(took < SOON, "the bridge took {took:?}");
    Ok(answer)
}
