//! `cargo xtask e2e`: builds the command, gets the real parts, and runs the end-to-end tests against both.

use crate::cargo::{build, cargo, root};
use crate::steps::Steps;
use crate::{compatibility, parts};
use std::fs::File;
use std::path::PathBuf;
use thv_e2e::{BINARY_VARIABLE, Part, Result, ensure};

/// Where the parts go, beside `target`.
const FOLDER: &str = ".e2e";

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options<'a> {
    /// Tests whose part is missing are named as not run instead of failing.
    pub(crate) allow_missing: bool,
    /// The table of servers and clients goes into the docs instead of being compared with the one there.
    pub(crate) write: bool,
    /// Arguments for the test program.
    pub(crate) filter: Vec<&'a str>,
}

impl<'a> Options<'a> {
    pub(crate) fn parse(args: &[&'a str]) -> Option<Self> {
        let mut options = Self::default();
        let mut rest = args;
        loop {
            match rest {
                ["--allow-missing", more @ ..] if !options.allow_missing => {
                    (options.allow_missing, rest) = (true, more);
                }
                ["--write", more @ ..] if !options.write => (options.write, rest) = (true, more),
                ["--", filter @ ..] => {
                    options.filter = filter.to_vec();
                    break;
                }
                [] => break,
                _ => return None,
            }
        }
        // A part of the table is not what the docs shall say.
        (!options.write || options.has_whole_table()).then_some(options)
    }

    /// Whether all servers meet all clients.
    fn has_whole_table(&self) -> bool {
        !self.allow_missing && matches!(*self.filter, [] | ["compat"])
    }
}

pub(crate) fn run(steps: &mut Steps, options: &Options<'_>) -> Result {
    let folder = root().join(FOLDER);
    std::fs::create_dir_all(&folder)?;
    // Two runs at once would install into each other's folders.
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;

    // The parts first: what is missing is said before anything is compiled.
    let mut found = Vec::new();
    for part in Part::ALL {
        match parts::get(steps, *part, &folder.join(part.name())) {
            Ok(programs) => found.push((part.variable(), programs)),
            Err(missing) if options.allow_missing => {
                println!("{} {missing}", steps.term().bad(format_args!("missing: {}:", part.name())));
            }
            Err(missing) => {
                return Err(missing.during(format_args!("the part `{}` is missing", part.name())));
            }
        }
    }

    let binary = match std::env::var_os(BINARY_VARIABLE) {
        Some(binary) => given_binary(binary.into())?,
        None => build(steps, "thv", "thv")?,
    };
    let table = compatibility::as_run()?;
    let not_run = folder.join("not-run");
    for old in [&not_run, &table] {
        if old.exists() {
            std::fs::remove_file(old)?;
        }
    }
    let mut tests = cargo(["test", "--package", "thv-e2e", "--"]);
    tests.args(&options.filter).env(BINARY_VARIABLE, binary).envs(found);
    if options.allow_missing {
        tests.env(thv_e2e::parts::NOT_RUN_VARIABLE, &not_run);
    }
    steps.run("end-to-end tests", &mut tests)?;
    if options.has_whole_table() {
        let repeat = "cargo xtask e2e -- compat";
        steps.step("compatibility table", repeat, || compatibility::check(&table, options.write))?;
    }
    steps.summary();

    if not_run.exists() {
        let list = std::fs::read_to_string(&not_run)?;
        let mut list: Vec<_> = list.lines().collect();
        list.sort_unstable();
        println!("\n{}", steps.term().bad(format_args!("NOT run, for want of a part: {}", list.len())));
        for test in list {
            println!("  {test}");
        }
    }
    Ok(())
}

fn given_binary(binary: PathBuf) -> Result<PathBuf> {
    ensure!(
        binary.is_absolute() && binary.is_file(),
        "{BINARY_VARIABLE}={}: this must be the absolute path of a `thv`",
        binary.display()
    );
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_binary_must_be_one() {
        assert!(given_binary("target/debug/thv".into()).is_err());
        assert!(given_binary("/no/such/thv".into()).is_err());
        assert!(given_binary(std::env::current_exe().unwrap()).is_ok());
    }
}
