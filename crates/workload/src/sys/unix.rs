//! Unix: modes, owners, links, signals, start times.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};

use crate::process::ProcessRef;

/// Opens for reading; a link at the last component is an error, not a detour.
pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    // NONBLOCK: a fifo planted under the name must not hold the command up for ever.
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Opens for appending, made 0600 when it is new.
pub(crate) fn open_append(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Opens for reading and writing, made 0600 when it is new; the file's content is left alone.
pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Makes one folder that only its owner can enter.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// What stands in the way of trusting an existing folder, in words; `None` when nothing does.
pub(crate) fn distrust(path: &Path) -> io::Result<Option<String>> {
    let meta = std::fs::symlink_metadata(path)?;
    let mode = meta.permissions().mode() & 0o7777;
    let us = rustix::process::geteuid().as_raw();
    Ok(if meta.file_type().is_symlink() {
        Some("it is a symbolic link; name the folder itself".to_owned())
    } else if !meta.is_dir() {
        Some("it is not a folder".to_owned())
    } else if meta.uid() != us {
        Some(format!("it belongs to user {}, and you are user {us}", meta.uid()))
    } else if mode & 0o077 != 0 {
        Some(format!("others may enter it (mode {mode:04o}); run: chmod 700 {}", path.display()))
    } else {
        None
    })
}

/// Makes a rename durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// When a process was started: clock ticks since the boot, with a tag of the boot in the upper bits; `None` when there
/// is no such process.
///
/// Together with the pid it names one process, also after a reboot.
#[cfg(target_os = "linux")]
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may itself contain spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    // A zombie has ended; only its parent has not asked yet.
    if matches!(state, "Z" | "X") {
        return None;
    }
    let ticks: u64 = fields.nth(18)?.parse().ok()?;
    // 40 bits of ticks last for three hundred years.
    Some(boot_tag() << 40 | ticks & ((1 << 40) - 1))
}

/// 24 bits that differ from boot to boot.
#[cfg(target_os = "linux")]
fn boot_tag() -> u64 {
    static TAG: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        u64::from_str_radix(id.get(..6).unwrap_or("0"), 16).unwrap_or(0)
    });
    *TAG
}

/// Elsewhere `ps` tells, in seconds.
#[cfg(not(target_os = "linux"))]
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let ps = std::process::Command::new("/bin/ps")
        .args(["-o", "lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = ps.stdout.trim_ascii();
    if text.is_empty() {
        return None;
    }
    let mut hash = DefaultHasher::new();
    text.hash(&mut hash);
    Some(hash.finish())
}

/// The processes of a session, each with its start time.
///
/// The kernel gives a pid to nobody else while it names a session that has members.
#[cfg(target_os = "linux")]
pub(crate) fn session_members(session: u32) -> Vec<ProcessRef> {
    let member = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let sid: u32 = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()?;
        (sid == session).then(|| ProcessRef::of(pid)).flatten()
    };
    pids().filter_map(member).collect()
}

/// The pids of all processes.
#[cfg(target_os = "linux")]
fn pids() -> impl Iterator<Item = u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The processes that write to this log as servers do, each with its start time: it is open for appending, and they have
/// no way to more privileges, which a guardian sees to and nobody can undo.
#[cfg(target_os = "linux")]
pub(crate) fn writers(log: &Path) -> Vec<ProcessRef> {
    let Ok(log) = std::fs::symlink_metadata(log) else { return Vec::new() };
    if !log.is_file() {
        return Vec::new();
    }
    let appends = |pid: u32, number: &str| {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = OFlags::from_bits_retain(u32::from_str_radix(flags.trim(), 8).ok()?);
        Some(flags.contains(OFlags::APPEND) && flags.intersects(OFlags::WRONLY | OFlags::RDWR))
    };
    let writes = |pid: u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.into_iter().any(|descriptor| {
            std::fs::metadata(descriptor.path())
                .is_ok_and(|file| (file.dev(), file.ino()) == (log.dev(), log.ino()))
                && descriptor.file_name().to_str().and_then(|number| appends(pid, number)) == Some(true)
        })
    };
    let confined = |pid: u32| {
        std::fs::read_to_string(format!("/proc/{pid}/status"))
            .is_ok_and(|status| status.lines().any(|line| line == "NoNewPrivs:\t1"))
    };
    let writer = |pid: u32| {
        let process = ProcessRef::of(pid)?;
        (confined(pid) && writes(pid)).then_some(process)
    };
    pids().filter(|pid| *pid != std::process::id()).filter_map(writer).collect()
}

