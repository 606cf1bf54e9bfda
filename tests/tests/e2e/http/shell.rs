//! Workloads tried from the shell, and their entries for the configuration of AI clients.

use super::{Elsewhere, NAME, crash, end, guarding};
use crate::DEMO_SERVER;
use crate::fixture::{list, refused};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use thv_e2e::{BINARY_VARIABLE, Detached, Failure, Home, McpStdio, Result, ensure, need_part};

fn entries(home: &Home) -> Result<Value> {
    home.thv(["list", "--format", "mcpservers"]).output()?.expect(0)?.json()
}

/// Runs an entry as an AI client does: with its command, its arguments and its variables, and little more.
fn pasted(home: &Home, entry: &Value) -> Result<McpStdio> {
    let wrong = || Failure::new(format!("no entry: {entry}"));
    let mut command = Command::new(entry["command"].as_str().ok_or_else(wrong)?);
    for word in entry["args"].as_array().ok_or_else(wrong)? {
        command.arg(word.as_str().ok_or_else(wrong)?);
    }
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home.user()).current_dir("/");
    for (name, value) in entry["env"].as_object().ok_or_else(wrong)? {
        command.env(name, value.as_str().ok_or_else(wrong)?);
    }
    Ok(McpStdio::new(home.start(command)?))
}

#[test]
fn an_entry_that_is_pasted_works_as_it_is() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        assert_eq!(entries(home)?, json!({ "mcpServers": {} }));
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        Detached::of(guarding(home, &python, &[], &[]).output()?)?;
        home.detached(["--name", "url", "--shared-key-auth", &elsewhere.url()])?;
        home.detached(["--name", "Stdio.demo", "--shared-key-auth", "--", DEMO_SERVER])?;
        let keys: Vec<String> =
            [NAME, "url", "Stdio.demo"].iter().map(|name| home.key(name)).collect::<Result<_>>()?;
        let shown = entries(home)?;
        let servers = shown["mcpServers"].as_object().cloned().unwrap_or_default();
        assert_eq!(servers.keys().collect::<Vec<_>>(), ["Stdio.demo", "url", NAME]);
        for (name, entry) in &servers {
            assert_eq!(entry["args"], json!(["proxy", "stdio", name]));
            assert_eq!(entry["env"], json!({ "THV_HOME": home.path() }));
            assert_eq!(entry.as_object().map(serde_json::Map::len), Some(3), "{entry}");
            let program = entry["command"].as_str().unwrap_or_default();
            ensure!(Path::new(program).is_absolute(), "{entry}");
            let ours = std::env::var_os(BINARY_VARIABLE).unwrap_or_default();
            assert_eq!(std::fs::canonicalize(program)?, std::fs::canonicalize(ours)?);
            for key in &keys {
                ensure!(!entry.to_string().contains(key.as_str()), "a key is in the entry of {name}");
            }
            let mut session = pasted(home, entry)?;
            session.initialize()?;
            ensure!(session.request("tools/list", &json!({}))?["result"]["tools"].is_array(), "{name}");
            end(session)?;
        }
        // What is stopped is left out, unless it is asked for.
        home.thv(["stop", NAME]).output()?.expect(0)?;
        assert_eq!(entries(home)?["mcpServers"].as_object().map(serde_json::Map::len), Some(2));
        let all = home.thv(["list", "--all", "--format", "mcpservers"]).output()?.expect(0)?.json()?;
        assert_eq!(all["mcpServers"], shown["mcpServers"]);
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn without_a_home_of_its_own_an_entry_has_no_variables() -> Result {
    Home::with(|home| {
        // The platform's own folders, below this HOME.
        let own = |args: &[&str]| home.thv(args).env_remove("THV_HOME");
        let run = own(&["run", "--name", NAME, "--shared-key-auth", "--", DEMO_SERVER]);
        Detached::of(run.output()?)?;
        let checked = || -> Result {
            let shown = own(&["list", "--format", "mcpservers"]).output()?.expect(0)?.json()?;
            let entry = &shown["mcpServers"][NAME];
            assert_eq!(entry.as_object().map(serde_json::Map::len), Some(2), "{entry}");
            let mut entry = entry.clone();
            entry["env"] = json!({});
            let mut session = pasted(home, &entry)?;
            session.initialize()?;
            end(session)
        };
        let outcome = checked();
        own(&["rm", NAME]).output()?.expect(0)?;
        outcome
    })
}

