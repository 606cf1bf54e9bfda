//! The process groups of running servers, written down, so that none is forgotten when a supervisor and a guardian are
//! killed together.
//!
//! A record is an empty file named `<pid>-<start time>` after the guardian, which leads its server's session.

use std::io;
use std::path::{Path, PathBuf};

use crate::files;
use crate::process::ProcessRef;
use crate::sys;

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
        end_group(self.guardian);
    }
}

impl Drop for GroupRecord {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// How many processes are left of groups whose supervisor is dead; nothing is done to them.
#[must_use]
pub fn orphans(dir: &Path) -> usize {
    let Ok(records) = std::fs::read_dir(dir) else { return 0 };
    records
        .flatten()
        .filter_map(|record| guardian(&record.file_name()))
        .map(|guardian| members(guardian).len())
        .sum()
}

/// The guardian that a record is named after.
fn guardian(record: &std::ffi::OsStr) -> Option<ProcessRef> {
    let (pid, start_time) = record.to_str()?.split_once('-')?;
    Some(ProcessRef { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
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

/// Ends what is left of groups whose supervisor is dead, and forgets them. The caller has proved it dead, under the
/// workload's lock. Returns how many processes were ended.
pub fn end_orphans(dir: &Path) -> usize {
    // A link may lead to files that are none of ours.
    if !matches!(sys::distrust(dir), Ok(None)) {
        return 0;
    }
    let Ok(records) = std::fs::read_dir(dir) else { return 0 };
    let mut ended = 0;
    for record in records.flatten() {
        if let Some(guardian) = guardian(&record.file_name()) {
            ended += end_group(guardian);
            let _ = std::fs::remove_file(record.path());
        }
    }
    ended
}

fn end_group(guardian: ProcessRef) -> usize {
    let mut ended = 0;
    // More than once, since a member may start another between the look and the signal.
    for _ in 0..10 {
        let members = members(guardian);
        if members.is_empty() {
            break;
        }
        ended += members.iter().filter(|member| member.kill().is_ok()).count();
    }
    ended
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_members_of_a_recorded_group_are_ended_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let groups = dir.path().join("groups");
        // setsid makes the shell the leader of a session, as a guardian is.
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", "sleep 1000 & sleep 1000"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let bystander = Command::new("sleep").arg("1000").spawn().unwrap();
        let record = GroupRecord::write(&groups, leader.id()).unwrap();
        // As after a SIGKILL of the supervisor: the record stays.
        std::mem::forget(record);
        while sys::session_members(leader.id()).len() < 3 {
            std::thread::yield_now();
        }
        assert!(end_orphans(&groups) >= 3);
        leader.wait().unwrap();
        assert!(sys::session_members(leader.id()).is_empty());
        assert_eq!(std::fs::read_dir(&groups).unwrap().count(), 0);
        let bystander_ref = ProcessRef::of(bystander.id()).unwrap();
        assert!(bystander_ref.is_alive());
        bystander_ref.kill().unwrap();
        let mut bystander = bystander;
        bystander.wait().unwrap();
    }

    #[test]
    fn a_reused_pid_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let groups = dir.path().join("groups");
        let record = GroupRecord::write(&groups, std::process::id()).unwrap();
        let path = record.path.clone();
        std::fs::rename(&path, groups.join(format!("{}-1", std::process::id()))).unwrap();
        assert_eq!(end_orphans(&groups), 0);
    }
}
