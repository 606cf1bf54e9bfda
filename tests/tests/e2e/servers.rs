//! Servers that misbehave: at the start, in the middle of a session, and when they are to end.

use crate::fixture::{
    GONE_BOUND, call, call_text, list, others, scenario, server, store_entries, wait_alone, wait_until,
};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use thv_e2e::{ANSWER_BOUND, Exit, Foreground, Home, McpStdio, Proc, Result, Signal, Thv, ensure, need_part};

/// `thv run -f --name bad --shared-key-auth OPTIONS -- …`, to which the command is still to be added.
fn run_bad<'home>(home: &'home Home, options: &[&str]) -> Thv<'home> {
    home.thv(["run", "-f", "--name", "bad", "--shared-key-auth"]).args(options).arg("--")
}

fn server_log(home: &Home) -> String {
    std::fs::read_to_string(home.path().join("state/workloads/bad/server.log")).unwrap_or_default()
}

/// A failed `run` leaves nothing: no workload, no key, no process.
fn nothing_is_left(home: &Home, python: &Path) -> Result {
    assert_eq!(list(home)?, Vec::<Value>::new());
    let folder = home.path().join("state/workloads");
    let left: Vec<_> = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(store_entries(home, python)?, json!({}));
    assert_eq!(home.processes(), []);
    Ok(())
}

/// Checks that `run` fails, says all of `words`, and leaves nothing.
fn start_fails(home: &Home, python: &Path, run: Thv<'_>, words: &[&str]) -> Result {
    let output = run.output()?.expect(1)?;
    assert_eq!(output.stdout, "");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is missing in:\n{}", output.stderr);
    }
    nothing_is_left(home, python)
}

#[test]
fn a_server_that_exits_at_once_leaves_its_last_words_alone() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let run = run_bad(&home, &[]).args(server(&python, "exits.py"));
    let words = ["bad", "ended before it answered initialize", "the database is missing: /var/lib/example"];
    start_fails(&home, &python, run, &words)?;
    home.close()
}

#[test]
fn a_server_that_never_answers_is_given_up() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let run = run_bad(&home, &["--ready-timeout", "2s"]).args(server(&python, "silent.py"));
    start_fails(&home, &python, run, &["did not answer initialize within 2s", "thinking about it"])?;
    home.close()
}

#[test]
fn a_server_that_declines_is_quoted() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let run = run_bad(&home, &[]).args(server(&python, "declines.py"));
    start_fails(&home, &python, run, &["the license has expired"])?;
    home.close()
}

#[test]
fn a_program_that_cannot_be_started_is_named() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    start_fails(&home, &python, run_bad(&home, &[]).arg("no-such-program"), &["no-such-program", "PATH"])?;
    start_fails(&home, &python, run_bad(&home, &[]).arg("/no/such/program"), &["/no/such/program"])?;
    let script = home.file("a script", "#!/no/such/interpreter\n")?;
    start_fails(&home, &python, run_bad(&home, &[]).arg(&script), &["a script", "not a program"])?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700))?;
    start_fails(&home, &python, run_bad(&home, &[]).arg(&script), &["a script", "cannot start"])?;
    home.close()
}

#[test]
fn a_start_that_is_interrupted_leaves_nothing() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let mut run = run_bad(&home, &[]).args(server(&python, "silent.py")).start()?;
    wait_until("the server runs", ANSWER_BOUND, || Ok(server_log(&home).contains("thinking")))?;
    run.signal(Signal::INT)?;
    assert_eq!(run.wait(GONE_BOUND)?, Exit::Code(1), "{}", run.stderr());
    wait_until("the server is gone", GONE_BOUND, || Ok(home.processes().is_empty()))?;
    nothing_is_left(&home, &python)?;
    home.close()
}

#[test]
fn a_start_that_was_killed_is_cleared_away_by_the_next() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let mut run = run_bad(&home, &[]).args(server(&python, "silent.py")).start()?;
    wait_until("the server runs", ANSWER_BOUND, || Ok(server_log(&home).contains("thinking")))?;
    let entries = store_entries(&home, &python)?;
    let half_made = entries["workload:bad:shared-key"].as_str().unwrap_or_default().to_owned();
    assert_eq!(half_made.len(), 16, "{entries}");
    run.kill();
    wait_until("the server is gone", GONE_BOUND, || Ok(home.processes().is_empty()))?;

    let next = run_bad(&home, &[]).arg(crate::DEMO_SERVER).foreground()?;
    assert_ne!(next.key_id(), Some(half_made.as_str()), "the key of a failed run must not live on");
    next.stop()?;
    home.close()
}

#[test]
fn a_banner_on_stdout_does_no_harm() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let bad = run_bad(&home, &[]).args(server(&python, "banner.py")).foreground()?;
    let mut session = home.bridge("bad")?;
    assert_eq!(session.initialize()?["serverInfo"]["name"], "fixture");
    assert_eq!(call_text(&mut session, "echo", &json!({ "text": "ä" }))?, "ä");
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    bad.stop()?;
    home.close()
}

