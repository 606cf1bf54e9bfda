//! Where servers come from: packages by `npx` and `uvx`, the catalog, run configs that were exported.

use crate::DEMO_SERVER;
use crate::fixture::{
    GONE_BOUND, answers, call_text, list, only_row, refused, scenario, store_entries, wait_until,
};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use thv_e2e::{Detached, Exit, Home, Proc, Result, ensure, need_part};

/// Stops a workload, and kills it when it runs again: either way its whole tree goes, runner and all.
fn ends_whole(home: &Home, name: &str, deep: usize) -> Result {
    let mut session = home.bridge(name)?;
    session.initialize()?;
    let bridge = session.pid();
    let tree =
        || -> Vec<Proc> { home.processes().into_iter().filter(|process| process.pid != bridge).collect() };
    let seen = tree();
    // A supervisor, a guardian, a runner, what it runs.
    ensure!(seen.len() >= deep, "a deeper tree was expected: {seen:?}");
    let (exit, _) = session.finish()?;
    assert_eq!(exit, Exit::Code(0));
    let supervisor = home.supervisor(name);
    let alone = || Ok(home.processes().into_iter().eq(supervisor.clone()));
    wait_until("the runner is gone", GONE_BOUND, alone)?;

    let mut session = home.bridge(name)?;
    session.initialize()?;
    supervisor.iter().for_each(Proc::kill);
    session.running().kill();
    let waited = wait_until("all are gone", GONE_BOUND, || Ok(home.processes().is_empty()));
    waited.map_err(|failure| failure.during(format!("{:?}", home.processes())))
}

