//! The whole life of workloads that run by themselves: from `run` to `rm`, with real servers, several at once, many.

use crate::DEMO_SERVER;
use crate::fixture::{answers, call, call_text, list, only_row, refused, server, store_entries, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use thv_e2e::http::Request;
use thv_e2e::{
    ANSWER_BOUND, Detached, Exit, Failure, Home, McpStdio, Output, Result, STOP_BOUND, ensure, need_part,
};

fn demo(home: &Home, name: &str) -> Result<Detached> {
    home.detached(["--name", name, "--shared-key-auth", "--", DEMO_SERVER])
}

fn end(session: McpStdio) -> Result {
    let (exit, _) = session.finish()?;
    assert_eq!(exit, Exit::Code(0));
    Ok(())
}

/// A real server, and a call that shows that it works.
struct Real {
    name: &'static str,
    command: Vec<PathBuf>,
    tool: &'static str,
    arguments: Value,
    /// Stands in the tool's answer.
    word: &'static str,
}

impl Real {
    fn works(&self, home: &Home) -> Result {
        let mut session = home.bridge(self.name)?;
        session.initialize()?;
        self.call(&mut session)?;
        end(session)
    }

    fn call(&self, session: &mut McpStdio) -> Result {
        let text = call_text(session, self.tool, &self.arguments)?;
        ensure!(text.contains(self.word), "{}: {text}", self.name);
        Ok(())
    }
}

/// The three servers, with a repository for the one that needs it.
fn reals(home: &Home, python: &Path, node: &Path) -> Result<[Real; 3]> {
    let repository = home.user().join("repository");
    let git = |args: &[&str]| -> Result {
        let mut git = home.command("git");
        git.args(["-c", "user.name=x", "-c", "user.email=x@example.org", "-C"]).arg(&repository).args(args);
        ensure!(git.output()?.status.success(), "git {args:?} failed");
        Ok(())
    };
    if !repository.exists() {
        std::fs::create_dir(&repository)?;
        git(&["init", "--quiet"])?;
        git(&["commit", "--quiet", "--allow-empty", "-m", "the very first"])?;
    }
    let argument = json!({ "repo_path": repository });
    let git = vec![python.join("mcp-server-git"), "--repository".into(), repository];
    Ok([
        Real {
            name: "time",
            command: vec![python.join("mcp-server-time"), "--local-timezone".into(), "UTC".into()],
            tool: "get_current_time",
            arguments: json!({ "timezone": "Asia/Tokyo" }),
            word: "Asia/Tokyo",
        },
        Real { name: "git", command: git, tool: "git_log", arguments: argument, word: "the very first" },
        Real {
            name: "everything",
            command: vec![node.join("mcp-server-everything"), "stdio".into()],
            tool: "echo",
            arguments: json!({ "message": "once more" }),
            word: "once more",
        },
    ])
}

#[test]
pub(crate) fn a_whole_life_with_real_servers_twice_in_a_row() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        let mut ids = Vec::new();
        for _ in 0..2 {
            for real in reals(home, &python, &node)? {
                let mut check = || -> Result {
                    let run = home.thv(["run", "--name", real.name, "--shared-key-auth", "--"]);
                    let first = Detached::of(run.args(&real.command).output()?)?;
                    ids.push(first.key_id.clone());
                    let row = only_row(home)?;
                    let supervisor = home.supervisor(real.name).map(|process| process.pid);
                    assert_eq!(
                        (&row["status"], &row["desired"], &row["port"], &row["pid"]),
                        (&json!("running"), &json!("running"), &json!(first.port), &json!(supervisor))
                    );
                    let mut live = home.bridge(real.name)?;
                    live.initialize()?;
                    real.call(&mut live)?;
                    let status = home.thv(["status", real.name]).output()?.expect(0)?.stdout;
                    for word in
                        [real.name, "running", &first.url, first.key_id.as_deref().unwrap_or_default()]
                    {
                        ensure!(status.contains(word), "{word:?} is missing in {status}");
                    }
                    ensure!(
                        status.lines().any(|line| line.split_whitespace().eq(["sessions", "1"])),
                        "{status}"
                    );
                    assert_eq!(only_row(home)?["sessions"], 1);

                    home.thv(["stop", real.name]).output()?.expect(0)?;
                    assert_eq!(
                        home.thv(["list", "--format", "json"]).output()?.expect(0)?.json()?,
                        json!([])
                    );
                    let row = only_row(home)?;
                    assert_eq!((&row["status"], &row["sessions"]), (&json!("stopped"), &Value::Null));
                    let answer = call(&mut live, real.tool, &real.arguments)?;
                    assert_eq!(answer["error"]["data"]["reason"], "not_running", "{answer}");
                    let left = home.processes();
                    ensure!(left.iter().all(|process| process.pid == live.pid()), "{left:?}");
                    let again = home.thv(["stop", real.name]).output()?.expect(0)?;
                    ensure!(again.stderr.contains("not running"), "{again:?}");

                    for command in ["start", "start", "restart"] {
                        assert_eq!(
                            Detached::of(home.thv([command, real.name]).output()?)?,
                            first,
                            "{command}"
                        );
                        real.call(&mut live)?;
                    }
                    end(live)?;
                    real.works(home)?;
                    home.thv(["logs", real.name]).output()?.expect(0)?;
                    let proxy = home.thv(["logs", "--proxy", real.name]).output()?.expect(0)?.stdout;
                    ensure!(proxy.contains("accepted"), "{proxy}");
                    home.thv(["rm", real.name]).output()?.expect(0)?;
                    assert_eq!(list(home)?, Vec::<Value>::new());
                    assert_eq!(store_entries(home, &python)?, json!({}));
                    assert_eq!(home.processes(), []);
                    assert_eq!(home.path().join("state/workloads").read_dir()?.count(), 0);
                    refused(home.thv(["start", real.name]), 3, &[real.name])?;
                    Ok(())
                };
                check().map_err(|failure| failure.during(real.name))?;
            }
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 6, "each workload has a key of its own, a recreated one too");
        Ok(())
    })
}

