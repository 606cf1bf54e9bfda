//! Does the time of a check tell anything of the key? Measured as dudect does ("dude, is my code constant time?",
//! Reparaz, Balasch and Verbauwhede, 2017): two classes of input in random order, each call timed by itself, and
//! Welch's t-test over all samples and over those below each of a hundred percentiles. `cargo xtask bench timing` runs
//! it on one core and judges it; alone: `cargo bench -p thv-keygen --bench timing`.
//!
//! The first measurement is the control: a comparison that leaves at the first difference. A machine on which that
//! does not show has measured nothing.

use std::hint::black_box;
use std::io;
use std::time::{Duration, SystemTime};

use dudect_bencher::ctbench::{BenchFn, BenchMetadata, BenchName, BenchOpts, run_benches_console};
use dudect_bencher::rand::{Rng, RngExt};
use dudect_bencher::{BenchRng, Class, CtRunner};
use thv_keygen::{KeySet, LiveKey, Name, SharedKey};

/// Samples of both classes together.
const SAMPLES: usize = 500_000;

/// Calls before the first that counts.
const WARM_UP: usize = 20_000;

type Raw = [u8; 32];

fn random(rng: &mut BenchRng) -> Raw {
    let mut raw = [0; 32];
    rng.fill_bytes(&mut raw);
    raw
}

/// The key with one byte of it changed.
fn with_other(mut key: Raw, at: usize, rng: &mut BenchRng) -> Raw {
    key[at] ^= rng.random_range(1..=255_u8);
    key
}

/// Left: wrong in the first byte. Right: wrong in the last byte.
fn first_or_last(key: Raw, class: Class, rng: &mut BenchRng) -> Raw {
    match class {
        Class::Left => with_other(key, 0, rng),
        Class::Right => with_other(key, 31, rng),
    }
}

/// Left: the right key. Right: any other.
fn right_or_wrong(key: Raw, class: Class, rng: &mut BenchRng) -> Raw {
    match class {
        Class::Left => key,
        Class::Right => random(rng),
    }
}

/// As it is on a busy day: the current key, an earlier one in its grace period, a client's.
fn live_set(key: Raw, rng: &mut BenchRng, now: SystemTime) -> KeySet {
    let later = now + Duration::from_secs(3_600);
    let client = Name::parse("cursor").ok();
    KeySet::new(vec![
        LiveKey::new(SharedKey::from_bytes(key), None, None),
        LiveKey::new(SharedKey::from_bytes(random(rng)), None, Some(later)),
        LiveKey::new(SharedKey::from_bytes(random(rng)), client, None),
    ])
}

/// Times `call` with inputs that `input` makes for each class, all of them at one place in memory.
fn measure<I, T>(
    runner: &mut CtRunner,
    rng: &mut BenchRng,
    input: impl Fn(Class, &mut BenchRng) -> I,
    call: impl Fn(&I) -> T,
) {
    let mut draw = || {
        let class = if rng.random::<bool>() { Class::Left } else { Class::Right };
        (class, input(class, rng))
    };
    let inputs: Vec<(Class, I)> = (0..WARM_UP + SAMPLES).map(|_| draw()).collect();
    let mut slot = None;
    for (n, (class, input)) in inputs.into_iter().enumerate() {
        let input = black_box(&*slot.insert(input));
        if n < WARM_UP {
            black_box(call(input));
        } else {
            runner.run_one(class, || call(input));
        }
    }
}

fn control(runner: &mut CtRunner, rng: &mut BenchRng) {
    let key = random(rng);
    let early_exit = |presented: &Raw| {
        for (a, b) in key.iter().zip(presented) {
            if black_box(a) != black_box(b) {
                return false;
            }
        }
        true
    };
    measure(runner, rng, |class, rng| first_or_last(key, class, rng), early_exit);
}

fn check(runner: &mut CtRunner, rng: &mut BenchRng, input: fn(Raw, Class, &mut BenchRng) -> Raw) {
    let (key, now) = (random(rng), SystemTime::now());
    let set = live_set(key, rng, now);
    let made = |class, rng: &mut BenchRng| SharedKey::from_bytes(input(key, class, rng));
    measure(runner, rng, made, |presented| set.check(presented, now).is_some());
}

fn check_first_or_last(runner: &mut CtRunner, rng: &mut BenchRng) {
    check(runner, rng, first_or_last);
}

fn check_right_or_wrong(runner: &mut CtRunner, rng: &mut BenchRng) {
    check(runner, rng, right_or_wrong);
}

/// The field as the front gets it: decoded, then checked.
fn field(runner: &mut CtRunner, rng: &mut BenchRng, input: fn(Raw, Class, &mut BenchRng) -> Raw) {
    let (key, now) = (random(rng), SystemTime::now());
    let set = live_set(key, rng, now);
    let made = |class, rng: &mut BenchRng| {
        let mut text = [0_u8; 44];
        text.copy_from_slice(SharedKey::from_bytes(input(key, class, rng)).expose_text().as_bytes());
        text
    };
    measure(runner, rng, made, |text| {
        SharedKey::parse(text).is_ok_and(|presented| set.check(&presented, now).is_some())
    });
}

fn field_first_or_last(runner: &mut CtRunner, rng: &mut BenchRng) {
    field(runner, rng, first_or_last);
}

fn field_right_or_wrong(runner: &mut CtRunner, rng: &mut BenchRng) {
    field(runner, rng, right_or_wrong);
}

fn main() -> io::Result<()> {
    let benches: [(&'static str, BenchFn); 5] = [
        ("a_control", control),
        ("check_first_or_last", check_first_or_last),
        ("check_right_or_wrong", check_right_or_wrong),
        ("field_first_or_last", field_first_or_last),
        ("field_right_or_wrong", field_right_or_wrong),
    ];
    let benches = benches
        .into_iter()
        .map(|(name, benchfn)| BenchMetadata { name: BenchName(name), seed: None, benchfn })
        .collect();
    run_benches_console(BenchOpts::default(), benches)
}
