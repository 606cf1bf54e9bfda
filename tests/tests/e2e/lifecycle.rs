//! A workload from `run` to `rm`: names, ports, signals, crashes.

use crate::DEMO_SERVER;
use crate::fixture::{
    GONE_BOUND, answers, call_text, demo, list, only_row, others, refused, server, start, store_entries,
    wait_alone, wait_until,
};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use thv_e2e::http::Request;
use thv_e2e::{Exit, Failure, Home, Result, STOP_BOUND, Signal, ensure, need_part};

#[test]
pub(crate) fn a_name_is_given_once_whatever_its_case() -> Result {
    let home = Home::new()?;
    let time = demo(&home, "Time")?;
    for name in ["Time", "tIME"] {
        let again = ["run", "-f", "--name", name, "--shared-key-auth", "--", DEMO_SERVER];
        refused(home.thv(again), 4, &["exists"])?;
    }
    assert_eq!(only_row(&home)?["name"], "Time");
    answers(&home, "TIME")?;
    assert_eq!(home.key("time")?, home.key("TIME")?);
    time.stop()?;
    refused(home.thv(["run", "-f", "--name", "time", "--", DEMO_SERVER]), 4, &["exists"])?;
    home.close()
}

#[test]
pub(crate) fn ctrl_c_stops_and_start_brings_back_key_and_port() -> Result {
    let home = Home::new()?;
    let mut first = demo(&home, "demo")?;
    let (port, key_id) = (first.port(), first.key_id().map(str::to_owned));
    let key = home.key("demo")?;
    let created = only_row(&home)?["created_at"].clone();
    first.signal(Signal::INT)?;
    assert_eq!(first.wait(STOP_BOUND)?, Exit::Code(0));
    let row = only_row(&home)?;
    assert_eq!(
        (&row["status"], &row["desired"], &row["pid"]),
        (&json!("stopped"), &json!("stopped"), &json!(null))
    );

    let second = start(&home, "DEMO")?;
    assert_eq!(second.name(), "demo", "a name is shown as it was given to run");
    assert_eq!((second.port(), second.key_id()), (port, key_id.as_deref()));
    assert_eq!(home.key("demo")?, key);
    assert_eq!(only_row(&home)?["created_at"], created);
    answers(&home, "demo")?;
    // Another start of what runs changes nothing.
    let again = home.thv(["start", "-f", "demo"]).output()?.expect(0)?;
    assert_eq!(again.stdout.trim_end(), second.line(), "{again:?}");
    assert_eq!(only_row(&home)?["pid"], second.pid());
    assert_eq!(second.stop()?, Exit::Code(0));
    home.close()
}

#[test]
pub(crate) fn rm_ends_a_workload_and_takes_its_key_and_files() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let other = demo(&home, "other")?;
    let mut demo_first = demo(&home, "demo")?;
    let key_id = demo_first.key_id().map(str::to_owned);
    let key = home.key("demo")?;
    let mut session = home.bridge("demo")?;
    session.initialize()?;
    home.thv(["rm", "Demo"]).output()?.expect(0)?;
    assert_eq!(demo_first.wait(STOP_BOUND)?, Exit::Code(0), "{}", demo_first.stderr());
    let answer = session.request("ping", &json!({}))?;
    assert_eq!(answer["error"]["data"]["reason"], "not_running", "{answer}");
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    refused(home.thv(["rm", "demo"]), 3, &["demo"])?;
    refused(home.thv(["start", "-f", "demo"]), 3, &["demo"])?;
    assert!(!home.path().join("state/workloads/demo").exists());
    assert_eq!(only_row(&home)?["name"], "other");
    let entries = store_entries(&home, &python)?;
    let of_demo = entries.as_object().into_iter().flatten().find(|(name, _)| name.contains("demo"));
    assert_eq!(of_demo, None);
    answers(&home, "other")?;

    let demo_second = demo(&home, "demo")?;
    assert_ne!(demo_second.key_id(), key_id.as_deref(), "a new workload has a new key");
    assert_ne!(home.key("demo")?, key);
    let old = Request::mcp(demo_second.port(), "{}").key(&key).send()?;
    assert_eq!(old.status, 401);
    demo_second.stop()?;
    other.stop()?;
    home.close()
}

