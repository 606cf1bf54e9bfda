//! What is told of workloads, and of their keys: `list`, `key show`, and names that were misspelt.

use crate::DEMO_SERVER;
use crate::fixture::{answers, demo, list, only_row, refused, server, store_entries, wait_until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use thv_e2e::http::Request;
use thv_e2e::{Exit, Home, Result, STOP_BOUND, Signal, ensure, need_part};

#[test]
fn the_list_has_the_fields_of_the_contract() -> Result {
    let home = Home::new()?;
    let args =
        ["--name", "demo", "--shared-key-auth", "-l", "team=a", "--label", "stage=dev", "--", DEMO_SERVER];
    let demo = home.run(args)?;
    let row = only_row(&home)?;
    for moment in ["created_at", "started_at"] {
        let text = row[moment].as_str().unwrap_or_default();
        assert!(text.len() >= 20 && text.contains('T') && text.ends_with('Z'), "{moment}: {row}");
    }
    let lock = &row["shared_key_auth"];
    assert!(lock["rotated_at"].as_str().is_some_and(|text| text.ends_with('Z')), "{row}");
    let expected = json!({
        "name": "demo",
        "status": "running",
        "desired": "running",
        "url": demo.url(),
        "port": demo.port(),
        "transport_type": "stdio",
        "proxy_mode": "streamable-http",
        "package": "demo-server",
        "runtime": "process",
        "remote": false,
        "pid": demo.pid(),
        "status_context": "",
        "labels": { "team": "a", "stage": "dev" },
        "created_at": row["created_at"],
        "started_at": row["started_at"],
        "sessions": 0,
        "shared_key_auth": {
            "enabled": true,
            "key_id": demo.key_id(),
            "rotated_at": lock["rotated_at"],
            "key_rotation_days": 0,
        },
    });
    assert_eq!(row, expected);
    demo.stop()?;
    home.close()
}

#[test]
fn a_workload_is_listed_while_its_server_is_tried() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let run = home.thv(["run", "--name", "demo", "--"]);
    let mut run = run.args(server(&python, "silent.py")).start()?;
    let log = home.path().join("state/workloads/demo/server.log");
    wait_until("it is tried", STOP_BOUND, || Ok(std::fs::read(&log).is_ok_and(|log| !log.is_empty())))?;
    let row = only_row(&home)?;
    assert_eq!(
        (&row["status"], &row["desired"], &row["port"], &row["sessions"]),
        (&json!("starting"), &json!("running"), &json!(0), &json!(null))
    );
    run.signal(Signal::INT)?;
    assert_eq!(run.wait(STOP_BOUND)?, Exit::Code(1));
    assert_eq!(list(&home)?, Vec::<Value>::new());
    home.close()
}

#[test]
fn a_supervisor_that_says_nothing_does_not_hold_up_the_list() -> Result {
    let home = Home::new()?;
    let (demo, other) = (demo(&home, "demo")?, demo(&home, "other")?);
    let supervisor = home.supervisor("demo");
    supervisor.iter().for_each(|process| process.signal(Signal::STOP));
    let begun = Instant::now();
    let rows = list(&home);
    let took = begun.elapsed();
    supervisor.iter().for_each(|process| process.signal(Signal::CONT));
    let told: Vec<_> = rows?.iter().map(|row| (row["status"].clone(), row["sessions"].clone())).collect();
    assert_eq!(told, [(json!("running"), json!(null)), (json!("running"), json!(0))]);
    // Promised: a fifth of a second, and a moment.
    ensure!(took < Duration::from_secs(3), "it took {took:?}");
    demo.stop()?;
    other.stop()?;
    home.close()
}

#[test]
fn the_list_is_filtered_by_state_and_label() -> Result {
    let home = Home::new()?;
    let run = |name: &str, label: &str| home.run(["--name", name, "-l", label, "--", DEMO_SERVER]);
    let names = |args: &[&str]| -> Result<Vec<String>> {
        let rows = home.thv(["list", "--format", "json"]).args(args).output()?.expect(0)?.json()?;
        let rows: Vec<BTreeMap<String, Value>> = serde_json::from_value(rows)?;
        Ok(rows.iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect())
    };
    run("stopped", "team=a")?.stop()?;
    let (up_a, up_b) = (run("up-a", "team=a")?, run("up-b", "team=b")?);
    assert_eq!(names(&[])?, ["up-a", "up-b"]);
    assert_eq!(names(&["--all"])?, ["stopped", "up-a", "up-b"]);
    assert_eq!(names(&["-l", "team=a"])?, ["up-a"]);
    assert_eq!(names(&["-a", "-l", "team=a"])?, ["stopped", "up-a"]);
    assert_eq!(names(&["-l", "team=a", "-l", "team=b"])?, Vec::<String>::new());
    refused(home.thv(["list", "-l", "team"]), 2, &["team"])?;
    up_a.stop()?;
    up_b.stop()?;
    home.close()
}

