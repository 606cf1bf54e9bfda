//! Started by an AI client with little more than `HOME` and `PATH`: the session bus is found where login managers put
//! it, and nowhere else. A private mount namespace makes that place, so that nothing of this machine is touched.

use super::{add, end, entries_of, no_key, refused_soon};
use crate::fixture::{GONE_BOUND, call_text, scenario, server, wait_until};
use crate::sdk::{NEWEST, ended_well, has_toured};
use serde_json::{Value, json};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};
use thv_e2e::{
    BINARY_VARIABLE, Desktop, Detached, Failure, Home, Keyring, McpStdio, NO_BUS, Output, Proc, Result,
    Running, Signal, ensure, need_keyring, need_part, parts,
};

/// Puts a runtime folder where the login manager would, then runs a program with what an AI client hands down.
const AS_CLIENT: &str = r#"
mount -t tmpfs -o mode=0755 tmpfs /run && mkdir -p "/run/user/$1" || exit 97
if [ -n "$2" ]; then mount --bind "$2" "/run/user/$1" || exit 97; fi
shift 2
exec env -i HOME="$HOME" PATH="$PATH" "$@"
"#;

/// How long a command may run.
const BOUND: std::time::Duration = std::time::Duration::from_secs(60);

/// Whether namespaces can be made here.
fn possible() -> bool {
    let mut probe = Command::new("unshare");
    let probe = probe.args(["--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/run"]);
    probe.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Returns from the test where namespaces cannot be made and need not be.
macro_rules! need_namespaces {
    () => {
        if !possible() {
            let test = parts::test_name(file!(), line!());
            let advice = "run the tests as root, in a container that may mount";
            return parts::missing("mount", advice, &test).map(Into::into)?;
        }
    };
}

/// A login with its home, and perhaps a runtime folder.
struct Login<'a> {
    home: &'a Home,
    runtime: Option<&'a Path>,
    /// Variables on top.
    more: Vec<String>,
}

impl<'a> Login<'a> {
    fn new(home: &'a Home, runtime: Option<&'a Path>) -> Self {
        Self { home, runtime, more: Vec::new() }
    }

    fn with(&self, variable: &str) -> Self {
        Self { more: vec![variable.to_owned()], ..*self }
    }

    /// The words of a command line that runs `thv` for an AI client.
    fn words(&self, args: &[&str]) -> Result<Vec<String>> {
        let thv = std::env::var(BINARY_VARIABLE)
            .map_err(|error| Failure::new(format!("{BINARY_VARIABLE}: {error}")))?;
        let runtime = self.runtime.map(|path| path.display().to_string()).unwrap_or_default();
        let uid = rustix::process::geteuid().as_raw().to_string();
        let words =
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", AS_CLIENT, "sh", &uid, &runtime];
        let words = words.into_iter().map(str::to_owned).chain(self.more.clone()).chain([thv]);
        Ok(words.chain(args.iter().map(|&arg| arg.to_owned())).collect())
    }

    fn start(&self, args: &[&str]) -> Result<Running> {
        let words = self.words(args)?;
        let mut command = self.home.command(&words[0]);
        command.args(&words[1..]);
        self.home.start(command)
    }

    fn output(&self, args: &[&str]) -> Result<Output> {
        self.output_with(args, b"")
    }

    fn output_with(&self, args: &[&str], stdin: &[u8]) -> Result<Output> {
        let mut running = self.start(args)?;
        let _ = running.send(stdin);
        running.close_stdin();
        let exit = running.wait(BOUND)?;
        let (stdout, stderr) = (running.stdout(), running.stderr());
        Ok(Output { label: format!("bare thv {}", args.join(" ")), exit, stdout, stderr })
    }

    fn bridge(&self, name: &str) -> Result<McpStdio> {
        Ok(McpStdio::new(self.start(&["proxy", "stdio", name])?))
    }
}

fn supervisors(home: &Home) -> Vec<Proc> {
    home.processes().into_iter().filter(|process| process.command.starts_with("thv __supervise")).collect()
}

/// The variables that the server of `reports.py` was started with.
fn server_variables(session: &mut McpStdio) -> Result<Vec<String>> {
    let report: Value = serde_json::from_str(&call_text(session, "report", &json!({}))?)?;
    let pairs: Vec<(String, String)> = serde_json::from_value(report["environment"].clone())?;
    Ok(pairs.into_iter().map(|(name, _)| name).collect())
}

#[test]
fn everything_finds_the_session_bus_by_itself() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    need_namespaces!();
    let desktop = Desktop::unlocked()?;
    Home::with(|home| {
        let runtime = desktop.runtime_dir();
        let login = Login::new(home, Some(&runtime));
        let server = server(&python, "reports.py").map(|path| path.display().to_string());
        let run = ["run", "--name", "demo", "--shared-key-auth", "--", &server[0], &server[1], &server[2]];
        let output = login.output(&run)?;
        ensure!(output.stderr.contains("keychain of the operating system"), "{output:?}");
        let id = Detached::of(output)?.key_id;
        assert_eq!(entries_of(&desktop.address(), "thv")?["workload:demo:shared-key"], json!(id));

        // The bridge, also when it has to start the workload itself.
        let mut session = login.bridge("demo")?;
        session.initialize()?;
        for _ in 0..2 {
            let variables = server_variables(&mut session)?;
            let led: Vec<_> =
                variables.iter().filter(|name| name.contains("DBUS") || name.contains("XDG")).collect();
            ensure!(led.is_empty(), "the server was shown the way to the keychain: {led:?}");
            supervisors(home).iter().for_each(Proc::kill);
            wait_until("it is dead", GONE_BOUND, || Ok(supervisors(home).is_empty()))?;
            // A request that was under way when the connection died is not sent again by the bridge.
            wait_until("the bridge has started it", GONE_BOUND, || {
                let answer = session.request("tools/list", &json!({}))?;
                ensure!(
                    answer["result"]["tools"].is_array() || answer["error"]["code"] == -33002,
                    "{answer}"
                );
                Ok(answer["error"].is_null())
            })?;
        }
        end(session)?;
        // What is written to a command's standard input is there still when it has found the bus.
        login.output_with(&["secret", "set", "token"], b"hush\n")?.expect(0)?;
        assert_eq!(login.output(&["secret", "get", "token", "--yes"])?.expect(0)?.stdout, "hush\n");
        login.output(&["secret", "delete", "token"])?.expect(0)?;
        login.output(&["rm", "demo"])?.expect(0)?;
        assert_eq!(entries_of(&desktop.address(), "thv")?, json!({}));
        Ok(())
    })
}