#[test]
pub(crate) fn rm_of_several_reports_the_missing_and_removes_the_rest() -> Result {
    let home = Home::new()?;
    for name in ["a", "b"] {
        demo(&home, name)?.stop()?;
    }
    let output = home.thv(["rm", "a", "nobody", "b"]).output()?.expect(3)?;
    assert!(output.stderr.contains("nobody"), "{output:?}");
    assert_eq!(list(&home)?, Vec::<Value>::new());
    home.close()
}

#[test]
pub(crate) fn a_killed_supervisor_takes_its_servers_along_and_can_be_started_again() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let mut run = home.thv(["run", "-f", "--name", "demo", "--shared-key-auth", "--"]);
    run = run.args(server(&python, "stubborn.py"));
    let killed = run.foreground()?;
    let (port, key_id) = (killed.port(), killed.key_id().map(str::to_owned));
    let mut session = home.thv(["proxy", "stdio", "--no-start", "demo"]).bridge()?;
    session.initialize()?;
    let tree: Vec<u32> = serde_json::from_str(&call_text(&mut session, "tree", &json!({}))?)?;
    let bridge = session.pid();
    killed.kill();
    wait_until("the servers are gone", GONE_BOUND, || Ok(others(&home, bridge).is_empty()))?;
    assert_eq!(tree.len(), 4);

    let row = only_row(&home)?;
    assert_eq!(
        (&row["status"], &row["desired"], &row["pid"]),
        (&json!("error"), &json!("running"), &json!(null))
    );
    assert!(row["status_context"].as_str().is_some_and(|why| !why.is_empty()), "{row}");
    assert_eq!(home.thv(["list", "--format", "json"]).output()?.expect(0)?.json()?, json!([]));
    let answer = session.request("tools/list", &json!({}))?;
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["data"]["reason"]),
        (&json!(-33004), &json!("not_running"))
    );

    let again = start(&home, "demo")?;
    assert_eq!((again.port(), again.key_id()), (port, key_id.as_deref()));
    // The bridge finds it, and nobody notices that the session was lost.
    call_text(&mut session, "tree", &json!({}))?;
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    wait_alone(&home, again.pid())?;
    again.kill();
    home.thv(["rm", "demo"]).output()?.expect(0)?;
    assert_eq!(store_entries(&home, &python)?, json!({}));
    home.close()
}

/// Checks that a process dumps no core and shows its memory to nobody.
fn check_hidden(pid: u32) -> Result {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let core: Vec<_> = core.unwrap_or_default().split_whitespace().take(2).collect();
    ensure!(core == ["0", "0"], "{core:?}");
    // The kernel gives these files to root when a process is not dumpable; a test run by root cannot tell.
    ensure!(std::fs::metadata(format!("/proc/{pid}/environ"))?.uid() == 0, "its memory can be read");
    Ok(())
}

#[test]
fn supervisor_and_bridge_show_their_memory_to_nobody() -> Result {
    let home = Home::new()?;
    let demo = demo(&home, "demo")?;
    let mut session = home.bridge("demo")?;
    session.initialize()?;
    check_hidden(demo.pid())?;
    check_hidden(session.pid())?;
    session.finish()?;
    demo.stop()?;
    home.close()
}

/// The session of a process, from its `stat`.
fn session_of(process: &str) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()
}

