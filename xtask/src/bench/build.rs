//! The release builds that are measured, and how long one from nothing takes.

use crate::cargo::cargo;
use crate::steps::{Steps, command_line};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use thv_e2e::{Failure, Result, ensure};

pub(super) struct Built {
    pub(super) thv: PathBuf,
    pub(super) server: PathBuf,
    /// How long the command took to build, if nothing of it was there before.
    pub(super) clean_build: Option<Duration>,
}

pub(super) fn release(steps: &mut Steps) -> Result<Built> {
    let (thv, clean_build) = build(steps, "thv", "--bin", "thv")?;
    let (server, _) = build(steps, "thv-e2e", "--bin", "demo-server")?;
    Ok(Built { thv, server, clean_build })
}

/// A library's own measurement.
pub(super) fn bench(steps: &mut Steps, package: &str, name: &str) -> Result<PathBuf> {
    build(steps, package, "--bench", name).map(|(path, _)| path)
}

fn build(steps: &mut Steps, package: &str, kind: &str, binary: &str) -> Result<(PathBuf, Option<Duration>)> {
    let args = ["build", "--release", "--package", package, kind, binary];
    let repeat = command_line(&cargo(args));
    steps.step(&format!("build {binary}"), &repeat, || {
        let start = Instant::now();
        let output = cargo(args)
            .arg("--message-format=json-render-diagnostics")
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()?;
        let took = start.elapsed();
        ensure!(output.status.success(), "{}", output.status);
        let artifacts = Artifacts::read(&output.stdout, binary);
        let path = artifacts.executable;
        let path = path.ok_or_else(|| Failure::new(format!("cargo does not say where it put {binary}")))?;
        Ok((path, (artifacts.reused == 0).then_some(took)))
    })
}

/// What cargo's messages say of a build.
#[derive(Debug, Default, PartialEq, Eq)]
struct Artifacts {
    executable: Option<PathBuf>,
    /// How many parts were there before.
    reused: usize,
}

impl Artifacts {
    fn read(messages: &[u8], binary: &str) -> Self {
        let mut artifacts = Self::default();
        let lines = messages.split(|byte| *byte == b'\n');
        for message in lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok()) {
            if message["target"]["name"] == binary {
                artifacts.executable =
                    message["executable"].as_str().map(PathBuf::from).or(artifacts.executable);
            }
            artifacts.reused += usize::from(message["fresh"] == true);
        }
        artifacts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_clean_when_nothing_was_reused() {
        let check = |first_fresh: bool, reused| {
            let messages = format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"libc"}},"executable":null,"fresh":{first_fresh}}}
not json
{{"reason":"compiler-artifact","target":{{"name":"thv"}},"executable":"/t/thv","fresh":false}}
{{"reason":"build-finished","success":true}}"#
            );
            let expect = Artifacts { executable: Some("/t/thv".into()), reused };
            assert_eq!(Artifacts::read(messages.as_bytes(), "thv"), expect);
        };
        check(false, 0);
        check(true, 1);
        assert_eq!(Artifacts::read(b"", "thv").executable, None);
    }
}