#[test]
fn the_official_sdk_starts_a_bridge_that_finds_its_key() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    need_namespaces!();
    let desktop = Desktop::unlocked()?;
    Home::with(|home| {
        let runtime = desktop.runtime_dir();
        let login = Login::new(home, Some(&runtime));
        let time = python.join("mcp-server-time").display().to_string();
        login.output(&["run", "--name", "time", "--shared-key-auth", "--", &time])?.expect(0)?;
        let words = login.words(&["proxy", "stdio", "time"])?;
        let entry = json!({ "command": words[0], "args": words[1..], "env": null });
        let report = scenario(home, &python, "stdio_calls.py", &entry.to_string())?;
        ended_well(&report)?;
        has_toured(&report, NEWEST);
        login.output(&["rm", "time"])?.expect(0)?;
        assert_eq!(entries_of(&desktop.address(), "thv")?, json!({}));
        Ok(())
    })
}

#[test]
fn where_no_bus_is_ours_the_keychain_is_said_to_be_away() -> Result {
    need_keyring!();
    need_namespaces!();
    let mut desktop = Desktop::unlocked()?;
    Home::with(|home| {
        let runtime = desktop.runtime_dir();
        let (in_session, outside) = (Login::new(home, Some(&runtime)), Login::new(home, None));
        in_session
            .output(&["run", "--name", "demo", "--shared-key-auth", "--", crate::DEMO_SERVER])?
            .expect(0)?;
        let away = |login: &Login<'_>| -> Result {
            let mut bridge = login.bridge("demo")?;
            no_key(&mut bridge, "keychain_unavailable")?;
            end(bridge)?;
            let output = login.output(&["key", "show", "demo", "--yes"])?.expect(5)?;
            ensure!(output.stderr.contains("not available") && output.stdout.is_empty(), "{output:?}");
            login.output(&["list"])?.expect(0).map(drop)
        };
        let reached = |login: &Login<'_>| -> Result {
            let mut bridge = login.bridge("demo")?;
            bridge.initialize()?;
            add(&mut bridge)?;
            end(bridge)
        };
        away(&outside)?;
        reached(&in_session)?;
        // What is said aloud counts; what is said with no word at all does not.
        away(&in_session.with(&format!("DBUS_SESSION_BUS_ADDRESS={NO_BUS}")))?;
        reached(&in_session.with("DBUS_SESSION_BUS_ADDRESS="))?;
        reached(&outside.with(&format!("DBUS_SESSION_BUS_ADDRESS={}", desktop.address())))?;
        // Somebody else's socket in the place of ours.
        let (socket, us) = (runtime.join("bus"), rustix::process::geteuid().as_raw());
        chown(&socket, Some(us + 12_345), None)?;
        away(&in_session)?;
        chown(&socket, Some(us), None)?;
        // A bus that nobody serves.
        desktop.kill_bus();
        away(&in_session)?;
        desktop.start_bus()?;
        desktop.start(Keyring::Unlocked)?;
        reached(&in_session)?;
        in_session.output(&["rm", "demo"])?.expect(0).map(drop)
    })
}

/// A home whose keys are in a file has no business on the bus.
#[test]
fn a_home_without_a_keychain_does_not_look_for_one() -> Result {
    need_keyring!();
    need_namespaces!();
    let desktop = Desktop::unlocked()?;
    Home::with(|home| {
        let run = ["run", "--name", "demo", "--shared-key-auth", "--", crate::DEMO_SERVER];
        home.thv(run).env_remove("THV_HOME").output()?.expect(0)?;
        // It would wait here, if it asked.
        desktop.signal(Signal::STOP)?;
        let runtime = desktop.runtime_dir();
        let mut bridge = Login::new(home, Some(&runtime)).bridge("demo")?;
        bridge.initialize()?;
        add(&mut bridge)?;
        end(bridge)?;
        desktop.signal(Signal::CONT)?;
        refused_soon(
            home.thv(["secret", "provider", "keychain"]).env_remove("THV_HOME"),
            &["not available", "nothing was moved"],
        )?;
        // But a command whose question is about the keychain finds it.
        let login = Login::new(home, Some(&runtime));
        let output = login.output(&["doctor"])?.expect(0)?;
        ensure!(output.stdout.contains("keys do not rest there"), "{output:?}");
        login.output(&["secret", "provider", "keychain"])?.expect(0)?;
        ensure!(
            entries_of(&desktop.address(), "thv")?["workload:demo:shared-key"].is_string(),
            "nothing moved"
        );
        login.output(&["rm", "demo"])?.expect(0).map(drop)
    })
}