#[test]
fn a_detached_supervisor_has_nothing_of_its_launcher_and_shows_nothing_of_itself() -> Result {
    Home::with(|home| {
        let leaked = home.file("leaked", "x")?;
        let mut command = home.command("sh");
        command.args(["-c", r#"exec 7<"$0"; exec "$@""#]).arg(&leaked);
        command.arg(std::env::var_os(thv_e2e::BINARY_VARIABLE).unwrap_or_default());
        command.args(["run", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER]);
        let mut run = home.start(command)?;
        assert_eq!(run.wait(STOP_BOUND)?, Exit::Code(0), "{}", run.stderr());
        home.key("demo")?;
        let pid = home.supervisor("demo").map(|process| process.pid).unwrap_or_default();
        assert_eq!(session_of(&pid.to_string()), Some(pid));
        check_hidden(pid)?;
        // The kernel shows these to root alone, too.
        if rustix::process::geteuid().is_root() {
            assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd"))?, std::path::Path::new("/"));
            let mut descriptors = std::collections::BTreeMap::new();
            for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
                let entry = entry?;
                let number = entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(u32::MAX);
                descriptors.insert(number, std::fs::read_link(entry.path())?);
            }
            for standard in 0..3 {
                assert_eq!(descriptors.remove(&standard), Some("/dev/null".into()), "{descriptors:?}");
            }
            let log = home.path().join("state/workloads/demo/proxy.log");
            let own = |link: &std::path::PathBuf| {
                let text = link.to_string_lossy();
                *link == log || text.starts_with("socket:[") || text.starts_with("anon_inode:")
            };
            assert!(descriptors.values().all(own), "{descriptors:?}");
        }
        // In neither its arguments nor its environment, while it serves.
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        assert!(home.processes().iter().any(|process| process.pid == pid));
        assert_eq!(home.leaks()?, []);
        session.finish()?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_supervisor_is_hidden_before_it_is_told_any_key() -> Result {
    Home::with(|home| {
        let mut command = home.command("sh");
        command.args(["-c", r#"ulimit -S -c "$(ulimit -H -c)"; exec "$@""#, "sh"]);
        command.arg(std::env::var_os(thv_e2e::BINARY_VARIABLE).unwrap_or_default()).arg("__supervise");
        let mut supervisor = home.start(command)?;
        // It waits for its errand, which comes with the keys.
        wait_until("it is hidden", STOP_BOUND, || Ok(check_hidden(supervisor.pid()).is_ok()))?;
        supervisor.close_stdin();
        assert_eq!(supervisor.wait(STOP_BOUND)?, Exit::Code(1));
        Ok(())
    })
}

#[test]
fn a_taken_port_is_refused_if_it_was_asked_for_and_left_if_it_was_not() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    let args = ["run", "-f", "--name", "demo", "--shared-key-auth", "--proxy-port", &port, "--", DEMO_SERVER];
    let output = home.thv(args).output()?;
    assert_eq!(output.exit, Exit::Code(6), "{output:?}");
    assert!(output.stderr.contains(&port) && output.stderr.contains("--proxy-port"), "{output:?}");
    assert_eq!(output.stdout, "");
    assert_eq!(list(&home)?, Vec::<Value>::new());
    assert_eq!(store_entries(&home, &python)?, json!({}));
    drop(taken);

    let demo = home.thv(args).foreground()?;
    assert_eq!(demo.port().to_string(), port);
    demo.stop()?;
    home.thv(["rm", "demo"]).output()?.expect(0)?;

    let first = self::demo(&home, "demo")?;
    let (port, key_id) = (first.port(), first.key_id().map(str::to_owned));
    first.stop()?;
    let taken = TcpListener::bind(("127.0.0.1", port))?;
    let moved = start(&home, "demo")?;
    assert_ne!(moved.port(), port);
    assert_eq!(moved.key_id(), key_id.as_deref());
    let said = moved.stderr();
    assert!(said.contains(&port.to_string()) && said.contains(&moved.port().to_string()), "{said}");
    assert_eq!(only_row(&home)?["port"], moved.port());
    answers(&home, "demo")?;
    let new = moved.port();
    moved.stop()?;
    drop(taken);
    // The new port is the one that is kept.
    let again = start(&home, "demo")?;
    assert_eq!(again.port(), new);
    again.stop()?;
    home.close()
}

#[test]
fn an_address_beyond_this_machine_needs_a_word() -> Result {
    let home = Home::new()?;
    let run = ["run", "-f", "--name", "demo", "--shared-key-auth", "--host", "0.0.0.0"];
    refused(home.thv(run).args(["--", DEMO_SERVER]), 6, &["0.0.0.0", "--allow-remote"])?;
    let demo = home.thv(run).args(["--allow-remote", "--", DEMO_SERVER]).foreground()?;
    assert!(demo.stderr().contains("warning"), "{}", demo.stderr());
    answers(&home, "demo")?;
    demo.stop()?;
    home.close()
}

/// The harness' own notion of what belongs to a home must hold for servers, or the checks above see nothing.
#[test]
fn servers_and_guardians_are_seen() -> Result {
    let home = Home::new()?;
    let demo = demo(&home, "demo")?;
    let mut session = home.bridge("demo")?;
    session.initialize()?;
    let bridge = session.pid();
    let seen: Vec<_> =
        others(&home, demo.pid()).into_iter().filter(|process| process.pid != bridge).collect();
    if seen.len() < 2 || !seen.iter().all(|process| process.command.contains("demo-server")) {
        return Err(Failure::new(format!("a guardian and a server were expected: {seen:?}")));
    }
    session.finish()?;
    wait_alone(&home, demo.pid())?;
    demo.stop()?;
    home.close()
}
