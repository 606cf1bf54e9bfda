//! Orphans of a guardian that was killed: those that had left its session, too.
//!
//! A guardian is the reaper of all orphans below it. When it is killed they pass to the next reaper above, and that is
//! to be the supervisor: [`adopt`] makes it so. Children of a supervisor that are not guardians are then such orphans.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::sys;

/// How often those that are on their way out are looked for, and how many times.
const SWEEP: (Duration, usize) = (Duration::from_millis(5), 200);

/// Whether every child of this process that is not a guardian is an orphan.
static ADOPTS: AtomicBool = AtomicBool::new(false);

static GUARDIANS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Makes this process the reaper of the orphans of its guardians. For a supervisor, which has no other children.
///
/// # Errors
/// The operating system refused.
pub fn adopt() -> io::Result<()> {
    sys::reap_orphans()?;
    ADOPTS.store(true, Ordering::SeqCst);
    Ok(())
}

/// Starts a guardian. The list is locked meanwhile, so that none is taken for an orphan.
pub(crate) fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut guardians = guardians();
    let child = command.spawn()?;
    guardians.extend(child.id());
    Ok(child)
}

/// A guardian has ended.
pub(crate) fn forget(guardian: u32) {
    guardians().remove(&guardian);
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
            children.filter(|pid| !guardians.contains(pid)).filter(|pid| !sys::kill_and_reap(*pid)).count()
        };
        if left == 0 {
            return;
        }
        tokio::time::sleep(pause).await;
    }
    tracing::warn!("some orphans of a killed guardian do not end");
}

fn guardians() -> MutexGuard<'static, BTreeSet<u32>> {
    GUARDIANS.lock().unwrap_or_else(PoisonError::into_inner)
}
