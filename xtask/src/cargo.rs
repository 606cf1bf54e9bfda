//! Calls of cargo from within cargo, and what they built.

use crate::steps::Steps;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thv_e2e::{Failure, Result, ensure};

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A cargo command in the workspace, without the variables that describe xtask's own package.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(args).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
        if name.to_str().is_some_and(|name| of_package.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}

/// Builds one binary and returns where it is, wherever the target folder may be.
pub(crate) fn build(steps: &mut Steps, package: &str, binary: &str) -> Result<PathBuf> {
    let args = ["build", "--package", package, "--bin", binary];
    let repeat = crate::steps::command_line(&cargo(args));
    steps.step(&format!("build {binary}"), &repeat, || {
        let output = cargo(args)
            .arg("--message-format=json-render-diagnostics")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "{}", output.status);
        executable(&output.stdout, binary)
            .ok_or_else(|| Failure::new(format!("cargo does not say where it put {binary}")))
    })
}

fn executable(messages: &[u8], binary: &str) -> Option<PathBuf> {
    messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .find_map(|message| {
            let of_binary = message["target"]["name"] == binary;
            message["executable"].as_str().filter(|_| of_binary).map(PathBuf::from)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_read_from_cargos_messages() {
        let messages = br#"{"reason":"compiler-artifact","target":{"name":"thv"},"executable":null}
not json
{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}
{"reason":"compiler-artifact","target":{"name":"thv"},"executable":"/t/thv"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "thv"), Some("/t/thv".into()));
        assert_eq!(executable(messages, "none"), None);
    }

    #[test]
    fn the_root_is_the_workspace() {
        assert!(root().join("xtask/Cargo.toml").is_file());
    }
}
