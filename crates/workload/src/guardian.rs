//! The guardian: a small process between a supervisor and a server, so that no part of the server's process tree
//! outlives either.
//!
//! It shares the server's standard input, a pipe whose other end only the supervisor holds, and never reads from it.
//! When that end closes, because the supervisor wants the server to stop or because it is dead, the guardian gives
//! the server time to end by itself, then asks the tree to end (SIGTERM), then ends it (SIGKILL). On Linux it is
//! the reaper of all orphans below it, so it knows when the last one is gone, even one that left the group.
//!
//! It is the same binary as the supervisor, started with other arguments; [`Launcher`] says with which.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How patient a guardian is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopTimes {
    /// From the end of standard input to SIGTERM.
    pub after_close: Duration,
    /// From SIGTERM to SIGKILL.
    pub after_term: Duration,
}

impl Default for StopTimes {
    /// Two seconds as MCP's SDKs give a server of their own, then three more.
    fn default() -> Self {
        Self { after_close: Duration::from_secs(2), after_term: Duration::from_secs(3) }
    }
}

/// How to start this program again as a guardian: its path, and the words by which it knows its two helpers.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// The first argument that makes it call [`guard`].
    pub guard: &'static str,
    /// The first argument that makes it call [`exec`].
    pub exec: &'static str,
}

impl Launcher {
    /// The arguments after `guard`: two times in milliseconds, then the command.
    #[must_use]
    pub fn guard_args(&self, stop: StopTimes) -> [OsString; 3] {
        let millis = |time: Duration| OsString::from(time.as_millis().to_string());
        [self.guard.into(), millis(stop.after_close), millis(stop.after_term)]
    }
}

#[cfg(unix)]
pub use unix::{exec, guard};

#[cfg(unix)]
mod unix {
    use std::ffi::OsString;
    use std::fs::File;
    use std::io::{self, Read as _};
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    #[cfg(target_os = "linux")]
    use rustix::process::Pid;
    use rustix::process::{Signal, WaitOptions};
    use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

    use super::{Launcher, StopTimes};

    /// How often the last survivors are looked for.
    const SWEEP: Duration = Duration::from_millis(20);

