//! The measurements. Each is bounded in count and in time, all of them together to less than three minutes.

use super::NAME;
use super::client::{Caller, Keyed, Stdio};
use super::machine::memory;
use super::message::{self, check_called, check_initialized};
use super::stats::{Spread, rate};
use serde_json::Value;
use std::fs::{DirBuilder, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use thv_e2e::{Failure, Foreground, Home, Result, ensure};

/// Starts of each program.
const STARTS: Quota = Quota { count: 50, time: Duration::from_secs(30) };
/// Batches of calls, one call at a time.
const ROUND_TRIPS: Quota = Quota { count: 20, time: Duration::from_secs(15) };
const BATCH: usize = 100;
/// Floods of calls, many at a time.
const FLOODS: Quota = Quota { count: 5, time: Duration::from_secs(15) };
const FLOOD: usize = 2_000;
pub(super) const IN_FLIGHT: usize = 64;
/// Lists of many workloads.
const LISTS: Quota = Quota { count: 50, time: Duration::from_secs(10) };
pub(super) const WORKLOADS: usize = 200;

const KEYCHAIN: &str = "`thv proxy stdio`, key in gnome-keyring";

/// How long the server of a session that has ended may stay.
const GONE_BOUND: Duration = Duration::from_secs(5);

/// Everything that was measured.
pub(super) struct Figures {
    pub(super) direct: Way,
    pub(super) http: Way,
    pub(super) bridge: Way,
    /// A bridge whose key is in the desktop's keychain; nothing where there is none.
    pub(super) keychain: Way,
    pub(super) supervisor: Option<Memory>,
    pub(super) guardian: Option<Memory>,
    pub(super) list: Option<Spread>,
}

/// A way from a client to the server: a row of the table.
#[derive(Default)]
pub(super) struct Way {
    pub(super) name: &'static str,
    /// From the start of a process to its answer to `initialize`.
    pub(super) start: Option<Spread>,
    /// From the first byte of a call to the last of its answer, with nothing else under way.
    pub(super) round_trip: Option<Spread>,
    /// Calls a second with [`IN_FLIGHT`] of them under way.
    pub(super) calls_per_second: Option<f64>,
    /// Of the process that the client starts.
    pub(super) memory: Option<Memory>,
}

/// Bytes (PSS).
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub(super) idle: u64,
    pub(super) after_load: u64,
}

impl Memory {
    fn of(idle: Option<u64>, after_load: Option<u64>) -> Option<Self> {
        Some(Self { idle: idle?, after_load: after_load? })
    }
}

/// Measures a workload that has just come up and serves `server`.
pub(super) fn all(home: &Home, supervisor: &Foreground, server: &Path) -> Result<Figures> {
    let direct = || home.command(server);
    let bridge = || home.thv(["proxy", "stdio", NAME]).command();

    let supervisor_idle = memory(supervisor.pid());
    let [direct_starts, bridge_starts] = starts(home, [&direct, &bridge])?;

    let key = home.key(NAME)?;
    let mut direct = ready(home, direct())?;
    let mut bridge = ready(home, bridge())?;
    let guardian = guardians(home).first().copied();
    let idle = [Some(direct.pid()), Some(bridge.pid()), guardian].map(|pid| memory(pid?));

    let mut keyed = Keyed::open(supervisor.port(), &key)?;
    let [direct_trips, http_trips, bridge_trips] = round_trips([&mut direct, &mut keyed, &mut bridge])?;
    let [direct_rate, bridge_rate] = floods([&mut direct, &mut bridge])?;

    let after = [Some(direct.pid()), Some(bridge.pid()), guardian].map(|pid| memory(pid?));
    let supervisor_after = memory(supervisor.pid());
    for (client, name) in [(direct, "server"), (bridge, "bridge")] {
        let rest = client.finish()?;
        ensure!(rest.is_empty(), "the {name} had more to say: {:?}", String::from_utf8_lossy(&rest));
    }
    drop(keyed);

    Ok(Figures {
        direct: Way {
            name: "the server alone, on stdio",
            start: direct_starts,
            round_trip: direct_trips,
            calls_per_second: direct_rate,
            memory: Memory::of(idle[0], after[0]),
        },
        http: Way { name: "HTTP with the key", round_trip: http_trips, ..Way::default() },
        bridge: Way {
            name: "`thv proxy stdio`",
            start: bridge_starts,
            round_trip: bridge_trips,
            calls_per_second: bridge_rate,
            memory: Memory::of(idle[1], after[1]),
        },
        keychain: Way { name: KEYCHAIN, ..Way::default() },
        supervisor: Memory::of(supervisor_idle, supervisor_after),
        guardian: Memory::of(idle[2], after[2]),
        list: list(home)?,
    })
}

