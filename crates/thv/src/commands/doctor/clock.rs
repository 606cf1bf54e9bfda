//! The clock: is it where it was when everything here was written?

use std::time::{Duration, SystemTime};

use thv_workload::status::timestamp;

use super::Finding;

/// What clocks of one machine, or of the machine that serves its files, may differ by.
const TOLERANCE: Duration = Duration::from_secs(60);

/// No clock that is right shows a time before this program was written: 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// The latest moment that was seen, and where.
#[derive(Default)]
pub(super) struct Latest(Option<(SystemTime, String)>);

impl Latest {
    /// Something is from this moment.
    pub(super) fn see(&mut self, at: SystemTime, what: impl FnOnce() -> String) {
        if self.0.as_ref().is_none_or(|(latest, _)| at > *latest) {
            self.0 = Some((at, what()));
        }
    }

    /// As [`see`](Self::see), for a moment as text (RFC 3339); one that cannot be read is passed over.
    pub(super) fn read(&mut self, at: &str, what: impl FnOnce() -> String) {
        if let Ok(at) = humantime::parse_rfc3339(at) {
            self.see(at, what);
        }
    }

    /// What it says of the clock.
    pub(super) fn look(self, now: SystemTime) -> Finding<'static> {
        let mend = if cfg!(target_os = "linux") {
            "timedatectl set-ntp true, or set it by hand: date --set"
        } else if cfg!(windows) {
            "w32tm /resync"
        } else {
            "sudo sntp -sS time.apple.com, or set it in the settings of the system"
        };
        let clock = format!("the clock says {}", timestamp(now));
        let early = now < SystemTime::UNIX_EPOCH + EPOCH;
        match self.0 {
            Some((at, what)) if at > now + TOLERANCE => {
                Finding::problem("clock", format!("{clock}, and {what} is from {}", timestamp(at)))
                    .why("a clock that was set back lets keys that are to end live on")
                    .mend(mend)
            }
            _ if early => Finding::problem("clock", format!("{clock}, which is long ago"))
                .why("keys that are made now look old when the clock is right again, and end early")
                .mend(mend),
            _ => Finding::fine("clock", format!("{clock}, and nothing here is from a later time")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    fn at(text: &str) -> SystemTime {
        humantime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn the_latest_of_all_counts() {
        let mut latest = Latest::default();
        for (text, what) in [
            ("2026-03-01T00:00:00Z", "a"),
            ("2026-03-03T00:00:00Z", "b"),
            ("2026-03-02T00:00:00Z", "c"),
            ("never", "d"),
        ] {
            latest.read(text, || what.to_owned());
        }
        let row = latest.look(at("2026-03-02T23:00:00Z")).row;
        assert_eq!((row.check, row.weight), ("clock", Weight::Problem));
        assert_eq!(row.what, "the clock says 2026-03-02T23:00:00Z, and b is from 2026-03-03T00:00:00Z");
        assert!(!row.why.is_empty() && !row.mend.is_empty());
    }

    #[test]
    fn a_clock_is_right_until_something_says_otherwise() {
        let seen = |text: &str| {
            let mut latest = Latest::default();
            latest.read(text, || "x".to_owned());
            latest
        };
        let now = at("2026-03-02T00:00:00Z");
        for latest in [Latest::default(), seen("2026-03-01T00:00:00Z"), seen("2026-03-02T00:00:30Z")] {
            assert_eq!(latest.look(now).row.weight, Weight::Fine);
        }
        let row = Latest::default().look(at("1970-01-01T00:10:00Z")).row;
        assert!(row.weight == Weight::Problem && row.what.contains("long ago"));
    }
}
