//! Whether the time of a key check tells anything of the key: runs the dudect measurements of `thv-keygen` and judges
//! them. A largest |t| of 4.5 or more is a difference in time that can be measured; the control, which leaks, must show
//! more than 10, or nothing was measured.

use super::build;
use super::stats::{thousands, three_digits};
use crate::steps::Steps;
use std::fmt::{self, Display, Formatter};
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use thv_e2e::{Failure, Result, ensure};

/// From here on a difference counts as seen.
const LIMIT: f64 = 4.5;

/// What the control must show at least.
const CONTROL: f64 = 10.0;

/// How often it is measured at most. Whatever else runs on the machine can look like a difference; one that is there
/// is seen each time.
const RUNS: usize = 3;

/// How long one run may take; it takes a few seconds.
const BOUND: Duration = Duration::from_secs(60);

/// The measurements, by the names that the program gives them.
const MEASUREMENTS: [(&str, &str); 5] = [
    ("a_control", "control, which leaks: bytes compared one by one, up to the first difference"),
    ("check_first_or_last", "key set of three: wrong in the first byte, or in the last"),
    ("check_right_or_wrong", "key set of three: the right key, or any other"),
    ("field_first_or_last", "field decoded and checked: wrong in the first byte, or in the last"),
    ("field_right_or_wrong", "field decoded and checked: the right key, or any other"),
];

/// One run that was judged.
#[derive(Debug, PartialEq)]
pub(super) struct Timing {
    figures: [Figure; MEASUREMENTS.len()],
    /// Which run it was, counted from 1.
    run: usize,
    /// The core on which it ran, if it was kept on one.
    core: Option<usize>,
}

/// What one measurement showed.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figure {
    /// The t of largest size.
    t: f64,
    /// Samples in the test that showed it: all, or those below a percentile.
    samples: f64,
}

impl Timing {
    /// The largest |t| of what must not leak; says nothing of a measurement without a t, which [`met`](Self::met) does.
    pub(super) fn largest(&self) -> f64 {
        self.figures[1..].iter().map(|figure| figure.t.abs()).fold(0.0, f64::max)
    }

    /// Whether something was measured at all.
    fn counts(&self) -> bool {
        self.figures[0].t.abs() > CONTROL
    }

    pub(super) fn met(&self) -> bool {
        self.counts() && self.figures[1..].iter().all(|figure| figure.t.abs() < LIMIT)
    }
}

impl Display for Timing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            Some(core) => format!("on core {core} alone"),
            None => "not kept on one core".to_owned(),
        };
        let run = self.run;
        writeln!(
            f,
            "| two classes of keys in random order, {core}, run {run} of at most {RUNS} | largest t | samples |"
        )?;
        writeln!(f, "|---|---|---|")?;
        for ((_, what), Figure { t, samples }) in MEASUREMENTS.iter().zip(&self.figures) {
            writeln!(f, "| {what} | {} | {} |", three_digits(t.abs()), thousands(*samples))?;
        }
        Ok(())
    }
}

/// Builds the program, runs it, and judges what it says; a run that fails is repeated, within [`RUNS`].
pub(super) fn measure(steps: &mut Steps) -> Result<Timing> {
    let program = build::bench(steps, "thv-keygen", "timing")?;
    steps.step("timing", "cargo xtask bench timing", || {
        let core = last_core();
        for run in 1..=RUNS {
            let figures = read(&once(&program, core)?)?;
            let timing = Timing { figures, run, core };
            if timing.met() {
                return Ok(timing);
            }
            println!("{timing}");
            let why = if timing.counts() { "a difference in time was seen" } else { "the control did not leak" };
            println!("run {run} of at most {RUNS}: {why}");
        }
        Err(Failure::new(format!(
            "in {RUNS} runs of {RUNS} the control stayed at {CONTROL} or below, or something else reached {LIMIT}: \
             stop what else runs on this machine and try again; if it stays, the time of a check tells of the key"
        )))
    })
}

/// One run of the program, on one core where that can be had.
fn once(program: &Path, core: Option<usize>) -> Result<String> {
    let mut command = match core {
        Some(core) => {
            let mut taskset = Command::new("taskset");
            taskset.arg("--cpu-list").arg(core.to_string()).arg(program);
            taskset
        }
        None => Command::new(program),
    };
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let end = Instant::now() + BOUND;
    // What it prints fits into the pipe many times over.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Err(Failure::new(format!("not done after {} s", BOUND.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut said = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut said)?;
    }
    ensure!(status.success(), "{status}: {said}");
    Ok(said)
}

