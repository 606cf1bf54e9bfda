//! SIGKILL of supervisor, guardian, server and bridge, alone and in pairs, with trees of processes behind them.

use super::{nothing_left, remove};
use crate::fixture::{GONE_BOUND, call, call_text, server, wait_until};
use serde_json::json;
use std::path::Path;
use thv_e2e::{Exit, Home, McpStdio, Proc, Result, STOP_BOUND, Signal, ensure, need_part};

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

/// The usual way: the bridge starts the workload anew before the guardian has done its work.
#[test]
fn sigkill_of_the_supervisor_and_a_start_at_once() -> Result {
    survive(&["supervisor"], Tree::LeavesItsSession, Gone::WithTheNextStart)
}

#[test]
fn sigkill_of_the_supervisor_and_a_command_at_once() -> Result {
    let python = need_part!(Python);
    for command in ["rm", "stop", "start", "restart"] {
        let check = |home: &Home| -> Result {
            let mut scene = Scene::set(home, &python, Tree::LeavesItsSession)?;
            scene.kill(&["bridge", "supervisor"]);
            home.thv([command, "demo"]).output()?.expect(0)?;
            ensure!(scene.tree_is_gone(), "{:?}", home.processes());
            scene.session.running().wait(STOP_BOUND)?;
            if command == "rm" {
                nothing_left(home, &python)?;
            }
            remove(home, &python)
        };
        Home::with(check).map_err(|failure| failure.during(command))?;
    }
    Ok(())
}

#[test]
fn a_server_may_tidy_up_after_a_crash_although_a_command_comes_at_once() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "--"]);
        run.args(server(&python, "tidies.py")).output()?.expect(0)?;
        let log = || home.thv(["logs", "demo"]).output()?.expect(0).map(|output| output.stdout);
        let mut session = home.thv(["proxy", "stdio", "demo", "--no-start"]).bridge()?;
        session.initialize()?;
        call_text(&mut session, "pid", &json!({}))?;
        let before = log()?.matches("tidied up").count();
        home.supervisor("demo").iter().for_each(Proc::kill);
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        assert_eq!(log()?.matches("tidied up").count(), before + 1);
        assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
        remove(home, &python)
    })
}

/// A shell that becomes `thv` hands its children on, and they are none of its business.
#[test]
fn children_that_a_supervisor_inherited_are_not_taken_for_orphans() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let mut command = home.command("sh");
        command.args(["-c", r#"sleep 600 >/dev/null 2>&1 & exec "$0" "$@""#]);
        command.arg(std::env::var_os(thv_e2e::BINARY_VARIABLE).unwrap_or_default());
        command.args(["run", "-f", "--name", "demo", "--shared-key-auth", "--"]);
        command.args(server(&python, "family.py")).arg("away");
        let mut run = home.start(command)?;
        ensure!(run.line(STOP_BOUND)?.is_some(), "{}", run.stderr());
        let scene = Scene::find(home)?;
        let inherited = home.processes().into_iter().find(|process| process.command == "sleep 600");
        let inherited = inherited.ok_or_else(|| thv_e2e::Failure::new("there is no sleep"))?;
        assert_eq!(inherited.parent(), Some(run.pid()));
        scene.kill(&["guardian"]);
        wait_until("the tree is gone", GONE_BOUND, || Ok(scene.tree_is_gone()))?;
        ensure!(inherited.is_alive(), "a child of the shell was ended");
        inherited.kill();
        assert_eq!(scene.session.finish()?, (Exit::Code(0), Vec::new()));
        assert_eq!(run.stop()?, Exit::Code(0));
        remove(home, &python)
    })
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

/// Nobody is left who could know of the tree by itself: its session is written down, and those that have left that are
/// known by their log.
#[test]
fn sigkill_of_supervisor_and_guardian() -> Result {
    survive(&["supervisor", "guardian"], Tree::StaysInItsSession, Gone::WithTheNextStart)?;
    survive(&["supervisor", "guardian"], Tree::LeavesItsSession, Gone::WithTheNextStart)
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
