//! Who listens on a server's own port: that server, or somebody who took the port before it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
#[cfg(target_os = "linux")]
use std::sync::{Mutex, PoisonError};

#[cfg(target_os = "linux")]
use thv_audit::{Holder, Listener};
use thv_proxy::forward::ConnectError;
use thv_workload::process::ProcessRef;

/// What is known of a server's sockets. On other systems than Linux it takes another program to find out who listens,
/// which is too much for each connection, and nothing is compared.
#[derive(Default)]
pub struct Owner {
    /// The guardian, and the numbers of those sockets that its server was seen to have.
    #[cfg(target_os = "linux")]
    known: Mutex<Option<(ProcessRef, Vec<u64>)>>,
}

#[cfg(target_os = "linux")]
impl Owner {
    /// Refuses a listener that is not of the guardian's family, one that took the port before the server did, and a port
    /// that nobody listens on: whoever holds a connection from it may have been anybody.
    pub fn check(&self, addr: SocketAddr, guardian: ProcessRef) -> Result<(), ConnectError> {
        let listeners = reached_at(addr)?;
        if listeners.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                "nobody listens on the server's port",
            )
            .into());
        }
        match listeners.iter().find(|listener| !self.is_ours(listener, guardian)) {
            Some(stranger) => Err(ConnectError::Stranger(shown(stranger))),
            None => Ok(()),
        }
    }

    fn is_ours(&self, listener: &Listener, guardian: ProcessRef) -> bool {
        let us = rustix::process::geteuid().as_raw();
        if listener.holder.uid.is_some_and(|uid| uid != us) {
            return false;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, sockets) = known.get_or_insert_with(|| (guardian, Vec::new()));
        if *of != guardian {
            (*of, *sockets) = (guardian, Vec::new());
        }
        if sockets.contains(&listener.inode) {
            return true;
        }
        let seen = || thv_audit::has_open(&thv_workload::family::family(guardian), listener.inode);
        match seen() {
            // Somebody in the family whose descriptors are hidden may have it: then the user has to do.
            None => true,
            // Once more: it may have passed from a parent to its child while we looked.
            Some(ours) => {
                let ours = ours || seen() == Some(true);
                if ours {
                    sockets.push(listener.inode);
                }
                ours
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl Owner {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    pub fn check(&self, _addr: SocketAddr, _guardian: ProcessRef) -> Result<(), ConnectError> {
        Ok(())
    }
}

/// Who gets connections to this address: the kernel prefers those who listen on it alone to those who listen on all.
#[cfg(target_os = "linux")]
fn reached_at(addr: SocketAddr) -> io::Result<Vec<Listener>> {
    let listeners = thv_audit::sockets(addr.port())?;
    let at = |is: &dyn Fn(IpAddr) -> bool| -> Vec<Listener> {
        listeners.iter().filter(|listener| is(listener.holder.addr.ip())).cloned().collect()
    };
    let exact = at(&|ip| ip == addr.ip());
    Ok(if exact.is_empty() { at(&|ip| ip.is_unspecified()) } else { exact })
}

/// A stranger for a log: of our own user, with the name of the program.
#[cfg(target_os = "linux")]
fn shown(stranger: &Listener) -> String {
    let Listener { holder: Holder { addr, uid, .. }, .. } = stranger;
    let us = rustix::process::geteuid().as_raw();
    let named = || thv_audit::holders(addr.port()).ok()?.into_iter().find(|holder| holder.addr == *addr);
    let named = if *uid == Some(us) { named() } else { None };
    named.as_ref().unwrap_or(&stranger.holder).to_string()
}

/// Whoever listens where a server is to listen that does not run.
#[cfg(target_os = "linux")]
pub fn somebody(addr: SocketAddr) -> Option<ConnectError> {
    reached_at(addr).ok()?.first().map(|stranger| ConnectError::Stranger(shown(stranger)))
}

#[cfg(not(target_os = "linux"))]
pub fn somebody(_addr: SocketAddr) -> Option<ConnectError> {
    None
}

/// Fails if somebody has the port that a server is to be told to listen on, and says who. A server that is started all
/// the same would end, or wait, while requests meet the other one.
pub fn vacant(port: u16) -> io::Result<()> {
    let Err(taken) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { return Ok(()) };
    if taken.kind() != io::ErrorKind::AddrInUse {
        return Err(io::Error::new(taken.kind(), format!("port {port} cannot be listened on: {taken}")));
    }
    let holders = thv_audit::holders(port).unwrap_or_default();
    let loopback = |ip: IpAddr| ip.is_unspecified() || ip == IpAddr::V4(Ipv4Addr::LOCALHOST);
    let by = holders.iter().find(|holder| loopback(holder.addr.ip()));
    let by = by.map_or_else(|| "another program".to_owned(), ToString::to_string);
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("port {port} is held by {by}")))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_listener_outside_the_family_is_a_stranger_though_it_is_our_own_user_s() {
        let mut guardian = Command::new("sleep").arg("1000").spawn().unwrap();
        let alone = ProcessRef::of(guardian.id()).unwrap();
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            let error = Owner::default().check(addr, alone).unwrap_err();
            let shown = error.to_string();
            assert!(matches!(error, ConnectError::Stranger(_)), "{shown}");
            assert!(shown.contains(&format!("(pid {})", std::process::id())), "{shown}");
            assert!(somebody(addr).is_some());
            let taken = vacant(port).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
            assert!(taken.to_string().contains(&std::process::id().to_string()), "{taken}");
            // Whoever took a connection holds it still, and gives the port up.
            let _guest = std::net::TcpStream::connect(addr).unwrap();
            let _taken = listener.accept().unwrap();
            drop(listener);
            let error = Owner::default().check(addr, alone).unwrap_err();
            assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
            assert!(somebody(addr).is_none() && vacant(port).is_ok());
        }
        guardian.kill().unwrap();
        guardian.wait().unwrap();
    }

    #[test]
    fn a_listener_of_the_family_is_known_again_and_not_that_of_another_family() {
        // A child of ours is of the family of this process. It is handed a socket that we do not keep.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", "echo up; exec sleep 1000"])
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let owner = Owner::default();
        let us = ProcessRef::current().unwrap();
        for _ in 0..2 {
            owner.check(addr, us).unwrap();
            assert_eq!(owner.known.lock().unwrap().as_ref().map(|(_, sockets)| sockets.len()), Some(1));
        }
        let other = ProcessRef::of(child.id()).unwrap();
        assert!(matches!(owner.check(addr, other), Err(ConnectError::Stranger(_))));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_listener_on_another_address_is_not_the_server() {
        let other = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        assert!(matches!(
            Owner::default().check(addr, ProcessRef::current().unwrap()),
            Err(ConnectError::Unreachable(_))
        ));
        vacant(port).unwrap();
    }
}
