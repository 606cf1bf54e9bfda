//! The clients: drivers in `fixtures/compat/clients` that play a plan over several ways.

use crate::fixture::fixture;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thv_e2e::{Exit, Failure, Home, Result, ensure, need_part};

/// How long a driver may take; it has a shorter bound of its own.
const BOUND: Duration = Duration::from_secs(150);

/// An SDK as a client uses it.
#[derive(Clone, Copy)]
pub(super) enum Client {
    PythonV1,
    /// With `initialize` at once.
    PythonV2,
    /// It asks for 2026-07-28 with `server/discover` first.
    PythonV2Probing,
    TypeScriptV1,
    /// With `initialize` at once.
    TypeScriptV2,
    /// It asks for 2026-07-28 with `server/discover` first, from a server started for that.
    TypeScriptV2Probing,
    /// `mcp-remote --header`, a bridge that others made, with the TypeScript SDK before it.
    McpRemote,
}

impl Client {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PythonV1 => "Python SDK 1",
            Self::PythonV2 => "Python SDK 2",
            Self::PythonV2Probing => "Python SDK 2, probing",
            Self::TypeScriptV1 => "TypeScript SDK 1",
            Self::TypeScriptV2 => "TypeScript SDK 2",
            Self::TypeScriptV2Probing => "TypeScript SDK 2, probing",
            Self::McpRemote => "mcp-remote",
        }
    }

    /// Whether it asks for the newest revision.
    pub(super) const fn is_probing(self) -> bool {
        matches!(self, Self::PythonV2Probing | Self::TypeScriptV2Probing)
    }

    pub(super) const fn is_python(self) -> bool {
        matches!(self, Self::PythonV1 | Self::PythonV2 | Self::PythonV2Probing)
    }

    /// Plays `plan` over each of `ways` and returns the transcripts by the ways' names; `None` where a missing part is
    /// allowed. `node` is the folder of what npm gave.
    pub(super) fn play(self, home: &Home, node: &Path, ways: &Value, plan: &Value) -> Result<Option<Value>> {
        let mut report = None;
        self.put_report(home, node, ways, plan, &mut report)?;
        Ok(report)
    }

    fn put_report(
        self,
        home: &Home,
        node: &Path,
        ways: &Value,
        plan: &Value,
        report: &mut Option<Value>,
    ) -> Result {
        let (program, script) = match self {
            Self::PythonV1 => (need_part!(PythonV1).join("python3"), "python_v1.py"),
            Self::PythonV2 | Self::PythonV2Probing => (need_part!(Python).join("python3"), "python_v2.py"),
            Self::TypeScriptV1 => ("node".into(), "typescript_v1.mjs"),
            Self::TypeScriptV2 | Self::TypeScriptV2Probing | Self::McpRemote => {
                ("node".into(), "typescript_v2.mjs")
            }
        };
        let mut command = home.command(program);
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(fixture("compat/clients").join(script));
        let mut driver = home.start(command)?;
        // Since 2026-07-28 a server knows no sessions and tells all who listen: each way would hear the others' news.
        let listens = plan.as_array().into_iter().flatten().any(|step| step["do"] == "listen");
        let config = json!({
            "ways": ways,
            "plan": plan,
            "mode": if self.is_probing() { "auto" } else { "legacy" },
            "at_once": !listens,
            // The drivers resolve their packages from here.
            "modules": node.with_file_name("package.json"),
        });
        driver.send(format!("{config}\n").as_bytes())?;
        driver.close_stdin();
        let exit = driver.wait(BOUND)?;
        ensure!(exit == Exit::Code(0), "{script} ended with {exit:?}\n{}", driver.stderr());
        let seen = serde_json::from_str(&driver.stdout())
            .map_err(|error| Failure::from(error).during(format!("{script}\n{}", driver.stderr())))?;
        *report = Some(seen);
        Ok(())
    }
}

/// The Node.js that came with the packages, or where none did, the machine's own.
pub(super) fn newer_node(programs: &Path) -> PathBuf {
    let node = programs.join("node");
    if node.is_file() { node } else { "node".into() }
}
