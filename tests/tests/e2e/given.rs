//! What a server is given: its environment, its upstream key, and no more descriptors or privileges than it needs.

use crate::DEMO_SERVER;
use crate::fixture::{call_text, list, refused, server, start, store_entries};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use thv_e2e::http::Request;
use thv_e2e::{Exit, Home, McpStdio, Result, STOP_BOUND, need_part};

/// What the reporting server says of itself. Its session is left open.
fn report(session: &mut McpStdio) -> Result<Value> {
    session.initialize()?;
    Ok(serde_json::from_str(&call_text(session, "report", &json!({}))?)?)
}

fn environment(report: &Value) -> Result<BTreeMap<String, String>> {
    let pairs: Vec<(String, String)> = serde_json::from_value(report["environment"].clone())?;
    let count = pairs.len();
    let variables: BTreeMap<_, _> = pairs.into_iter().collect();
    assert_eq!(variables.len(), count, "a variable was set twice");
    Ok(variables)
}

fn map<'a>(pairs: &[(&'a str, &'a str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The variables that every server is given, as they are in the scrubbed environment of a home, and some that the
/// caller of `thv` sets.
fn base(home: &Home, more: &[(&str, &str)]) -> Result<BTreeMap<String, String>> {
    let mut base = map(more);
    for (name, value) in home.command("").get_envs() {
        let (name, value) = (name.to_string_lossy(), value.unwrap_or_default().to_string_lossy());
        if !["THV_HOME", "DBUS_SESSION_BUS_ADDRESS"].contains(&&*name) {
            base.insert(name.into_owned(), value.into_owned());
        }
    }
    Ok(base)
}

#[test]
fn a_server_is_given_the_environment_of_the_contract_and_nothing_else() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let file = "# a comment\n\nFROM_FILE=one two\nBOTH=file\nEMPTY=\n";
    let file = home.file("variables", file)?;
    let user = [("USER", "somebody"), ("LOGNAME", "somebody"), ("SHELL", "/bin/sh")];
    let foreign = [
        ("TAKEN_OVER", "as it is"),
        ("NOT_TAKEN_OVER", "x"),
        ("THV_EXTRA", "x"),
        ("TOOLHIVE_SHARED_KEY", "x"),
        ("TOOLHIVE_SECRET_X", "x"),
        ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere"),
        ("XDG_RUNTIME_DIR", "/nowhere"),
        ("SSH_AUTH_SOCK", "/nowhere"),
        ("LD_LIBRARY_PATH", "/nowhere"),
        ("http_proxy", "http://127.0.0.1:9"),
    ];
    let mut run = home.thv(["run", "-f", "--name", "demo", "-e", "BOTH=option", "--env", "TAKEN_OVER"]);
    run = run.args(["-e", "TZ=Asia/Tokyo=", "-e", "LANG=C", "--env-file"]).arg(file).arg("--");
    run = run.args(server(&python, "reports.py"));
    for (name, value) in user.iter().chain(&foreign) {
        run = run.env(name, value);
    }
    let demo = run.foreground()?;
    let mut session = home.bridge("demo")?;
    let mut expected = base(&home, &user)?;
    expected.extend(map(&[
        ("TAKEN_OVER", "as it is"),
        ("BOTH", "option"),
        ("FROM_FILE", "one two"),
        ("EMPTY", ""),
        ("TZ", "Asia/Tokyo="),
        ("LANG", "C"),
    ]));
    assert_eq!(environment(&report(&mut session)?)?, expected);
    session.finish()?;
    demo.stop()?;

    // A start uses what was recorded, whatever the environment is now.
    let again =
        home.thv(["start", "-f", "demo"]).env("PATH", "/usr/bin:/bin").env("USER", "else").foreground()?;
    let mut session = home.bridge("demo")?;
    assert_eq!(environment(&report(&mut session)?)?, expected);
    session.finish()?;
    again.stop()?;
    home.close()
}

#[test]
fn the_upstream_key_is_new_at_each_start_and_opens_nothing() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let mut seen = Vec::new();
    for round in 0..2 {
        let demo = if round == 0 {
            let run = home.thv(["run", "-f", "--name", "demo", "--shared-key-auth", "--"]);
            run.args(server(&python, "reports.py")).foreground()?
        } else {
            start(&home, "demo")?
        };
        let mut session = home.bridge("demo")?;
        let mut variables = environment(&report(&mut session)?)?;
        let upstream = variables.remove("TOOLHIVE_SHARED_KEY").unwrap_or_default();
        assert_eq!(upstream.len(), 44);
        assert_eq!(variables, base(&home, &[])?);
        assert_eq!(Request::mcp(demo.port(), "{}").key(&upstream).send()?.status, 401);
        assert_ne!(upstream, home.key("demo")?);
        seen.push(upstream);
        session.finish()?;
        demo.stop()?;
    }
    assert_ne!(seen[0], seen[1]);

    let run = home.thv(["run", "-f", "--name", "none", "--shared-key-auth", "--no-upstream-key", "--"]);
    let none = run.args(server(&python, "reports.py")).foreground()?;
    let mut session = home.bridge("none")?;
    assert_eq!(environment(&report(&mut session)?)?, base(&home, &[])?);
    session.finish()?;
    none.stop()?;
    home.close()
}

