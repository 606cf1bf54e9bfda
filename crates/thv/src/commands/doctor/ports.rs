//! Ports: who else listens on those of our workloads, and which servers keep one of their own beside the proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thv_audit::Holder;
use thv_workload::config::Transport;
use thv_workload::registry::Workload;

use super::{Finding, Weight};

/// Everybody else who listens on a workload's port. Clients with a fixed header send their key to whoever does.
pub(super) fn strangers(workload: &Workload, all: &[Workload]) -> Vec<Finding<'static>> {
    let port = workload.status.port;
    if port == 0 {
        return Vec::new();
    }
    // Where the system does not tell, a start is still refused a port that somebody has.
    let holders = thv_audit::holders(port).unwrap_or_default();
    let others = holders.iter().filter(|holder| !is_ours(workload, holder, our_user()));
    others.map(|holder| finding(workload, holder, all)).collect()
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there are no user ids")]
fn our_user() -> Option<u32> {
    Some(rustix::process::geteuid().as_raw())
}

#[cfg(not(unix))]
fn our_user() -> Option<u32> {
    None
}

fn bound(workload: &Workload) -> IpAddr {
    workload.config.host.parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Whether this is the workload's own supervisor. It hides its descriptors from other programs, so a process that is
/// not known, of our user and where it should be, is it.
fn is_ours(workload: &Workload, holder: &Holder, user: Option<u32>) -> bool {
    let Some(supervisor) = workload.status.supervisor else { return false };
    holder.addr == SocketAddr::new(bound(workload), workload.status.port)
        && (holder.uid.is_none() || holder.uid == user)
        && holder.process.as_ref().is_none_or(|process| process.pid == supervisor.pid)
}

fn finding(workload: &Workload, holder: &Holder, all: &[Workload]) -> Finding<'static> {
    let (name, port) = (&workload.name, workload.status.port);
    let runs = workload.status.supervisor.is_some();
    let start = match (runs, workload.config.port_is_explicit) {
        (true, _) => String::new(),
        (false, true) => format!(", then thv start {name}; or run {name} anew with another --proxy-port"),
        (false, false) => format!("; or thv start {name}, which moves to another port"),
    };
    let neighbour = all.iter().find(|other| other.name != *name && is_ours(other, holder, our_user()));
    if let Some(neighbour) = neighbour {
        let neighbour = &neighbour.name;
        return Finding::note("port", format!("port {port} of {name} is now that of workload {neighbour}"))
            .why("clients that have this port in their settings reach another server, and are refused")
            .mend(format!("thv stop {neighbour}{start}"));
    }
    // Clients go to the address of the workload, or to `localhost`, which is the other family's loopback, too.
    let ip = holder.addr.ip();
    let reached = ip == bound(workload) || ip.is_unspecified() || ip == IpAddr::V6(Ipv6Addr::LOCALHOST);
    let weight = if reached { Weight::Problem } else { Weight::Note };
    let why = match (reached, workload.config.is_locked()) {
        (false, _) => "it is no danger as long as no client is sent to that address",
        (true, true) => "a client that sends the key without asking for proof sends it there",
        (true, false) => "clients talk to that program in the place of the workload",
    };
    let end = match &holder.process {
        Some(process) => format!("end that program (kill {})", process.pid),
        None => "end that program, as its user or as root".to_owned(),
    };
    Finding::new("port", weight, format!("port {port} of {name} is held by {holder}"))
        .why(why)
        .mend(format!("{end}{start}"))
}

