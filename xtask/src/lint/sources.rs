//! Rules for Rust files.

use super::Finding;
use super::tree::{Source, Tree};

/// Files above this length are named, so that somebody thinks about rooms.
const LONG: usize = 500;
/// Files above this length are findings.
const TOO_LONG: usize = 800;
/// Files that may be longer, each with its reason: a table, a state machine.
const MAY_BE_LONG: &[(&str, &str)] = &[];

/// Every module says what it is for: `//!` comes first, inner attributes aside.
pub(super) fn module_docs(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|file| !first_line_after_attributes(file).is_some_and(|line| line.starts_with("//!")))
        .map(|file| Finding::new(&file.path, 1, "a module starts with `//!`, saying what it is for"))
        .collect()
}

fn first_line_after_attributes(file: &Source) -> Option<&str> {
    let mut lines = file.text.lines().map(str::trim).filter(|line| !line.is_empty());
    loop {
        let line = lines.next()?;
        if !line.starts_with("#![") {
            return Some(line);
        }
        // An attribute over several lines ends where its bracket does.
        if !line.ends_with(']') {
            lines.find(|line| line.ends_with(']'))?;
        }
    }
}

/// Every library root forbids unsafe code, so that nobody has to look for it.
pub(super) fn forbid_unsafe(tree: &Tree) -> Vec<Finding> {
    tree.rust()
        .filter(|file| file.path.ends_with("src/lib.rs"))
        .filter(|file| !file.lines().any(|(_, line)| line == "#![forbid(unsafe_code)]"))
        .map(|file| Finding::new(&file.path, 0, "`#![forbid(unsafe_code)]` is missing"))
        .collect()
}

/// A file that is too long has several concerns.
pub(super) fn length(tree: &Tree) -> Vec<Finding> {
    over(tree, TOO_LONG, MAY_BE_LONG)
}

/// Files that are long, but not too long.
pub(super) fn long_files(tree: &Tree) -> Vec<Finding> {
    over(tree, LONG, MAY_BE_LONG)
}

fn over(tree: &Tree, limit: usize, allowed: &[(&str, &str)]) -> Vec<Finding> {
    tree.rust()
        .filter(|file| !allowed.iter().any(|(path, _reason)| *path == file.path))
        .map(|file| (file, file.lines().count()))
        .filter(|(_, lines)| *lines > limit)
        .map(|(file, lines)| Finding::new(&file.path, 0, format!("{lines} lines, more than {limit}")))
        .collect()
}

/// Nothing half done: no placeholder, no test that does not run, no note to self.
pub(super) fn unfinished_marks(tree: &Tree) -> Vec<Finding> {
    // Put together so that this file does not find itself.
    const MARKS: [&str; 5] = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[", "ignore"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let mut findings = Vec::new();
    for file in tree.rust() {
        for (line, text) in file.lines() {
            for mark in MARKS.iter().filter(|mark| text.contains(**mark)) {
                findings.push(Finding::new(&file.path, line, format!("unfinished: {mark}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn modules_start_with_their_purpose() {
        let found = &["crates/x/src/a.rs:1: a module starts with `//!`, saying what it is for"][..];
        for (text, expect) in [
            ("//! What it is for.\nuse x;\n", &[][..]),
            ("#![allow(x)]\n\n#![cfg(\n    unix\n)]\n//! What it is for.\n", &[]),
            ("use x;\n//! Too late.\n", found),
            ("// A plain comment.\n//! Too late.\n", found),
            ("/// Belongs to the item.\nstruct X;\n", found),
            ("#![allow(x)]\n", found),
            ("#![allow(\n", found),
            ("", found),
        ] {
            check(module_docs, &[("crates/x/src/a.rs", text), ("README.md", "no module")], expect);
        }
    }

    #[test]
    fn library_roots_forbid_unsafe_code() {
        check(forbid_unsafe, &[("crates/x/src/lib.rs", "//! X.\n#![forbid(unsafe_code)]\n")], &[]);
        check(forbid_unsafe, &[("crates/x/src/other.rs", "")], &[]);
        let expect = &["crates/x/src/lib.rs: `#![forbid(unsafe_code)]` is missing"];
        check(forbid_unsafe, &[("crates/x/src/lib.rs", "//! Not `#![forbid(unsafe_code)]`.\n")], expect);
        check(forbid_unsafe, &[("crates/x/src/lib.rs", "#![deny(unsafe_code)]\n")], expect);
    }

    #[test]
    fn long_files_are_found_unless_they_have_a_reason() {
        let long = "x\n".repeat(801);
        let tree = Tree::new(&[("a.rs", &long), ("b.rs", &long), ("c.rs", &long[2..]), ("d.md", &long)]);
        let found = over(&tree, TOO_LONG, &[("b.rs", "a table")]);
        assert_eq!(found, [Finding::new("a.rs", 0, "801 lines, more than 800")]);
    }

    #[test]
    fn reasons_are_given_for_files_that_are_there() {
        for (path, reason) in MAY_BE_LONG {
            assert!(crate::cargo::root().join(path).is_file(), "{path}");
            assert!(!reason.is_empty(), "{path}");
        }
    }

    #[test]
    fn unfinished_work_is_found() {
        let cases = [
            (concat!("    todo", "!()\n"), concat!("a.rs:1: unfinished: todo", "!(")),
            (concat!("\nunimplemented", "!(\"later\")"), concat!("a.rs:2: unfinished: unimplemented", "!(")),
            (concat!("#[", "ignore = \"slow\"]"), concat!("a.rs:1: unfinished: #[", "ignore")),
            (concat!("// FIX", "ME: later"), concat!("a.rs:1: unfinished: FIX", "ME")),
            (concat!("// XX", "X"), concat!("a.rs:1: unfinished: XX", "X")),
        ];
        for (text, expect) in cases {
            check(unfinished_marks, &[("a.rs", text), ("a.md", text)], &[expect]);
        }
        check(unfinished_marks, &[("a.rs", "// what is left to do: nothing\n")], &[]);
    }
}
