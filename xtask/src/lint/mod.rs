//! `cargo xtask lint`: the rules of this repository that rustc and clippy do not know.
//!
//! A rule is a function from the tree to its findings, so that its tests can show it a tree that breaks it.

mod arrows;
mod manifests;
mod sources;
mod texts;
mod tree;

use crate::cargo::root;
use crate::term::Term;
use std::fmt;
use thv_e2e::{Failure, Result};
use tree::Tree;

/// Something that a rule does not allow.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// Counted from 1; 0 for the file as a whole.
    line: usize,
    text: String,
}

impl Finding {
    fn new(path: &str, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.text),
            line => write!(f, "{}:{line}: {}", self.path, self.text),
        }
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: &[Rule] = &[
    arrows::only_allowed_dependencies,
    manifests::workspace_lints,
    manifests::public_registry_alone,
    sources::module_docs,
    sources::forbid_unsafe,
    sources::length,
    sources::unfinished_marks,
    texts::no_machine_paths,
    texts::readme_opens_with_commands,
];

pub(crate) fn run(term: Term) -> Result {
    let tree = Tree::of_repository(root())?;
    for long in sources::long_files(&tree) {
        println!("note: {long}");
    }
    let mut findings: Vec<_> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    if findings.is_empty() {
        println!("{} rules hold in {} files", RULES.len(), tree.len());
        return Ok(());
    }
    findings.sort_unstable();
    for finding in &findings {
        println!("{} {finding}", term.bad("lint:"));
    }
    Err(Failure::new(format!("{} findings", findings.len())))
}

/// Asserts that `rule` finds exactly `expect` (as displayed) in a tree of these files.
#[cfg(test)]
fn check(rule: Rule, files: &[(&str, &str)], expect: &[&str]) {
    let mut found: Vec<_> = rule(&Tree::new(files)).iter().map(ToString::to_string).collect();
    found.sort_unstable();
    assert_eq!(found, expect, "{files:?}");
}