#[test]
fn a_server_of_the_newest_era_alone_can_be_tried_too() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        Detached::of(guarding(home, &python, &[], &["--modern"]).output()?)?;
        let mcp = |args: &[&str]| home.thv(["mcp"]).args(args).output();
        let text = mcp(&["list", "tools", NAME])?.expect(0)?;
        ensure!(text.stdout.starts_with("echo  Tries"), "{text:?}");
        let call = mcp(&["call", NAME, "echo", "--args", r#"{"text":"new"}"#])?.expect(0)?;
        assert_eq!((call.stdout.as_str(), call.stderr.as_str()), ("new\n", ""));
        refused(home.thv(["mcp", "list", "prompts", NAME]), 1, &["-32601", "prompts/list"])?;
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}

#[test]
fn tools_are_listed_and_called_as_data() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        Detached::of(guarding(home, &python, &[], &[]).output()?)?;
        let mcp = |args: &[&str]| home.thv(["mcp"]).args(args).output();
        let text = mcp(&["list", "tools", NAME])?.expect(0)?;
        assert_eq!(text.stdout.lines().next(), Some("echo  Tries what it is named after."));
        assert_eq!((text.stdout.lines().count(), text.stderr.as_str()), (6, ""));
        let tools = mcp(&["list", "tools", NAME, "--format", "json"])?.expect(0)?.json()?;
        assert_eq!(tools[0]["inputSchema"], json!({ "type": "object" }));
        assert_eq!(tools[0]["description"], "Tries what it is named after.\nAt length.");

        let call = mcp(&["call", NAME, "echo", "--args", r#"{"text":"ä\u0007\nb"}"#])?.expect(0)?;
        assert_eq!((call.stdout.as_str(), call.stderr.as_str()), ("ä\u{7}\nb\n", ""));
        let call =
            mcp(&["call", NAME, "echo", "--args", r#"{"text":"x"}"#, "--format", "json"])?.expect(0)?;
        let result = json!({ "content": [{ "type": "text", "text": "x" }], "isError": false });
        assert_eq!(call.json()?, result);
        // What the tool says is data also when it says that it failed.
        let failed = mcp(&["call", NAME, "fail"])?.expect(1)?;
        assert_eq!(failed.stdout, "it did not work\n");
        ensure!(failed.stderr.contains("the tool fail reports an error"), "{failed:?}");
        let failed = mcp(&["call", NAME, "fail", "--format", "json"])?.expect(1)?;
        assert_eq!(failed.json()?["isError"], true);

        refused(home.thv(["mcp", "call", NAME, "nowhere"]), 1, &["-32601", "no such method or tool"])?;
        refused(home.thv(["mcp", "list", "prompts", NAME]), 1, &["-32601", "prompts/list"])?;
        for wrong in ["", "1", "[]", "{'a': 1}", "{\"a\": 1"] {
            refused(home.thv(["mcp", "call", NAME, "echo", "--args", wrong]), 2, &["--args"])?;
        }
        home.thv(["mcp", "list", "nothing", NAME]).output()?.expect(2)?;
        refused(home.thv(["mcp", "list", "tools", "wbe"]), 3, &["did you mean web?"])?;
        refused(home.thv(["mcp", "call", "nobody", "echo"]), 3, &["nobody"])?;
        let silent = home.thv(["mcp", "call", NAME, "fault", "--args", r#"{"kind":"silent"}"#]);
        refused(silent, 1, &["-33002", "may or may not have run"])?;

        home.thv(["stop", NAME]).output()?.expect(0)?;
        let stopped = home.thv(["mcp", "list", "tools", NAME]);
        refused(stopped, 1, &["-33004", &format!("thv start {NAME}")])?;
        assert_eq!(list(home)?[0]["status"], "stopped");
        // What crashed is started by the way.
        home.thv(["start", NAME]).output()?.expect(0)?;
        crash(home)?;
        assert_eq!(mcp(&["list", "tools", NAME])?.expect(0)?.stdout, text.stdout);
        assert_eq!(list(home)?[0]["status"], "running");
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}
