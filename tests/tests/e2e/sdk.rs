//! The real thing: `mcp-server-time` behind the lock, and the official Python SDK as the client.

use crate::fixture::{GONE_BOUND, others, scenario, scenario_with, server, store_entries, wait_until};
use serde_json::{Value, json};
use std::path::Path;
use thv_e2e::{BINARY_VARIABLE, Exit, Failure, Foreground, Home, NO_BUS, Result, ensure, need_part};

/// All that the SDK hands down, where it is set at all (`mcp.client.stdio`, `DEFAULT_INHERITED_ENV_VARS`).
const HANDED_DOWN: [&str; 6] = ["HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"];

/// A bridge ends within this time, in seconds, after its input has.
const PROMISED_END: f64 = 1.0;

fn time_server(home: &Home, python: &Path) -> Result<Foreground> {
    home.thv(["run", "-f", "--name", "time", "--shared-key-auth", "--"])
        .arg(python.join("mcp-server-time"))
        .args(["--local-timezone", "UTC"])
        .foreground()
}

/// The entry of a client's config file for the workload: command, arguments, variables.
fn entry(home: &Home, name: &str) -> Result<Value> {
    let thv = std::env::var(BINARY_VARIABLE)
        .map_err(|error| Failure::new(format!("{BINARY_VARIABLE}: {error}")))?;
    let mut env = json!({ "THV_HOME": home.path() });
    if home.bus() != NO_BUS {
        env["DBUS_SESSION_BUS_ADDRESS"] = home.bus().into();
    }
    Ok(json!({ "command": thv, "args": ["proxy", "stdio", name], "env": env }))
}

/// Runs a scenario over a bridge and checks what holds for all of them.
fn over_bridge(home: &Home, python: &Path, script: &str) -> Result<Value> {
    let report = scenario(home, python, script, &entry(home, "time")?.to_string())?;
    ended_well(&report)?;
    Ok(report)
}

pub(crate) fn ended_well(report: &Value) -> Result {
    let inherited: Vec<String> = serde_json::from_value(report["inherited"].clone())?;
    let foreign: Vec<_> = inherited.iter().filter(|name| !HANDED_DOWN.contains(&name.as_str())).collect();
    ensure!(foreign.is_empty() && inherited.len() >= 2, "the SDK hands down {inherited:?}");
    ensure!(report["exit_codes"] == json!([0]), "the bridge ended with {}", report["exit_codes"]);
    let seconds = report["seconds_to_end"].as_f64().unwrap_or(f64::INFINITY);
    ensure!(seconds <= PROMISED_END, "the bridge took {seconds} s to end");
    Ok(())
}

/// The newest revision of all.
pub(crate) const NEWEST: &str = "2026-07-28";

/// In the newest era there are no sessions to end: one server waits for the next caller, and the bridge is gone.
pub(crate) fn at_rest(home: &Home, supervisor: u32) -> Result {
    wait_until("one server at most waits", GONE_BOUND, || {
        let left = others(home, supervisor);
        let count = |word: &str| left.iter().filter(|process| process.command.contains(word)).count();
        Ok(count("__guard") <= 1 && count("proxy stdio") == 0)
    })
}

pub(crate) fn has_toured(report: &Value, revision: &str) {
    assert_eq!(report["connected"], json!({ "protocol_version": revision, "server": "mcp-time" }));
    assert_eq!(report["tools"], json!(["get_current_time", "convert_time"]));
    let current = &report["current"];
    assert_eq!(current["isError"], false, "{current}");
    assert_eq!(current["structuredContent"]["timezone"], "Asia/Tokyo");
    let now = current["structuredContent"]["datetime"].as_str();
    assert!(now.is_some_and(|now| now.ends_with("+09:00")), "{current}");
    let converted = &report["converted"];
    assert_eq!(converted["isError"], false, "{converted}");
    assert_eq!(converted["structuredContent"]["time_difference"], "+5.5h");
    let target = converted["structuredContent"]["target"]["datetime"].as_str();
    assert!(target.is_some_and(|target| target.ends_with("T17:30:00+05:30")), "{converted}");
}

#[test]
pub(crate) fn the_sdk_lists_and_calls_over_the_bridge_and_leaves_cleanly() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let time = time_server(&home, &python)?;
    home.key("time")?;
    has_toured(&over_bridge(&home, &python, "stdio_calls.py")?, NEWEST);
    at_rest(&home, time.pid())?;
    assert_eq!(time.stop()?, Exit::Code(0));
    home.close()
}