/// The same start as that of the bridge, in a home whose keys are in a real gnome-keyring.
pub(super) fn keychain(home: &Home) -> Result<Way> {
    let bridge = || home.thv(["proxy", "stdio", NAME]).command();
    let [start] = starts(home, [&bridge])?;
    Ok(Way { name: KEYCHAIN, start, ..Way::default() })
}

fn starts<const N: usize>(home: &Home, programs: [&dyn Fn() -> Command; N]) -> Result<[Option<Spread>; N]> {
    let times = in_turn(programs, STARTS, |program| {
        let command = program();
        let start = Instant::now();
        let mut client = Stdio::start(home, command)?;
        let answer = client.initialize()?;
        let took = start.elapsed();
        check_initialized(&answer)?;
        client.finish()?;
        // The end of this session must not cost the next one time.
        wait_for_guardians(home)?;
        Ok(vec![took])
    })?;
    Ok(times.map(Spread::of))
}

fn round_trips<const N: usize>(callers: [&mut dyn Caller; N]) -> Result<[Option<Spread>; N]> {
    let mut ids = 1..;
    let times = in_turn(callers, ROUND_TRIPS, |caller| {
        ids.by_ref()
            .take(BATCH)
            .map(|id| {
                let call = caller.prepare(&message::call(id));
                let start = Instant::now();
                let answer = caller.exchange(&call)?;
                let took = start.elapsed();
                ensure!(check_called(&answer)? == id, "call {id} got the answer to another one");
                Ok(took)
            })
            .collect()
    })?;
    Ok(times.map(Spread::of))
}

fn floods<const N: usize>(clients: [&mut Stdio; N]) -> Result<[Option<f64>; N]> {
    let mut ids = 1_000_000..;
    let times = in_turn(clients, FLOODS, |client| {
        let asked: Vec<u64> = ids.by_ref().take(FLOOD).collect();
        let calls: Vec<_> = asked.iter().map(|id| client.prepare(&message::call(*id))).collect();
        let start = Instant::now();
        let answers = client.flood(&calls, IN_FLIGHT)?;
        let took = start.elapsed();
        let mut answered: Vec<_> =
            answers.iter().map(|answer| check_called(answer)).collect::<Result<_>>()?;
        answered.sort_unstable();
        ensure!(answered == asked, "not each call got one answer");
        Ok(vec![took])
    })?;
    let calls_per_second = |times: Vec<Duration>| rate(times.len() * FLOOD, times.iter().sum());
    Ok(times.map(|times| (!times.is_empty()).then(|| calls_per_second(times))))
}

/// `thv list --all`, from its start to its end. Leaves the copies of the workload behind for the end of the home.
fn list(home: &Home) -> Result<Option<Spread>> {
    for number in 1..WORKLOADS {
        copy_workload(home, &format!("{NAME}-{number}"))?;
    }
    let [times] = in_turn([()], LISTS, |()| {
        let command = home.thv(["list", "--all"]).command();
        let start = Instant::now();
        let listed = Stdio::start(home, command)?.finish()?;
        let took = start.elapsed();
        let lines = listed.iter().filter(|byte| **byte == b'\n').count();
        ensure!(lines == WORKLOADS + 1, "the list has {lines} lines");
        Ok(vec![took])
    })?;
    Ok(Spread::of(times))
}

