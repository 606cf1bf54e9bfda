//! The table of what was run, written anew with each row so that it stands even when a later row fails.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use thv_e2e::{Failure, Result};

/// A server and a client that have met.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    pub(super) server: &'static str,
    /// How `thv` reaches the server.
    pub(super) hosting: &'static str,
    pub(super) client: &'static str,
    /// The revision of the protocol that the two settled on.
    pub(super) revision: String,
    /// What was compared.
    pub(super) compared: String,
    /// Whether it was the same over the bridge and at the port, where it was tried.
    pub(super) equal: [Option<bool>; 2],
}

static ROWS: Mutex<BTreeSet<Row>> = Mutex::new(BTreeSet::new());

/// Adds a row and writes the table.
pub(super) fn add(row: Row) -> Result {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.insert(row);
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = scratch.with_file_name("e2e");
    let write = || {
        std::fs::create_dir_all(&folder)?;
        File::create(folder.join("compatibility.md"))?.write_all(table(&rows).as_bytes())
    };
    write().map_err(|error| Failure::from(error).during(folder.display()))
}

fn table(rows: &BTreeSet<Row>) -> String {
    let mut text = String::from(
        "| server | hosted as | client | protocol | compared | over the bridge | at the port |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Row { server, hosting, client, revision, compared, equal } = row;
        let [bridge, port] = equal.map(|equal| match equal {
            Some(true) => "equal",
            Some(false) => "DIFFERS",
            None => "–",
        });
        let words: [&str; 7] = [server, hosting, client, revision, compared, bridge, port];
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} |", words.join(" | "));
    }
    text
}

#[test]
fn a_row_tells_what_was_the_same() {
    let row = |client, equal| Row {
        server: "s",
        hosting: "stdio",
        client,
        revision: "2025-11-25".into(),
        compared: "3 steps".into(),
        equal,
    };
    let text = table(&BTreeSet::from([row("b", [Some(true), Some(false)]), row("a", [None, Some(true)])]));
    let rows: Vec<_> = text.lines().skip(2).collect();
    assert_eq!(
        rows,
        [
            "| s | stdio | a | 2025-11-25 | 3 steps | – | equal |",
            "| s | stdio | b | 2025-11-25 | 3 steps | equal | DIFFERS |",
        ]
    );
}
