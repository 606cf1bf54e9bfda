//! The figures as text, held against what the product promises, and their place in the document.

use super::machine::Machine;
use super::measure::{Figures, IN_FLIGHT, Memory, WORKLOADS, Way};
use super::stats::{Spread, megabytes, millis, thousands, three_digits};
use super::timing::Timing;
use crate::cargo::root;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::Write;
use std::time::Duration;
use thv_e2e::{Failure, Result};

/// The document, from the root.
const DOCUMENT: &str = "docs/performance.md";
const BEGIN: &str = "<!-- begin of figures: `cargo xtask bench --write` writes them -->\n";
const END: &str = "<!-- end of figures -->\n";

/// What is not known, or does not apply.
const NOTHING: &str = "–";

pub(super) struct Report {
    pub(super) machine: Machine,
    /// The share of the machine's time that nobody used, before and after.
    pub(super) idle: Option<(f64, f64)>,
    pub(super) figures: Figures,
    pub(super) timing: Timing,
    pub(super) binary_bytes: u64,
    pub(super) clean_build: Option<Duration>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "`cargo xtask bench`: {}", self.machine)?;
        if let Some((before, after)) = self.idle {
            write!(f, ", {:.0} % idle before and {:.0} % after", before * 100.0, after * 100.0)?;
        }
        writeln!(f, ".\n")?;
        let Figures { direct, http, bridge, keychain, .. } = &self.figures;
        ways(f, direct, &[direct, http, bridge, keychain])?;
        writeln!(f)?;
        self.others(f)?;
        writeln!(f, "\n{}", self.timing)?;
        self.budgets(f)
    }
}

/// The ways, each with its ratio to `base`.
fn ways(f: &mut Formatter<'_>, base: &Way, ways: &[&Way]) -> fmt::Result {
    let count = |spread: Option<&Spread>| spread.map_or(0, Spread::count);
    writeln!(
        f,
        "| | start to first answer, p50 / p95 (n = {}) | round trip, p50 / p95 / p99 (n = {}) \
         | {IN_FLIGHT} in flight | memory, idle → after load |",
        count(base.start.as_ref()),
        count(base.round_trip.as_ref()),
    )?;
    writeln!(f, "|---|---|---|---|---|")?;
    for way in ways {
        let start = spread(way.start.as_ref(), base.start.as_ref(), &[50, 95]);
        let round_trip = spread(way.round_trip.as_ref(), base.round_trip.as_ref(), &[50, 95, 99]);
        let calls = way.calls_per_second.map_or_else(
            || NOTHING.to_owned(),
            |rate| format!("{}/s{}", thousands(rate), ratio(Some(rate), base.calls_per_second)),
        );
        writeln!(f, "| {} | {start} | {round_trip} | {calls} | {} |", way.name, memory(way.memory))?;
    }
    Ok(())
}

/// The percentiles, with the ratio of the median to that of `base`, and the number of samples where it is another.
fn spread(spread: Option<&Spread>, base: Option<&Spread>, percents: &[usize]) -> String {
    let Some(spread) = spread else { return NOTHING.to_owned() };
    let times: Vec<_> = percents.iter().map(|percent| millis(spread.percentile(*percent))).collect();
    let seconds = |spread: &Spread| spread.median().as_secs_f64();
    let ratio = ratio(Some(seconds(spread)), base.map(seconds));
    let samples = base.filter(|base| base.count() != spread.count());
    let samples = samples.map_or_else(String::new, |_| format!(" (n = {})", spread.count()));
    format!("{} ms{ratio}{samples}", times.join(" / "))
}

/// How many times `base` the value is; nothing for the base itself.
fn ratio(value: Option<f64>, base: Option<f64>) -> String {
    match value.zip(base) {
        Some((value, base)) if base > 0.0 && (value - base).abs() > f64::EPSILON => {
            format!(" (× {})", three_digits(value / base))
        }
        _ => String::new(),
    }
}

fn memory(memory: Option<Memory>) -> String {
    memory.map_or_else(
        || NOTHING.to_owned(),
        |memory| format!("{} → {} MB", megabytes(memory.idle), megabytes(memory.after_load)),
    )
}

impl Report {
    fn others(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Figures { supervisor, guardian, list, .. } = &self.figures;
        writeln!(f, "| | |\n|---|---|")?;
        writeln!(
            f,
            "| memory of the supervisor, no session yet → after load, two sessions | {} |",
            memory(*supervisor)
        )?;
        writeln!(f, "| memory of a server's guardian, idle → after load | {} |", memory(*guardian))?;
        writeln!(
            f,
            "| `thv list --all` with {WORKLOADS} workloads, p50 / p95 | {} |",
            spread(list.as_ref(), None, &[50, 95])
        )?;
        writeln!(f, "| size of the program `thv` | {} MB |", megabytes(self.binary_bytes))?;
        writeln!(
            f,
            "| release build of it from nothing | {} |",
            self.clean_build.map_or(NOTHING.into(), whole_seconds)
        )
    }