/// A server that listens by itself can be called past the proxy.
pub(super) fn beside(workload: &Workload) -> Option<Finding<'static>> {
    let (name, config) = (&workload.name, &workload.config);
    if config.command.is_none() || config.transport == Transport::Stdio {
        return None;
    }
    let port = match config.target_port {
        0 => "a port of its own".to_owned(),
        port => format!("port {port}"),
    };
    let gets_key =
        config.shared_key_auth.as_ref().is_some_and(|auth| config.is_locked() && auth.upstream_key);
    let (why, mend) = if gets_key {
        (
            "whoever is on this machine can call it there, unless it checks the key in TOOLHIVE_SHARED_KEY",
            format!("see that the server checks that key, or run {name} over stdio, which has no such port"),
        )
    } else if config.is_locked() {
        (
            "whoever is on this machine can call it there without a key: it is given none that it could check",
            format!("run {name} without --no-upstream-key, or over stdio, which has no such port"),
        )
    } else {
        (
            "whoever is on this machine can call it there, web pages too: not even the guards of the proxy are \
             before it",
            format!("thv key enable {name}, or run it over stdio, which has no such port"),
        )
    };
    let what = format!("{name} is an HTTP server and keeps {port} beside the proxy");
    Some(Finding::note("own-port", what).why(why).mend(mend))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use thv_audit::Process;
    use thv_keygen::Name;
    use thv_workload::config::RunConfig;
    use thv_workload::process::ProcessRef;
    use thv_workload::status::{Desired, State, Status};

    const US: Option<u32> = Some(1000);

    fn workload(json: &str, supervisor: Option<u32>) -> Workload {
        let config = RunConfig::parse(json.as_bytes()).unwrap();
        let mut status = Status::new(State::Running, Desired::Running);
        status.port = 4000;
        status.supervisor = supervisor.map(|pid| ProcessRef { pid, start_time: 1 });
        Workload { name: Name::parse(&config.name).unwrap(), config, status }
    }

    fn locked(supervisor: Option<u32>) -> Workload {
        let json = r#"{"name":"x","command":"/bin/cat","host":"127.0.0.1","sharedKeyAuth":{"enabled":true}}"#;
        workload(json, supervisor)
    }

    fn holder(addr: &str, uid: u32, pid: Option<u32>) -> Holder {
        let process = pid.map(|pid| Process { pid, program: "perl".into() });
        Holder { addr: addr.parse().unwrap(), uid: Some(uid), process }
    }

    #[test]
    fn only_our_supervisor_at_our_address_is_ours() {
        let running = locked(Some(7));
        for (addr, uid, pid, ours) in [
            ("127.0.0.1:4000", 1000, Some(7), true),
            // It cannot be looked into.
            ("127.0.0.1:4000", 1000, None, true),
            ("127.0.0.1:4000", 1000, Some(8), false),
            ("127.0.0.1:4000", 0, None, false),
            ("[::1]:4000", 1000, None, false),
            ("127.0.0.2:4000", 1000, None, false),
            ("0.0.0.0:4000", 1000, None, false),
        ] {
            assert_eq!(is_ours(&running, &holder(addr, uid, pid), US), ours, "{addr} {uid} {pid:?}");
            assert!(!is_ours(&locked(None), &holder(addr, uid, pid), US), "it does not run");
        }
    }

    #[test]
    fn a_stranger_is_named_with_what_it_takes() {
        for (runs, addr, pid, weight, words) in [
            (true, "[::1]:4000", Some(9), Weight::Problem, &["perl (pid 9) on [::1]:4000", "kill 9"][..]),
            (true, "0.0.0.0:4000", None, Weight::Problem, &["user 65534", "as root"]),
            (true, "127.0.0.2:4000", Some(9), Weight::Note, &["no danger"]),
            (false, "127.0.0.1:4000", Some(9), Weight::Problem, &["thv start x, which moves"]),
        ] {
            let stranger = holder(addr, 65_534, pid);
            let row = finding(&locked(runs.then_some(7)), &stranger, &[]).row;
            assert_eq!(row.weight, weight, "{}", row.what);
            let text = format!("{} {} {}", row.what, row.why, row.mend);
            words.iter().for_each(|word| assert!(text.contains(word), "{word:?}: {text}"));
        }
        let mut explicit = locked(None);
        explicit.config.port_is_explicit = true;
        let row = finding(&explicit, &holder("127.0.0.1:4000", 0, None), &[]).row;
        assert!(row.mend.contains("another --proxy-port") && !row.mend.contains("moves"), "{}", row.mend);
    }

    #[test]
    fn a_neighbour_is_no_stranger() {
        let user = our_user().unwrap();
        let neighbour = workload(r#"{"name":"y","command":"/bin/cat"}"#, Some(8));
        let row = finding(&locked(None), &holder("127.0.0.1:4000", user, Some(8)), &[neighbour]).row;
        assert_eq!(row.weight, Weight::Note);
        assert!(row.what.ends_with("of workload y") && row.mend.starts_with("thv stop y"), "{}", row.what);
    }

    #[test]
    fn http_servers_are_told_of_and_the_more_so_without_a_key() {
        let of = |rest: &str| {
            let json = format!(r#"{{"name":"x","command":"/bin/cat"{rest}}}"#);
            beside(&workload(&json, None)).map(|finding| {
                let row = finding.row;
                format!("{} {} {}", row.what, row.why, row.mend)
            })
        };
        assert_eq!(of(""), None);
        assert_eq!(of(r#","sharedKeyAuth":{"enabled":true}"#), None);
        for (rest, word) in [
            (r#","transport":"sse","sharedKeyAuth":{"enabled":true}"#, "TOOLHIVE_SHARED_KEY"),
            (r#","transport":"sse","target_port":81"#, "port 81 beside the proxy"),
            (r#","transport":"streamable-http""#, "web pages too"),
            (
                r#","transport":"streamable-http","sharedKeyAuth":{"enabled":true,"upstreamKey":false}"#,
                "--no-upstream-key",
            ),
        ] {
            let text = of(rest).unwrap_or_default();
            assert!(text.contains(word), "{rest}: {text}");
        }
    }
}
