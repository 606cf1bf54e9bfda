//! URLs of servers that somebody else started: where requests go, with what added, and which URLs are not taken.

use super::{Elsewhere, NAME, Record, bridge, calling, crash, end, nothing_left, posting};
use crate::fixture::{call_text, only_row, refused, wait_until};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use thv_e2e::http::{Http, Request};
use thv_e2e::{Detached, Home, Result, STOP_BOUND, ensure, need_part};

#[test]
fn a_url_is_a_workload_like_any_other() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let options = ["--path", "/api/v1/mcp", "--record", &record.path()];
        let elsewhere = Elsewhere::start(home, &python, &options)?;
        let url = format!("http://127.0.0.1:{}/api/v1/mcp?tenant=7", elsewhere.port);
        let first = home.detached(["--name", NAME, "--shared-key-auth", &url])?;
        let row = only_row(home)?;
        assert_eq!((&row["remote"], &row["runtime"]), (&json!(true), &json!("remote")));
        assert_eq!(row["transport_type"], "streamable-http");
        // What stands in the query may be a credential.
        assert_eq!(row["package"], format!("http://127.0.0.1:{}/api/v1/mcp", elsewhere.port));
        assert_eq!((&row["url"], &row["status"]), (&json!(first.url), &json!("running")));

        let mut live = bridge(home)?;
        assert_eq!(call_text(&mut live, "echo", &json!({ "text": "over there" }))?, "over there");
        let call = ["mcp", "call", NAME, "echo", "--args", r#"{"text":"from the shell"}"#];
        assert_eq!(home.thv(call).output()?.expect(0)?.stdout, "from the shell\n");
        let key = home.key(NAME)?;
        assert_eq!(posting(first.port, &key, "echo", &json!({ "text": "x" })).send()?.status, 200);
        let before = record.requests()?;
        for request in &before {
            assert_eq!(request.path, "/api/v1/mcp?tenant=7");
        }
        // What is not the endpoint is not forwarded, however it is written.
        for path in ["/", "/api/v1/mcp", "/mcpx", "/mcp/../admin", "/mcp/%2e%2e/admin", "/mcp/..%2Fadmin"] {
            let call = calling("echo", &json!({ "text": "x" })).to_string();
            let response = Request::new("POST", path, first.port).key(&key).body(call).send()?;
            assert_eq!(response.status, 404, "{path}: {response:?}");
        }
        assert_eq!(record.requests()?.len(), before.len());
        let call = calling("echo", &json!({ "text": "x" })).to_string();
        let below = Request::new("POST", "/mcp/below?a=1", first.port).key(&key).body(call).send()?;
        assert_eq!(below.status, 404);
        let paths: Vec<String> = record.requests()?.into_iter().map(|request| request.path).collect();
        assert_eq!(paths.last().map(String::as_str), Some("/api/v1/mcp/below?tenant=7&a=1"));

        // A redirect to what is behind the endpoint is ours to follow, one to anything beside it is not.
        let by_name = format!("http://localhost:{}/api/v1/mcp/x", elsewhere.port);
        for (location, status, ours) in [
            ("/api/v1/mcp", 307, Some("/mcp")),
            (&*by_name, 307, Some("/mcp/x")),
            ("http://SELF/api/v1/mcp/x?y", 307, Some("/mcp/x?y")),
            ("/api/v1/admin", 502, None),
            ("../../secret", 502, None),
        ] {
            let arguments = json!({ "kind": "redirect", "location": location });
            let response = posting(first.port, &key, "fault", &arguments).send()?;
            assert_eq!((response.status, response.header("Location")), (status, ours), "{location}");
        }

        home.thv(["stop", NAME]).output()?.expect(0)?;
        for command in ["start", "restart"] {
            assert_eq!(Detached::of(home.thv([command, NAME]).output()?)?, first);
            assert_eq!(call_text(&mut live, "echo", &json!({ "text": "again" }))?, "again");
        }
        end(live)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        drop(elsewhere);
        nothing_left(home, &python)
    })
}