#[test]
pub(crate) fn two_workloads_serve_three_bridges_at_once() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        let [time, _, everything] = reals(home, &python, &node)?;
        for real in [&time, &everything] {
            let run = home.thv(["run", "--name", real.name, "--shared-key-auth", "--"]);
            run.args(&real.command).output()?.expect(0)?;
        }
        let who = [&time, &everything, &everything];
        let mut sessions = Vec::new();
        for real in who {
            let mut session = home.bridge(real.name)?;
            session.initialize()?;
            sessions.push(session);
        }
        for _ in 0..5 {
            let mut asked = Vec::new();
            for (real, session) in who.iter().zip(&mut sessions) {
                let params = json!({ "name": real.tool, "arguments": real.arguments });
                asked.push((session.ask("tools/call", &params)?, session.ask("tools/list", &json!({}))?));
            }
            for ((real, session), (call, list)) in who.iter().zip(&mut sessions).zip(asked) {
                assert!(session.answer(list)?["result"]["tools"].is_array());
                let answer = session.answer(call)?.to_string();
                ensure!(answer.contains(real.word), "{answer}");
            }
        }
        // The end of one is nothing to the others.
        end(sessions.remove(1))?;
        home.thv(["rm", time.name]).output()?.expect(0)?;
        everything.call(&mut sessions[1])?;
        let answer = call(&mut sessions[0], time.tool, &time.arguments)?;
        assert_eq!(answer["error"]["data"]["reason"], "not_running", "{answer}");
        for session in sessions {
            end(session)?;
        }
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn fifty_runs_and_removals_at_once_on_ten_names() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let one = |number: usize| -> Result<Output> {
            let name = format!("w{}", number % 10);
            let run = ["run", "--name", &name, "--shared-key-auth", "--", DEMO_SERVER];
            // Every name is run and removed several times, in whatever order they come to it.
            if (number / 10).is_multiple_of(2) {
                home.thv(run).output()
            } else {
                home.thv(["rm", &name]).output()
            }
        };
        let outputs: Vec<_> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..50).map(|number| scope.spawn(move || one(number))).collect();
            all.into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(Failure::new("panic"))))
                .collect()
        });
        for output in outputs {
            let output = output?;
            let fine = if output.label.contains(" run ") { [0, 4] } else { [0, 3] };
            ensure!(fine.iter().any(|code| output.exit == Exit::Code(*code)), "{output:?}");
        }
        let rows = list(home)?;
        let mut ports: Vec<_> = rows.iter().map(|row| row["port"].as_u64()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), rows.len());
        let entries = store_entries(home, &python)?;
        for row in &rows {
            let name = row["name"].as_str().unwrap_or_default();
            assert_eq!(row["status"], "running", "{row}");
            assert_eq!(entries[format!("workload:{name}:shared-key")], row["shared_key_auth"]["key_id"]);
            answers(home, name)?;
        }
        let owned = |entry: &String| {
            rows.iter().any(|row| entry.contains(&format!(":{}:", row["name"].as_str().unwrap_or("?"))))
        };
        let entries: BTreeMap<String, Value> = serde_json::from_value(entries)?;
        ensure!(entries.keys().all(owned), "{entries:?} for {rows:?}");
        if !rows.is_empty() {
            home.thv(["rm", "--all"]).output()?.expect(0)?;
        }
        assert_eq!(store_entries(home, &python)?, json!({}));
        Ok(())
    })
}

