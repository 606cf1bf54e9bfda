//! The table of servers and clients in `docs/compatibility.md`, taken from what the end-to-end tests saw, so that the
//! page cannot promise what was not run.

use crate::cargo::root;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use thv_e2e::{Failure, Result};

/// The document, from the root.
const DOCUMENT: &str = "docs/compatibility.md";
const BEGIN: &str = "<!-- begin of table: `cargo xtask e2e --write -- compat` writes it -->\n";
const END: &str = "<!-- end of table -->\n";

/// Where the tests put the table: beside the build that this program is of.
pub(crate) fn as_run() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).unwrap_or(Path::new("target"));
    Ok(target.join("e2e/compatibility.md"))
}

/// Compares the document's table with the one at `table`, or writes that into the document.
///
/// # Errors
/// They differ, or there is none.
pub(crate) fn check(table: &Path, write: bool) -> Result {
    let table = std::fs::read_to_string(table)
        .map_err(|error| Failure::from(error).during(format_args!("{}", table.display())))?;
    let path = root().join(DOCUMENT);
    let old = std::fs::read_to_string(&path)?;
    let new = renewed(&old, &table)?;
    if old == new {
        println!("{DOCUMENT} says what was run");
    } else if write {
        File::create(&path)?.write_all(new.as_bytes())?;
        println!("wrote {DOCUMENT}");
    } else {
        return Err(differs(&old, &new));
    }
    Ok(())
}

fn differs(old: &str, new: &str) -> Failure {
    let only = |one: &str, other: &str| {
        let rows = one.lines().filter(|row| other.lines().all(|known| known != *row));
        rows.map(|row| format!("\n  {row}")).collect::<String>()
    };
    Failure::new(format!(
        "{DOCUMENT} does not say what was run; cargo xtask e2e --write -- compat renews it\n\
         in the document alone:{}\nrun, and not in the document:{}",
        only(old, new),
        only(new, old)
    ))
}

/// The document with another table between its marks.
fn renewed(document: &str, table: &str) -> Result<String> {
    let parts = document
        .split_once(BEGIN)
        .and_then(|(head, rest)| rest.split_once(END).map(|(_, tail)| (head, tail)));
    let (head, tail) =
        parts.ok_or_else(|| Failure::new(format!("{DOCUMENT} lacks its marks:\n{BEGIN}{END}")))?;
    Ok(format!("{head}{BEGIN}\n{table}\n{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lies_between_its_marks() {
        let document = format!("a\n{BEGIN}\n| old |\n| same |\n\n{END}z\n");
        let new = renewed(&document, "| new |\n| same |\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\n| new |\n| same |\n\n{END}z\n"));
        assert_eq!(renewed(&new, "| new |\n| same |\n").unwrap(), new);
        assert!(renewed("a\nz\n", "| new |\n").is_err());
        let said = differs(&document, &new).to_string();
        assert!(said.contains("alone:\n  | old |\nrun, and not in the document:\n  | new |"), "{said}");
    }

    #[test]
    fn the_document_has_the_marks() {
        let document = std::fs::read_to_string(root().join(DOCUMENT)).unwrap();
        assert!(renewed(&document, "| new |\n").is_ok());
    }
}