#[test]
fn the_list_for_people_has_a_line_for_each() -> Result {
    let home = Home::new()?;
    let demo = demo(&home, "demo")?;
    let open = home.run(["--name", "wide-open", "--", DEMO_SERVER])?;
    let output = home.thv(["list"]).output()?.expect(0)?;
    let lines: Vec<Vec<_>> = output.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{output:?}");
    assert_eq!(lines[1], ["demo", "running", demo.url(), "key", demo.key_id().unwrap_or_default()]);
    assert_eq!(lines[2], ["wide-open", "running", open.url(), "open"]);
    assert!(!output.stdout.contains('\u{1b}'), "no colours but on a terminal");
    demo.stop()?;
    open.stop()?;
    let output = home.thv(["list"]).output()?.expect(0)?;
    assert_eq!(output.stdout, "", "{output:?}");
    home.close()
}

#[test]
fn a_misspelt_name_is_answered_with_the_one_that_was_meant() -> Result {
    let home = Home::new()?;
    demo(&home, "time")?.stop()?;
    for args in
        [&["key", "show", "tiem"][..], &["start", "-f", "tim"], &["rm", "times"], &["proxy", "stdio", "Tome"]]
    {
        refused(home.thv(args), 3, &["did you mean time?"])?;
    }
    let far = home.thv(["key", "show", "weather"]).output()?.expect(3)?;
    assert!(!far.stderr.contains("did you mean"), "{far:?}");
    home.close()
}

#[test]
pub(crate) fn a_key_is_shown_to_those_who_say_so() -> Result {
    let home = Home::new()?;
    let demo = demo(&home, "demo")?;
    let key = home.key("demo")?;
    // Without a terminal nobody can be asked, whatever stdin says.
    let output = refused(home.thv(["key", "show", "demo"]).stdin("y\n"), 6, &["--yes", "terminal"])?;
    assert!(!output.stderr.contains(&key));

    let shown = home.thv(["key", "show", "demo", "--yes"]).shows_key().output()?.expect(0)?;
    assert_eq!(shown.stdout, format!("{key}\n"));
    let header = home.thv(["key", "show", "--header", "--yes", "demo"]).shows_key().output()?.expect(0)?;
    assert_eq!(header.stdout, format!("X-ToolHive-Auth: {key}\n"));
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(Request::mcp(demo.port(), &ping).send()?.status, 401);
    // It is past the lock, and misses a session.
    assert_eq!(Request::mcp(demo.port(), &ping).key(&key).send()?.status, 400);
    demo.stop()?;
    assert_eq!(home.key("demo")?, key, "a stopped workload keeps its key");
    home.close()
}

#[test]
pub(crate) fn a_workload_without_a_lock_says_that_it_is_open() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let open = home.run(["--name", "demo", "--", DEMO_SERVER])?;
    assert_eq!(open.key_id(), None);
    assert!(open.line().ends_with("  open"), "{}", open.line());
    assert_eq!(only_row(&home)?["shared_key_auth"], json!(null));
    assert_eq!(store_entries(&home, &python)?, json!({}));
    answers(&home, "demo")?;
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(Request::mcp(open.port(), &ping).send()?.status, 400, "no key is asked for");
    // The guards stay.
    assert_eq!(Request::mcp(open.port(), &ping).header("Origin", "http://evil.example").send()?.status, 403);
    assert_eq!(
        Request::mcp(open.port(), &ping).without("Host").header("Host", "evil.example").send()?.status,
        403
    );
    refused(home.thv(["key", "show", "demo", "--yes"]), 3, &["open"])?;
    open.stop()?;
    home.close()
}

#[test]
fn a_damaged_workload_is_reported_and_does_not_hide_the_others() -> Result {
    let home = Home::new()?;
    let fine = demo(&home, "fine")?;
    demo(&home, "hurt")?.stop()?;
    let status = home.path().join("state/workloads/hurt/status.json");
    let before = std::fs::read(&status)?;
    let half = &before[..before.len() / 2];
    std::io::Write::write_all(&mut std::fs::File::create(&status)?, half)?;
    let output = home.thv(["list", "--all", "--format", "json"]).output()?;
    assert_eq!(output.exit, Exit::Code(1), "{output:?}");
    assert!(output.stderr.contains("hurt") && output.stderr.contains("status.json"), "{output:?}");
    let rows = output.json()?;
    let names: Vec<_> = rows.as_array().into_iter().flatten().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["fine"]);
    assert_eq!(std::fs::read(&status)?, half, "it must be left as it is");
    answers(&home, "fine")?;
    fine.stop()?;
    home.close()
}