#[test]
fn a_url_of_the_older_transport_is_one_as_well() -> Result {
    let (python, node) = (need_part!(Python), need_part!(Node));
    Home::with(|home| {
        let port = super::free_port()?;
        let mut elsewhere = home.command(node.join("mcp-server-everything"));
        elsewhere.arg("sse").env("PORT", port.to_string());
        let elsewhere = home.start(elsewhere)?;
        wait_until("it is up", STOP_BOUND, || Ok(elsewhere.stderr().contains("running on port")))?;
        let url = format!("http://127.0.0.1:{port}/sse");
        let first = home.detached(["--name", NAME, "--shared-key-auth", "--transport", "sse", &url])?;
        ensure!(first.url.ends_with("/sse"), "{first:?}");
        let row = only_row(home)?;
        assert_eq!((&row["transport_type"], &row["remote"]), (&json!("sse"), &json!(true)));
        let mut session = bridge(home)?;
        let text = call_text(&mut session, "echo", &json!({ "message": "over there" }))?;
        ensure!(text.contains("over there"), "{text}");
        assert_eq!(Detached::of(home.thv(["restart", NAME]).output()?)?, first);
        let text = call_text(&mut session, "echo", &json!({ "message": "again" }))?;
        ensure!(text.contains("again"), "{text}");
        end(session)?;
        // The stream and the path that it names are locked alike.
        for path in ["/sse", "/message?sessionId=1"] {
            assert_eq!(Request::new("GET", path, first.port).send()?.status, 401, "{path}");
        }
        // A stop ends an open stream in all form, and does not wait until it is cut off.
        let mut stream = Http::open(first.port)?;
        stream.send(&Request::new("GET", "/sse", first.port).key(&home.key(NAME)?).bytes());
        stream.read_through("event: endpoint")?;
        home.thv(["stop", NAME]).output()?.expect(0)?;
        stream.read_through("\r\n0\r\n\r\n")?;
        home.thv(["start", NAME]).output()?.expect(0)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        drop(elsewhere);
        nothing_left(home, &python)
    })
}

#[test]
fn localhost_is_never_looked_up() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let elsewhere = Elsewhere::start(home, &python, &["--record", &record.path()])?;
        let url = format!("http://LocalHost:{}/mcp", elsewhere.port);
        home.detached(["--name", NAME, "--shared-key-auth", &url])?;
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "here" }))?, "here");
        end(session)?;
        for request in record.requests()? {
            assert_eq!(request.values("host"), [format!("127.0.0.1:{}", elsewhere.port)]);
        }
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_url_with_a_password_is_refused_and_not_repeated() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let authority = format!("127.0.0.1:{}", elsewhere.port);
        for user in ["me:hunter2", "hunter2", ":hunter2", "me%40x:hunter2"] {
            let url = format!("http://{user}@{authority}/mcp");
            for command in [
                &["run", "--name", NAME, "--shared-key-auth", &url][..],
                &["run", "-f", "--name", NAME, "--allow-insecure-remote", &url],
                &["--debug", "run", "--name", NAME, &url],
                &["proxy", NAME, "--target-uri", &url],
            ] {
                let output = refused(home.thv(command), 6, &["--remote-header-secret"])?;
                ensure!(!output.stderr.contains("hunter2"), "{output:?}");
            }
        }
        let mut files = vec![home.path()];
        while let Some(path) = files.pop() {
            if path.is_dir() {
                for entry in path.read_dir()? {
                    files.push(entry?.path());
                }
            } else if let Ok(bytes) = std::fs::read(&path) {
                ensure!(!bytes.windows(7).any(|seven| seven == b"hunter2"), "{}", path.display());
            }
        }
        drop(elsewhere);
        assert_eq!(crate::fixture::list(home)?, Vec::<Value>::new());
        Ok(())
    })
}

#[test]
fn an_address_that_may_be_beyond_this_machine_is_not_spoken_to_in_the_clear_unasked() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        // To Linux this is this machine; whether it is to others, nobody knows.
        let url = format!("http://0.0.0.0:{}/mcp", elsewhere.port);
        let run = ["run", "--name", NAME, "--shared-key-auth", &url];
        refused(home.thv(run), 6, &["without encryption", "--allow-insecure-remote"])?;
        refused(home.thv(["proxy", NAME, "--target-uri", &url]), 6, &["--allow-insecure-remote"])?;
        for far in ["http://example.org/mcp", "http://10.0.0.1/mcp", "http://localhost.example.org/mcp"] {
            refused(home.thv(["run", "--name", NAME, far]), 6, &["--allow-insecure-remote"])?;
        }
        home.detached(["--name", NAME, "--shared-key-auth", "--allow-insecure-remote", &url])?;
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "asked for" }))?, "asked for");
        end(session)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        drop(elsewhere);
        nothing_left(home, &python)
    })
}

