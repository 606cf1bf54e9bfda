//! The real programs that tests run against: what they are, where they were put, and what happens without them.
//!
//! `cargo xtask e2e` installs them, pinned by the files in `tests/parts`, and tells the tests where. A test that
//! needs one takes it with [`need_part!`](crate::need_part). A missing part is a failure, unless
//! `--allow-missing` was given: then the test is written down as not run.

use crate::{Failure, Result};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

/// Names the file that tests which could not run are written to; without it a missing part fails the test.
pub const NOT_RUN_VARIABLE: &str = "THV_E2E_NOT_RUN";

/// A set of real programs that is installed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Python with the official MCP SDK, FastMCP, `mcp-server-time`, `mcp-server-git` and `uvx`.
    Python,
    /// Python with the official MCP SDK's previous major version.
    PythonV1,
    /// What npm gives: `server-everything`, the MCP SDK in both major versions, the Inspector, other bridges, and
    /// a Node.js for those that are too new for the machine's own.
    Node,
}

impl Part {
    /// All parts.
    pub const ALL: &[Self] = &[Self::Python, Self::PythonV1, Self::Node];

    /// Its name, which is also its folder in `tests/parts` and in `.e2e`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::PythonV1 => "python-v1",
            Self::Node => "node",
        }
    }

    /// The variable that holds the folder with its programs.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Python => "THV_E2E_PYTHON",
            Self::PythonV1 => "THV_E2E_PYTHON_V1",
            Self::Node => "THV_E2E_NODE",
        }
    }

    /// The folder with its programs, or `None` where a missing part is allowed; `test` is then written down.
    ///
    /// # Errors
    /// The part is missing and must not be.
    pub fn find(self, test: &str) -> Result<Option<PathBuf>> {
        if let Some(folder) = std::env::var_os(self.variable()) {
            return Ok(Some(folder.into()));
        }
        missing(self.name(), "run `cargo xtask e2e`, which gets it", test)?;
        Ok(None)
    }
}

/// Writes a test down as not run, for want of something that this machine does not give it.
///
/// # Errors
/// Nothing may be missing here.
pub fn missing(what: &str, advice: &str, test: &str) -> Result<NotRun> {
    let Some(list) = std::env::var_os(NOT_RUN_VARIABLE) else {
        return Err(Failure::new(format!("the part `{what}` is missing; {advice}")));
    };
    // One write of one line in append mode: tests run at the same time.
    let mut list = OpenOptions::new().append(true).create(true).open(list)?;
    list.write_all(format!("{what} {test}\n").as_bytes())?;
    Ok(NotRun)
}

/// A test that could not run; what [`need_part!`](crate::need_part) returns from the test.
pub struct NotRun;

impl From<NotRun> for () {
    fn from(_: NotRun) {}
}

impl From<NotRun> for Result {
    fn from(_: NotRun) -> Self {
        Ok(())
    }
}

/// The folder with the programs of a [`Part`], as a `PathBuf`; returns from the test where it may be missing.
///
/// For test functions that return nothing or a [`Result`](crate::Result) of nothing.
#[macro_export]
macro_rules! need_part {
    ($part:ident) => {
        match $crate::Part::$part.find(&$crate::parts::test_name(file!(), line!())) {
            Ok(Some(folder)) => folder,
            Ok(None) => return $crate::parts::NotRun.into(),
            Err(missing) => panic!("{missing}"),
        }
    };
}

/// The name of the running test: libtest names each thread after its test, unless there is only one thread.
#[doc(hidden)]
pub fn test_name(file: &str, line: u32) -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{file}:{line}"),
    }
}
