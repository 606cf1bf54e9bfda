//! Where there is no Unix: the profile folder of the user protects the files. Compiled, not run here.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::Command;

use crate::process::ProcessRef;

pub(crate) fn open_read(path: &Path) -> io::Result<File> {
    refuse_link(path)?;
    File::open(path)
}

pub(crate) fn open_append(path: &Path) -> io::Result<File> {
    refuse_link(path)?;
    OpenOptions::new().append(true).create(true).open(path)
}

pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    refuse_link(path)?;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

fn refuse_link(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_symlink() => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(()),
    }
}

pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

pub(crate) fn distrust(path: &Path) -> io::Result<Option<String>> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok(if meta.file_type().is_symlink() {
        Some("it is a link; name the folder itself".to_owned())
    } else if !meta.is_dir() {
        Some("it is not a folder".to_owned())
    } else {
        None
    })
}

pub(crate) fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}

pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let script = format!("(Get-Process -Id {pid}).StartTime.Ticks");
    let out = Command::new("powershell").args(["-NoProfile", "-Command", &script]).output().ok()?;
    std::str::from_utf8(&out.stdout).ok()?.trim().parse().ok()
}

fn taskkill(pid: u32, flags: &[&str]) -> io::Result<()> {
    let status = Command::new("taskkill").args(flags).args(["/PID", &pid.to_string()]).output()?.status;
    if status.success() { Ok(()) } else { Err(io::Error::other("taskkill failed")) }
}

pub(crate) fn terminate(process: ProcessRef) -> io::Result<()> {
    if process.is_alive() { taskkill(process.pid, &["/T"]) } else { Ok(()) }
}

pub(crate) fn kill(process: ProcessRef) -> io::Result<()> {
    if process.is_alive() { taskkill(process.pid, &["/F"]) } else { Ok(()) }
}

pub(crate) fn kill_group(pid: u32) -> io::Result<()> {
    taskkill(pid, &["/T", "/F"])
}

pub(crate) fn reap_orphans() -> io::Result<()> {
    Ok(())
}

pub(crate) fn children() -> Vec<u32> {
    Vec::new()
}

pub(crate) fn kill_and_reap(_pid: u32) -> bool {
    true
}

pub(crate) fn harden() -> io::Result<()> {
    Ok(())
}

pub(crate) fn session_members(_session: u32) -> Vec<ProcessRef> {
    Vec::new()
}

pub(crate) fn writers(_log: &Path) -> Vec<ProcessRef> {
    Vec::new()
}

/// There is no control socket here yet; a supervisor works without one.
#[derive(Debug)]
pub enum ControlListener {}

/// What a connection would be.
pub(crate) type ControlStream = tokio::io::DuplexStream;

impl ControlListener {
    pub(crate) fn bind(_path: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[expect(clippy::unused_async, reason = "elsewhere it waits")]
    pub(crate) async fn accept(&self) -> io::Result<Option<ControlStream>> {
        match *self {}
    }
}

pub(crate) async fn connect_control(_path: &Path) -> io::Result<Option<ControlStream>> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn detach_stdio() -> io::Result<()> {
    Ok(())
}

pub(crate) fn show_as(_name: &str) {}
