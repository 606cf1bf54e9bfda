//! `thv secret`: what users keep for their servers, and the store in which all of it rests.

mod import;
mod provider;
mod unlock;

use serde::Serialize;
use thv_keychain::{Entry, Secrets, Store as _};
use thv_workload::home::Home;

use crate::args::{Format, Secret, SecretGet, SecretList, SecretName};
use crate::ask;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::input;
use crate::keys::KeyVault;
use crate::say;
use crate::secrets::failed;

/// Does what was asked.
pub fn secret(environment: &Environment, command: &Secret) -> Outcome {
    match command {
        Secret::Set(args) => set(environment, args),
        Secret::Get(args) => get(environment, args),
        Secret::List(args) => list(environment, args),
        Secret::Delete(args) => delete(environment, args),
        Secret::Unlock(args) => unlock::unlock(environment, args),
        Secret::Import(args) => import::import(environment, args),
        Secret::Provider(args) => provider::provider(environment, args),
    }
}

fn set(environment: &Environment, args: &SecretName) -> Outcome {
    // A name that cannot be used is told of before the value is asked for.
    Entry::secret(&args.name).map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
    let value = input::value(&format!("the secret {}", args.name))?;
    let home = environment.prepared_home()?;
    let vault = KeyVault::to_fill(home)?;
    let _alone = writers(home, &vault)?;
    Secrets::new(vault.vault().store()).set(&args.name, &value).map_err(|error| failed(&error))?;
    say::talk(&format!("kept {}", args.name));
    Ok(())
}

fn get(environment: &Environment, args: &SecretGet) -> Outcome {
    let home = environment.checked_home()?;
    let value = KeyVault::read(home, |vault| Secrets::new(vault.vault().store()).get(&args.name))?
        .map_err(|error| failed(&error))?;
    if !args.yes {
        let question = format!("Show the secret {} here?", args.name);
        let hint = format!("thv secret get {} --yes shows it without asking", args.name);
        ask::whether(&question, "the secret was not shown", &hint)?;
    }
    say::raw(value.expose());
    say::raw(b"\n");
    Ok(())
}

/// A secret as `--format json` shows it. Fields are added, never renamed or removed.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
}

fn list(environment: &Environment, args: &SecretList) -> Outcome {
    let home = environment.checked_home()?;
    let names = KeyVault::read(home, |vault| Secrets::new(vault.vault().store()).list())?
        .map_err(|error| failed(&error))?;
    match args.format {
        Format::Text => names.iter().for_each(|name| say::data(&format!("{name}\n"))),
        Format::Json => {
            let rows: Vec<_> = names.iter().map(|name| Row { name }).collect();
            let json = serde_json::to_string_pretty(&rows).map_err(|error| {
                Failure::new(Exit::Failed, "cannot write the names as JSON").because(&error)
            })?;
            say::data(&format!("{json}\n"));
        }
    }
    Ok(())
}

fn delete(environment: &Environment, args: &SecretName) -> Outcome {
    let home = environment.prepared_home()?;
    let vault = KeyVault::to_change(home)?;
    let _alone = writers(home, &vault)?;
    Secrets::new(vault.vault().store()).delete(&args.name).map_err(|error| failed(&error))?;
    say::talk(&format!("deleted {}", args.name));
    Ok(())
}

/// Those who write users' secrets take turns, since all of them change one list. A store that does not answer is found
/// out before: nobody waits for those who wait for it.
fn writers(home: &Home, vault: &KeyVault) -> Outcome<thv_workload::lock::SecretsLock> {
    vault.vault().store().get(&Entry::secret_list(0)).map_err(|error| failed(&error.into()))?;
    thv_workload::lock::SecretsLock::acquire(home, super::PATIENCE).map_err(|error| {
        Failure::new(Exit::Failed, "the secrets cannot be changed").because(&error).hint("try again")
    })
}
