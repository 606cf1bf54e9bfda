//! `thv doctor`: what is wrong, why it matters, and the command that mends it.

mod clock;
mod folders;
mod keychain;
mod mending;
mod orphans;
mod ports;
mod sockets;
mod store;
mod workloads;

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::args::{Doctor, Format};
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::say;
use clock::Latest;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Weight {
    /// All is well.
    Fine,
    /// Worth knowing.
    Note,
    /// Something is wrong.
    Problem,
}

/// What mends a finding without losing anything.
type Fix<'a> = Box<dyn FnOnce() -> Outcome + 'a>;

/// One thing that was looked at.
struct Finding<'a> {
    row: Row,
    fix: Option<Fix<'a>>,
}

/// A finding as `--format json` shows it. Fields are added, never renamed or removed.
#[derive(Serialize)]
struct Row {
    /// A stable word for what was looked at.
    check: &'static str,
    weight: Weight,
    what: String,
    /// Why it matters.
    why: &'static str,
    /// The command that mends it.
    mend: String,
    /// Whether `--fix` has mended it.
    fixed: bool,
}

impl Row {
    /// Whoever reads of something that is not fine also reads why it matters and what to do.
    fn is_of_use(&self) -> bool {
        self.weight == Weight::Fine || !self.why.is_empty() && !self.mend.is_empty()
    }
}

impl<'a> Finding<'a> {
    fn new(check: &'static str, weight: Weight, what: impl Into<String>) -> Self {
        let row = Row { check, weight, what: what.into(), why: "", mend: String::new(), fixed: false };
        Self { row, fix: None }
    }

    fn fine(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Weight::Fine, what)
    }

    fn note(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Weight::Note, what)
    }

    fn problem(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Weight::Problem, what)
    }

    fn why(mut self, why: &'static str) -> Self {
        self.row.why = why;
        self
    }

    fn mend(mut self, command: impl Into<String>) -> Self {
        self.row.mend = command.into();
        self
    }

    fn fix(mut self, fix: impl FnOnce() -> Outcome + 'a) -> Self {
        self.fix = Some(Box::new(fix));
        self
    }
}

/// Looks at everything, mends what is safe if asked to, and fails if a problem is left.
pub fn doctor(environment: &Environment, args: &Doctor) -> Outcome {
    let home = environment.home();
    let mut latest = Latest::default();
    let mut findings = folders::look(home, &mut latest);
    mend(&mut findings, args.fix);
    // What lies in folders that cannot be trusted is not looked at: it may be somebody else's.
    if folders::are_trusted(home) && environment.checked_home().is_ok() {
        let mut rest = store::look(home, &mut latest);
        rest.extend(workloads::look(home, &mut latest));
        mend(&mut rest, args.fix);
        findings.extend(rest);
    } else {
        findings.push(
            Finding::note("not-looked-at", "the store and the workloads were not looked at")
                .why("what lies in folders that cannot be trusted may be somebody else's")
                .mend("mend the folders, then: thv doctor"),
        );
    }
    findings.push(latest.look(SystemTime::now()));
    let rows: Vec<Row> = findings.into_iter().map(|finding| finding.row).collect();
    debug_assert!(rows.iter().all(Row::is_of_use), "a finding without a reason, or without a way out");
    match args.format {
        Format::Text => say::data(&text(&rows)),
        Format::Json => {
            let json = serde_json::to_string_pretty(&rows).map_err(|error| {
                Failure::new(Exit::Failed, "cannot write the findings as JSON").because(&error)
            })?;
            say::data(&format!("{json}\n"));
        }
    }
    let problems = rows.iter().filter(|row| row.weight == Weight::Problem && !row.fixed).count();
    match problems {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "there is 1 problem")),
        many => Err(Failure::new(Exit::Failed, format!("there are {many} problems"))),
    }
}

fn mend(findings: &mut [Finding<'_>], wanted: bool) {
    for finding in findings {
        if wanted && let Some(fix) = finding.fix.take() {
            match fix() {
                Ok(()) => finding.row.fixed = true,
                Err(failure) => say::complaint(&failure.render()),
            }
        }
    }
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        let mark = match (row.weight, row.fixed) {
            (_, true) => "mended ",
            (Weight::Fine, _) => "fine   ",
            (Weight::Note, _) => "note   ",
            (Weight::Problem, _) => "problem",
        };
        let _ = writeln!(out, "{mark}  {}", row.what);
        if row.weight != Weight::Fine && !row.fixed {
            for (label, value) in [("why", row.why), ("try", row.mend.as_str())] {
                if !value.is_empty() {
                    let _ = writeln!(out, "         {label}: {value}");
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_mended_is_and_only_when_asked() {
        let mended = std::cell::Cell::new(0);
        let make = || {
            vec![
                Finding::problem("a", "broken").fix(|| {
                    mended.set(mended.get() + 1);
                    Ok(())
                }),
                Finding::problem("b", "lost").mend("thv rm x"),
                Finding::problem("c", "stubborn").fix(|| Err(Failure::new(Exit::Failed, "no"))),
            ]
        };
        let mut findings = make();
        mend(&mut findings, false);
        assert_eq!(mended.get(), 0);
        mend(&mut findings, true);
        assert_eq!(mended.get(), 1);
        let fixed: Vec<bool> = findings.iter().map(|finding| finding.row.fixed).collect();
        assert_eq!(fixed, [true, false, false]);
        let rows: Vec<Row> = findings.into_iter().map(|finding| finding.row).collect();
        assert!(text(&rows).contains("try: thv rm x"));
    }

    #[test]
    fn a_shell_takes_a_path_as_one_word() {
        assert_eq!(quoted(Path::new("/a/b-1.sock")), "/a/b-1.sock");
        assert_eq!(quoted(Path::new("/it's/a $(b)")), r"'/it'\''s/a $(b)'");
    }
}
