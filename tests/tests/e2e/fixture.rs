//! The programs in `tests/fixtures`, and the few things that every test of servers does.

use crate::DEMO_SERVER;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thv_e2e::{Exit, Failure, Foreground, Home, McpStdio, Output, Proc, Result, Running, Thv, ensure};

/// How long processes that are on their way out may take: the guardian gives a server two seconds after the end of
/// its input and three after SIGTERM.
pub(crate) const GONE_BOUND: Duration = Duration::from_secs(30);

/// How long a scenario may run.
const SCENARIO_BOUND: Duration = Duration::from_secs(90);

/// How long a server may take until it listens.
const LISTEN_BOUND: Duration = Duration::from_secs(60);

/// A file in `tests/fixtures`.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures")).join(path)
}

/// An example of this crate, which is a server to be locked: `cargo test` builds it beside the tests.
pub(crate) fn example(name: &str) -> Result<PathBuf> {
    let tests = std::env::current_exe()?;
    let server = tests.ancestors().nth(2).map(|built| built.join("examples").join(name));
    server.filter(|server| server.is_file()).ok_or_else(|| {
        Failure::new(format!(
            "the example `{name}` was not built; `cargo xtask e2e` builds it with the tests"
        ))
    })
}

/// Starts a server that listens on the port in `PORT`, waits until it does, and tells the port.
pub(crate) fn listening(home: &Home, command: &[String]) -> Result<(Running, u16)> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut server = home.command(&command[0]);
    server.args(&command[1..]).env("PORT", port.to_string());
    let mut running = home.start(server)?;
    wait_until("the server listens", LISTEN_BOUND, || match running.poll()? {
        None => Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()),
        Some(exit) => Err(Failure::new(format!("{exit:?}\n{}", running.stderr()))),
    })?;
    Ok((running, port))
}

/// The command of a server in `tests/fixtures/servers`: plain Python without any package, which starts fast, and
/// which leaves no compiled files in the source tree.
pub(crate) fn server(python: &Path, script: &str) -> [PathBuf; 3] {
    [python.join("python3"), "-SB".into(), fixture("servers").join(script)]
}

/// Runs a script of `tests/fixtures/python` with one line of input, and returns the line of JSON that it printed.
pub(crate) fn scenario(home: &Home, python: &Path, script: &str, input: &str) -> Result<Value> {
    scenario_with(home, python, script, input, &[])
}

/// As [`scenario`], with variables on top of the scrubbed environment.
pub(crate) fn scenario_with(
    home: &Home,
    python: &Path,
    script: &str,
    input: &str,
    env: &[(&str, &str)],
) -> Result<Value> {
    let mut command = home.command(python.join("python3"));
    command.arg("-B").arg(fixture("python").join(script)).envs(env.iter().copied());
    let mut running = home.start(command)?;
    running.send(format!("{input}\n").as_bytes())?;
    running.close_stdin();
    let exit = running.wait(SCENARIO_BOUND)?;
    let stdout = running.stdout();
    ensure!(
        exit == Exit::Code(0),
        "{script} ended with {exit:?}\nstdout:\n{stdout}\nstderr:\n{}",
        running.stderr()
    );
    serde_json::from_str(&stdout)
        .map_err(|error| Failure::from(error).during(format!("{script}, {stdout:?}")))
}

/// Names of the entries in the store, each with the id of its key if it holds one: in the keychain, if the home has
/// one, or else in the encrypted file.
pub(crate) fn store_entries(home: &Home, python: &Path) -> Result<Value> {
    #[cfg(target_os = "linux")]
    if home.bus() != thv_e2e::NO_BUS {
        return crate::keychain::entries(home);
    }
    let path = home.path();
    scenario(home, python, "store_entries.py", &path.to_string_lossy())
}

/// Calls a tool, and returns the answer as it came.
pub(crate) fn call(session: &mut McpStdio, tool: &str, arguments: &Value) -> Result<Value> {
    session.request("tools/call", &json!({ "name": tool, "arguments": arguments }))
}

/// Calls a tool that answers with a text, and returns the text.
pub(crate) fn call_text(session: &mut McpStdio, tool: &str, arguments: &Value) -> Result<String> {
    let answer = call(session, tool, arguments)?;
    let text = answer["result"]["content"][0]["text"].as_str().map(str::to_owned);
    text.ok_or_else(|| Failure::new(format!("{tool}: no text in {answer}")))
}

/// Waits until something is so that no event tells of, such as the end of a process that is not our child.
pub(crate) fn wait_until(what: &str, bound: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result {
    let end = Instant::now() + bound;
    while !holds()? {
        ensure!(Instant::now() < end, "{what}: not so within {bound:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The processes of a home but for its supervisor.
pub(crate) fn others(home: &Home, supervisor: u32) -> Vec<Proc> {
    home.processes().into_iter().filter(|process| process.pid != supervisor).collect()
}

/// Waits until a supervisor is all that runs in its home: no server, no guardian, no orphan.
pub(crate) fn wait_alone(home: &Home, supervisor: u32) -> Result {
    let waited =
        wait_until("only the supervisor runs", GONE_BOUND, || Ok(others(home, supervisor).is_empty()));
    waited.map_err(|failure| failure.during(format!("{:?}", others(home, supervisor))))
}

/// The rows of `thv list --all --format json`.
pub(crate) fn list(home: &Home) -> Result<Vec<Value>> {
    let rows = home.thv(["list", "--all", "--format", "json"]).output()?.expect(0)?.json()?;
    serde_json::from_value(rows).map_err(Failure::from)
}

/// The row of the only workload there is.
pub(crate) fn only_row(home: &Home) -> Result<Value> {
    let mut rows = list(home)?;
    ensure!(rows.len() == 1, "one workload was expected, not {rows:?}");
    Ok(rows.remove(0))
}

/// A locked workload with the demo server.
pub(crate) fn demo(home: &Home, name: &str) -> Result<Foreground> {
    home.run(["--name", name, "--shared-key-auth", "--", DEMO_SERVER])
}

/// `thv start -f NAME`.
pub(crate) fn start(home: &Home, name: &str) -> Result<Foreground> {
    home.thv(["start", "-f", name]).foreground()
}

/// Checks that a bridge reaches the demo server behind a workload.
pub(crate) fn answers(home: &Home, name: &str) -> Result {
    let mut session = home.bridge(name)?;
    session.initialize()?;
    assert_eq!(call_text(&mut session, "add", &json!({ "a": 19, "b": 23 }))?, "42");
    assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
    Ok(())
}

/// Runs a command that must be refused: exit code, nothing on stdout, and these words on stderr.
pub(crate) fn refused(thv: Thv<'_>, code: i32, words: &[&str]) -> Result<Output> {
    let output = thv.output()?.expect(code)?;
    assert_eq!(output.stdout, "", "{output:?}");
    // The first use of a home says which store it chose, before it fails.
    assert!(output.stderr.lines().any(|line| line.starts_with("error: ")), "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word:?} is missing in:\n{}", output.stderr);
    }
    Ok(output)
}
