//! `cargo xtask docs`: the commands in `docs/cli.md`, taken from the command's own `--help`, so that the page cannot
//! say what the command does not.
//!
//! The rest of the page is written by hand; what lies between the two marks is not.

use crate::cargo::{build, root};
use crate::steps::Steps;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use thv_e2e::{Failure, Result, ensure};

/// The document, from the root.
const DOCUMENT: &str = "docs/cli.md";
const BEGIN: &str = "<!-- begin of commands: `cargo xtask docs` writes them -->\n";
const END: &str = "<!-- end of commands -->\n";

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Fail if the document is not what it should be, and leave it as it is.
    pub(crate) check: bool,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Option<Self> {
        match args {
            [] => Some(Self::default()),
            ["--check"] => Some(Self { check: true }),
            _ => None,
        }
    }
}

pub(crate) fn run(steps: &mut Steps, options: &Options) -> Result {
    let thv = build(steps, "thv", "thv")?;
    let path = root().join(DOCUMENT);
    if options.check {
        return steps.step("command reference", "cargo xtask docs --check", || {
            let old = std::fs::read_to_string(&path)?;
            compare(&old, &renewed(&old, &reference(&thv)?)?)
        });
    }
    steps.step("command reference", "cargo xtask docs", || {
        let old = std::fs::read_to_string(&path)?;
        let new = renewed(&old, &reference(&thv)?)?;
        if old == new {
            println!("{DOCUMENT} is as it should be");
        } else {
            File::create(&path)?.write_all(new.as_bytes())?;
            println!("wrote {DOCUMENT}");
        }
        Ok(())
    })
}

fn compare(old: &str, new: &str) -> Result {
    if old == new {
        return Ok(());
    }
    let same = old.lines().zip(new.lines()).take_while(|(old, new)| old == new).count();
    Err(Failure::new(format!(
        "{DOCUMENT} does not say what the command says, from line {} on; cargo xtask docs renews it",
        same + 1
    )))
}

/// The document with other commands between its marks.
fn renewed(document: &str, commands: &str) -> Result<String> {
    let parts = document
        .split_once(BEGIN)
        .and_then(|(head, rest)| rest.split_once(END).map(|(_, tail)| (head, tail)));
    let (head, tail) =
        parts.ok_or_else(|| Failure::new(format!("{DOCUMENT} lacks its marks:\n{BEGIN}{END}")))?;
    Ok(format!("{head}{BEGIN}\n{commands}\n{END}{tail}"))
}

/// Each command with its help. Words by which the program starts itself as a helper are in no help and so not here.
fn reference(thv: &Path) -> Result<String> {
    let mut sections = String::new();
    let mut contents = String::new();
    let mut left = vec![Vec::new()];
    while let Some(words) = left.pop() {
        let help = help(thv, &words)?;
        let under = subcommands(&help);
        if !words.is_empty() {
            let title = words.join(" ");
            if under.is_empty() {
                let about = help.lines().next().unwrap_or_default();
                let _ = writeln!(contents, "- [`thv {title}`](#thv-{}): {about}", words.join("-"));
            }
            let _ = write!(sections, "\n### `thv {title}`\n\n```text\n{help}```\n");
        }
        left.extend(under.into_iter().rev().map(|word| [words.as_slice(), &[word]].concat()));
    }
    ensure!(!contents.is_empty(), "thv --help names no command");
    Ok(contents + &sections)
}

fn help(thv: &Path, words: &[String]) -> Result<String> {
    let output = Command::new(thv).args(words).arg("--help").env_clear().stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "thv {} --help: {}", words.join(" "), output.status);
    let text = String::from_utf8(output.stdout)
        .map_err(|_| Failure::new(format!("thv {} --help is not UTF-8 text", words.join(" "))))?;
    Ok(text.lines().map(|line| format!("{}\n", line.trim_end())).collect())
}

/// The words under `Commands:`. A description that runs over several lines is indented further than a word.
fn subcommands(help: &str) -> Vec<String> {
    let list =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    list.filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subcommands_are_read_from_help() {
        let help = "Keys\n\nUsage: thv key <COMMAND>\n\nCommands:\n  show    Show a key\n  rotate  Replace a key, and\n          \
                    say so\n\nOptions:\n  -h, --help  Print help\n";
        assert_eq!(subcommands(help), ["show", "rotate"]);
        assert!(subcommands("List\n\nUsage: thv list\n\nOptions:\n  -a, --all  All\n").is_empty());
    }

    #[test]
    fn only_what_is_between_the_marks_is_renewed() {
        let document = format!("# Head\n{BEGIN}old\n{END}tail\n");
        let new = renewed(&document, "new\n").unwrap();
        assert_eq!(new, format!("# Head\n{BEGIN}\nnew\n\n{END}tail\n"));
        assert_eq!(renewed(&new, "new\n").unwrap(), new);
        assert!(renewed("# Head\n", "new\n").is_err());
        assert!(renewed(&format!("{END}{BEGIN}"), "new\n").is_err());
    }

    #[test]
    fn a_stale_document_is_found_with_its_line() {
        assert!(compare("a\nb\n", "a\nb\n").is_ok());
        let failure = compare("a\nb\n", "a\nc\n").unwrap_err().to_string();
        assert!(failure.contains("from line 2 on"), "{failure}");
        assert!(compare("a\n", "a\nb\n").is_err());
    }
}