/// A workload with the hostile server, and a session with it.
fn hostile(home: &Home, python: &Path, options: &[&str]) -> Result<(Foreground, McpStdio)> {
    let bad = run_bad(home, options).args(server(python, "hostile.py")).foreground()?;
    let mut session = home.bridge("bad")?;
    session.initialize()?;
    Ok((bad, session))
}

fn assert_error(answer: &Value, code: i64, reason: &str) {
    assert_eq!(answer["error"]["code"], code, "{answer}");
    assert_eq!(answer["error"]["data"]["reason"], reason, "{answer}");
}

/// The server ends while requests wait, by the tool `last`: each gets one error, and the session goes on with
/// another server.
fn dies_with_requests_pending(last: &str) -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let (bad, mut session) = hostile(&home, &python, &[])?;
    let before = call_text(&mut session, "pid", &json!({}))?;
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(session.ask("tools/call", &json!({ "name": "hang", "arguments": {} }))?);
    }
    // The server has read them all: none can be left over for the next one.
    let all_wait = || Ok(server_log(&home).matches("hang: waiting").count() == 3);
    wait_until("the requests wait", ANSWER_BOUND, all_wait)?;
    asked.push(session.ask("tools/call", &json!({ "name": last, "arguments": {} }))?);
    for id in asked {
        assert_error(&session.answer(id)?, -33002, "connection_lost");
    }
    assert_ne!(call_text(&mut session, "pid", &json!({}))?, before);
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()), "a request was answered twice");
    wait_alone(&home, bad.pid())?;
    bad.stop()?;
    home.close()
}

#[test]
fn a_server_that_exits_mid_session_fails_each_request_once() -> Result {
    dies_with_requests_pending("exit")
}

#[test]
fn a_server_that_exits_in_the_middle_of_a_line_fails_each_request_once() -> Result {
    dies_with_requests_pending("half")
}

#[test]
fn garbage_between_answers_is_skipped() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let (bad, mut session) = hostile(&home, &python, &[])?;
    assert_eq!(call_text(&mut session, "garbage", &json!({}))?, "through");
    // It comes behind the garbage, so all of that has been dealt with.
    call_text(&mut session, "pid", &json!({}))?;
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()), "garbage reached the client");
    bad.stop()?;
    home.close()
}

#[test]
fn an_answer_over_the_limit_becomes_an_error() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let (bad, mut session) = hostile(&home, &python, &["--max-message-bytes", "65536"])?;
    let text = call_text(&mut session, "oversized", &json!({ "bytes": 60_000 }))?;
    assert_eq!(text.len(), 60_000);
    let answer = call(&mut session, "oversized", &json!({ "bytes": 100_000 }))?;
    assert_error(&answer, -33006, "too_large");
    call_text(&mut session, "pid", &json!({}))?;
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    bad.stop()?;
    home.close()
}

/// A number in a file below `/proc/PID`, in the unit that stands there.
fn proc_number(pid: u32, file: &str, field: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let value =
        text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| thv_e2e::Failure::new(format!("no {field} in /proc/{pid}/{file}")))
}

#[test]
fn an_endless_line_fills_no_memory_and_holds_up_nobody_else() -> Result {
    const FLOOD: u64 = 256 << 20;
    const MEMORY_KIB: u64 = 64 << 10;
    let python = need_part!(Python);
    let home = Home::new()?;
    let (bad, mut flooded) = hostile(&home, &python, &["--max-message-bytes", "65536"])?;
    let asked = flooded.ask("tools/call", &json!({ "name": "endless", "arguments": {} }))?;
    wait_until("the flood is under way", ANSWER_BOUND, || {
        Ok(proc_number(bad.pid(), "io", "rchar:")? > FLOOD)
    })?;
    let peak = proc_number(bad.pid(), "status", "VmHWM:")?;
    assert!(peak < MEMORY_KIB, "the supervisor's memory grew to {peak} KiB");

    let mut calm = home.bridge("bad")?;
    calm.initialize()?;
    call_text(&mut calm, "pid", &json!({}))?;
    assert_eq!(calm.finish()?, (Exit::Code(0), Vec::new()));

    let (exit, rest) = flooded.finish()?;
    assert_eq!((exit, rest.len()), (Exit::Code(0), 1), "{rest:?}");
    assert_eq!(rest[0]["id"], asked);
    assert_error(&rest[0], -33007, "shutting_down");
    wait_alone(&home, bad.pid())?;
    bad.stop()?;
    home.close()
}

/// The processes of the stubborn server behind a session: itself and the three that it started.
fn tree(home: &Home, session: &mut McpStdio) -> Result<Vec<Proc>> {
    let pids: Vec<u32> = serde_json::from_str(&call_text(session, "tree", &json!({}))?)?;
    let tree: Vec<_> = home.processes().into_iter().filter(|process| pids.contains(&process.pid)).collect();
    ensure!(pids.len() == 4 && tree.len() == 4, "not all of {pids:?} run: {tree:?}");
    Ok(tree)
}