/// The last core that this process may use, if there is the program that keeps another one on it. The first core
/// tends to be the one that answers interrupts.
fn last_core() -> Option<usize> {
    let there = Command::new("taskset").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    there.ok().filter(std::process::ExitStatus::success)?;
    last_allowed(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn last_allowed(status: &str) -> Option<usize> {
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    list.trim().rsplit([',', '-']).next()?.parse().ok()
}

/// The figures in what the program said.
fn read(said: &str) -> Result<[Figure; MEASUREMENTS.len()]> {
    let mut figures = [Figure { t: f64::NAN, samples: 0.0 }; MEASUREMENTS.len()];
    for ((name, _), place) in MEASUREMENTS.iter().zip(&mut figures) {
        *place = said
            .lines()
            .find_map(|line| figure(line, name))
            .ok_or_else(|| Failure::new(format!("no figures of {name} in what was measured: {said}")))?;
    }
    Ok(figures)
}

/// Reads `bench NAME ... : n == +0.500M, max t = +1.23456, max tau = …`.
fn figure(line: &str, name: &str) -> Option<Figure> {
    let rest = line.strip_prefix("bench ")?.strip_prefix(name)?.trim_start().strip_prefix("... : n == ")?;
    let (millions, rest) = rest.split_once("M, max t = ")?;
    let t: f64 = rest.split(',').next()?.parse().ok()?;
    let millions: f64 = millions.parse().ok()?;
    Some(Figure { t, samples: millions * 1e6 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(ts: [f64; MEASUREMENTS.len()]) -> Timing {
        Timing { figures: ts.map(|t| Figure { t, samples: 5e5 }), run: 1, core: Some(1) }
    }

    #[test]
    fn a_run_counts_with_a_control_that_leaks_and_passes_when_nothing_else_does() {
        for (ts, counts, met) in [
            ([-700.0, 1.0, -2.0, 4.49, -4.49], true, true),
            ([-700.0, 1.0, -2.0, 4.5, 0.0], true, false),
            ([-700.0, 1.0, -4.5, 0.0, 0.0], true, false),
            ([10.0, 1.0, 1.0, 1.0, 1.0], false, false),
            ([f64::NAN, 1.0, 1.0, 1.0, 1.0], false, false),
            ([-700.0, f64::NAN, 1.0, 1.0, 1.0], true, false),
        ] {
            assert_eq!((timing(ts).counts(), timing(ts).met()), (counts, met), "{ts:?}");
        }
        assert!((timing([99.0, 1.0, -3.0, 2.0, 0.0]).largest() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn figures_are_read_by_their_names() {
        let mut said = String::from("\nrunning 5 benches\nbench a_control seeded with 0x4e\n");
        for (n, (name, _)) in MEASUREMENTS.iter().enumerate() {
            let t = if n == 0 { "-693.45546".to_owned() } else { format!("+{n}.5") };
            said += &format!("bench {name:<20} seeded with 0x01\n");
            said += &format!(
                "bench {name:<20} ... : n == +0.295M, max t = {t}, max tau = -1.2, (5/tau)^2 = 15\n"
            );
        }
        let figures = read(&said).unwrap();
        assert_eq!(figures.map(|figure| figure.t), [-693.45546, 1.5, 2.5, 3.5, 4.5]);
        assert!((figures[0].samples - 295_000.0).abs() < 1.0);
        assert!(read(&said.replace("field_first", "field_second")).is_err());
        assert!(read(&said.replace("+1.5", "?")).is_err());
        let nothing = read(&said.replace("+1.5", "NaN")).unwrap();
        assert!(nothing[1].t.is_nan());
    }

    #[test]
    fn the_last_core_is_found_in_lists_and_ranges() {
        for (list, last) in [("0-1", Some(1)), ("0", Some(0)), ("0,2-5,7", Some(7)), ("", None)] {
            assert_eq!(last_allowed(&format!("Name:\tx\nCpus_allowed_list:\t{list}\n")), last, "{list}");
        }
    }

    #[test]
    fn the_program_has_each_of_the_measurements() {
        let source = crate::cargo::root().join("crates/keygen/benches/timing.rs");
        let source = std::fs::read_to_string(source).unwrap();
        for (name, _) in MEASUREMENTS {
            assert!(source.contains(&format!("(\"{name}\", ")), "{name}");
        }
    }

    #[test]
    fn the_table_says_how_it_was_measured() {
        let table = timing([-700.0, 1.25, -2.0, 0.5, 4.0]).to_string();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(
            lines[0],
            "| two classes of keys in random order, on core 1 alone, run 1 of at most 3 | largest t | samples |"
        );
        assert!(
            lines[2].ends_with("| 700 | 500,000 |") && lines[3].ends_with("| 1.25 | 500,000 |"),
            "{table}"
        );
        assert_eq!(lines.len(), 2 + MEASUREMENTS.len());
    }
}
