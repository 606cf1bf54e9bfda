//! SIGKILL: of commands after each of their steps, and of the processes of a running workload, alone and in pairs.
//! The next command works, and nothing is orphaned: no process, no key, no file.

mod crash;

use crate::DEMO_SERVER;
use crate::fixture::{GONE_BOUND, answers, list, only_row, server, store_entries, wait_until};
use serde_json::{Value, json};
use std::path::Path;
use thv_e2e::{Exit, Home, Result, STOP_BOUND, Signal, ensure, need_part};

/// Names the step after which a debug build of the command kills itself.
const KILL_AFTER: &str = "THV_TEST_KILL_AFTER";

const KILLED: Exit = Exit::Signal(Signal::KILL.as_raw());

/// `thv run` with its arguments for a locked demo server.
const RUN: [&str; 6] = ["run", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER];

/// The steps of `run` before its supervisor is told to go.
const BEFORE_GO: [&str; 7] = [
    "folder-made",
    "marked-creating",
    "config-written",
    "key-made",
    "supervisor-started",
    "prepared",
    "port-saved",
];

/// The step by which it is told.
const GO: &str = "released";

/// The steps of `rm`, of which the first is that of `stop` too.
const REMOVAL: [&str; 4] = ["stopped", "marked-removing", "keys-removed", "files-removed"];

/// A step that is not in these lists would be one after which nothing is killed.
#[test]
fn the_command_knows_the_steps_that_are_tested_and_no_others() -> Result {
    Home::with(|home| {
        let said = home.thv(["version"]).env(KILL_AFTER, "?").output()?.expect(0)?.stderr;
        let words = said.lines().find_map(|line| line.strip_prefix("there is no such step; there are "));
        let words: Vec<_> = words.unwrap_or_default().split_whitespace().collect();
        assert_eq!(words, [&BEFORE_GO[..], &[GO], &REMOVAL].concat(), "{said}");
        Ok(())
    })
}

/// Runs a command that kills itself after a step.
fn killed(home: &Home, args: &[&str], step: &str) -> Result {
    let output = home.thv(args).env(KILL_AFTER, step).output()?;
    ensure!(output.exit == KILLED, "{step} was not reached; is this a debug build? {output:?}");
    Ok(())
}

fn all_gone(home: &Home) -> Result {
    let waited = wait_until("no process is left", GONE_BOUND, || Ok(home.processes().is_empty()));
    waited.map_err(|failure| failure.during(format!("{:?}", home.processes())))
}

/// Removes the workload, whatever is left of it, and checks that nothing is.
fn remove(home: &Home, python: &Path) -> Result {
    let output = home.thv(["rm", "demo"]).output()?;
    ensure!(matches!(output.exit, Exit::Code(0 | 3)), "{output:?}");
    nothing_left(home, python)
}

fn nothing_left(home: &Home, python: &Path) -> Result {
    all_gone(home)?;
    assert_eq!(list(home)?, Vec::<Value>::new());
    assert_eq!(store_entries(home, python)?, json!({}));
    let folders = home.path().join("state/workloads").read_dir()?.count();
    assert_eq!(folders, 0, "a workload's folder is left");
    let sockets = home.path().join("run").read_dir()?.count();
    assert_eq!(sockets, 0, "a socket is left");
    Ok(())
}

#[test]
pub(crate) fn a_run_killed_before_its_go_leaves_nothing_to_the_next_command() -> Result {
    let python = need_part!(Python);
    for step in BEFORE_GO {
        let check = |home: &Home| -> Result {
            killed(home, &RUN, step)?;
            // What was started ends without being told to.
            all_gone(home)?;
            assert_eq!(list(home)?, Vec::<Value>::new());
            remove(home, &python)?;

            killed(home, &RUN, step)?;
            let demo = home.detached(&RUN[1..])?;
            assert_eq!(only_row(home)?["shared_key_auth"]["key_id"], json!(demo.key_id));
            answers(home, "demo")?;
            home.thv(["rm", "demo"]).output()?.expect(0)?;
            nothing_left(home, &python)
        };
        Home::with(check).map_err(|failure| failure.during(step))?;
    }
    Ok(())
}

#[test]
pub(crate) fn a_run_killed_after_its_go_has_done_its_work() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        killed(home, &RUN, GO)?;
        wait_until("it runs", STOP_BOUND, || Ok(only_row(home)?["status"] == "running"))?;
        answers(home, "demo")?;
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        all_gone(home)?;
        home.thv(["start", "demo"]).output()?.expect(0)?;
        answers(home, "demo")?;
        remove(home, &python)?;
        Ok(())
    })
}

#[test]
pub(crate) fn a_failed_run_killed_while_it_tidies_up_is_tidied_up_by_the_next_command() -> Result {
    let python = need_part!(Python);
    let exits = server(&python, "exits.py").map(|word| word.display().to_string());
    let mut run = vec!["run", "--name", "demo", "--shared-key-auth", "--"];
    run.extend(exits.iter().map(String::as_str));
    for step in &REMOVAL[1..] {
        let check = |home: &Home| -> Result {
            killed(home, &run, step)?;
            remove(home, &python)?;
            killed(home, &run, step)?;
            home.detached(&RUN[1..])?;
            answers(home, "demo")?;
            remove(home, &python)
        };
        Home::with(check).map_err(|failure| failure.during(step))?;
    }
    Ok(())
}

