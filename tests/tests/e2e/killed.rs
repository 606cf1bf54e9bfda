//! SIGKILL: of commands after each of their steps, and of the processes of a running workload, alone and in pairs.
//! The next command works, and nothing is orphaned: no process, no key, no file.

use crate::DEMO_SERVER;
use crate::fixture::{
    GONE_BOUND, answers, call, call_text, list, only_row, server, store_entries, wait_until,
};
use serde_json::{Value, json};
use std::path::Path;
use thv_e2e::{Exit, Home, McpStdio, Proc, Result, STOP_BOUND, Signal, ensure, need_part};

/// Names the step after which a debug build of the command kills itself.
const KILL_AFTER: &str = "THV_TEST_KILL_AFTER";

const KILLED: Exit = Exit::Signal(Signal::KILL.as_raw());

/// `thv run` with its arguments for a locked demo server.
const RUN: [&str; 6] = ["run", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER];

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
    let steps = [
        "folder-made",
        "marked-creating",
        "config-written",
        "key-made",
        "supervisor-started",
        "prepared",
        "port-saved",
    ];
    for step in steps {
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
        killed(home, &RUN, "released")?;
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
    for step in ["marked-removing", "keys-removed", "files-removed"] {
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
    for step in ["stopped", "marked-removing", "keys-removed", "files-removed"] {
        for next in ["rm", "rm --all", "run", "start", "restart", "stop", "bridge"] {
            let check = |home: &Home| -> Result {
                home.detached(&RUN[1..])?;
                killed(home, &["rm", "demo"], step)?;
                all_gone(home)?;
                let had_keys = step == "stopped";
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
        for step in ["supervisor-started", "prepared", "port-saved", "released"] {
            let check = || -> Result {
                home.thv(["stop", "demo"]).output()?.expect(0)?;
                killed(home, &["start", "demo"], step)?;
                if step == "released" {
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

/// The processes of a workload that runs and has a client.
struct Scene {
    supervisor: Proc,
    guardian: Proc,
    server: Proc,
    bridge: Proc,
    /// The server and all below it, as it told.
    tree: Vec<Proc>,
    session: McpStdio,
}

impl Scene {
    fn set(home: &Home, python: &Path, tree: Tree) -> Result<Self> {
        let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "--"]);
        let run = run.args(server(python, "family.py"));
        let run = if tree == Tree::LeavesItsSession { run.arg("away") } else { run };
        run.output()?.expect(0)?;
        Self::find(home)
    }

    fn find(home: &Home) -> Result<Self> {
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        let tree: Vec<u32> = serde_json::from_str(&call_text(&mut session, "tree", &json!({}))?)?;
        let all = home.processes();
        let of = |pid: u32| {
            let found = all.iter().find(|process| process.pid == pid);
            found.cloned().ok_or_else(|| thv_e2e::Failure::new(format!("{pid} is not in {all:?}")))
        };
        let server = of(tree[0])?;
        let guardian = of(server.parent().unwrap_or_default())?;
        let supervisor = of(guardian.parent().unwrap_or_default())?;
        assert_eq!(home.supervisor("demo").as_ref(), Some(&supervisor));
        let tree = tree.into_iter().map(of).collect::<Result<_>>()?;
        Ok(Self { supervisor, guardian, server, bridge: of(session.pid())?, tree, session })
    }

    /// Kills several at once: none sees the end of another.
    fn kill(&self, who: &[&str]) {
        let victims = || {
            who.iter().map(|who| match *who {
                "supervisor" => &self.supervisor,
                "guardian" => &self.guardian,
                "server" => &self.server,
                _ => &self.bridge,
            })
        };
        victims().for_each(|process| process.signal(Signal::STOP));
        victims().for_each(Proc::kill);
    }

    fn tree_is_gone(&self) -> bool {
        !self.guardian.is_alive() && !self.tree.iter().any(Proc::is_alive)
    }
}

/// What a server has started: it ignores the end of its input and SIGTERM in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tree {
    StaysInItsSession,
    LeavesItsSession,
}

/// When what is left of the tree must be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    ByItself,
    WithTheNextStart,
}

/// Kills some processes of a workload: the next request starts what is missing, and the old tree goes.
fn survive(who: &[&str], tree: Tree, when: Gone) -> Result {
    let python = need_part!(Python);
    let check = |home: &Home| -> Result {
        let mut scene = Scene::set(home, &python, tree)?;
        scene.kill(who);
        let gone = |scene: &Scene| {
            let waited = wait_until("the tree is gone", GONE_BOUND, || Ok(scene.tree_is_gone()));
            waited.map_err(|failure| failure.during(format!("{:?}", home.processes())))
        };
        if when == Gone::ByItself {
            gone(&scene)?;
        }
        if who.contains(&"bridge") {
            scene.session.running().wait(STOP_BOUND)?;
            scene.session = home.bridge("demo")?;
            scene.session.initialize()?;
        } else {
            // The client may learn once that its session was lost, never twice.
            let answer = call(&mut scene.session, "pid", &json!({}))?;
            let lost = answer["error"]["data"]["reason"] == "connection_lost";
            ensure!(answer.get("result").is_some() || lost, "{answer}");
        }
        assert_ne!(call_text(&mut scene.session, "pid", &json!({}))?, scene.server.pid.to_string());
        gone(&scene)?;
        let same = home.supervisor("demo").as_ref() == Some(&scene.supervisor);
        assert_eq!(same, !who.contains(&"supervisor"));
        assert_eq!(scene.session.finish()?, (Exit::Code(0), Vec::new()));
        remove(home, &python)
    };
    Home::with(check).map_err(|failure| failure.during(format!("{who:?}, {tree:?}")))
}

#[test]
fn sigkill_of_the_supervisor() -> Result {
    survive(&["supervisor"], Tree::LeavesItsSession, Gone::ByItself)
}

#[test]
fn sigkill_of_the_guardian() -> Result {
    survive(&["guardian"], Tree::LeavesItsSession, Gone::ByItself)
}

#[test]
fn sigkill_of_the_server() -> Result {
    survive(&["server"], Tree::LeavesItsSession, Gone::ByItself)
}

#[test]
fn sigkill_of_the_bridge() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "--session-ttl", "1s", "--"]);
        run.args(server(&python, "family.py")).output()?.expect(0)?;
        let mut scene = Scene::find(home)?;
        scene.kill(&["bridge"]);
        scene.session.running().wait(STOP_BOUND)?;
        // It could not say goodbye, so its session ends when it has lain idle for long enough.
        wait_until("the tree is gone", GONE_BOUND, || Ok(scene.tree_is_gone()))?;
        assert_eq!(home.supervisor("demo").as_ref(), Some(&scene.supervisor));
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        call_text(&mut session, "pid", &json!({}))?;
        assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
        remove(home, &python)
    })
}

/// Nobody is left who could know of those that have left the session; the others are written down.
#[test]
fn sigkill_of_supervisor_and_guardian() -> Result {
    survive(&["supervisor", "guardian"], Tree::StaysInItsSession, Gone::WithTheNextStart)
}

#[test]
fn sigkill_of_supervisor_and_server() -> Result {
    survive(&["supervisor", "server"], Tree::LeavesItsSession, Gone::ByItself)
}

#[test]
fn sigkill_of_guardian_and_server() -> Result {
    survive(&["guardian", "server"], Tree::LeavesItsSession, Gone::ByItself)
}

#[test]
fn sigkill_of_bridge_and_supervisor() -> Result {
    survive(&["bridge", "supervisor"], Tree::LeavesItsSession, Gone::ByItself)
}

#[test]
fn sigkill_of_bridge_and_server() -> Result {
    survive(&["bridge", "server"], Tree::LeavesItsSession, Gone::ByItself)
}

#[test]
fn sigkill_of_bridge_and_guardian() -> Result {
    survive(&["bridge", "guardian"], Tree::LeavesItsSession, Gone::ByItself)
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
