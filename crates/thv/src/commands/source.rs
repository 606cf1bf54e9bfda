//! Where a server comes from: a command, a package, the catalog, a run config.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thv_keygen::Name;
use thv_workload::files;

use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};

/// A server as a command.
#[derive(Debug, Default, PartialEq)]
pub struct Source {
    /// The program, as an absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// What the user called it, when that is not the program.
    pub image: Option<String>,
    /// Variables that the catalog gives to it.
    pub env: BTreeMap<String, String>,
    /// The name to use when the user gives none.
    pub name: Option<String>,
}

/// `servers.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalog {
    #[serde(default)]
    servers: BTreeMap<String, Entry>,
}

/// `[servers.NAME]`: a command, or a package.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    command: Option<String>,
    server: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// Finds out what to run: a SERVER with its arguments, or a command alone.
pub fn resolve(environment: &Environment, server: Option<&str>, words: Vec<String>) -> Outcome<Source> {
    let Some(server) = server else {
        let mut words = words.into_iter();
        let program = words.next().ok_or_else(|| {
            Failure::new(Exit::Usage, "there is no server to run")
                .hint("thv run --name NAME -- COMMAND, or thv run npx://PACKAGE")
        })?;
        let program = environment.find_program(&program)?;
        return Ok(Source { program, args: words.collect(), ..Source::default() });
    };
    if let Some(source) = package(environment, server, &words)? {
        return Ok(source);
    }
    if Name::parse(server).is_err() || server.contains('.') {
        return Err(Failure::new(Exit::Usage, format!("{server} cannot be run")).hint(
            "this version runs npx://PACKAGE, uvx://PACKAGE, http(s)://URL, names in servers.toml, and commands after --",
        ));
    }
    let path = environment.checked_home()?.servers_toml();
    let Some(entry) = catalog(&path)?.servers.remove(server) else {
        return Err(Failure::new(Exit::NotFound, format!("{server} is not in {}", path.display())).hint(
            format!("add [servers.{server}] there, or run a command: thv run --name {server} -- COMMAND"),
        ));
    };
    let mut args = entry.args;
    args.extend(words);
    let source = match (&entry.command, &entry.server) {
        (Some(command), None) => {
            Source { program: environment.find_program(command)?, args, ..Source::default() }
        }
        (None, Some(server)) => package(environment, server, &args)?.ok_or_else(|| {
            Failure::new(Exit::Usage, format!("{server} in {} cannot be run", path.display()))
                .hint("it is npx://PACKAGE or uvx://PACKAGE")
        })?,
        _ => {
            return Err(Failure::new(
                Exit::Usage,
                format!("[servers.{server}] in {} needs either command or server", path.display()),
            ));
        }
    };
    Ok(Source { env: entry.env, name: Some(server.to_owned()), ..source })
}

fn catalog(path: &Path) -> Outcome<Catalog> {
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, format!("the catalog {} cannot be used", path.display())).because(error)
    };
    let text = files::read(path).map_err(|error| failed(&error))?.unwrap_or_default();
    let text = String::from_utf8(text).map_err(|error| failed(&error))?;
    toml::from_str(&text).map_err(|error| failed(&error))
}

/// `npx://PACKAGE` and `uvx://PACKAGE`; `None` for anything else.
fn package(environment: &Environment, server: &str, args: &[String]) -> Outcome<Option<Source>> {
    let (runner, flags, package) = if let Some(package) = server.strip_prefix("npx://") {
        ("npx", &["-y"][..], package)
    } else if let Some(package) = server.strip_prefix("uvx://") {
        ("uvx", &[][..], package)
    } else {
        return Ok(None);
    };
    // A package that begins with a dash would be an option of its runner.
    if package.is_empty() || package.starts_with('-') {
        return Err(Failure::new(Exit::Usage, format!("{server} names no package")));
    }
    let words =
        flags.iter().map(|&flag| flag.to_owned()).chain([package.to_owned()]).chain(args.iter().cloned());
    Ok(Some(Source {
        program: environment.find_program(runner)?,
        args: words.collect(),
        image: Some(server.to_owned()),
        env: BTreeMap::new(),
        name: Some(short_name(package)),
    }))
}

/// A package's name without its scope and version: `@scope/server-x@1.2` is `server-x`.
fn short_name(package: &str) -> String {
    let last = package.rsplit('/').next().unwrap_or(package);
    last.split(['@', '=', '<', '>', '[']).next().unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_short_names() {
        for (package, short) in [
            ("mcp-server-time", "mcp-server-time"),
            ("mcp-server-time==1.2", "mcp-server-time"),
            ("mcp-server-time[cli]", "mcp-server-time"),
            ("@modelcontextprotocol/server-everything", "server-everything"),
            ("@modelcontextprotocol/server-everything@2026.1", "server-everything"),
        ] {
            assert_eq!(short_name(package), short);
        }
    }

    #[test]
    fn a_catalog_with_a_word_that_it_does_not_know_is_refused() {
        assert!(toml::from_str::<Catalog>("[servers.a]\ncommand = 'x'\ncomand = 'y'\n").is_err());
        let catalog: Catalog = toml::from_str("[servers.a]\ncommand = 'x'\nenv = { TZ = 'UTC' }\n").unwrap();
        assert_eq!(catalog.servers["a"].env["TZ"], "UTC");
    }
}
