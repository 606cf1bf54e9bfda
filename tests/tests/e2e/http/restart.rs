//! A server that exits is started again; what was asked of it is answered all the same.

use super::{LOST, NAME, NOT_RUNNING, Record, bridge, calling, end, guarding, nothing_left, reason};
use crate::fixture::{GONE_BOUND, call, call_text, only_row, wait_until};
use serde_json::{Value, json};
use std::path::PathBuf;
use thv_e2e::http::Request;
use thv_e2e::{Detached, Exit, Failure, Home, McpStdio, Proc, Result, STOP_BOUND, Signal, ensure, need_part};

/// The pid of the fixture behind a workload.
pub(super) fn pid(session: &mut McpStdio) -> Result<u32> {
    let report: Value = serde_json::from_str(&call_text(session, "report", &json!({}))?)?;
    let pid = report["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.ok_or_else(|| Failure::new(format!("no pid in {report}")))
}

pub(super) fn kill(home: &Home, pid: u32) -> Result {
    let process = home.processes().into_iter().find(|process| process.pid == pid);
    let process = process.ok_or_else(|| Failure::new(format!("there is no process {pid}")))?;
    process.kill();
    // Its first thread may be dead while others still hold its sockets: it is gone when it has been waited for.
    let entry = PathBuf::from(format!("/proc/{pid}"));
    wait_until("it is gone", STOP_BOUND, || Ok(!entry.exists()))
}

/// Asks until the tool answers. Until then all that is said is that the server does not run, or that it opens no stream.
pub(super) fn works_again(session: &mut McpStdio, tool: &str, arguments: &Value) -> Result {
    wait_until("it works again", GONE_BOUND, || {
        let answer = call(session, tool, arguments)?;
        if answer.get("result").is_some() {
            return Ok(true);
        }
        let no_stream = answer["error"]["data"] == json!({ "reason": "upstream_http", "httpStatus": 502 });
        ensure!(reason(&answer) == NOT_RUNNING || no_stream, "{answer}");
        Ok(false)
    })
}

#[test]
fn what_was_sent_to_a_server_that_dies_is_answered_once_and_the_bridge_goes_on() -> Result {
    let python = need_part!(Python);
    for options in [&[][..], &["--sessions"]] {
        Home::with(|home| {
            let record = Record::new(home);
            let path = record.path();
            let options: Vec<&str> = options.iter().copied().chain(["--record", &path]).collect();
            Detached::of(guarding(home, &python, &[], &options).output()?)?;
            let mut session = bridge(home)?;
            let mut seen = Vec::new();
            for _ in 0..2 {
                let old = pid(&mut session)?;
                seen.push(old);
                let before = record.calls("fault")?;
                let asked = json!({ "name": "fault", "arguments": { "kind": "slow" } });
                let pending = session.ask("tools/call", &asked)?;
                wait_until("it is there", STOP_BOUND, || Ok(record.calls("fault")? > before))?;
                kill(home, old)?;
                let answer = session.answer(pending)?;
                assert_eq!(reason(&answer), LOST, "{answer}");
                works_again(&mut session, "echo", &json!({ "text": "again" }))?;
                assert_eq!(only_row(home)?["status"], "running");
            }
            seen.push(pid(&mut session)?);
            seen.dedup();
            assert_eq!(seen.len(), 3, "{seen:?}");
            end(session)?;
            let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
            assert_eq!(log.lines().filter(|line| line.contains("again_in")).count(), 2, "{log}");
            home.thv(["rm", NAME]).output()?.expect(0)?;
            nothing_left(home, &python)
        })?;
    }
    Ok(())
}

#[test]
fn a_server_that_is_particular_about_its_name_is_called_by_its_new_port() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let options = ["--strict", "--record", &record.path()];
        Detached::of(guarding(home, &python, &[], &options).output()?)?;
        let mut session = bridge(home)?;
        for _ in 0..2 {
            let server = pid(&mut session)?;
            kill(home, server)?;
            works_again(&mut session, "echo", &json!({ "text": "again" }))?;
        }
        end(session)?;
        let requests = record.requests()?;
        let mut names: Vec<_> = requests.iter().flat_map(|request| request.values("host")).collect();
        names.dedup();
        assert_eq!(names.len(), 3, "three starts on three ports: {names:?}");
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}