#[test]
fn what_cannot_be_a_server_is_refused_before_anything_is_made() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let url = elsewhere.url();
        for (args, code) in [
            (&["http://127.0.0.1:0/mcp"][..], 2),
            (&["http://127.0.0.1:99999/mcp"], 2),
            (&["http:///mcp"], 2),
            (&["http://127.0.0.1/mcp#part"], 2),
            (&["--transport", "stdio", &url], 2),
            (&["--target-port", "4000", &url], 2),
            (&["-e", "A=b", &url], 2),
            (&["--max-sessions", "3", &url], 2),
            (&["--session-ttl", "5m", &url], 2),
            (&["--shared-key-auth", "--no-upstream-key", &url], 2),
            (&["--max-sessions", "3", "--transport", "streamable-http", "--", "true"], 2),
            (&["--session-ttl", "5m", "--transport", "sse", "--", "true"], 2),
            (&["--remote-header", "Host=x", &url], 6),
            (&["--remote-header", "X-ToolHive-Auth=x", &url], 6),
            (&["--remote-header", "Mcp-Session-Id=x", &url], 6),
            (&["--remote-header", "Content-Length=1", &url], 6),
            (&["--remote-header", "no value", &url], 2),
            (&["--remote-header", "X-A=1", "--remote-header-secret", "x-a=s", &url], 2),
            (&["--remote-header", "X-A=1", "--", "true"], 2),
            (&["--target-port", "4000", "--", "true"], 2),
        ] {
            let run = home.thv(["run", "--name", NAME]).args(args);
            refused(run, code, &[]).map_err(|failure| failure.during(args.join(" ")))?;
        }
        // Somebody is there, but no such endpoint: this is told of at once.
        let missing = format!("http://127.0.0.1:{}/nowhere", elsewhere.port);
        let output = home.thv(["run", "--name", NAME, "--shared-key-auth", &missing]).output()?.expect(1)?;
        ensure!(output.stderr.contains("404") && output.stderr.contains(&missing), "{output:?}");
        drop(elsewhere);
        let run = ["run", "--name", NAME, "--shared-key-auth", "--ready-timeout", "1s", &url];
        let output = home.thv(run).output()?.expect(1)?;
        ensure!(output.stderr.contains("refused") && output.stderr.contains(&url), "{output:?}");
        nothing_left(home, &python)
    })
}

#[test]
pub(crate) fn fields_are_added_and_secrets_among_them_are_seen_by_the_server_alone() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        // The home looks for it everywhere when it is closed; the record has no more than its digest.
        let secret = "c2VjcmV0IHZhbHVlIG9mIGV4YWN0bHkgMzIgYnl0ZXM=";
        home.watch(secret)?;
        let record = Record::new(home);
        let options = ["--record", &record.path(), "--digest", "Authorization"];
        let elsewhere = Elsewhere::start(home, &python, &options)?;
        let url = elsewhere.url();
        let run = [
            "--debug",
            "run",
            "--name",
            NAME,
            "--shared-key-auth",
            "--remote-header",
            "X-Team=blue",
            "--remote-header-secret",
            "Authorization=api",
            &url,
        ];
        refused(home.thv(run), 3, &["api", "thv secret set api"])?;
        assert_eq!(crate::fixture::list(home)?, Vec::<Value>::new());
        assert_eq!(crate::fixture::store_entries(home, &python)?, json!({}));

        home.thv(["secret", "set", "api"]).stdin(secret).output()?.expect(0)?;
        let guarded = Detached::of(home.thv(run).output()?)?;
        let key = home.key(NAME)?;
        let checks = |port: u16| -> Result {
            let mut session = bridge(home)?;
            assert_eq!(call_text(&mut session, "echo", &json!({ "text": "x" }))?, "x");
            end(session)?;
            let post = posting(port, &key, "echo", &json!({ "text": "x" }));
            // A client has no say in either.
            let post = post.header("Authorization", "Bearer mine").header("x-team", "red");
            assert_eq!(post.send()?.status, 200);
            let digest: String = Sha256::digest(secret).iter().map(|byte| format!("{byte:02x}")).collect();
            let requests = record.requests()?;
            ensure!(requests.len() > 3, "{} requests", requests.len());
            for request in requests {
                assert_eq!(request.values("authorization"), [&*digest]);
                assert_eq!(request.values("x-team"), ["blue"]);
            }
            let leaks = home.leaks()?;
            ensure!(leaks.is_empty(), "{leaks:?}");
            Ok(())
        };
        checks(guarded.port)?;
        // After a crash a bridge brings it back with the secret.
        crash(home)?;
        checks(guarded.port)?;
        for command in [&["export", NAME, "-"][..], &["status", NAME], &["list", "--format", "json"]] {
            home.thv(command).output()?.expect(0)?;
        }
        home.thv(["stop", NAME]).output()?.expect(0)?;
        home.thv(["secret", "delete", "api"]).output()?.expect(0)?;
        let output = home.thv(["start", NAME]).output()?.expect(3)?;
        ensure!(output.stderr.contains("thv secret set api"), "{output:?}");
        home.thv(["rm", NAME]).output()?.expect(0)?;
        drop(elsewhere);
        nothing_left(home, &python)
    })
}

#[test]
fn a_field_that_looks_like_a_credential_gets_a_warning_without_its_value() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let run = ["run", "--name", NAME, "--remote-header", "Authorization=Bearer s3cr3t", &elsewhere.url()];
        let output = home.thv(run).output()?.expect(0)?;
        ensure!(output.stderr.contains("--remote-header-secret"), "{output:?}");
        ensure!(!output.stderr.contains("s3cr3t"), "{output:?}");
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}
