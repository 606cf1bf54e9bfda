//! Orphans of a guardian that was killed: those that had left its session, too.
//!
//! A guardian is the reaper of all orphans below it. When it is killed they pass to the next reaper above, and that is
//! to be the supervisor: [`adopt`] makes it so. Children of a supervisor that are not guardians are then such orphans,
//! but for those that it had before: a shell that becomes `thv` hands its own on.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::process::ProcessRef;
use crate::sys;

/// How often those that are on their way out are looked for, and how many times.
const SWEEP: (Duration, usize) = (Duration::from_millis(5), 200);

/// Whether every child of this process that is not a guardian is an orphan.
static ADOPTS: AtomicBool = AtomicBool::new(false);

static GUARDIANS: Mutex<Vec<ProcessRef>> = Mutex::new(Vec::new());

/// The children that this process had before it adopted any.
static INHERITED: OnceLock<Vec<ProcessRef>> = OnceLock::new();

/// Makes this process the reaper of the orphans of its guardians. For a supervisor, which starts no other children.
///
/// # Errors
/// The operating system refused.
pub fn adopt() -> io::Result<()> {
    INHERITED.get_or_init(|| sys::children().into_iter().filter_map(ProcessRef::of).collect());
    sys::reap_orphans()?;
    ADOPTS.store(true, Ordering::SeqCst);
    Ok(())
}

/// Starts a guardian. The list is locked meanwhile, so that none is taken for an orphan.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut guardians = guardians();
    let child = command.spawn()?;
    // One that has ended already is nobody to be signalled, but must not be taken for an orphan.
    guardians.extend(child.id().map(|pid| ProcessRef::of(pid).unwrap_or(ProcessRef { pid, start_time: 0 })));
    Ok(child)
}

/// A guardian has ended.
pub(crate) fn forget(guardian: u32) {
    guardians().retain(|known| known.pid != guardian);
}

/// Asks all servers to end now, without waiting for them to notice the end of their input.
pub(crate) fn hurry() {
    for guardian in &*guardians() {
        let _ = guardian.terminate();
    }
}

/// Ends all orphans, and those that become orphans by that.
pub(crate) async fn end() {
    if !ADOPTS.load(Ordering::SeqCst) {
        return;
    }
    let (pause, times) = SWEEP;
    for _ in 0..times {
        let left = {
            let guardians = guardians();
            let children = sys::children().into_iter();
            // Nobody but us can reap a child of ours, so these pids are nobody else's.
            let others = children.filter(|pid| !guardians.iter().any(|guardian| guardian.pid == *pid));
            others.filter(|pid| !is_inherited(*pid)).filter(|pid| !sys::kill_and_reap(*pid)).count()
        };
        if left == 0 {
            return;
        }
        tokio::time::sleep(pause).await;
    }
    tracing::warn!("some orphans of a killed guardian do not end");
}

fn is_inherited(pid: u32) -> bool {
    ProcessRef::of(pid)
        .is_some_and(|process| INHERITED.get().is_some_and(|inherited| inherited.contains(&process)))
}

fn guardians() -> MutexGuard<'static, Vec<ProcessRef>> {
    GUARDIANS.lock().unwrap_or_else(PoisonError::into_inner)
}