#[test]
fn two_hundred_workloads_are_listed() -> Result {
    Home::with(|home| {
        demo(home, "w000")?;
        home.thv(["stop", "w000"]).output()?.expect(0)?;
        let workloads = home.path().join("state/workloads");
        for number in 1..200 {
            let name = format!("w{number:03}");
            let folder = workloads.join(&name);
            let made = Command::new("cp").arg("-a").arg(workloads.join("w000")).arg(&folder).status()?;
            ensure!(made.success(), "cp failed");
            let config = std::fs::read_to_string(folder.join("runconfig.json"))?.replace("w000", &name);
            std::io::Write::write_all(
                &mut std::fs::File::create(folder.join("runconfig.json"))?,
                config.as_bytes(),
            )?;
        }
        let rows = list(home)?;
        let names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
        assert_eq!(names, (0..200).map(|number| format!("w{number:03}")).collect::<Vec<_>>());
        assert!(rows.iter().all(|row| row["status"] == "stopped"));
        let text = home.thv(["list", "--all"]).output()?.expect(0)?.stdout;
        assert_eq!(text.lines().count(), 201);
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        assert_eq!(list(home)?, Vec::<Value>::new());
        Ok(())
    })
}

#[test]
pub(crate) fn what_is_there_is_not_run_twice() -> Result {
    Home::with(|home| {
        let first = demo(home, "demo")?;
        let run = ["run", "--name", "DEMO", "--shared-key-auth", "--", DEMO_SERVER];
        for command in ["start", "stop", "start"] {
            refused(home.thv(run), 4, &["exists", "thv start", "thv rm"])?;
            home.thv([command, "demo"]).output()?.expect(0)?;
        }
        assert_eq!(only_row(home)?["shared_key_auth"]["key_id"], json!(first.key_id));
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_stubborn_server_is_stopped_within_the_time_that_was_given() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "--"]);
        run.args(server(&python, "family.py")).arg("away").output()?.expect(0)?;
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        call_text(&mut session, "tree", &json!({}))?;
        let begun = Instant::now();
        home.thv(["stop", "--timeout", "1", "demo"]).output()?.expect(0)?;
        // Promised: a second, five after the signal, and a moment.
        ensure!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
        let bridge = session.pid();
        wait_until("the tree is gone", STOP_BOUND, || {
            Ok(home.processes().iter().all(|process| process.pid == bridge))
        })?;
        let row = only_row(home)?;
        assert_eq!((&row["status"], &row["desired"]), (&json!("stopped"), &json!("stopped")));
        end(session)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn a_failed_run_shows_the_last_words_and_leaves_nothing() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run =
            |more: &[&str]| home.thv(["run", "--name", "demo", "--shared-key-auth"]).args(more).arg("--");
        let exits = run(&[]).args(server(&python, "exits.py"));
        refused(exits, 1, &["the database is missing"])?;
        let silent = run(&["--ready-timeout", "300ms"]).args(server(&python, "silent.py"));
        refused(silent, 1, &["300ms", "reading, and thinking about it"])?;
        refused(run(&[]).args(server(&python, "declines.py")), 1, &["the license has expired"])?;
        refused(run(&[]).arg("/no/such/program"), 1, &["/no/such/program"])?;
        refused(run(&[]).arg("no-such-program-anywhere"), 1, &["PATH"])?;
        assert_eq!(list(home)?, Vec::<Value>::new());
        assert_eq!(store_entries(home, &python)?, json!({}));
        assert_eq!(home.processes(), []);
        Ok(())
    })
}

