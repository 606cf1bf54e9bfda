//! `cargo xtask test`: everything that must hold before a change is handed over, the quick checks first.

use crate::cargo::cargo;
use crate::steps::Steps;
use crate::{docs, e2e, lint};
use thv_e2e::Result;

pub(crate) fn run(steps: &mut Steps) -> Result {
    let term = steps.term();
    steps.run("format", &mut cargo(["fmt", "--all", "--check"]))?;
    steps.step("lint", "cargo xtask lint", || lint::run(term))?;
    steps.run("clippy", &mut cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    steps.run("docs", cargo(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    docs::run(steps, &docs::Options { check: true })?;
    steps.run("unit and integration tests", &mut cargo(["test", "--workspace", "--exclude", "thv-e2e"]))?;
    e2e::run(steps, &e2e::Options::default())
}
