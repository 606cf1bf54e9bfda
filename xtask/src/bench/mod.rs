//! `cargo xtask bench`: what the lock costs. The release build of the command and the bundled server are measured in
//! one run, side by side: the server alone, over HTTP with the key, and through the bridge.

mod build;
mod client;
mod machine;
mod measure;
mod message;
mod report;
mod stats;

use crate::steps::Steps;
use thv_e2e::{Exit, Home, Result, ensure};

/// The workload that is measured.
const NAME: &str = "bench";

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Puts the figures into the document about performance.
    write: bool,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Option<Self> {
        match args {
            [] => Some(Self { write: false }),
            ["--write"] => Some(Self { write: true }),
            _ => None,
        }
    }
}

pub(crate) fn run(steps: &mut Steps, options: &Options) -> Result {
    let built = build::release(steps)?;
    let binary_bytes = std::fs::metadata(&built.thv)?.len();

    let idle_before = machine::wait_until_idle();
    let home = Home::with_binary(built.thv.clone())?;
    let figures = steps.step("measure", "cargo xtask bench", || {
        let supervisor =
            home.run(["--name", NAME, "--shared-key-auth", "--", &*built.server.to_string_lossy()])?;
        let figures = measure::all(&home, &supervisor, &built.server).map_err(|failure| {
            failure.during(format_args!("the supervisor said {:?}", supervisor.stderr()))
        })?;
        let exit = supervisor.stop()?;
        ensure!(exit == Exit::Code(0), "the supervisor ended with {exit:?}");
        Ok(figures)
    });
    // The home ends in any case, and the first failure is the one to tell.
    let closed = home.close();
    let figures = figures?;
    closed?;

    let text = report::Report {
        machine: machine::describe(),
        idle: idle_before.zip(machine::idle_share()),
        figures,
        binary_bytes,
        clean_build: built.clean_build,
    }
    .to_string();
    println!("\n{text}");
    if options.write { report::write(&text) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let cases: &[(&[&str], Option<bool>)] = &[
            (&[], Some(false)),
            (&["--write"], Some(true)),
            (&["--write", "--write"], None),
            (&["write"], None),
        ];
        for (args, write) in cases {
            assert_eq!(Options::parse(args), write.map(|write| Options { write }), "{args:?}");
        }
    }
}