#[test]
pub(crate) fn a_workload_is_locked_and_unlocked_without_losing_its_client() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let open = home.detached(["--name", "demo", "--", DEMO_SERVER])?;
        assert_eq!(open.key_id, None);
        let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
        let status = |key: Option<&str>| -> Result<u16> {
            let request = Request::mcp(open.port, &ping);
            Ok(key.map_or(request.clone(), |key| request.key(key)).send()?.status)
        };
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let locked = Detached::of(home.thv(["key", "enable", "demo"]).output()?)?;
            assert_eq!((locked.port, &locked.name), (open.port, &open.name));
            let key = home.key("demo")?;
            assert_eq!((status(None)?, status(Some(&key))?), (401, 400));
            call_text(&mut session, "add", &json!({ "a": 1, "b": 1 }))?;
            let again = home.thv(["key", "enable", "demo"]).output()?.expect(0)?;
            ensure!(again.stderr.contains("already"), "{again:?}");
            assert_eq!(home.key("demo")?, key);
            seen.push(key);

            let output = home.thv(["key", "disable", "demo"]).output()?;
            ensure!(output.stderr.contains("anybody"), "{output:?}");
            assert_eq!(Detached::of(output)?, open);
            assert_eq!(store_entries(home, &python)?, json!({}));
            assert_eq!(status(None)?, 400);
            call_text(&mut session, "add", &json!({ "a": 1, "b": 1 }))?;
        }
        assert_ne!(seen[0], seen[1]);
        // One that is stopped stays so.
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        assert_eq!(home.thv(["key", "enable", "demo"]).output()?.expect(0)?.stdout, "");
        assert_eq!(only_row(home)?["status"], "stopped");
        home.thv(["start", "demo"]).output()?.expect(0)?;
        assert_eq!(status(None)?, 401);
        call_text(&mut session, "add", &json!({ "a": 1, "b": 1 }))?;
        end(session)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn logs_are_shown_followed_and_pruned() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "--"]);
        run.args(server(&python, "hostile.py")).output()?.expect(0)?;
        demo(home, "other")?;
        let mut follow = home.thv(["logs", "-f", "demo"]).start()?;
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        let hang = session.ask("tools/call", &json!({ "name": "hang", "arguments": {} }))?;
        assert_eq!(follow.line(ANSWER_BOUND)?.as_deref(), Some(&b"hang: waiting"[..]));
        assert_eq!(home.thv(["logs", "demo"]).output()?.expect(0)?.stdout, "hang: waiting\n");
        call(&mut session, "exit", &json!({}))?;
        assert_eq!(follow.line(ANSWER_BOUND)?.as_deref(), Some(&b"out of memory"[..]));
        session.answer(hang)?;
        follow.stop()?;
        end(session)?;
        refused(home.thv(["logs", "nobody"]), 3, &["nobody"])?;
        refused(home.thv(["logs"]), 2, &["--prune"])?;

        home.thv(["stop", "demo"]).output()?.expect(0)?;
        let workloads = home.path().join("state/workloads");
        let path = |name: &str, log: &str| workloads.join(name).join(log);
        // As logs are named that have grown too long.
        for name in ["demo", "other"] {
            for log in ["server.log.1", "proxy.log.1"] {
                std::fs::File::create(path(name, log))?;
            }
        }
        let pruned = home.thv(["logs", "--prune"]).output()?.expect(0)?;
        for log in ["server.log", "server.log.1", "proxy.log", "proxy.log.1"] {
            ensure!(!path("demo", log).exists(), "{log}: {pruned:?}");
        }
        for log in ["proxy.log", "proxy.log.1"] {
            ensure!(path("other", log).exists(), "it runs, and writes to its log");
        }
        assert_eq!(home.thv(["logs", "demo"]).output()?.expect(0)?.stdout, "");
        home.thv(["start", "demo"]).output()?.expect(0)?;
        ensure!(home.thv(["logs", "--proxy", "demo"]).output()?.expect(0)?.stderr.is_empty(), "no complaint");
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

