//! One entry for every chore of this repository: `cargo xtask CHORE`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a chore talks to the person who runs it")]
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod compatibility;
mod cross;
mod demo;
mod docs;
mod e2e;
mod lint;
mod parts;
mod steps;
mod suite;
mod term;

use std::process::ExitCode;
use steps::Steps;
use term::Term;
use thv_e2e::Result;

const HELP: &str = "\
cargo xtask CHORE

  demo                                 the whole story on a fresh machine: a guarded server, refused
                                       without its key, answered through the bridge, cleaned up
  test                                 everything that must hold: format, lints, docs, all tests
  e2e [--allow-missing] [-- FILTER…]   the end-to-end tests; installs the real servers and clients
                                       they run against into .e2e; FILTER goes to the test program
  e2e --write [-- compat]              the same; which server and which client saw what goes into
                                       docs/compatibility.md instead of being compared with it
  bench [timing | --write]             what the lock costs, measured on the release build; --write puts
                                       the figures into docs/performance.md; timing alone measures what
                                       the time of a key check tells of the key (nothing, or it fails)
  docs [--check]                       write the commands into docs/cli.md, from the command's own help;
                                       --check only says whether they are up to date
  lint                                 the rules of this repository that rustc and clippy do not know
  cross                                checks that it compiles for Windows and macOS, on Debian
  help                                 this text
";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let Some(chore) = parse(&args) else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    let term = Term::of_stdout();
    match run(&chore, term) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was printed before belongs above it, also where both streams are one file.
            eprintln!("\n{} {failure}", term.bad("failed:"));
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Chore<'a> {
    Demo,
    Test,
    E2e(e2e::Options<'a>),
    Bench(bench::Options),
    Docs(docs::Options),
    Lint,
    Cross,
    Help,
}

fn parse<'a>(args: &[&'a str]) -> Option<Chore<'a>> {
    match *args {
        ["demo"] => Some(Chore::Demo),
        ["test"] => Some(Chore::Test),
        ["lint"] => Some(Chore::Lint),
        ["cross"] => Some(Chore::Cross),
        ["e2e", ref options @ ..] => e2e::Options::parse(options).map(Chore::E2e),
        ["bench", ref options @ ..] => bench::Options::parse(options).map(Chore::Bench),
        ["docs", ref options @ ..] => docs::Options::parse(options).map(Chore::Docs),
        ["help" | "--help" | "-h"] => Some(Chore::Help),
        _ => None,
    }
}

fn run(chore: &Chore<'_>, term: Term) -> Result {
    let mut steps = Steps::new(term);
    match chore {
        Chore::Demo => demo::run(term),
        Chore::Test => suite::run(&mut steps),
        Chore::E2e(options) => e2e::run(&mut steps, options),
        Chore::Bench(options) => bench::run(&mut steps, options),
        Chore::Docs(options) => docs::run(&mut steps, options),
        Chore::Lint => lint::run(term),
        Chore::Cross => cross::run(&mut steps),
        Chore::Help => {
            print!("{HELP}");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let e2e = |allow_missing, filter: &[&'static str]| {
            Some(Chore::E2e(e2e::Options { allow_missing, filter: filter.to_vec(), write: false }))
        };
        let cases: &[(&[&str], Option<Chore<'_>>)] = &[
            (&["demo"], Some(Chore::Demo)),
            (&["bench"], Some(Chore::Bench(bench::Options::default()))),
            (&["bench", "--fast"], None),
            (&["docs"], Some(Chore::Docs(docs::Options::default()))),
            (&["docs", "--check"], Some(Chore::Docs(docs::Options { check: true }))),
            (&["docs", "--write"], None),
            (&["test"], Some(Chore::Test)),
            (&["test", "fast"], None),
            (&["e2e"], e2e(false, &[])),
            (&["e2e", "--allow-missing", "--", "cli", "--nocapture"], e2e(true, &["cli", "--nocapture"])),
            (&["e2e", "cli"], None),
            (&["e2e", "--write"], Some(Chore::E2e(e2e::Options { write: true, ..Default::default() }))),
            (&["e2e", "--write", "--", "cli"], None),
            (&["e2e", "--write", "--allow-missing"], None),
            (&["e2e", "--allow-missing", "--allow-missing"], None),
            (&["e2e", "--", "--allow-missing"], e2e(false, &["--allow-missing"])),
            (&[], None),
            (&["--help"], Some(Chore::Help)),
        ];
        for (args, chore) in cases {
            assert_eq!(parse(args), *chore, "{args:?}");
        }
    }
}
