//! The process groups of running servers, written down, so that none is forgotten when a supervisor and a guardian are
//! killed together.
//!
//! A record is an empty file named `<pid>-<start time>` after the guardian, which leads its server's session. Who has
//! left that session is the guardian's business; where both are dead, it is known on Linux by the log that it writes to.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thv_keygen::Name;

use crate::files;
use crate::guardian::StopTimes;
use crate::home::Home;
use crate::process::ProcessRef;
use crate::sys;

/// How often processes that are on their way out are looked at.
const POLL: Duration = Duration::from_millis(10);

/// How long killed processes may take to vanish before they are looked for again.
const SETTLE: Duration = Duration::from_millis(500);

/// The record of one running group; deleted when dropped.
#[derive(Debug)]
pub(crate) struct GroupRecord {
    path: PathBuf,
    guardian: ProcessRef,
}

impl GroupRecord {
    pub(crate) fn write(dir: &Path, pid: u32) -> io::Result<Self> {
        match sys::create_private_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(reason) = sys::distrust(dir)? {
            return Err(io::Error::other(format!("{} cannot be used: {reason}", dir.display())));
        }
        // One that has ended already has nothing to be remembered for, but needs a name all the same.
        let start_time = ProcessRef::of(pid).map_or(0, |process| process.start_time);
        let path = dir.join(format!("{pid}-{start_time}"));
        files::open_append(&path).map_err(io::Error::other)?;
        Ok(Self { path, guardian: ProcessRef { pid, start_time } })
    }

    /// The guardian that leads the group.
    pub(crate) fn guardian(&self) -> ProcessRef {
        self.guardian
    }

    /// Ends what is left of the group after its guardian was killed.
    pub(crate) fn end_rest(&self) {
        // Elsewhere the members of a session cannot be told, but those of the guardian's process group can be ended.
        #[cfg(not(target_os = "linux"))]
        let _ = sys::kill_group(self.guardian.pid);
        end(|| members(self.guardian), Duration::ZERO);
    }
}

impl Drop for GroupRecord {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// How many processes are left of a workload whose supervisor is dead, and have nobody any more who ends them; nothing
/// is done to them.
#[must_use]
pub fn orphans(home: &Home, name: &Name) -> usize {
    let guardians: Vec<_> = records(home, name).into_iter().map(|(_, guardian)| guardian).collect();
    left(home, name, &guardians).len()
}

/// Ends what is left of a workload whose supervisor is dead, and forgets it. The caller has proved it dead, under the
/// workload's lock. Returns how many processes had to be ended.
///
/// Guardians that live have noticed by themselves that their supervisor is gone. They alone know of those that have left
/// the session, so they are waited for: for as long as they give a server, and a little for their own end.
pub fn end_orphans(home: &Home, name: &Name) -> usize {
    let records = records(home, name);
    if records.is_empty() {
        return 0;
    }
    let guardians: Vec<_> = records.iter().map(|(_, guardian)| *guardian).collect();
    let StopTimes { after_close, after_term } = StopTimes::default();
    if !gone_within(&guardians, after_close) {
        for guardian in &guardians {
            let _ = guardian.terminate();
        }
        if !gone_within(&guardians, after_term + Duration::from_secs(1)) {
            // They hold up the end now, and nobody else may be taken for theirs while they live.
            for guardian in &guardians {
                let _ = guardian.kill();
            }
            gone_within(&guardians, SETTLE);
        }
    }
    let ended = end(|| left(home, name, &guardians), SETTLE);
    for (record, _) in records {
        let _ = std::fs::remove_file(record);
    }
    ended
}

/// The records of a workload, each with the guardian that it is named after.
fn records(home: &Home, name: &Name) -> Vec<(PathBuf, ProcessRef)> {
    let dir = home.groups(name);
    // A link may lead to files that are none of ours.
    if !matches!(sys::distrust(&dir), Ok(None)) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), guardian(&entry.file_name())?))).collect()
}