#[test]
fn a_server_inherits_no_descriptor_no_session_and_no_privileges() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let leaked = home.file("leaked", "x")?;
    // A launcher that leaks a descriptor through exec, as AI clients do.
    let mut command = home.command("sh");
    command.args(["-c", r#"exec 7<"$0"; exec "$@""#]).arg(&leaked);
    command.arg(std::env::var_os(thv_e2e::BINARY_VARIABLE).unwrap_or_default());
    command.args(["run", "-f", "--name", "demo", "--"]).args(server(&python, "reports.py"));
    let mut demo = home.start(command)?;
    let ready = demo.line(STOP_BOUND)?.unwrap_or_default();
    assert!(ready.starts_with(b"demo  running  "), "{}", demo.stderr());
    let held = std::fs::read_link(format!("/proc/{}/fd/7", demo.pid()));
    assert_eq!(held.ok().as_deref(), Some(leaked.as_path()), "the descriptor did not even get to thv");

    let mut session = home.bridge("demo")?;
    let report = report(&mut session)?;
    let descriptors: BTreeMap<String, String> = serde_json::from_value(report["descriptors"].clone())?;
    assert_eq!(descriptors.keys().collect::<Vec<_>>(), ["0", "1", "2"], "{descriptors:?}");
    assert!(
        descriptors["0"].starts_with("pipe:") && descriptors["1"].starts_with("pipe:"),
        "{descriptors:?}"
    );
    assert_eq!(Path::new(&descriptors["2"]), home.path().join("state/workloads/demo/server.log"));
    assert_eq!(report["no_new_privs"], "1");
    assert_eq!(report["blocked_signals"], "0000000000000000");
    assert_eq!(report["cwd"], json!(home.user()));
    assert_ne!(report["session"].as_u64(), session_of("self"), "it is in the session of the test");
    assert_ne!(
        report["session"].as_u64(),
        session_of(&demo.pid().to_string()),
        "it is in its supervisor's session"
    );
    session.finish()?;
    assert_eq!(demo.stop()?, Exit::Code(0));
    home.close()
}

/// The session of a process, from its `stat`.
fn session_of(process: &str) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()
}

#[test]
fn variables_that_cannot_be_given_are_refused_by_name() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let run = |args: &[&str]| {
        home.thv(["run", "-f", "--name", "demo", "--shared-key-auth"]).args(args).args(["--", DEMO_SERVER])
    };
    for name in ["THV_HOME", "TOOLHIVE_SHARED_KEY", "toolhive_secret_x", "DBUS_SESSION_BUS_ADDRESS"] {
        refused(run(&["-e", &format!("{name}=x")]), 6, &[name])?;
        refused(run(&["-e", name]).env(name, "x"), 6, &[name])?;
    }
    let file = home.file("variables", "FINE=1\nTHV_HOME=/x\n")?;
    refused(run(&["--env-file", &file.to_string_lossy()]), 6, &["THV_HOME"])?;
    refused(run(&["-e", "NOT_SET_ANYWHERE"]), 2, &["NOT_SET_ANYWHERE"])?;
    refused(run(&["-e", "=x"]), 2, &["name"])?;
    refused(run(&["--env-file", "/no/such/file"]), 1, &["/no/such/file"])?;
    let file = home.file("variables", "no equals sign\n")?;
    refused(run(&["--env-file", &file.to_string_lossy()]), 2, &["'='"])?;
    assert_eq!(list(&home)?, Vec::<Value>::new());
    assert_eq!(store_entries(&home, &python)?, json!({}));
    home.close()
}

#[test]
fn a_variable_that_looks_like_a_secret_gets_a_warning_without_its_value() -> Result {
    let home = Home::new()?;
    let secret = "s3cr3t-value";
    let demo = home.run([
        "--name",
        "demo",
        "-e",
        &format!("API_TOKEN={secret}"),
        "-e",
        "TZ=UTC",
        "--",
        DEMO_SERVER,
    ])?;
    let stderr = demo.stderr();
    assert!(stderr.contains("API_TOKEN") && !stderr.contains(secret) && !stderr.contains("TZ"), "{stderr}");
    demo.stop()?;
    home.close()
}
