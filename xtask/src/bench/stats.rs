//! Samples and what is said of them.

use std::time::Duration;

/// The samples of one quantity, at least one, in ascending order.
#[derive(Clone, Debug)]
pub(super) struct Spread(Vec<Duration>);

impl Spread {
    /// `None` when there are no samples.
    pub(super) fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        (!samples.is_empty()).then_some(Self(samples))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that at least `percent` of a hundred do not exceed (nearest rank).
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent.min(100)).div_ceil(100).max(1);
        self.0[rank - 1]
    }

    pub(super) fn median(&self) -> Duration {
        self.percentile(50)
    }
}

/// Events a second.
pub(super) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// A number with three significant digits, more before the point if it has more.
pub(super) fn three_digits(value: f64) -> String {
    let decimals = match value {
        value if value >= 99.95 => 0,
        value if value >= 9.995 => 1,
        value if value >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// A whole number with its thousands set apart.
pub(super) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in milliseconds, without the unit.
pub(super) fn millis(time: Duration) -> String {
    three_digits(time.as_secs_f64() * 1e3)
}

/// A size in megabytes of a million bytes, without the unit.
pub(super) fn megabytes(bytes: u64) -> String {
    three_digits(bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let check = |samples: &[u64], percent, expect| {
            let spread = Spread::of(samples.iter().copied().map(Duration::from_millis).collect()).unwrap();
            assert_eq!(spread.percentile(percent), Duration::from_millis(expect), "{percent} of {samples:?}");
        };
        check(&[5], 0, 5);
        check(&[5], 50, 5);
        check(&[5], 100, 5);
        check(&[2, 1], 50, 1);
        check(&[2, 1], 51, 2);
        check(&[50, 15, 35, 20, 40], 30, 20);
        check(&[50, 15, 35, 20, 40], 40, 20);
        check(&[50, 15, 35, 20, 40], 50, 35);
        check(&[50, 15, 35, 20, 40], 95, 50);
        check(&[50, 15, 35, 20, 40], 100, 50);
        let hundred: Vec<_> = (1..=100).rev().collect();
        check(&hundred, 50, 50);
        check(&hundred, 95, 95);
        check(&hundred, 99, 99);
        check(&hundred, 1000, 100);
        assert!(Spread::of(Vec::new()).is_none());
    }

    #[test]
    fn rates() {
        assert_eq!(thousands(rate(10_000, Duration::from_millis(500))), "20,000");
        assert_eq!(thousands(rate(1, Duration::from_secs(4))), "0");
    }

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in [
            (0.012_34, "0.012"),
            (0.999_6, "1.00"),
            (3.614, "3.61"),
            (9.996, "10.0"),
            (99.96, "100"),
            (1326.4, "1326"),
        ] {
            assert_eq!(three_digits(value), text);
        }
        assert_eq!(millis(Duration::from_micros(3_614)), "3.61");
        assert_eq!(megabytes(6_123_456), "6.12");
    }

    #[test]
    fn thousands_are_set_apart() {
        for (value, text) in
            [(0.4, "0"), (398.0, "398"), (1_000.0, "1,000"), (9_968.4, "9,968"), (1e6, "1,000,000")]
        {
            assert_eq!(thousands(value), text);
        }
    }
}