#[test]
fn a_bridge_needs_no_more_than_a_home_folder() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let time = home
        .thv(["run", "-f", "--name", "time", "--shared-key-auth", "--"])
        .arg(python.join("mcp-server-time"))
        .env_remove("THV_HOME")
        .foreground()?;
    let mut entry = entry(&home, "time")?;
    entry["env"].take();
    // What would lead the bridge astray, were it handed down.
    let astray =
        [("THV_HOME", "not/absolute"), ("XDG_CONFIG_HOME", "/nowhere"), ("XDG_STATE_HOME", "/nowhere")];
    let report = scenario_with(&home, &python, "stdio_calls.py", &entry.to_string(), &astray)?;
    ended_well(&report)?;
    has_toured(&report, NEWEST);
    assert!(home.path().read_dir()?.next().is_none(), "THV_HOME was not to be used");
    at_rest(&home, time.pid())?;
    time.stop()?;
    home.close()
}

#[test]
pub(crate) fn ten_calls_at_once_get_an_answer_each() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let time = time_server(&home, &python)?;
    let report = over_bridge(&home, &python, "stdio_many.py")?;
    let answers = report["answers"].as_array().map_or(&[][..], Vec::as_slice);
    assert_eq!(answers.len(), 10);
    for (hour, answer) in answers.iter().enumerate() {
        let source = answer["structuredContent"]["source"]["datetime"].as_str();
        let expected = format!("T{hour:02}:00:00+00:00");
        assert!(source.is_some_and(|source| source.ends_with(&expected)), "{hour}: {answer}");
    }
    at_rest(&home, time.pid())?;
    time.stop()?;
    home.close()
}

#[test]
pub(crate) fn errors_reach_the_sdk_as_the_server_gave_them() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let time = time_server(&home, &python)?;
    let report = over_bridge(&home, &python, "stdio_errors.py")?;
    let bad = &report["bad_argument"]["result"];
    assert_eq!(bad["isError"], true, "{report}");
    let text = bad["content"][0]["text"].as_str();
    assert!(text.is_some_and(|text| text.contains("Mars/Olympus")), "{report}");
    let unknown = json!({ "code": -32602, "message": "Unknown tool: stop_time", "data": null });
    assert_eq!(report["no_such_tool"]["error"], unknown);
    assert_eq!(report["afterwards"]["isError"], false, "{report}");
    time.stop()?;
    home.close()
}

#[test]
pub(crate) fn a_call_cancelled_at_once_leaves_the_session_usable() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let time = time_server(&home, &python)?;
    let report = over_bridge(&home, &python, "stdio_hasty.py")?;
    assert_eq!(report["afterwards"]["isError"], false, "{report}");
    at_rest(&home, time.pid())?;
    time.stop()?;
    home.close()
}

#[test]
pub(crate) fn a_cancelled_call_is_cancelled_at_the_server() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let run = home.thv(["run", "-f", "--name", "time", "--shared-key-auth", "--"]);
    let slow = run.args(server(&python, "slow.py")).foreground()?;
    let report = over_bridge(&home, &python, "stdio_cancel.py")?;
    assert_eq!(report.get("answered"), None);
    let waiting = report["seen"]["waiting"].as_array().map_or(0, Vec::len);
    assert_eq!(waiting, 1, "{report}");
    assert_eq!(report["seen"]["cancelled"], report["seen"]["waiting"]);
    slow.stop()?;
    home.close()
}

#[test]
pub(crate) fn the_sdk_calls_the_port_itself_with_the_key() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let time = time_server(&home, &python)?;
    let key = home.key("time")?;
    let config = json!({ "url": time.url(), "key": key });
    let report = scenario(&home, &python, "http_calls.py", &config.to_string())?;
    // There are no sessions in this era: the server's process waits for the next caller.
    has_toured(&report, NEWEST);
    // What the store holds is the key whose id was shown, read by a program that is not ours.
    let entries = store_entries(&home, &python)?;
    assert_eq!(entries["workload:time:shared-key"].as_str(), time.key_id(), "{entries}");
    time.stop()?;
    home.close()
}

#[test]
pub(crate) fn without_the_key_the_sdk_is_told_the_way_in() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let time = time_server(&home, &python)?;
    for mode in ["auto", "legacy"] {
        let config = json!({ "url": time.url(), "mode": mode });
        let report = scenario(&home, &python, "http_refused.py", &config.to_string())?;
        assert_eq!(report.get("tools"), None, "{mode}");
        assert_eq!(report["errors"][0]["code"], -33001, "{mode}: {report}");
        let message = report["errors"][0]["message"].as_str();
        assert!(message.is_some_and(|message| message.contains("thv proxy stdio time")), "{mode}: {report}");
    }
    assert_eq!(others(&home, time.pid()), [], "a server was started for a stranger");
    time.stop()?;
    home.close()
}