/// Elsewhere nobody tells who has a file open.
#[cfg(not(target_os = "linux"))]
pub(crate) fn writers(_log: &Path) -> Vec<ProcessRef> {
    Vec::new()
}

/// Elsewhere the leader is all that is known.
#[cfg(not(target_os = "linux"))]
pub(crate) fn session_members(session: u32) -> Vec<ProcessRef> {
    ProcessRef::of(session).into_iter().collect()
}

fn pid(raw: u32) -> io::Result<Pid> {
    i32::try_from(raw).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Asks a process to end; nothing happens when it is gone.
pub(crate) fn terminate(process: ProcessRef) -> io::Result<()> {
    signal(process, Signal::TERM)
}

/// Ends a process at once; nothing happens when it is gone.
pub(crate) fn kill(process: ProcessRef) -> io::Result<()> {
    signal(process, Signal::KILL)
}

/// Signals that very process: what is opened first is looked at then, and no other can take its place between the look
/// and the signal.
#[cfg(target_os = "linux")]
fn signal(process: ProcessRef, signal: Signal) -> io::Result<()> {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
    match pidfd_open(pid(process.pid)?, PidfdFlags::empty()) {
        Ok(opened) if process.is_alive() => Ok(pidfd_send_signal(opened, signal)?),
        Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()),
        // An old kernel, or a sandbox that does not know of it.
        Err(_) => signal_by_pid(process, signal),
    }
}

/// Elsewhere a process has no other name than its pid.
#[cfg(not(target_os = "linux"))]
fn signal(process: ProcessRef, signal: Signal) -> io::Result<()> {
    signal_by_pid(process, signal)
}

fn signal_by_pid(process: ProcessRef, signal: Signal) -> io::Result<()> {
    if !process.is_alive() {
        return Ok(());
    }
    Ok(rustix::process::kill_process(pid(process.pid)?, signal)?)
}

/// Ends every process of a group at once.
#[cfg(not(target_os = "linux"))]
pub(crate) fn kill_group(raw: u32) -> io::Result<()> {
    Ok(rustix::process::kill_process_group(pid(raw)?, Signal::KILL)?)
}

/// Makes this process the parent of all orphans below it.
#[cfg(target_os = "linux")]
pub(crate) fn reap_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Elsewhere orphans go to the first process of the machine.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(crate) fn reap_orphans() -> io::Result<()> {
    Ok(())
}

/// The children of this process, those that have ended and were not reaped among them.
#[cfg(target_os = "linux")]
pub(crate) fn children() -> Vec<u32> {
    let is_ours = |pid: &u32| {
        let parent = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
        };
        parent() == Some(std::process::id())
    };
    pids().filter(is_ours).collect()
}

/// Elsewhere no orphan becomes a child.
#[cfg(not(target_os = "linux"))]
pub(crate) fn children() -> Vec<u32> {
    Vec::new()
}

/// Ends a child of this process at once and reaps it; false while it is not gone yet.
pub(crate) fn kill_and_reap(raw: u32) -> bool {
    let Ok(pid) = pid(raw) else { return true };
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    // An error says that it is no child of ours any more.
    !matches!(rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG), Ok(None))
}

/// No core dump, and on Linux no reading of `/proc/<pid>/mem` and no `ptrace` by other processes of the user.
pub(crate) fn harden() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

pub(crate) fn detach_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(rustix::stdio::dup2_stdout(&null)?)
}

pub(crate) fn show_as(name: &str) {
    #[cfg(target_os = "linux")]
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}
