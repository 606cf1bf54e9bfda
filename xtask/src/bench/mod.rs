//! `cargo xtask bench`: what the lock costs. The release build of the command and the bundled server are measured in
//! one run, side by side: the server alone, over HTTP with the key, and through the bridge.

mod build;
mod client;
mod machine;
mod measure;
mod message;
mod report;
mod stats;
mod timing;

use crate::steps::Steps;
use thv_e2e::{Desktop, Exit, Home, Result, ensure};

/// The workload that is measured.
const NAME: &str = "bench";

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Puts the figures into the document about performance.
    write: bool,
    /// Measures nothing but whether the time of a key check tells of the key.
    timing_alone: bool,
}

impl Options {
    pub(crate) fn parse(args: &[&str]) -> Option<Self> {
        match args {
            [] => Some(Self::default()),
            ["--write"] => Some(Self { write: true, ..Self::default() }),
            ["timing"] => Some(Self { timing_alone: true, ..Self::default() }),
            _ => None,
        }
    }
}

pub(crate) fn run(steps: &mut Steps, options: &Options) -> Result {
    if options.timing_alone {
        let timing = timing::measure(steps)?;
        println!("\n{timing}");
        return Ok(());
    }
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
    let mut figures = figures?;
    closed?;
    if Desktop::missing().is_empty() {
        let desktop = Desktop::unlocked()?;
        desktop.around(|| {
            let home = Home::with_binary(built.thv.clone())?;
            let keychain = steps.step("measure with a keychain", "cargo xtask bench", || {
                let supervisor =
                    home.run(["--name", NAME, "--shared-key-auth", "--", &*built.server.to_string_lossy()])?;
                let keychain = measure::keychain(&home)?;
                let exit = supervisor.stop()?;
                ensure!(exit == Exit::Code(0), "the supervisor ended with {exit:?}");
                home.thv(["rm", NAME]).output()?.expect(0)?;
                Ok(keychain)
            });
            let closed = home.close();
            figures.keychain = keychain?;
            closed
        })?;
    }
    let timing = timing::measure(steps)?;

    let text = report::Report {
        machine: machine::describe(),
        idle: idle_before.zip(machine::idle_share()),
        figures,
        timing,
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
        let options = |write, timing_alone| Some(Options { write, timing_alone });
        let cases: &[(&[&str], Option<Options>)] = &[
            (&[], options(false, false)),
            (&["--write"], options(true, false)),
            (&["timing"], options(false, true)),
            (&["timing", "--write"], None),
            (&["--write", "--write"], None),
            (&["write"], None),
        ];
        for (args, expect) in cases {
            assert_eq!(Options::parse(args), *expect, "{args:?}");
        }
    }
}
