//! A workload found again: after a crash, after a reboot, on another port; and one that the user stopped, left alone.

use crate::DEMO_SERVER;
use crate::fixture::{GONE_BOUND, answers, call, call_text, only_row, refused, server, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use thv_e2e::{Detached, Exit, Home, McpStdio, Proc, Result, STOP_BOUND, Signal, ensure, need_part};

/// A locked workload with the demo server, in the background.
fn demo(home: &Home, more: &[&str]) -> Result<Detached> {
    home.detached(["--name", "demo", "--shared-key-auth"].iter().chain(more).chain(&["--", DEMO_SERVER]))
}

/// Kills everything that runs in a home, and empties its run directory, as a power cut does.
fn reboot(home: &Home) -> Result {
    for process in home.processes() {
        process.signal(Signal::STOP);
    }
    wait_until("nothing runs", GONE_BOUND, || {
        home.processes().iter().for_each(Proc::kill);
        Ok(home.processes().is_empty())
    })?;
    std::fs::remove_dir_all(home.path().join("run"))?;
    Ok(())
}

fn crash(home: &Home) -> Result {
    let supervisor =
        home.supervisor("demo").ok_or_else(|| thv_e2e::Failure::new("there is no supervisor"))?;
    supervisor.kill();
    wait_until("it is dead", STOP_BOUND, || Ok(!supervisor.is_alive()))
}

fn supervisors(home: &Home) -> Vec<Proc> {
    home.processes().into_iter().filter(|process| process.command.starts_with("thv __supervise")).collect()
}

fn add(session: &mut McpStdio) -> Result {
    assert_eq!(call_text(session, "add", &json!({ "a": 19, "b": 23 }))?, "42");
    Ok(())
}

fn not_running(answer: &Value) {
    let error = &answer["error"];
    assert_eq!(
        (&error["code"], &error["data"]["reason"]),
        (&json!(-33004), &json!("not_running")),
        "{answer}"
    );
}

fn end(session: McpStdio) -> Result {
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    Ok(())
}

#[test]
pub(crate) fn after_a_reboot_a_bridge_starts_it_with_the_environment_of_its_run() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "-e", "GIVEN=at run", "--"]);
        let run = run.args(server(&python, "reports.py")).env("USER", "somebody").env("SHELL", "/bin/sh");
        let first = Detached::of(run.output()?)?;
        let key = home.key("demo")?;
        let report = |session: &mut McpStdio| -> Result<BTreeMap<String, String>> {
            session.initialize()?;
            let report: Value = serde_json::from_str(&call_text(session, "report", &json!({}))?)?;
            let pairs: Vec<(String, String)> = serde_json::from_value(report["environment"].clone())?;
            Ok(pairs.into_iter().filter(|(name, _)| name != "TOOLHIVE_SHARED_KEY").collect())
        };
        let mut session = home.bridge("demo")?;
        let before = report(&mut session)?;
        end(session)?;
        for _ in 0..2 {
            reboot(home)?;
            assert_eq!(only_row(home)?["status"], "error");
            // What AI clients hand down, and no more.
            let bridge = home.thv(["proxy", "stdio", "demo"]).env("PATH", "/usr/bin:/bin").env_remove("LANG");
            let mut session = bridge.env_remove("TMPDIR").bridge()?;
            assert_eq!(report(&mut session)?, before);
            end(session)?;
            let row = only_row(home)?;
            assert_eq!((&row["status"], &row["port"]), (&json!("running"), &json!(first.port)));
            assert_eq!(home.key("demo")?, key);
        }
        assert_eq!((before["GIVEN"].as_str(), before["USER"].as_str()), ("at run", "somebody"));
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn three_bridges_at_once_start_one_supervisor() -> Result {
    Home::with(|home| {
        demo(home, &[])?;
        for down in [crash, reboot] {
            down(home)?;
            let mut bridges = Vec::new();
            for _ in 0..3 {
                let mut bridge = home.bridge("demo")?;
                let id = bridge.ask("server/discover", &json!({}))?;
                bridges.push((bridge, id));
            }
            for (bridge, id) in &mut bridges {
                let answer = bridge.answer(*id)?;
                assert_ne!(answer["error"]["code"], -33004, "{answer}");
                bridge.initialize()?;
                add(bridge)?;
            }
            assert_eq!(supervisors(home), home.supervisor("demo").into_iter().collect::<Vec<_>>());
            for (bridge, _) in bridges {
                end(bridge)?;
            }
        }
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn what_the_user_stopped_stays_stopped() -> Result {
    Home::with(|home| {
        demo(home, &[])?;
        let mut live = home.bridge("demo")?;
        live.initialize()?;
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        for round in ["stopped", "rebooted"] {
            if round == "rebooted" {
                end(live)?;
                reboot(home)?;
                live = home.bridge("demo")?;
            }
            not_running(&live.request("tools/list", &json!({}))?);
            let row = only_row(home)?;
            assert_eq!((&row["status"], &row["desired"]), (&json!("stopped"), &json!("stopped")));
            assert_eq!(supervisors(home), []);
        }
        // A live bridge is served again once the user wants it.
        home.thv(["start", "demo"]).output()?.expect(0)?;
        live.initialize()?;
        add(&mut live)?;
        crash(home)?;
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        not_running(&call(&mut live, "add", &json!({ "a": 1, "b": 1 }))?);
        end(live)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn a_bridge_that_must_not_start_it_says_what_does() -> Result {
    Home::with(|home| {
        demo(home, &[])?;
        crash(home)?;
        let mut session = home.thv(["proxy", "stdio", "demo", "--no-start"]).bridge()?;
        let answer = session.request("tools/list", &json!({}))?;
        not_running(&answer);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("thv start demo") && message.contains("thv logs demo"), "{message}");
        assert_eq!(supervisors(home), []);
        home.thv(["start", "demo"]).output()?.expect(0)?;
        session.initialize()?;
        add(&mut session)?;
        end(session)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn the_end_of_the_login_is_no_wish_of_the_user() -> Result {
    Home::with(|home| {
        demo(home, &[])?;
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
            let supervisor = home.supervisor("demo");
            supervisor.iter().for_each(|process| process.signal(signal));
            wait_until("it ends", STOP_BOUND, || Ok(supervisors(home).is_empty()))?;
            let row = only_row(home)?;
            assert_eq!(
                (&row["status"], &row["desired"]),
                (&json!("stopped"), &json!("running")),
                "{signal:?}"
            );
            // Nothing of the session is lost that the client could notice.
            add(&mut session)?;
        }
        end(session)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_restart_and_another_lock_under_a_live_bridge_are_a_pause_and_nothing_else() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run = home.thv(["run", "--name", "demo", "--"]);
        run.args(server(&python, "stubborn.py")).output()?.expect(0)?;
        let mut sessions =
            [home.bridge("demo")?, home.thv(["proxy", "stdio", "demo", "--no-start"]).bridge()?];
        for session in &mut sessions {
            session.initialize()?;
        }
        let params = json!({ "name": "tree", "arguments": {} });
        let stopping = || Ok(only_row(home)?["status"] == "stopping");
        for change in [&["key", "enable"][..], &["restart"]] {
            let mut check = || -> Result {
                let before = call_text(&mut sessions[0], "tree", &json!({}))?;
                let mut command = home.thv(change).arg("demo").start()?;
                // Its server takes its time to end.
                wait_until("it is on its way down", STOP_BOUND, stopping)?;
                let mut asked = Vec::new();
                for session in &mut sessions {
                    asked.push(session.ask("tools/call", &params)?);
                }
                for (session, id) in sessions.iter_mut().zip(asked) {
                    let answer = session.answer(id)?;
                    let tree = answer["result"]["content"][0]["text"].as_str();
                    ensure!(tree.is_some_and(|tree| tree != before), "{answer}");
                }
                assert_eq!(command.wait(STOP_BOUND)?, Exit::Code(0), "{}", command.stderr());
                Ok(())
            };
            check().map_err(|failure| failure.during(change.join(" ")))?;
        }
        // Nobody restarts what ends with the login: the bridge waits for its end, and does.
        home.supervisor("demo").iter().for_each(|process| process.signal(Signal::TERM));
        wait_until("it is on its way down", STOP_BOUND, stopping)?;
        call_text(&mut sessions[0], "tree", &json!({}))?;
        for session in sessions {
            end(session)?;
        }
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn a_live_bridge_follows_to_a_new_port_when_a_stranger_has_the_old_one() -> Result {
    Home::with(|home| {
        let first = demo(home, &[])?;
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        add(&mut session)?;
        crash(home)?;
        let stranger = TcpListener::bind(("127.0.0.1", first.port))?;
        add(&mut session)?;
        let moved = only_row(home)?["port"].as_u64().unwrap_or_default();
        assert_ne!(moved, u64::from(first.port));
        let said = session.stderr();
        ensure!(said.contains(&first.port.to_string()) && said.contains(&moved.to_string()), "{said}");

        // By a command, too; the new port is the one that is kept.
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        let other = TcpListener::bind(("127.0.0.1", u16::try_from(moved).unwrap_or_default()))?;
        let output = home.thv(["start", "demo"]).output()?.expect(0)?;
        ensure!(output.stderr.contains(&format!("port {moved}")), "{output:?}");
        let third = Detached::of(output)?;
        add(&mut session)?;
        drop((stranger, other));
        assert_eq!(Detached::of(home.thv(["restart", "demo"]).output()?)?, third);
        add(&mut session)?;
        end(session)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_port_that_was_asked_for_is_not_exchanged() -> Result {
    Home::with(|home| {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let port = taken.local_addr()?.port().to_string();
        let run = ["run", "--name", "demo", "--shared-key-auth", "--proxy-port", &port, "--", DEMO_SERVER];
        let output = home.thv(run).output()?;
        ensure!(output.exit == Exit::Code(6) && output.stderr.contains(&port), "{output:?}");
        assert!(home.path().join("state/workloads").read_dir()?.next().is_none());
        drop(taken);
        assert_eq!(Detached::of(home.thv(run).output()?)?.port.to_string(), port);
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        crash(home)?;
        let stranger = TcpListener::bind(format!("127.0.0.1:{port}"))?;
        let id = session.ask("tools/list", &json!({}))?;
        let answer = session.answer(id)?;
        not_running(&answer);
        ensure!(answer["error"]["message"].as_str().is_some_and(|text| text.contains(&port)), "{answer}");
        let output = home.thv(["start", "demo"]).output()?;
        ensure!(output.exit == Exit::Code(6) && output.stderr.contains(&port), "{output:?}");
        drop(stranger);
        add(&mut session)?;
        assert_eq!(only_row(home)?["port"].to_string(), port);
        end(session)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn a_server_that_does_not_come_up_again_is_told_of_with_its_last_words() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let program = home.file("server", format!("#!/bin/sh\nexec {DEMO_SERVER}\n"))?;
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        let program = program.to_string_lossy().into_owned();
        home.detached(["--name", "demo", "--shared-key-auth", "--", &program])?;
        crash(home)?;
        home.file("server", "#!/bin/sh\necho the database is gone >&2\nexit 3\n")?;
        let mut session = home.bridge("demo")?;
        let id = session.ask("initialize", &json!({}))?;
        let answer = session.answer(id)?;
        not_running(&answer);
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("the database is gone") && message.contains("thv logs demo"), "{message}");
        refused(home.thv(["start", "demo"]), 1, &["the database is gone"])?;
        assert_eq!(supervisors(home), []);
        // Mended, it serves the same bridge.
        home.file("server", format!("#!/bin/sh\nexec {DEMO_SERVER}\n"))?;
        session.initialize()?;
        add(&mut session)?;
        end(session)?;
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        assert_eq!(crate::fixture::store_entries(home, &python)?, json!({}));
        Ok(())
    })
}