    fn usage() -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, "this command is for the program itself")
    }

    /// Guards one server until its whole tree is gone. `args` are those after [`Launcher::guard`].
    ///
    /// # Errors
    /// The server could not be started, or the operating system refused what a guardian needs.
    pub fn guard(launcher: &Launcher, args: &[OsString]) -> io::Result<i32> {
        let [close, term, command @ ..] = args else { return Err(usage()) };
        let millis = |arg: &OsString| {
            arg.to_str().and_then(|text| text.parse().ok()).map(Duration::from_millis).ok_or_else(usage)
        };
        let stop = StopTimes { after_close: millis(close)?, after_term: millis(term)? };

        // A session of its own: a Ctrl-C in the user's terminal is the supervisor's to handle.
        let _ = rustix::process::setsid();
        #[cfg(target_os = "linux")]
        {
            rustix::thread::set_no_new_privs(true)?;
            rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        }
        // AI clients leak descriptors through exec; a server must not inherit somebody's socket.
        close_fds::set_fds_cloexec(3, &[]);

        let (mut wake, waker) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waker.set_nonblocking(true)?;
        let asked = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&asked))?;
            signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        signal_hook::low_level::pipe::register(SIGCHLD, waker)?;

        let server = Command::new(&launcher.program)
            .arg(launcher.exec)
            .arg(std::process::id().to_string())
            .args(command)
            .spawn()?
            .id();
        // The supervisor must see the end of the server's output when the server is gone, not when we are.
        rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;

        let mut tree = Tree { server, code: 0 };
        let stdin = io::stdin();
        let mut phase = Phase::Serving;
        loop {
            let server_ended = match tree.reap() {
                Reaped::All => return Ok(tree.code),
                Reaped::Server => true,
                Reaped::Others => false,
            };
            if server_ended || asked.swap(false, Ordering::SeqCst) {
                phase = phase.terminate(stop);
            }
            phase = phase.at(Instant::now(), stop);

            let mut ready = vec![PollFd::new(&wake, PollFlags::IN)];
            if matches!(phase, Phase::Serving) {
                // No events asked for: only the other end's closing is reported.
                ready.push(PollFd::new(&stdin, PollFlags::empty()));
            }
            match poll(&mut ready, phase.timeout().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let closed =
                ready.get(1).is_some_and(|fd| fd.revents().intersects(PollFlags::HUP | PollFlags::ERR));
            drop(ready);
            while wake.read(&mut [0; 64]).is_ok_and(|read| read > 0) {}
            if closed {
                phase = Phase::Closing(Instant::now() + stop.after_close);
            }
        }
    }

    #[derive(Clone, Copy)]
    enum Phase {
        Serving,
        Closing(Instant),
        Terminating(Instant),
        Killing,
    }

    impl Phase {
        /// Asks the tree to end, once.
        fn terminate(self, stop: StopTimes) -> Self {
            match self {
                Self::Serving | Self::Closing(_) => {
                    // It reaches us too, which is why we handle it.
                    let _ = rustix::process::kill_current_process_group(Signal::TERM);
                    signal_children(Signal::TERM);
                    Self::Terminating(Instant::now() + stop.after_term)
                }
                later => later,
            }
        }

        /// Moves on when the time is up.
        fn at(self, now: Instant, stop: StopTimes) -> Self {
            match self {
                Self::Closing(end) if now >= end => self.terminate(stop),
                Self::Terminating(end) if now >= end => Self::Killing.at(now, stop),
                Self::Killing => {
                    signal_children(Signal::KILL);
                    Self::Killing
                }
                phase => phase,
            }
        }

        fn timeout(self) -> Option<Timespec> {
            let left = match self {
                Self::Serving => return None,
                Self::Closing(end) | Self::Terminating(end) => end.saturating_duration_since(Instant::now()),
                Self::Killing => SWEEP,
            };
            // A millisecond more, so that the deadline has passed when we wake.
            Timespec::try_from(left + Duration::from_millis(1)).ok()
        }
    }

    struct Tree {
        server: u32,
        code: i32,
    }

    enum Reaped {
        All,
        Server,
        Others,
    }

    impl Tree {
        /// Collects every child that has ended.
        fn reap(&mut self) -> Reaped {
            let mut reaped = Reaped::Others;
            loop {
                match rustix::process::wait(WaitOptions::NOHANG) {
                    Ok(Some((pid, status))) if pid.as_raw_nonzero().get().cast_unsigned() == self.server => {
                        let by_signal = status.terminating_signal().map(|signal| 128 + signal);
                        self.code = status.exit_status().or(by_signal).unwrap_or(1);
                        reaped = Reaped::Server;
                    }
                    Ok(Some(_)) | Err(Errno::INTR) => {}
                    Ok(None) => return reaped,
                    Err(_) => return Reaped::All,
                }
            }
        }
    }

    /// Signals our direct children. Orphans below us become direct children, and nobody but us can reap one, so a pid
    /// seen here cannot have been given to another process.
    #[cfg(target_os = "linux")]
    fn signal_children(signal: Signal) {
        for pid in crate::sys::children() {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    /// Without a reaper of orphans the group is all we know; it includes us, so this is the last thing we do.
    #[cfg(not(target_os = "linux"))]
    fn signal_children(signal: Signal) {
        let _ = rustix::process::kill_current_process_group(signal);
    }

    /// Becomes the server, which the kernel ends if the guardian is killed. `args` are those after
    /// [`Launcher::exec`].
    ///
    /// # Errors
    /// Always, when it returns: the program could not be started.
    pub fn exec(args: &[OsString]) -> io::Error {
        let [guardian, program, args @ ..] = args else { return usage() };
        #[cfg(target_os = "linux")]
        {
            if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
                return error.into();
            }
            let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
            // It may have died before the line above.
            if guardian.to_str() != parent.as_deref() {
                return io::Error::other("the guardian is gone");
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = guardian;
        let error = Command::new(program).args(args).exec();
        io::Error::new(error.kind(), format!("cannot start {}: {error}", program.display()))
    }
}
