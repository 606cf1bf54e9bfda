//! Workloads whose supervisors run by themselves: what the command said of them, and the processes behind them.

use crate::foreground::Ready;
use crate::procs::{self, Proc};
use crate::{Failure, Output, Result};
use serde_json::Value;
use std::path::Path;

/// What `thv run`, `thv start` or `thv restart` said when a workload ran. It outlives this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// The workload's name.
    pub name: String,
    /// The endpoint.
    pub url: String,
    /// The port of the endpoint.
    pub port: u16,
    /// The id of the current key; `None` for an open workload.
    pub key_id: Option<String>,
}

impl Detached {
    /// Reads the one line of a command that must have succeeded.
    ///
    /// # Errors
    /// It did not, or said something else.
    pub fn of(output: Output) -> Result<Self> {
        let output = output.expect(0)?;
        let mut lines = output.stdout.lines();
        match (lines.next().and_then(Ready::parse), lines.next()) {
            (Some(Ready { name, url, port, key_id }), None) => Ok(Self { name, url, port, key_id }),
            _ => Err(Failure::new(format!("one ready line was expected: {output:?}"))),
        }
    }
}

/// The supervisor that the status file of a workload in `THV_HOME` names, if that very process runs.
pub(crate) fn supervisor(home: &Path, name: &str) -> Option<Proc> {
    let folder = home.join("state/workloads").join(name.to_ascii_lowercase());
    let status: Value = serde_json::from_slice(&std::fs::read(folder.join("status.json")).ok()?).ok()?;
    let process = &status["supervisor"];
    // The upper bits tell one boot of the machine from another.
    let ticks = process["start_time"].as_u64()? & ((1 << 40) - 1);
    procs::named(u32::try_from(process["pid"].as_u64()?).ok()?, ticks)
}

/// All supervisors that status files in `THV_HOME` name and that run.
pub(crate) fn supervisors(home: &Path) -> Vec<Proc> {
    let Ok(folders) = std::fs::read_dir(home.join("state/workloads")) else { return Vec::new() };
    folders.flatten().filter_map(|folder| supervisor(home, folder.file_name().to_str()?)).collect()
}
