//! Folders and files: are they there, are they ours, can nobody else read them?

use std::path::Path;

use thv_workload::home::{Home, HomeError};

use super::Finding;

const WHY: &str = "keys and logs lie there, and whoever can write there can put a trap for the next command";

pub(super) fn look(home: &Home) -> Vec<Finding<'static>> {
    let mut findings = Vec::new();
    for folder in home.folders() {
        match thv_workload::home::check_dir(&folder) {
            Ok(true) => findings.extend(files(&folder)),
            Ok(false) => {}
            Err(HomeError::Untrusted { path, reason }) => {
                let finding = Finding::problem("folder", format!("{}: {reason}", path.display())).why(WHY);
                findings.push(close_off(finding, &path, 0o700));
            }
            Err(error) => findings.push(Finding::problem("folder", error.to_string()).why(WHY)),
        }
    }
    if findings.is_empty() {
        findings.push(Finding::fine("folder", "folders and files are yours alone"));
    }
    findings
}

/// The files of one folder that others may read.
#[cfg(unix)]
fn files(folder: &Path) -> Vec<Finding<'static>> {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let open = |entry: std::fs::DirEntry| {
        let meta = entry.metadata().ok()?;
        let mode = meta.permissions().mode() & 0o777;
        if !meta.is_file() || mode & 0o077 == 0 {
            return None;
        }
        let what = format!("{} can be read by others (mode {mode:04o})", entry.path().display());
        Some(close_off(Finding::problem("file", what).why(WHY), &entry.path(), 0o600))
    };
    entries.flatten().filter_map(open).collect()
}

#[cfg(not(unix))]
fn files(_folder: &Path) -> Vec<Finding<'static>> {
    Vec::new()
}

/// Adds the command, and the fix if the path is ours to close off.
#[cfg(unix)]
fn close_off(finding: Finding<'static>, path: &Path, mode: u32) -> Finding<'static> {
    use crate::failure::{Exit, Failure};
    use std::os::unix::fs::PermissionsExt as _;
    let finding = finding.mend(format!("chmod {mode:o} {}", path.display()));
    // A link, or something of another user, is nothing that a change of mode would mend.
    if !std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir() || meta.is_file()) {
        return finding.mend("");
    }
    let path = path.to_owned();
    finding.fix(move || {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot close off {}", path.display())).because(&error)
        })
    })
}

#[cfg(not(unix))]
fn close_off(finding: Finding<'static>, _path: &Path, _mode: u32) -> Finding<'static> {
    finding
}