#[test]
fn a_stubborn_server_and_its_descendants_end_with_their_session() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let bad = run_bad(&home, &[]).args(server(&python, "stubborn.py")).foreground()?;
    assert_eq!(others(&home, bad.pid()), [], "left over from the trial");
    let mut session = home.bridge("bad")?;
    session.initialize()?;
    let tree = tree(&home, &mut session)?;
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    wait_alone(&home, bad.pid())?;
    assert!(tree.iter().all(|process| !process.is_alive()));
    bad.stop()?;
    home.close()
}

#[test]
fn a_stubborn_server_and_its_descendants_are_gone_when_the_supervisor_is() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let mut bad = run_bad(&home, &[]).args(server(&python, "stubborn.py")).foreground()?;
    let mut session = home.bridge("bad")?;
    session.initialize()?;
    let tree = tree(&home, &mut session)?;
    bad.signal(Signal::TERM)?;
    assert_eq!(bad.wait(GONE_BOUND)?, Exit::Code(0));
    let left: Vec<_> = tree.iter().filter(|process| process.is_alive()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(session.finish()?.0, Exit::Code(0));
    home.close()
}

#[test]
fn an_orphan_in_a_session_of_its_own_ends_with_its_server() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let bad = run_bad(&home, &[]).args(server(&python, "leaves_orphan.py")).foreground()?;
    let mut session = home.bridge("bad")?;
    session.initialize()?;
    let orphan: u32 = call_text(&mut session, "orphan", &json!({}))?.parse().unwrap_or_default();
    let orphan = home.processes().into_iter().find(|process| process.pid == orphan);
    assert!(orphan.as_ref().is_some_and(Proc::is_alive));
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    wait_alone(&home, bad.pid())?;
    assert!(!orphan.is_some_and(|orphan| orphan.is_alive()));
    bad.stop()?;
    home.close()
}

#[test]
fn a_stop_without_patience_asks_the_server_at_once() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "--"]);
        run.args(server(&python, "tidies.py")).arg("waits").output()?.expect(0)?;
        let log = || home.thv(["logs", "demo"]).output()?.expect(0).map(|output| output.stdout);
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        call_text(&mut session, "pid", &json!({}))?;
        let before = log()?.len();
        home.thv(["stop", "--timeout", "0", "demo"]).output()?.expect(0)?;
        let said = log()?[before..].to_owned();
        let after =
            said.strip_prefix("asked after ").and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
        // It would be two seconds. Minus infinity: it was asked before it knew of the end of its input.
        ensure!(after.is_some_and(|after| after < 1.0), "{said}");
        assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn spaces_and_quotes_in_a_command_mean_nothing() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let folder = home.user().join("my \"own\" servers");
    std::fs::create_dir(&folder)?;
    for script in ["reports.py", "mcp_lines.py"] {
        std::fs::copy(crate::fixture::fixture("servers").join(script), folder.join(script))?;
    }
    let program = folder.join("a server $HOME");
    std::os::unix::fs::symlink(python.join("python3"), &program)?;
    let arguments = ["two words", "", "'quoted'", "$PATH", "a\nb", "-f", "--name", "ä"];
    let run = run_bad(&home, &[]).arg(&program).arg("-SB").arg(folder.join("reports.py"));
    let bad = run.args(arguments).foreground()?;
    let mut session = home.bridge("bad")?;
    session.initialize()?;
    let report: Value = serde_json::from_str(&call_text(&mut session, "report", &json!({}))?)?;
    assert_eq!(report["arguments"], json!(arguments));
    session.finish()?;
    bad.stop()?;
    home.close()
}

#[test]
fn a_failed_start_does_not_touch_other_workloads() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let good = home.run(["--name", "good", "--shared-key-auth", "--", crate::DEMO_SERVER])?;
    let before = store_entries(&home, &python)?;
    run_bad(&home, &[]).args(server(&python, "exits.py")).output()?.expect(1)?;
    assert_eq!(store_entries(&home, &python)?, before);
    let names: Vec<_> = list(&home)?.into_iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["good"]);
    let mut session = home.bridge("good")?;
    session.initialize()?;
    session.finish()?;
    good.stop()?;
    home.close()
}

/// The store's files are read by their format: this fails should that reading ever find nothing in a full store.
#[test]
fn the_view_into_the_store_sees_entries_come_and_go() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let good = run_bad(&home, &[]).arg(crate::DEMO_SERVER).foreground()?;
    let entries = store_entries(&home, &python)?;
    assert_eq!(entries["workload:bad:shared-key"].as_str(), good.key_id(), "{entries}");
    good.stop()?;
    home.thv(["rm", "bad"]).output()?.expect(0)?;
    assert_eq!(store_entries(&home, &python)?, json!({}));
    // A home in which nothing was ever kept reads the same.
    let empty = Home::new()?;
    assert_eq!(scenario(&home, &python, "store_entries.py", &empty.path().to_string_lossy())?, json!({}));
    empty.close()?;
    home.close()
}