#[test]
pub(crate) fn an_rm_killed_after_any_step_is_finished_by_the_next_command() -> Result {
    let python = need_part!(Python);
    for step in REMOVAL {
        for next in ["rm", "rm --all", "run", "start", "restart", "stop", "bridge"] {
            let check = |home: &Home| -> Result {
                home.detached(&RUN[1..])?;
                killed(home, &["rm", "demo"], step)?;
                all_gone(home)?;
                let had_keys = step == REMOVAL[0];
                match next {
                    "rm" => {}
                    "rm --all" => _ = home.thv(["rm", "--all"]).output()?.expect(0)?,
                    // A workload whose removal has not begun is still there.
                    "run" if had_keys => _ = home.thv(RUN).output()?.expect(4)?,
                    "run" => {
                        home.detached(&RUN[1..])?;
                        answers(home, "demo")?;
                    }
                    "bridge" if had_keys => {
                        let mut bridge = home.bridge("demo")?;
                        let answer = bridge.request("ping", &json!({}))?;
                        assert_eq!(answer["error"]["data"]["reason"], "not_running", "{answer}");
                    }
                    "bridge" => _ = home.thv(["proxy", "stdio", "demo"]).output()?.expect(3)?,
                    other => {
                        let code = if had_keys { 0 } else { 3 };
                        home.thv([other, "demo"]).output()?.expect(code)?;
                    }
                }
                remove(home, &python)
            };
            Home::with(check).map_err(|failure| failure.during(format!("{step}, then {next}")))?;
        }
    }
    Ok(())
}

#[test]
pub(crate) fn a_start_killed_after_any_step_can_be_repeated() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let first = home.detached(&RUN[1..])?;
        for step in BEFORE_GO[4..].iter().copied().chain([GO]) {
            let check = || -> Result {
                home.thv(["stop", "demo"]).output()?.expect(0)?;
                killed(home, &["start", "demo"], step)?;
                if step == GO {
                    wait_until("it runs", STOP_BOUND, || Ok(only_row(home)?["status"] == "running"))?;
                } else {
                    all_gone(home)?;
                    assert_eq!(only_row(home)?["pid"], Value::Null);
                }
                let again = thv_e2e::Detached::of(home.thv(["start", "demo"]).output()?)?;
                assert_eq!(again, first);
                answers(home, "demo")
            };
            check().map_err(|failure| failure.during(step))?;
        }
        for (command, step) in [("stop", "stopped"), ("restart", "stopped"), ("restart", "prepared")] {
            let check = || -> Result {
                killed(home, &[command, "demo"], step)?;
                all_gone(home)?;
                let again = thv_e2e::Detached::of(home.thv(["restart", "demo"]).output()?)?;
                assert_eq!(again, first);
                answers(home, "demo")
            };
            check().map_err(|failure| failure.during(format!("{command}, {step}")))?;
        }
        remove(home, &python)?;
        Ok(())
    })
}

#[test]
pub(crate) fn an_interrupted_run_leaves_nothing() -> Result {
    let python = need_part!(Python);
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let check = |home: &Home| -> Result {
            let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "--"]);
            let mut run = run.args(server(&python, "silent.py")).start()?;
            let log = home.path().join("state/workloads/demo/server.log");
            wait_until("the server waits", STOP_BOUND, || {
                Ok(std::fs::read(&log).is_ok_and(|log| !log.is_empty()))
            })?;
            run.signal(signal)?;
            assert_eq!(run.wait(STOP_BOUND)?, Exit::Code(1));
            assert!(run.stderr().contains("interrupted"), "{}", run.stderr());
            nothing_left(home, &python)
        };
        Home::with(check).map_err(|failure| failure.during(format!("{signal:?}")))?;
    }
    Ok(())
}

#[test]
fn a_run_interrupted_while_it_waits_for_the_store_leaves_nothing() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        // The folders of the home are there once a command has changed something.
        home.detached(&RUN[1..])?;
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        let store = std::fs::File::open(home.path().join("state/secrets.enc.lock"))?;
        store.lock()?;
        let mut run = home.thv(RUN).start()?;
        let config = home.path().join("state/workloads/demo/runconfig.json");
        wait_until("the run config is written", STOP_BOUND, || Ok(config.exists()))?;
        run.signal(Signal::INT)?;
        drop(store);
        assert_eq!(run.wait(STOP_BOUND)?, Exit::Code(1));
        nothing_left(home, &python)
    })
}

#[test]
pub(crate) fn a_restart_killed_half_way_leaves_a_workload_that_is_wanted() -> Result {
    Home::with(|home| {
        home.thv(["run", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER]).output()?.expect(0)?;
        killed(home, &["restart", "demo"], "stopped")?;
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        Ok(())
    })
}
