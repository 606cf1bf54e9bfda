//! Linux: `/proc/net/tcp` names the socket and its user, `/proc/<pid>/fd` the process that has it open.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::{Holder, Listener, Process};

/// The state of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTEN: &str = "0A";

struct Socket {
    addr: SocketAddr,
    uid: u32,
    inode: String,
}

pub(crate) fn listeners(port: u16) -> io::Result<Vec<Holder>> {
    let holder = |Socket { addr, uid, .. }| Holder { addr, uid: Some(uid), process: None };
    Ok(sockets(port)?.into_iter().map(holder).collect())
}

pub(crate) fn numbered(port: u16) -> io::Result<Vec<Listener>> {
    let listener = |Socket { addr, uid, inode }| {
        let inode = inode.parse().ok()?;
        Some(Listener { holder: Holder { addr, uid: Some(uid), process: None }, inode })
    };
    Ok(sockets(port)?.into_iter().filter_map(listener).collect())
}

pub(crate) fn has_open(pids: &[u32], inode: u64) -> Option<bool> {
    let link = format!("socket:[{inode}]");
    let mut hidden = false;
    for pid in pids {
        let descriptors = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(descriptors) => descriptors,
            // One that has ended has nothing open any more.
            Err(error) => {
                hidden |= error.kind() == io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        let is_it = |path: &Path| fs::read_link(path).is_ok_and(|target| target == Path::new(&link));
        if descriptors.flatten().any(|descriptor| is_it(&descriptor.path())) {
            return Some(true);
        }
    }
    (!hidden).then_some(false)
}

fn sockets(port: u16) -> io::Result<Vec<Socket>> {
    let mut sockets = table(BufReader::new(File::open("/proc/net/tcp")?))?;
    // A kernel without IPv6 has no second table.
    match File::open("/proc/net/tcp6") {
        Ok(file) => sockets.extend(table(BufReader::new(file))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    sockets.retain(|socket| socket.addr.port() == port);
    Ok(sockets)
}

pub(crate) fn holders(port: u16) -> io::Result<Vec<Holder>> {
    let sockets = sockets(port)?;
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let links: Vec<String> = sockets.iter().map(|socket| format!("socket:[{}]", socket.inode)).collect();
    let owners = owners(&links);
    Ok(sockets
        .into_iter()
        .zip(owners)
        .map(|(socket, process)| Holder { addr: socket.addr, uid: Some(socket.uid), process })
        .collect())
}

/// The listening sockets of a table. They come first (the kernel's `proc_net_tcp.rst`), so what follows is not read: a
/// busy machine has thousands of connections, and the kernel takes a tenth of a second and more to write them all down.
/// A line that is not understood is passed over: the format has only ever grown.
fn table(lines: impl BufRead) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for line in lines.lines().skip(1) {
        let line = line?;
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[_, local, _, state, _, _, _, uid, _, inode, ..] = &fields[..] else { continue };
        if state != LISTEN {
            break;
        }
        let (Some(addr), Ok(uid)) = (address(local), uid.parse()) else { continue };
        sockets.push(Socket { addr, uid, inode: inode.to_owned() });
    }
    Ok(sockets)
}

/// `0100007F:A391`: the address in 32-bit words of the machine's own byte order, the port in plain hex.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(ip.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let octets: [u8; 16] = std::array::from_fn(|at| words[at / 4][at % 4]);
            IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// For each link the process that has it open, of those whose descriptors we may see.
fn owners(links: &[String]) -> Vec<Option<Process>> {
    let mut found: Vec<Option<Process>> = links.iter().map(|_| None).collect();
    let Ok(processes) = fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            for (link, owner) in links.iter().zip(&mut found) {
                if owner.is_none() && target == Path::new(link) {
                    *owner = Some(Process { pid, program: program(pid) });
                }
            }
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found
}

fn program(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // A program chooses its own name; control characters in it are not for a terminal.
    name.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn reads_addresses_as_the_kernel_writes_them() {
        // As on a little-endian machine, whose words the kernel writes.
        if cfg!(target_endian = "little") {
            assert_eq!(address("0100007F:A391"), Some("127.0.0.1:41873".parse().unwrap()));
            assert_eq!(address("00000000000000000000000001000000:0050"), Some("[::1]:80".parse().unwrap()));
            assert_eq!(
                address("0000000000000000FFFF00000100007F:0050"),
                Some("127.0.0.1:80".parse().unwrap())
            );
        }
        for bad in ["", ":", "0100007F", "xyz:1", "0100007F:G", "01:1"] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn finds_every_listener_of_a_port_and_its_process() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = four.local_addr().unwrap().port();
        let other = TcpListener::bind(("127.0.0.2", port)).unwrap();
        let mut holders = holders(port).unwrap();
        holders.sort_by_key(|holder| holder.addr);
        let addrs: Vec<_> = holders.iter().map(|holder| holder.addr).collect();
        assert_eq!(addrs, [four.local_addr().unwrap(), other.local_addr().unwrap()]);
        let mut quick = listeners(port).unwrap();
        quick.sort_by_key(|listener| listener.addr);
        let users = |all: &[Holder]| all.iter().map(|one| (one.addr, one.uid)).collect::<Vec<_>>();
        assert_eq!(users(&quick), users(&holders));
        for holder in &holders {
            assert_eq!(holder.process.as_ref().map(|process| process.pid), Some(std::process::id()));
            assert!(holder.to_string().contains(&std::process::id().to_string()));
        }
    }

    #[test]
    fn what_follows_the_listeners_is_not_read() {
        let line = |port: &str, state: &str| {
            format!(
                "   0: 0100007F:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  7 0 42 1\n"
            )
        };
        let text =
            ["head\n", &line("0001", "0A"), "  new\n", &line("0002", "0A"), &line("0003", "06")].concat();
        // The end of the text, and then an error.
        let lines = BufReader::new(io::Read::chain(text.as_bytes(), Broken));
        let ports: Vec<_> =
            table(lines).unwrap().iter().map(|socket| (socket.addr.port(), socket.uid)).collect();
        assert_eq!(ports, [(1, 7), (2, 7)]);
    }

    struct Broken;

    impl io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("read too far"))
        }
    }

    #[test]
    fn a_process_has_its_own_socket_open_and_no_other() {
        let ours = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = ours.local_addr().unwrap().port();
        let found = numbered(port).unwrap();
        assert_eq!(found.iter().map(|one| one.holder.addr).collect::<Vec<_>>(), [ours.local_addr().unwrap()]);
        let us = std::process::id();
        assert_eq!(has_open(&[us], found[0].inode), Some(true));
        drop(ours);
        assert_eq!(has_open(&[us], found[0].inode), Some(false));
        // Nobody has this pid.
        assert_eq!(has_open(&[u32::MAX], found[0].inode), Some(false));
    }

    #[test]
    fn a_port_that_nobody_holds_has_no_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(holders(port).unwrap().is_empty());
    }
}