#[test]
fn a_package_is_run_by_npx() -> Result {
    let node = need_part!(Node);
    Home::with(|home| {
        // Beside `node_modules` npx finds the package without a network.
        let folder = node.ancestors().nth(2).unwrap_or(&node);
        let package = "npx://@modelcontextprotocol/server-everything";
        let mut run = home.thv(["run", "--shared-key-auth", package, "--", "stdio"]).command();
        run.current_dir(folder).env("npm_config_offline", "true");
        let mut run = home.start(run)?;
        let exit = run.wait(std::time::Duration::from_secs(60))?;
        ensure!(exit == Exit::Code(0), "{}", run.stderr());
        let row = only_row(home)?;
        assert_eq!((&row["name"], &row["package"]), (&json!("server-everything"), &json!(package)));
        let mut session = home.bridge("server-everything")?;
        session.initialize()?;
        ensure!(
            call_text(&mut session, "echo", &json!({ "message": "over npx" }))?.contains("over npx"),
            "echo"
        );
        session.finish()?;
        ends_whole(home, "server-everything", 4)?;
        home.thv(["rm", "server-everything"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_package_is_run_by_uvx() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        scenario(home, &python, "make_wheel.py", &home.user().to_string_lossy())?;
        let path = std::env::join_paths([python.clone(), "/usr/bin".into(), "/bin".into()]);
        let path = path.map_err(|error| thv_e2e::Failure::new(error.to_string()))?;
        let run = home.thv(["run", "--shared-key-auth", "-e", "UV_OFFLINE=1", "-e", "UV_NO_INDEX=1"]);
        let run = run.arg("-e").arg(format!("UV_FIND_LINKS={}", home.user().display()));
        let run = run.args(["uvx://thv-fixture==1.0", "--", "one", "two words"]).env("PATH", path);
        assert_eq!(Detached::of(run.output()?)?.name, "thv-fixture");
        let mut session = home.bridge("thv-fixture")?;
        session.initialize()?;
        assert_eq!(call_text(&mut session, "words", &json!({}))?, "one two words");
        session.finish()?;
        ends_whole(home, "thv-fixture", 4)?;
        home.thv(["rm", "thv-fixture"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_server_that_cannot_be_found_is_refused_with_what_to_do() -> Result {
    Home::with(|home| {
        refused(home.thv(["run", "time"]), 3, &["servers.toml", "thv run --name time"])?;
        for empty in ["npx://", "uvx://", "npx://--yes"] {
            refused(home.thv(["run", empty]), 2, &[empty])?;
        }
        let bare = home.user().join("bin");
        std::fs::create_dir(&bare)?;
        refused(home.thv(["run", "npx://x"]).env("PATH", &bare), 1, &["npx"])?;
        assert_eq!(list(home)?, Vec::<Value>::new());
        Ok(())
    })
}

fn catalog(home: &Home, text: &str) -> Result {
    let folder = home.path().join("config");
    if !folder.exists() {
        std::fs::create_dir(&folder)?;
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(std::io::Write::write_all(&mut std::fs::File::create(folder.join("servers.toml"))?, text.as_bytes())?)
}

#[test]
fn the_catalog_gives_names_to_servers() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let reports = crate::fixture::fixture("servers/reports.py");
        catalog(
            home,
            &format!(
                "[servers.mine]\ncommand = {:?}\nargs = ['-SB', {:?}, 'first']\nenv = {{ MARK = 'from the catalog' }}\n",
                python.join("python3"),
                reports
            ),
        )?;
        let run = home.thv(["run", "--shared-key-auth", "mine", "--", "second"]);
        assert_eq!(Detached::of(run.output()?)?.name, "mine");
        let mut session = home.bridge("mine")?;
        session.initialize()?;
        let report: Value = serde_json::from_str(&call_text(&mut session, "report", &json!({}))?)?;
        assert_eq!(report["arguments"], json!(["first", "second"]));
        let pairs = report["environment"].to_string();
        ensure!(pairs.contains(r#"["MARK","from the catalog"]"#), "{pairs}");
        session.finish()?;
        home.thv(["run", "--name", "another", "mine"]).output()?.expect(0)?;
        assert_eq!(list(home)?.len(), 2);
        home.thv(["rm", "--all"]).output()?.expect(0)?;

        refused(home.thv(["run", "yours"]), 3, &["servers.toml"])?;
        for (text, word) in [
            ("[servers.mine]\n", "command"),
            ("[servers.mine]\ncommand = 'x'\nserver = 'npx://x'\n", "either"),
            ("[servers.mine]\ncommand = 'x'\nkey = 'y'\n", "key"),
            ("[servers.mine\n", "servers.toml"),
            ("[servers.mine]\ncommand = '/bin/cat'\nenv = { THV_HOME = '/x' }\n", "THV_HOME"),
        ] {
            catalog(home, text)?;
            let output = home.thv(["run", "mine"]).output()?;
            ensure!(
                matches!(output.exit, Exit::Code(1 | 2 | 6)) && output.stderr.contains(word),
                "{text}: {output:?}"
            );
        }
        assert_eq!(list(home)?, Vec::<Value>::new());
        Ok(())
    })
}

#[test]
fn a_run_config_goes_out_and_comes_back() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run =
            home.thv(["run", "--name", "demo", "--shared-key-auth", "-l", "team=a", "-e", "TZ=Asia/Tokyo"]);
        let run =
            run.args(["-e", "API_TOKEN=s3cr3t-value", "--max-sessions", "7", "--session-ttl", "10m", "--"]);
        let first = Detached::of(run.arg(DEMO_SERVER).output()?)?;
        home.key("demo")?;
        home.thv(["export", "demo", "demo.json"]).output()?.expect(0)?;
        let file = home.user().join("demo.json");
        assert_eq!(file.metadata()?.permissions().mode() & 0o777, 0o600);
        let config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        assert_eq!(home.thv(["export", "demo", "-"]).output()?.expect(0)?.json()?, config);
        assert_eq!(config["sharedKeyAuth"]["enabled"], true);
        assert_eq!((&config["name"], &config["command"]), (&json!("demo"), &json!(DEMO_SERVER)));
        assert_eq!(config["session_ttl"], "10m0s", "as ToolHive writes it");
        ensure!(config.get("base_env").is_none(), "it goes to other machines: {config}");

        let again = ["run", "--from-config", "demo.json"];
        let output = home.thv(again).arg("--yes").output()?.expect(4)?;
        ensure!(output.stderr.contains("already exists"), "{output:?}");
        home.thv(["rm", "demo"]).output()?.expect(0)?;
        let output = home.thv(again).output()?.expect(6)?;
        for word in [DEMO_SERVER, "TZ=Asia/Tokyo", "API_TOKEN", "shared key", "--yes"] {
            ensure!(output.stderr.contains(word), "{word}: {output:?}");
        }
        ensure!(!output.stderr.contains("s3cr3t-value"), "{output:?}");
        assert_eq!(list(home)?, Vec::<Value>::new());

        let second = Detached::of(home.thv(again).arg("--yes").output()?)?;
        assert_ne!(second.key_id, first.key_id, "keys do not travel");
        answers(home, "demo")?;
        assert_eq!(only_row(home)?["labels"], json!({ "team": "a" }));
        let back = home.thv(["export", "demo", "-"]).output()?.expect(0)?.json()?;
        assert_eq!(back, config);
        let other = home.thv(again).args(["--yes", "--name", "other"]);
        assert_eq!(Detached::of(other.output()?)?.name, "other");
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        assert_eq!(store_entries(home, &python)?, json!({}));
        Ok(())
    })
}

#[test]
fn a_run_config_that_cannot_be_honoured_is_refused_by_what_it_asks_for() -> Result {
    Home::with(|home| {
        let base = json!({ "schema_version": "v0.1.0", "name": "demo", "command": DEMO_SERVER });
        let asks = [
            ("oidc_config", json!({ "issuer": "https://example.org" }), "oidc_config"),
            ("permission_profile", json!({ "network": {} }), "permission_profile"),
            ("isolate_network", json!(true), "isolate_network"),
            ("authz_config_path", json!("/etc/authz.json"), "authz_config_path"),
            ("permission_profile_name_or_path", json!("none"), "permission_profile_name_or_path"),
            ("session_ttl", json!("soon"), "soon"),
            ("target_port", json!(3000), "--target-port"),
            ("remote_url", json!("http://example.com/mcp"), "encryption"),
            ("header_forward", json!({ "add_plaintext_headers": { "X-A": "1" } }), "--remote-header"),
            ("schema_version", json!("v9"), "v9"),
            ("name", json!("../up"), "../up"),
            ("sharedKeyAuth", json!({ "enabled": true, "keyRotationDays": -1 }), "-1"),
            ("sharedKeyAuth", json!({ "enabled": true, "keyRotationDays": 30 }), "30"),
            ("command", json!("relative"), "absolute"),
            ("host", json!("0.0.0.0"), "--allow-remote"),
            ("env_vars", json!({ "THV_HOME": "/x" }), "THV_HOME"),
            ("env_vars", json!({ "LD_PRELOAD": 7 }), "run config"),
        ];
        let run = |path: &Path| home.thv(["run", "--yes", "--from-config"]).arg(path);
        for (field, value, word) in asks {
            let mut config = base.clone();
            config[field] = value;
            let output = run(&home.file("config.json", config.to_string())?).output()?;
            ensure!(output.exit == Exit::Code(6) && output.stderr.contains(word), "{field}: {output:?}");
        }
        let output = run(&home.file("config.json", "{\"name\":")?).output()?.expect(6)?;
        ensure!(output.stderr.contains("config.json"), "{output:?}");
        refused(run(Path::new("/no/such/file")), 1, &["/no/such/file"])?;
        // What another program keeps for itself does no harm, and survives.
        let mut config = base;
        config["group"] = json!("default");
        config["oidc_config"] = json!(null);
        run(&home.file("config.json", config.to_string())?).output()?.expect(0)?;
        answers(home, "demo")?;
        assert_eq!(home.thv(["export", "demo", "-"]).output()?.expect(0)?.json()?["group"], "default");
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}
