//! The processes of a running server: its guardian's session, and what has left that session but not the guardian.

use crate::process::ProcessRef;

/// The pids of everything that a guardian guards, itself left out; none if it does not run any more. On other systems
/// than Linux nobody tells, and none are found.
#[must_use]
pub fn family(guardian: ProcessRef) -> Vec<u32> {
    if !guardian.is_alive() {
        return Vec::new();
    }
    let processes = processes();
    let mut family = vec![guardian.pid];
    family.extend(
        processes
            .iter()
            .filter(|one| one.session == guardian.pid && one.pid != guardian.pid)
            .map(|one| one.pid),
    );
    // Children of those who are in it, until there are no more.
    let mut at = 0;
    while at < family.len() {
        let parent = family[at];
        for child in processes.iter().filter(|one| one.parent == parent) {
            if !family.contains(&child.pid) {
                family.push(child.pid);
            }
        }
        at += 1;
    }
    family.remove(0);
    family
}

struct Entry {
    pid: u32,
    parent: u32,
    session: u32,
}

#[cfg(target_os = "linux")]
fn processes() -> Vec<Entry> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let entry = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        Some(Entry { pid, parent, session })
    };
    processes.flatten().filter_map(|one| one.file_name().to_str()?.parse().ok()).filter_map(entry).collect()
}

#[cfg(not(target_os = "linux"))]
fn processes() -> Vec<Entry> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn those_who_left_the_session_are_of_the_family_and_bystanders_are_not() {
        let mut leader = Command::new("setsid")
            .args(["sh", "-c", "sleep 1000 & echo $!; setsid sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(leader.stdout.take().unwrap()).lines();
        let mut expected: Vec<u32> =
            (0..2).map(|_| lines.next().unwrap().unwrap().parse().unwrap()).collect();
        let guardian = ProcessRef::of(leader.id()).unwrap();
        let mut found = family(guardian);
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(family(ProcessRef { start_time: guardian.start_time - 1, ..guardian }).is_empty());
        for pid in &expected {
            ProcessRef::of(*pid).unwrap().kill().unwrap();
        }
        leader.wait().unwrap();
        assert!(family(guardian).is_empty());
    }
}