#[test]
fn the_stream_of_a_server_that_dies_is_opened_anew() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        let run = home.thv(["run", "--name", NAME, "--shared-key-auth", "--transport", "sse", "--"]);
        Detached::of(run.arg(node.join("mcp-server-everything")).arg("sse").output()?)?;
        let mut session = bridge(home)?;
        for _ in 0..2 {
            let long = json!({ "duration": 600, "steps": 2 });
            let asked = json!({ "name": "trigger-long-running-operation", "arguments": long });
            let pending = session.ask("tools/call", &asked)?;
            // It is on its way when another one that was sent later has been answered.
            works_again(&mut session, "echo", &json!({ "message": "between" }))?;
            let node = home.processes().into_iter().find(|one| one.command.starts_with("node "));
            kill(home, node.map(|process| process.pid).unwrap_or_default())?;
            let answer = session.answer(pending)?;
            assert_eq!(reason(&answer), LOST, "{answer}");
            works_again(&mut session, "echo", &json!({ "message": "again" }))?;
        }
        end(session)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}

#[test]
fn a_server_that_exits_at_once_is_told_of_with_its_last_words_and_leaves_nothing() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let script = "echo this is on standard output; echo the database is gone >&2; exit 3";
        for transport in ["streamable-http", "sse"] {
            for more in [&[][..], &["-f"]] {
                let run = home.thv(["run", "--name", NAME, "--shared-key-auth", "--transport", transport]);
                let run = run.args(more).args(["--", "sh", "-c", script]).output()?.expect(1)?;
                for words in ["this is on standard output", "the database is gone", NAME] {
                    ensure!(run.stderr.contains(words), "{run:?}");
                }
                assert_eq!(run.stdout, "");
                nothing_left(home, &python)?;
            }
        }
        let run =
            home.thv(["run", "--name", NAME, "--transport", "sse", "--", "/no/such/program"]).output()?;
        ensure!(run.exit != Exit::Code(0) && run.stderr.contains("/no/such/program"), "{run:?}");
        nothing_left(home, &python)
    })
}

/// A file with a line for each start of the fixture, and how to break its further starts.
struct Starts(PathBuf);

impl Starts {
    fn count(&self) -> Result<usize> {
        Ok(std::fs::read_to_string(&self.0)?.lines().count())
    }
}

