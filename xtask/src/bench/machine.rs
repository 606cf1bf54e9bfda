//! What the machine says of itself and of the processes on it.

use crate::cargo::root;
use std::fmt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the machine is watched to see how busy it is.
const WATCH: Duration = Duration::from_secs(1);

/// How long others may keep the machine busy before the run goes on in spite of them.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The idle share from which on a machine counts as idle.
const IDLE: f64 = 0.95;

/// Where and when figures were taken.
pub(super) struct Machine {
    date: String,
    cores: usize,
    processor: String,
    system: String,
    commit: String,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, cores, processor, system, commit } = self;
        write!(f, "{date}, {cores} cores ({processor}), {system}, commit {commit}")
    }
}

pub(super) fn describe() -> Machine {
    let unknown = || "unknown".to_owned();
    let commit = answer("git", &["rev-parse", "--short", "HEAD"]);
    // The figures themselves are no change of what is measured.
    let changes = answer("git", &["status", "--porcelain", "--", ".", ":!docs/performance.md"]);
    let changed = if changes.is_some() { " with changes" } else { "" };
    Machine {
        date: answer("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        processor: processor().unwrap_or_else(unknown),
        system: answer("uname", &["-sr"]).unwrap_or_else(unknown),
        commit: commit.map_or_else(unknown, |commit| format!("{commit}{changed}")),
    }
}

fn processor() -> Option<String> {
    match std::fs::read_to_string("/proc/cpuinfo") {
        Ok(text) => model_name(&text),
        Err(_) => answer("sysctl", &["-n", "machdep.cpu.brand_string"]),
    }
}

fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What a program prints, if it succeeds and prints anything.
fn answer(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).current_dir(root()).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// Waits for others on the machine to be done, within [`PATIENCE`]; returns the idle share that was last seen.
pub(super) fn wait_until_idle() -> Option<f64> {
    let end = Instant::now() + PATIENCE;
    loop {
        let share = idle_share()?;
        if share >= IDLE || Instant::now() >= end {
            return Some(share);
        }
    }
}

/// The share of all cores' time that nobody used, watched for a second; only Linux tells.
pub(super) fn idle_share() -> Option<f64> {
    let before = Clock::now()?;
    std::thread::sleep(WATCH);
    Clock::now()?.idle_since(&before)
}

/// How much time all cores together have spent since boot, in ticks.
#[derive(Debug, PartialEq, Eq)]
struct Clock {
    idle: u64,
    all: u64,
}

impl Clock {
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        let ticks: Option<Vec<u64>> = stat
            .lines()
            .next()?
            .strip_prefix("cpu ")?
            .split_whitespace()
            .map(|word| word.parse().ok())
            .collect();
        // user nice system idle iowait irq softirq steal; what follows is counted in user already.
        let ticks = ticks?;
        let all = ticks.get(..8)?.iter().sum();
        Some(Self { idle: ticks[3] + ticks[4], all })
    }

    fn idle_since(&self, before: &Self) -> Option<f64> {
        let idle = u32::try_from(self.idle.checked_sub(before.idle)?).ok()?;
        let all = u32::try_from(self.all.checked_sub(before.all)?).ok()?;
        (all > 0).then(|| f64::from(idle) / f64::from(all))
    }
}

/// The memory of a process in bytes, each shared page counted in parts (PSS). Only Linux tells; of a process that is
/// not dumpable, root alone learns it.
pub(super) fn memory(pid: u32) -> Option<u64> {
    pss(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_and_memory_are_found_in_their_files() {
        let cpuinfo =
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC\nprocessor\t: 1\nmodel name\t: no\n";
        assert_eq!(model_name(cpuinfo).as_deref(), Some("AMD EPYC"));
        assert_eq!(model_name("processor: 0\n"), None);
        let rollup = "55-7f ---p 0 00:00 0 [rollup]\nRss:    1760 kB\nPss:     246 kB\nPss_Dirty:  112 kB\n";
        assert_eq!(pss(rollup), Some(246 * 1024));
        assert_eq!(pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn the_idle_share_lies_between_two_looks() {
        let before = Clock::parse("cpu  10 0 10 70 10 0 0 0 5 0\ncpu0 1 1 1 1 1 1 1 1\n").unwrap();
        assert_eq!(before, Clock { idle: 80, all: 100 });
        let after = Clock::parse("cpu  30 5 20 130 15 0 0 0 25 0\n").unwrap();
        assert_eq!(after.idle_since(&before), Some(0.65));
        assert_eq!(before.idle_since(&before), None);
        assert_eq!(before.idle_since(&after), None);
        for bad in ["", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 3", "cpu  1 2 x 4 5 6 7 8"] {
            assert_eq!(Clock::parse(bad), None, "{bad}");
        }
    }
}
