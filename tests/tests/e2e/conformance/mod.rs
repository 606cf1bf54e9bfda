//! The conformance suite of the protocol's authors as the judge: what passes at a server itself passes through `thv`,
//! and what a client passes at the suite's own servers it passes over the bridge.
//!
//! The suite runs twice, with and without `thv` in between, and the two lists of checks are compared. Its requirement
//! sets name the scenarios of a revision; those of extensions run with them, and are compared like the others.

mod client;
mod server;

use crate::fixture::fixture;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thv_e2e::{Exit, Failure, Home, Result, ensure};

/// How long a whole requirement set, or a scenario of a client, may take.
const BOUND: Duration = Duration::from_secs(180);

/// The revisions, as the suite names its requirement sets.
const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";

/// The suite's length of `-2026-01-02T03-04-05-678Z`, which it adds to the names of folders.
const STAMP: usize = 25;

/// A check: scenario, id and name.
type Check = [String; 3];

/// How often each check came out how.
#[derive(Debug, Default)]
struct Checks {
    counts: BTreeMap<Check, BTreeMap<String, usize>>,
    /// Scenario and id of what only informs.
    told: BTreeSet<[String; 2]>,
}

impl Checks {
    /// Reads all that the suite wrote below a folder.
    fn read(folder: &Path) -> Result<Self> {
        let mut checks = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let scenario = name.len().checked_sub(STAMP).and_then(|end| name.get(..end)).unwrap_or(&name);
            let file = path.join("checks.json");
            if !file.is_file() {
                // A scenario that does not apply leaves an empty folder.
                continue;
            }
            let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&file)?)
                .map_err(|error| Failure::from(error).during(file.display()))?;
            for row in rows {
                let text = |member: &str| row[member].as_str().unwrap_or_default().to_owned();
                if text("status") == "INFO" {
                    checks.told.insert([scenario.to_owned(), text("id")]);
                } else {
                    let check = [scenario.to_owned(), text("id"), text("name")];
                    *checks.counts.entry(check).or_default().entry(text("status")).or_default() += 1;
                }
            }
        }
        Ok(checks)
    }

    fn count(&self, check: &Check, status: &str) -> usize {
        self.counts.get(check).and_then(|counts| counts.get(status)).copied().unwrap_or_default()
    }

    /// How many checks came out so.
    fn all(&self, status: &str) -> usize {
        self.counts.values().filter_map(|counts| counts.get(status)).sum()
    }

    /// Whether the suite could not look at something, since the answer came as JSON and not as an event stream. Either
    /// is right (MCP, `basic/transports`), and the host of stdio servers takes JSON where it can.
    fn is_about_streams(&self, [scenario, id, _]: &Check) -> bool {
        let told = |id: &str| self.told.contains(&[scenario.clone(), id.to_owned()]);
        id == "server-sse-streams-functional" && told(id) || told("server-sse-content-type")
    }

    /// What passed directly and does not pass so often here, or failed more often.
    fn worse_than(&self, direct: &Self) -> String {
        let mut text = String::new();
        for check in
            direct.counts.keys().chain(self.counts.keys().filter(|check| !direct.counts.contains_key(*check)))
        {
            let passed = [direct.count(check, "SUCCESS"), self.count(check, "SUCCESS")];
            let failed =
                ["FAILURE", "WARNING"].map(|status| [direct.count(check, status), self.count(check, status)]);
            if passed[1] < passed[0] && !self.is_about_streams(check)
                || failed.iter().any(|[direct, here]| here > direct)
            {
                // Writing to a string does not fail.
                let _ = writeln!(
                    text,
                    "  {}: {:?}, directly {:?}",
                    check.join(" / "),
                    self.counts.get(check),
                    direct.counts.get(check)
                );
            }
        }
        text
    }
}

/// The suite, installed.
struct Suite<'a> {
    home: &'a Home,
    programs: PathBuf,
}

impl Suite<'_> {
    /// Runs it with these arguments and this module loaded first, and reads its checks. Its output is shown where it
    /// ends otherwise than with 0.
    fn run(&self, label: &str, module: &str, env: &[(&str, &str)], args: &[&str]) -> Result<Checks> {
        let results = self.home.user().join(label);
        let mut command = self.home.command(self.programs.join("node"));
        command
            .arg("--import")
            .arg(fixture("conformance").join(module))
            .arg(self.programs.join("conformance"))
            .args(args)
            .arg("--output-dir")
            .arg(&results)
            .envs(env.iter().copied());
        let mut suite = self.home.start(command)?;
        suite.close_stdin();
        let exit = suite.wait(BOUND)?;
        let checks = Checks::read(&results)?;
        ensure!(
            exit == Exit::Code(0),
            "{label}: {exit:?}\n{}\n{}\n{checks:?}",
            suite.stdout(),
            suite.stderr()
        );
        Ok(checks)
    }
}

#[test]
fn less_that_passes_and_more_that_fails_is_worse() {
    let checks = |rows: &[(&str, &str)]| {
        let mut checks = Checks::default();
        for (id, status) in rows {
            let check = ["s".to_owned(), (*id).to_owned(), "n".to_owned()];
            *checks.counts.entry(check).or_default().entry((*status).to_owned()).or_default() += 1;
        }
        checks
    };
    let direct = checks(&[("a", "SUCCESS"), ("a", "SUCCESS"), ("b", "FAILURE"), ("c", "SKIPPED")]);
    assert_eq!(direct.worse_than(&direct), "");
    for (worse, row) in [
        (&[("a", "SUCCESS")][..], "s / a / n"),
        (&[("a", "SUCCESS"), ("a", "SUCCESS"), ("b", "FAILURE"), ("b", "FAILURE")], "s / b / n"),
        (&[("a", "SUCCESS"), ("a", "SUCCESS"), ("d", "WARNING")], "s / d / n"),
    ] {
        let text = checks(worse).worse_than(&direct);
        assert!(text.contains(row) && text.lines().count() == 1, "{text}");
    }
    let better = checks(&[("a", "SUCCESS"), ("a", "SUCCESS"), ("b", "SUCCESS"), ("d", "SUCCESS")]);
    assert_eq!(better.worse_than(&direct), "");
}