#[test]
pub(crate) fn several_are_stopped_started_and_removed_together() -> Result {
    Home::with(|home| {
        for name in ["a", "b", "c"] {
            demo(home, name)?;
        }
        let states = || -> Result<Vec<String>> {
            Ok(list(home)?.iter().filter_map(|row| Some(row["status"].as_str()?.to_owned())).collect())
        };
        let output = home.thv(["stop", "a", "nobody", "c"]).output()?.expect(3)?;
        ensure!(output.stderr.contains("nobody"), "{output:?}");
        assert_eq!(states()?, ["stopped", "running", "stopped"]);
        let output = home.thv(["start", "--all"]).output()?.expect(0)?;
        assert_eq!(output.stdout.lines().count(), 3);
        home.thv(["restart", "a", "b"]).output()?.expect(0)?;
        home.thv(["stop", "--all"]).output()?.expect(0)?;
        assert_eq!(states()?, ["stopped"; 3]);
        refused(home.thv(["start", "-f", "a", "b"]), 2, &["one"])?;
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        for command in ["stop", "start", "restart", "rm", "status", "export"] {
            let thv = home.thv([command, "nobody"]);
            refused(if command == "export" { thv.arg("-") } else { thv }, 3, &["nobody"])?;
        }
        Ok(())
    })
}

#[test]
fn shells_are_helped_and_foreign_options_refused_by_name() -> Result {
    Home::with(|home| {
        for shell in ["bash", "zsh", "fish"] {
            let script = home.thv(["completions", shell]).output()?.expect(0)?;
            ensure!(script.stdout.contains("thv") && script.stdout.contains("restart"), "{shell}");
            assert_eq!(script.stderr, "");
            let file = home.file(shell, &script.stdout)?;
            // Where the shell is there, it must understand it.
            let mut check = home.command(shell);
            if let Ok(output) = check.arg("-n").arg(file).output() {
                ensure!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        for option in [
            "--oidc-issuer",
            "--permission-profile",
            "--isolate-network",
            "--otel-endpoint",
            "--proxy-mode",
            "--group",
            "--authz-config",
            "--volume",
            "-v",
            "-p",
        ] {
            let output =
                home.thv(["run", option, "x", "--name", "demo", "--", DEMO_SERVER]).output()?.expect(2)?;
            ensure!(output.stderr.contains(option) && output.stderr.contains("this thv"), "{output:?}");
        }
        let output = home.thv(["stpo", "demo"]).output()?.expect(2)?;
        ensure!(output.stderr.contains("stop"), "{output:?}");
        let output = home.thv(["list", "--fromat", "json"]).output()?.expect(2)?;
        ensure!(output.stderr.contains("--format"), "{output:?}");
        demo(home, "time")?;
        for command in ["stop", "start", "restart", "rm", "status", "logs"] {
            refused(home.thv([command, "tiem"]), 3, &["did you mean time?"])?;
        }
        home.thv(["rm", "time"]).output()?.expect(0).map(drop)
    })
}