/// The guardian that a record is named after.
fn guardian(record: &std::ffi::OsStr) -> Option<ProcessRef> {
    let (pid, start_time) = record.to_str()?.split_once('-')?;
    Some(ProcessRef { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
}

/// Who is left of recorded groups whose guardian is dead: the members of its session, and whoever else writes to the
/// server's log, unless a guardian lives whose server that may be.
fn left(home: &Home, name: &Name, guardians: &[ProcessRef]) -> Vec<ProcessRef> {
    let (alive, dead): (Vec<ProcessRef>, Vec<ProcessRef>) =
        guardians.iter().partition(|guardian| guardian.is_alive());
    let mut left: Vec<_> = dead.iter().flat_map(|guardian| members(*guardian)).collect();
    if alive.is_empty() && !dead.is_empty() {
        let away = sys::writers(&home.server_log(name));
        let others: Vec<_> = away.into_iter().filter(|process| !left.contains(process)).collect();
        left.extend(others);
    }
    left
}

/// Who is left of a guardian's session; nobody, if another process has its pid by now.
fn members(guardian: ProcessRef) -> Vec<ProcessRef> {
    let another = ProcessRef::of(guardian.pid).is_some_and(|now| now != guardian);
    // A record of an earlier boot is about a pid that means nothing now.
    let this_boot = ProcessRef::current().is_ok_and(|us| us.start_time >> 40 == guardian.start_time >> 40);
    if another || !this_boot {
        return Vec::new();
    }
    let mut members = sys::session_members(guardian.pid);
    members.retain(|member| member.start_time >= guardian.start_time);
    members
}

/// Ends all that are found, and looks again, since one of them may start another between the look and the signal.
/// `settle` is how long those that were ended may take to vanish before each further look.
fn end(find: impl Fn() -> Vec<ProcessRef>, settle: Duration) -> usize {
    let mut ended: Vec<ProcessRef> = Vec::new();
    for _ in 0..10 {
        let found = find();
        if found.is_empty() {
            break;
        }
        for process in &found {
            if process.kill().is_ok() && !ended.contains(process) {
                ended.push(*process);
            }
        }
        gone_within(&found, settle);
    }
    ended.len()
}

/// Whether all of these end within a time.
fn gone_within(processes: &[ProcessRef], patience: Duration) -> bool {
    let end = Instant::now() + patience;
    while processes.iter().any(ProcessRef::is_alive) {
        if Instant::now() >= end {
            return false;
        }
        // They are not our children: nothing tells of their end.
        std::thread::sleep(POLL);
    }
    true
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// A workload's folder in a home of its own.
    fn home() -> (tempfile::TempDir, Home, Name) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        let name = Name::parse("time").unwrap();
        sys::create_private_dir(&home.workload(&name)).unwrap();
        (dir, home, name)
    }

    /// Starts a script as the leader of a session, as a guardian is, and waits for its first line.
    fn leader(script: &str) -> std::process::Child {
        use std::io::Read as _;
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        leader.stdout.take().unwrap().read_exact(&mut [0; 3]).unwrap();
        leader
    }

    /// Writes a record that stays, as after a SIGKILL of the supervisor.
    fn record(home: &Home, name: &Name, pid: u32) {
        std::mem::forget(GroupRecord::write(&home.groups(name), pid).unwrap());
    }

    #[test]
    fn the_members_of_a_dead_guardians_session_are_ended_and_nobody_else() {
        let (_dir, home, name) = home();
        let mut leader = leader("sleep 1000 & sleep 1000 & echo up; read line; exec sleep 1000");
        let bystander = Command::new("sleep").arg("1000").spawn().unwrap();
        record(&home, &name, leader.id());
        leader.kill().unwrap();
        leader.wait().unwrap();
        assert_eq!(orphans(&home, &name), 2);
        assert_eq!(end_orphans(&home, &name), 2);
        assert!(sys::session_members(leader.id()).is_empty());
        assert_eq!(std::fs::read_dir(home.groups(&name)).unwrap().count(), 0);
        let bystander_ref = ProcessRef::of(bystander.id()).unwrap();
        assert!(bystander_ref.is_alive());
        bystander_ref.kill().unwrap();
        let mut bystander = bystander;
        bystander.wait().unwrap();
    }

    #[test]
    fn a_guardian_that_lives_ends_its_server_itself() {
        let (dir, home, name) = home();
        let done = dir.path().join("done");
        let script =
            format!("trap 'echo done >{}; exit' TERM; echo up; while :; do sleep 0.01; done", done.display());
        let mut leader = leader(&script);
        record(&home, &name, leader.id());
        assert_eq!(orphans(&home, &name), 0, "what has a guardian is no orphan");
        // Who is nobody's child is reaped by the first process of the machine; here that is for us to do.
        let reaped = std::thread::spawn(move || leader.wait().unwrap());
        assert_eq!(end_orphans(&home, &name), 0);
        assert!(reaped.join().unwrap().success());
        assert_eq!(std::fs::read(done).unwrap(), b"done\n");
        assert_eq!(std::fs::read_dir(home.groups(&name)).unwrap().count(), 0);
    }

    #[test]
    fn who_left_the_session_is_known_by_the_log_that_it_appends_to_without_privileges() {
        let (_dir, home, name) = home();
        let log = home.server_log(&name);
        let append = || files::open_append(&log).unwrap();
        let away = |confined: bool| {
            let mut command = if confined {
                let mut command = Command::new("setpriv");
                command.args(["--no-new-privs", "sleep", "1000"]);
                command
            } else {
                let mut command = Command::new("sleep");
                command.arg("1000");
                command
            };
            command.stderr(append()).spawn().unwrap()
        };
        let (mut server, mut stranger) = (away(true), away(false));
        let reader = Command::new("setpriv")
            .args(["--no-new-privs", "sleep", "1000"])
            .stdin(std::fs::File::open(&log).unwrap())
            .spawn();
        let mut reader = reader.unwrap();
        let found = ProcessRef::of(server.id()).unwrap();
        while sys::writers(&log) != [found] {
            std::thread::yield_now();
        }
        assert_eq!(end_orphans(&home, &name), 0, "without a record there is nothing to end");
        let mut leader = leader("echo up; exec sleep 1000");
        record(&home, &name, leader.id());
        assert_eq!(orphans(&home, &name), 0, "a guardian lives whose server it may be");
        leader.kill().unwrap();
        leader.wait().unwrap();
        assert_eq!(end_orphans(&home, &name), 1);
        server.wait().unwrap();
        for bystander in [&mut stranger, &mut reader] {
            assert!(bystander.try_wait().unwrap().is_none());
            bystander.kill().unwrap();
            bystander.wait().unwrap();
        }
    }

    #[test]
    fn a_reused_pid_is_left_alone() {
        let (_dir, home, name) = home();
        let record = GroupRecord::write(&home.groups(&name), std::process::id()).unwrap();
        let path = record.path.clone();
        let tag = record.guardian.start_time >> 40 << 40;
        std::fs::rename(&path, home.groups(&name).join(format!("{}-{}", std::process::id(), tag + 1)))
            .unwrap();
        assert_eq!(end_orphans(&home, &name), 0);
    }
}