#[test]
fn a_server_that_crashes_again_and_again_is_started_again_and_again() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let starts = Starts(home.user().join("starts"));
        let option = starts.0.to_string_lossy().into_owned();
        let guarded = Detached::of(guarding(home, &python, &[], &["--starts", &option]).output()?)?;
        let key = home.key(NAME)?;
        let supervisor = home.supervisor(NAME);
        let mut session = bridge(home)?;
        let server = pid(&mut session)?;
        let broken = home.file("starts.broken", "")?;
        kill(home, server)?;
        wait_until("it has been tried three times", GONE_BOUND, || Ok(starts.count()? >= 4))?;

        let row = only_row(home)?;
        let context = row["status_context"].as_str().unwrap_or_default();
        ensure!(row["status"] == "unhealthy" && context.starts_with("the server has exited "), "{row}");
        let status = home.thv(["status", NAME]).output()?.expect(0)?.stdout;
        ensure!(status.contains("unhealthy") && status.contains("the server has exited "), "{status}");

        let answer = call(&mut session, "echo", &json!({ "text": "x" }))?;
        assert_eq!(reason(&answer), NOT_RUNNING, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains(&format!("thv logs {NAME}")), "{answer}");
        let post = Request::mcp(guarded.port, &calling("echo", &json!({}))).key(&key).send()?;
        assert_eq!(
            (post.status, reason(&post.json()?), &post.json()?["id"]),
            (502, NOT_RUNNING, &Value::Null)
        );
        assert_eq!(home.supervisor(NAME), supervisor);
        let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
        ensure!(log.contains("the server has exited"), "{log}");
        let log = home.thv(["logs", NAME]).output()?.expect(0)?.stdout;
        ensure!(log.contains("the database is gone"), "{log}");
        // What runs is not started another time, and says so.
        home.thv(["start", NAME]).output()?.expect(0)?;
        assert_eq!(home.supervisor(NAME), supervisor);

        // A client that comes anew is told the same, and not that the workload was stopped.
        let mut late = home.bridge(NAME)?;
        let answer = late.request("tools/list", &json!({}))?;
        ensure!(
            answer["error"]["message"].as_str().is_some_and(|why| !why.contains("thv start")),
            "{answer}"
        );
        end(late)?;

        std::fs::remove_file(broken)?;
        // Also when nobody asks for it.
        wait_until("it runs again", GONE_BOUND, || Ok(only_row(home)?["status"] == "running"))?;
        assert_eq!(only_row(home)?["status_context"], "");
        works_again(&mut session, "echo", &json!({ "text": "mended" }))?;
        // A stop comes through while the supervisor waits, too.
        home.file("starts.broken", "")?;
        let server = pid(&mut session)?;
        kill(home, server)?;
        end(session)?;
        home.thv(["stop", NAME]).output()?.expect(0)?;
        assert_eq!(home.processes(), []);
        let output = home.thv(["start", NAME]).output()?.expect(1)?;
        ensure!(output.stderr.contains("the database is gone"), "{output:?}");
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}

#[test]
fn an_interrupt_while_the_server_starts_leaves_nothing() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        for (transport, more) in [("streamable-http", &[][..]), ("sse", &[]), ("streamable-http", &["-f"])] {
            let up = home.user().join("up");
            let run = home.thv(["run", "--name", NAME, "--shared-key-auth", "--transport", transport]);
            let run = run.args(more).args(["--", "sh", "-c", r#"echo > "$0"; exec sleep 600"#]).arg(&up);
            let mut run = run.start()?;
            wait_until("the server runs", STOP_BOUND, || Ok(up.exists()))?;
            run.signal(Signal::INT)?;
            ensure!(run.wait(STOP_BOUND)? != Exit::Code(0), "{}", run.stderr());
            ensure!(run.stdout().is_empty() && run.stderr().contains("interrupted"), "{}", run.stderr());
            // What it started may be on its way out still.
            wait_until("nothing runs", GONE_BOUND, || Ok(home.processes().is_empty()))?;
            nothing_left(home, &python)?;
            std::fs::remove_file(up)?;
        }
        Ok(())
    })
}

#[test]
fn what_a_server_starts_ends_with_it() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let child = home.user().join("child");
        let script = r#"sleep 600 & echo $! > "$0"; exec "$@""#;
        let run =
            home.thv(["run", "--name", NAME, "--transport", "streamable-http", "--", "sh", "-c", script]);
        Detached::of(run.arg(&child).args(super::server(&python, &[])).output()?)?;
        let child = || -> Result<Proc> {
            let pid: u32 =
                std::fs::read_to_string(&child)?.trim().parse().map_err(|_| Failure::new("no pid"))?;
            let found = home.processes().into_iter().find(|process| process.pid == pid);
            found.ok_or_else(|| Failure::new(format!("the child {pid} does not run")))
        };
        let first = child()?;
        let mut session = bridge(home)?;
        let server = pid(&mut session)?;
        kill(home, server)?;
        wait_until("its child is gone", GONE_BOUND, || Ok(!first.is_alive()))?;
        works_again(&mut session, "echo", &json!({ "text": "again" }))?;
        let second = child()?;
        end(session)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        ensure!(!second.is_alive(), "{second:?}");
        nothing_left(home, &python)
    })
}
