//! Who listens on a loopback port: which user, which process, which program.
//!
//! A port is not an identity. When a workload's port is held by somebody else, a person wants to know by whom, and a
//! proxy that forwards to a server's own port wants to be sure that it is that server's.
//!
//! What this crate refuses to do:
//!
//! - It connects to nothing and sends nothing; it reads what the operating system tells.
//! - It does not guess. A process of another user shows with its user and without pid, because that is all that an
//!   unprivileged reader gets.
//!
//! ```
//! # #[cfg(target_os = "linux")]
//! # fn main() -> std::io::Result<()> {
//! let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let holders = thv_audit::holders(listener.local_addr()?.port())?;
//! assert_eq!(holders[0].process.as_ref().map(|process| process.pid), Some(std::process::id()));
//! # Ok(())
//! # }
//! # #[cfg(not(target_os = "linux"))]
//! # fn main() {}
//! ```
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Somebody who listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The address that is listened on.
    pub addr: SocketAddr,
    /// The user id, where the operating system has such a thing and tells.
    pub uid: Option<u32>,
    /// The process, when we may know it.
    pub process: Option<Process>,
}

/// A process as a person would name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// The name of its program.
    pub program: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.process, self.uid) {
            (Some(process), _) => write!(f, "{} (pid {}) on {}", process.program, process.pid, self.addr),
            (None, Some(uid)) => write!(f, "a process of user {uid} on {}", self.addr),
            (None, None) => write!(f, "an unknown process on {}", self.addr),
        }
    }
}

/// Everybody who listens on this TCP port, with the user alone: quick enough for each connection. On other systems than
/// Linux the same as [`holders`].
///
/// # Errors
/// The operating system does not tell.
pub fn listeners(port: u16) -> io::Result<Vec<Holder>> {
    #[cfg(target_os = "linux")]
    return linux::listeners(port);
    #[cfg(not(target_os = "linux"))]
    return other::holders(port);
}

/// A listening socket, as the kernel knows it.
#[cfg(target_os = "linux")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Who listens, with the user alone.
    pub holder: Holder,
    /// The socket's number, which no other one has at the same time.
    pub inode: u64,
}

/// The sockets that listen on this TCP port; which processes have them open is what [`has_open`] tells.
///
/// # Errors
/// The operating system does not tell.
#[cfg(target_os = "linux")]
pub fn sockets(port: u16) -> io::Result<Vec<Listener>> {
    linux::numbered(port)
}

/// Whether one of these processes has the socket of this number open. `None` if none of those has it whose descriptors we
/// may see, and there are others.
#[cfg(target_os = "linux")]
#[must_use]
pub fn has_open(pids: &[u32], inode: u64) -> Option<bool> {
    linux::has_open(pids, inode)
}

/// Everybody who listens on this TCP port, on whatever address of this machine.
///
/// # Errors
/// The operating system does not tell.
pub fn holders(port: u16) -> io::Result<Vec<Holder>> {
    #[cfg(target_os = "linux")]
    return linux::holders(port);
    #[cfg(not(target_os = "linux"))]
    return other::holders(port);
}
