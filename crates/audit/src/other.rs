//! Elsewhere: the system's own tools tell. Compiled, not run here.

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use crate::{Holder, Process};

#[cfg(not(windows))]
pub(crate) fn holders(port: u16) -> io::Result<Vec<Holder>> {
    let out = Command::new("/usr/sbin/lsof")
        .args(["-nP", "-sTCP:LISTEN", "-Fpcun", &format!("-iTCP:{port}")])
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let (mut pid, mut program, mut uid) = (0, String::new(), None);
    let mut holders = Vec::new();
    for line in text.lines().filter(|line| line.is_ascii() && !line.is_empty()) {
        let (field, value) = line.split_at(1);
        match field {
            "p" => pid = value.parse().unwrap_or(0),
            "c" => value.clone_into(&mut program),
            "u" => uid = value.parse().ok(),
            "n" => {
                let addr = value.replace('*', "0.0.0.0").parse::<SocketAddr>();
                if let Ok(addr) = addr {
                    holders.push(Holder {
                        addr,
                        uid,
                        process: Some(Process { pid, program: program.clone() }),
                    });
                }
            }
            _ => {}
        }
    }
    Ok(holders)
}

#[cfg(windows)]
pub(crate) fn holders(port: u16) -> io::Result<Vec<Holder>> {
    let out = Command::new("netstat").args(["-ano", "-p", "TCP"]).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let holder = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, "LISTENING", pid] = fields[..] else { return None };
        let addr: SocketAddr = local.parse().ok()?;
        let pid: u32 = pid.parse().ok()?;
        (addr.port() == port).then(|| Holder {
            addr,
            uid: None,
            process: Some(Process { pid, program: program(pid) }),
        })
    };
    Ok(text.lines().filter_map(holder).collect())
}

#[cfg(windows)]
fn program(pid: u32) -> String {
    let filter = format!("PID eq {pid}");
    let out = Command::new("tasklist").args(["/FI", &filter, "/FO", "CSV", "/NH"]).output();
    let text = out.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    text.split('"').nth(1).unwrap_or("?").to_owned()
}
