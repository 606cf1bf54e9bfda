//! A real web browser without a window: Debian's Chromium, on pages that the test itself serves.

mod room;
mod site;

pub use room::{ORDER_BOUND, Room};
pub use site::{Answer, Asked, Site};

use crate::{Failure, Home, Result, Running, STOP_BOUND};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

/// The program, as Debian names it.
const CHROMIUM: &str = "chromium";

/// What keeps it to itself: no window, no calls home, no look-ups of its maker's hosts.
const FLAGS: [&str; 9] = [
    "--headless",
    // The sandbox cannot be had by root, who runs the tests in containers.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // Names that a test makes up are no proxy's business, whatever the environment says.
    "--no-proxy-server",
];

/// A running Chromium with one page, a profile of its own and nothing else. Dropping it ends it.
pub struct Browser {
    running: Running,
    group: Option<Pid>,
    profile: PathBuf,
}

impl Browser {
    /// Whether there is a Chromium on the path.
    pub fn is_here() -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(CHROMIUM).is_file())
    }

    /// Starts one with `url`. The host names in `names` lead to 127.0.0.1, as if their owner had pointed them there.
    ///
    /// # Errors
    /// It could not be started.
    pub fn open(home: &Home, url: &str, names: &[&str]) -> Result<Self> {
        let profile = home.user().join("chromium");
        let mut command = home.command(CHROMIUM);
        command.args(FLAGS).arg(format!("--user-data-dir={}", profile.display()));
        let names: Vec<_> = names.iter().map(|name| format!("MAP {name} 127.0.0.1")).collect();
        command.arg(format!("--host-resolver-rules={}", names.join(",")));
        // A group of its own, so that whatever is left of it can be ended without looking for it.
        command.arg(url).process_group(0);
        let running = home.start(command)?;
        let group = i32::try_from(running.pid()).ok().and_then(Pid::from_raw);
        Ok(Self { running, group, profile })
    }

    /// Ends it, and removes its profile.
    ///
    /// # Errors
    /// It did not end when asked to, or its profile could not be removed.
    pub fn close(mut self) -> Result {
        self.end()
    }

    fn end(&mut self) -> Result {
        let Some(group) = self.group.take() else { return Ok(()) };
        let ended = self.running.signal(Signal::TERM).and_then(|()| self.running.wait(STOP_BOUND));
        if let Err(failure) = ended {
            // The group is still ours: its leader has not been waited for, or others of it hold our pipes open.
            let _ = kill_process_group(group, Signal::KILL);
            self.running.kill();
            return Err(failure);
        }
        std::fs::remove_dir_all(&self.profile).map_err(|error| Failure::from(error).during("the profile"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The home's own checks say what is left.
        let _ = self.end();
    }
}

/// Returns from the test where a browser cannot be had and need not be.
///
/// For test functions that return nothing or a [`Result`](crate::Result) of nothing.
#[macro_export]
macro_rules! need_browser {
    () => {
        if !$crate::Browser::is_here() {
            let advice = "get it: apt-get install --no-install-recommends chromium";
            match $crate::parts::missing("chromium", advice, &$crate::parts::test_name(file!(), line!())) {
                Ok(not_run) => return not_run.into(),
                Err(missing) => panic!("{missing}"),
            }
        }
    };
}