/// Copies the workload, with the supervisor that it has, under another name.
fn copy_workload(home: &Home, name: &str) -> Result {
    let workloads = home.path().join("state/workloads");
    DirBuilder::new().mode(0o700).create(workloads.join(name))?;
    for file in ["runconfig.json", "status.json"] {
        let mut content: Value = serde_json::from_slice(&std::fs::read(workloads.join(NAME).join(file))?)?;
        if let Some(own) = content.get_mut("name") {
            *own = name.into();
        }
        let mut copy =
            File::options().write(true).create_new(true).mode(0o600).open(workloads.join(name).join(file))?;
        copy.write_all(content.to_string().as_bytes())?;
    }
    Ok(())
}

/// A client that has shaken hands.
fn ready(home: &Home, command: Command) -> Result<Stdio> {
    let mut client = Stdio::start(home, command)?;
    check_initialized(&client.initialize()?)?;
    client.send(&client.prepare(message::INITIALIZED))?;
    Ok(client)
}

/// The processes that stand between the supervisor and its servers.
fn guardians(home: &Home) -> Vec<u32> {
    let processes = home.processes().into_iter();
    processes.filter(|process| process.command.contains(" __guard")).map(|process| process.pid).collect()
}

fn wait_for_guardians(home: &Home) -> Result {
    let end = Instant::now() + GONE_BOUND;
    while !guardians(home).is_empty() {
        ensure!(Instant::now() < end, "a session has ended, but not its server");
        // They are not our children: nothing tells us of their end.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// How much is measured: whichever is reached first.
#[derive(Clone, Copy)]
struct Quota {
    count: usize,
    time: Duration,
}

/// Takes samples of each subject in turn, so that a machine which is busy for a while is busy for all of them. A
/// subject that has used up its quota sits out. The first round warms up and is not counted.
fn in_turn<S, const N: usize>(
    mut subjects: [S; N],
    quota: Quota,
    mut sample: impl FnMut(&mut S) -> Result<Vec<Duration>>,
) -> Result<[Vec<Duration>; N]> {
    let mut samples = [const { Vec::new() }; N];
    let mut spent = [Duration::ZERO; N];
    for round in 0..=quota.count {
        for (at, subject) in subjects.iter_mut().enumerate() {
            if spent[at] < quota.time {
                let start = Instant::now();
                let times = sample(subject)?;
                spent[at] += start.elapsed();
                if round > 0 {
                    samples[at].extend(times);
                }
            }
        }
    }
    if samples.iter().any(Vec::is_empty) {
        return Err(Failure::new("a single sample took longer than the time for all of them"));
    }
    Ok(samples)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_take_turns_and_the_first_round_does_not_count() {
        let quota = Quota { count: 2, time: Duration::from_secs(600) };
        let mut order = Vec::new();
        let samples = in_turn([1, 2], quota, |subject| {
            order.push(*subject);
            Ok(vec![Duration::from_secs(order.len().try_into().unwrap())])
        });
        assert_eq!(order, [1, 2, 1, 2, 1, 2]);
        assert_eq!(samples.unwrap(), [[3, 5], [4, 6]].map(|times| times.map(Duration::from_secs).to_vec()));
    }

    #[test]
    fn who_has_no_time_left_sits_out() {
        let quota = Quota { count: 2, time: Duration::ZERO };
        let mut calls = 0;
        let samples = in_turn([()], quota, |()| {
            calls += 1;
            Ok(vec![Duration::ZERO])
        });
        assert!(samples.is_err());
        assert_eq!(calls, 0);
    }

    #[test]
    fn waiting_and_all_quotas_together_stay_below_three_minutes() {
        let subjects = [(STARTS, 2), (ROUND_TRIPS, 3), (FLOODS, 2), (LISTS, 1)];
        let time: Duration = subjects.iter().map(|(quota, subjects)| quota.time * *subjects).sum();
        let time = time + crate::bench::machine::PATIENCE;
        assert!(time < Duration::from_secs(180), "{time:?}");
    }
}
