//! `thv secret import toolhive`: takes over the secrets of ToolHive's encrypted store, which is only ever read.

use std::path::{Path, PathBuf};

use thv_keychain::{OsOptions, OsStore, Secret, Secrets, SecretsError, toolhive};

use super::writers;
use crate::args::{ImportSource, SecretImport};
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::input;
use crate::keys::KeyVault;
use crate::say;
use crate::secrets::failed;
use crate::store;

/// The service and the user under which ToolHive keeps its password in the keychain.
const TOOLHIVE: &str = "toolhive";

/// Imports all secrets, or none if one of them is in the way. A store that fails half way has some of them then, each
/// whole, and the same command goes on from there.
pub fn import(environment: &Environment, args: &SecretImport) -> Outcome {
    let ImportSource::Toolhive = args.source;
    let path = match &args.file {
        Some(path) => path.clone(),
        None => usual_place(environment)?,
    };
    let file = std::fs::read(&path).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot read {}", path.display()))
            .because(&error)
            .hint("name ToolHive's encrypted store: thv secret import toolhive --file FILE")
    })?;
    let password = password(args)?;
    let theirs = toolhive::read(&file, &password).map_err(|error| {
        Failure::new(Exit::Refused, format!("{} was not imported", path.display())).because(&error)
    })?;

    let home = environment.prepared_home()?;
    let vault = KeyVault::to_fill(home)?;
    let _alone = writers(home, &vault)?;
    let ours = Secrets::new(vault.vault().store());
    let mut news = Vec::new();
    for (name, value) in &theirs {
        match ours.get(name) {
            Ok(kept) if kept.expose() == value.expose() => {}
            Ok(_) if !args.overwrite => {
                return Err(Failure::new(Exit::Exists, format!("there is another secret named {name:?}"))
                    .hint("nothing was imported; --overwrite replaces those of the same name"));
            }
            Ok(_) | Err(SecretsError::NotFound { .. }) => news.push((name, value)),
            Err(error) => return Err(failed(&error)),
        }
    }
    for (name, value) in &news {
        ours.set(name, value).map_err(|error| {
            failed(&error).hint("some were imported; the same command takes up where it ended")
        })?;
    }
    say::talk(&format!("imported {} of {} secrets from {}", news.len(), theirs.len(), path.display()));
    Ok(())
}

fn password(args: &SecretImport) -> Outcome<Secret> {
    if args.password_fd.is_some() {
        return input::passphrase("the password of the ToolHive store", args.password_fd, "--password-fd");
    }
    let kept = OsStore::new(OsOptions::new(TOOLHIVE)).foreign(TOOLHIVE);
    match kept {
        Ok(Some(password)) => Ok(password),
        Ok(None) => input::passphrase("the password of the ToolHive store", None, "--password-fd"),
        Err(error) => Err(store::failed("the password of the ToolHive store cannot be read", &error)
            .hint("hand it in on a descriptor: --password-fd 3")),
    }
}

/// Where ToolHive keeps its store.
fn usual_place(environment: &Environment) -> Outcome<PathBuf> {
    let below = |folder: PathBuf| folder.join("toolhive/secrets_encrypted");
    if let Some(data) = environment.variable("XDG_DATA_HOME").map(Path::new)
        && data.is_absolute()
    {
        return Ok(below(data.to_owned()));
    }
    let home = environment.variable(if cfg!(windows) { "LOCALAPPDATA" } else { "HOME" });
    let home = home.map(PathBuf::from).filter(|home| home.is_absolute()).ok_or_else(|| {
        Failure::new(Exit::Failed, "there is no home folder to look for ToolHive's store in")
            .hint("thv secret import toolhive --file FILE")
    })?;
    let data = match () {
        () if cfg!(windows) => "",
        () if cfg!(target_os = "macos") => "Library/Application Support",
        () => ".local/share",
    };
    Ok(below(home.join(data)))
}