    fn budgets(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "| budget | measured | |\n|---|---|---|")?;
        for Budget { what, measured } in self.all_budgets() {
            match measured {
                Some(Measured { value, met }) => {
                    writeln!(f, "| {what} | {value} | {} |", if met { "met" } else { "**not met**" })?;
                }
                None => writeln!(f, "| {what} | {NOTHING} | not yet measured |")?,
            }
        }
        Ok(())
    }

    /// The product's budgets, on two cores, with everything switched on.
    fn all_budgets(&self) -> Vec<Budget> {
        let Figures { http, bridge, supervisor, list, .. } = &self.figures;
        let time = |spread: Option<&Spread>, limit| {
            let median = spread?.median();
            Some(Measured {
                value: format!("{} ms", millis(median)),
                met: median <= Duration::from_millis(limit),
            })
        };
        let size =
            |bytes: u64, limit| Measured { value: format!("{} MB", megabytes(bytes)), met: bytes <= limit };
        let idle = |memory: Option<Memory>| memory.map(|memory| size(memory.idle, 6_000_000));
        let over_http = bridge.round_trip.as_ref().zip(http.round_trip.as_ref()).map(|(bridge, http)| {
            let ratio = bridge.median().as_secs_f64() / http.median().as_secs_f64();
            Measured { value: format!("× {}", three_digits(ratio)), met: ratio <= 1.5 }
        });
        let build = self
            .clean_build
            .map(|took| Measured { value: whole_seconds(took), met: took <= Duration::from_secs(4 * 60) });
        let timing = Measured { value: three_digits(self.timing.largest()), met: self.timing.met() };
        let budget = |what, measured| Budget { what, measured };
        vec![
            budget("bridge, start to first answer, encrypted file: ≤ 12 ms", time(bridge.start.as_ref(), 12)),
            budget("the same, against the fastest peer: 50 times faster", None),
            budget(
                "the same, with gnome-keyring behind it: ≤ 30 ms",
                time(self.figures.keychain.start.as_ref(), 30),
            ),
            budget("bridge, round trip p50, against HTTP with the key: ≤ × 1.5", over_http),
            budget("the same, against the fastest peer: 10 times faster", None),
            budget("bridge, 64 in flight, against the fastest peer: ≥ × 15", None),
            budget("bridge, memory idle: ≤ 6 MB", idle(bridge.memory)),
            budget("supervisor, memory idle: ≤ 6 MB", idle(*supervisor)),
            budget("proxy throughput, one worker: ≥ nginx and ≥ haproxy with a header check", None),
            budget("key check and guards on the accept path: ≤ 300 ns, no allocation", None),
            budget("key check, what its time tells of the key: largest t < 4.5", Some(timing)),
            budget("`thv list --all` with 200 workloads: ≤ 15 ms", time(list.as_ref(), 15)),
            budget("size of the program: ≤ 12 MB", Some(size(self.binary_bytes, 12_000_000))),
            budget("release build from nothing: ≤ 4 minutes", build),
        ]
    }
}

struct Budget {
    what: &'static str,
    measured: Option<Measured>,
}

struct Measured {
    value: String,
    met: bool,
}

fn whole_seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}

/// Puts the figures into the document.
pub(super) fn write(figures: &str) -> Result {
    let path = root().join(DOCUMENT);
    let document = std::fs::read_to_string(&path)?;
    let document = replaced(&document, figures)
        .ok_or_else(|| Failure::new(format!("{DOCUMENT} has no place for figures: {BEGIN}{END}")))?;
    File::create(&path)?.write_all(document.as_bytes())?;
    println!("written to {DOCUMENT}");
    Ok(())
}

/// The document with other figures between its marks.
fn replaced(document: &str, figures: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{figures}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(name: &'static str, millis: u64, rate: f64) -> Way {
        let spread = Spread::of(vec![Duration::from_millis(millis)]);
        let memory = Some(Memory { idle: 1_000_000, after_load: 2_000_000 });
        Way { name, start: spread.clone(), round_trip: spread, calls_per_second: Some(rate), memory }
    }

    #[test]
    fn rows_have_ratios_to_the_first() {
        struct Table([Way; 3]);
        impl Display for Table {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                ways(f, &self.0[0], &self.0.each_ref())
            }
        }
        let starts = vec![Duration::from_millis(4); 2];
        let started_twice = Way { name: "three", start: Spread::of(starts), ..Way::default() };
        let table = Table([way("one", 2, 5000.0), way("two", 3, 2500.0), started_twice]).to_string();
        assert!(table.starts_with("| | start to first answer, p50 / p95 (n = 1) |"), "{table}");
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| one | 2.00 / 2.00 ms | 2.00 / 2.00 / 2.00 ms | 5,000/s | 1.00 → 2.00 MB |",
                "| two | 3.00 / 3.00 ms (× 1.50) | 3.00 / 3.00 / 3.00 ms (× 1.50) | 2,500/s (× 0.500) | 1.00 → 2.00 MB |",
                "| three | 4.00 / 4.00 ms (× 2.00) (n = 2) | – | – | – |",
            ]
        );
    }

    #[test]
    fn figures_are_replaced_between_their_marks_alone() {
        let document = format!("# Top\n\n{BEGIN}old\nfigures\n{END}\n## Below\n");
        let once = replaced(&document, "new\n").unwrap();
        assert_eq!(once, format!("# Top\n\n{BEGIN}\nnew\n\n{END}\n## Below\n"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
        assert_eq!(replaced("# Top\n", "new\n"), None);
        assert_eq!(replaced(&format!("{END}{BEGIN}"), "new\n"), None);
    }

    #[test]
    fn the_document_has_a_place_for_figures() {
        let document = std::fs::read_to_string(root().join(DOCUMENT)).unwrap();
        assert!(replaced(&document, "").is_some());
    }
}
