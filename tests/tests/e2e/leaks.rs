//! The front-door key is nowhere but in the encrypted store, in memory, and where it was asked for.

use crate::DEMO_SERVER;
use crate::fixture::{call_text, server, wait_until};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::process::Command;
use thv_e2e::http::{Http, Request, Response};
use thv_e2e::{ANSWER_BOUND, Exit, Foreground, Home, McpStdio, Result, SecretForms, ensure, need_part};

/// Other spellings of a key's text, all accepted: URL-safe, unpadded, both.
fn spellings(key: &str) -> [String; 3] {
    let url_safe = key.replace('+', "-").replace('/', "_");
    [url_safe.clone(), key.trim_end_matches('=').to_owned(), url_safe.trim_end_matches('=').to_owned()]
}

/// The last character changed, which is what a person's hand would do.
fn mistyped(key: &str) -> String {
    let changed = if key.starts_with('A') { "B" } else { "A" };
    format!("{changed}{}", &key[1..])
}

/// A session with much in it: requests, answers, errors of the server, a cancelled call.
fn busy_session(home: &Home) -> Result<McpStdio> {
    let mut session = home.thv(["--debug", "proxy", "stdio", "--no-start", "demo"]).bridge()?;
    session.initialize()?;
    session.request("tools/list", &json!({}))?;
    for n in 0..20 {
        call_text(&mut session, "echo", &json!({ "text": format!("message {n}") }))?;
    }
    session.request("no/such/method", &json!({}))?;
    session.notify("notifications/cancelled", &json!({ "requestId": 4711 }))?;
    session.send_bytes(b"this is no message\n")?;
    // Its answer comes behind all of the above.
    session.request("ping", &json!({}))?;
    Ok(session)
}

/// Requests that carry the key, or nearly so, wherever a client could put it by mistake. All are refused but the
/// last few, and none may come back with the key in its answer.
fn refusals(port: u16, key: &str, forms: &SecretForms) -> Result {
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }).to_string();
    let mcp = || Request::mcp(port, &ping);
    let target = |target: &str| Request::new("POST", target, port).body(ping.clone());
    let refused = [
        mcp(),
        mcp().key(&mistyped(key)),
        mcp().key(key).key(key),
        mcp().key(&format!("{key},{key}")),
        mcp().key(&format!("Bearer {key}")),
        mcp().key(&key.repeat(240)),
        mcp().key(&key[..43].replace(|c: char| c.is_ascii_lowercase(), "ä")),
        mcp().header("Authorization", format!("Bearer {key}")),
        mcp().header("Cookie", format!("key={key}")),
        mcp().header("X-Api-Key", key),
        mcp().header("Mcp-Session-Id", key),
        mcp().header("Origin", format!("http://{key}")).key(key),
        mcp().without("Host").header("Host", format!("{key}:{port}")).key(key),
        mcp().header("X-ToolHive-Key-Id", key),
        target(&format!("/mcp?key={key}")),
        target(&format!("/mcp/{key}")),
        target(&format!("/{}", key.replace('+', "%2B").replace('/', "%2F"))),
        target(&format!("http://{key}@127.0.0.1:{port}/mcp")),
        Request::new("GET", "/.well-known/toolhive/proof", port)
            .header("X-ToolHive-Challenge", key)
            .header("X-ToolHive-Key-Id", key),
        Request::new("POST", "/register", port).body(format!(r#"{{"client_name":"{key}"}}"#)),
        Request::new(key.get(1..9).unwrap_or_default(), "/mcp", port),
        // Past the lock, refused behind it.
        Request::mcp(port, key).key(key),
        Request::mcp(port, &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{key}"}}"#)).key(key),
        mcp().key(key).header("Mcp-Session-Id", key),
        mcp().key(key).header("MCP-Protocol-Version", key),
    ];
    for (n, request) in refused.iter().enumerate() {
        let response = request.send().map_err(|failure| failure.during(format!("request {n}")))?;
        ensure!(response.status >= 400, "request {n} was answered with {}", response.line);
        keeps_silent(forms, n, &response)?;
    }
    for (n, spelling) in spellings(key).iter().enumerate() {
        let response = mcp().key(spelling).send()?;
        ensure!(response.status == 400, "spelling {n} was answered with {}", response.line);
        keeps_silent(forms, n, &response)?;
    }
    // Half a request, cut off behind the key.
    let mut http = Http::open(port)?;
    http.send(
        format!("POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-ToolHive-Auth: {key}\r\n").as_bytes(),
    );
    drop(http);
    Ok(())
}

fn keeps_silent(forms: &SecretForms, n: usize, response: &Response) -> Result {
    let head = format!("{}\n{:?}\n", response.line, response.headers).into_bytes();
    let found = forms.find_in(&[head, response.body.clone()].concat());
    ensure!(found.is_none(), "the answer to request {n} holds the key ({found:?})");
    Ok(())
}

fn debugged(home: &Home) -> Result<Foreground> {
    home.thv(["--debug", "run", "-f", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER]).foreground()
}

fn proxy_log(home: &Home) -> String {
    std::fs::read_to_string(home.path().join("state/workloads/demo/proxy.log")).unwrap_or_default()
}

#[test]
pub(crate) fn after_a_busy_day_the_key_is_nowhere() -> Result {
    let home = Home::new()?;
    let demo = debugged(&home)?;
    let key = home.key("demo")?;
    let forms = SecretForms::of(&key)?;
    let mut first = busy_session(&home)?;
    let second = busy_session(&home)?;
    refusals(demo.port(), &key, &forms)?;
    for args in
        [&["list"][..], &["list", "--all", "--format", "json"], &["key", "show", "demo"], &["rm", "nobody"]]
    {
        home.thv(["--debug"]).args(args).output()?;
    }
    assert_eq!(home.leaks()?, []);

    // A crash, errors at the bridge, and another life of the same key.
    let id = demo.key_id().unwrap_or_default().to_owned();
    demo.kill();
    let answer = first.request("ping", &json!({}))?;
    assert!(answer["error"]["code"].as_i64().is_some_and(|code| code <= -33001), "{answer}");
    let again = home.thv(["--debug", "start", "-f", "demo"]).foreground()?;
    assert_eq!(again.key_id(), Some(id.as_str()));
    first.request("tools/list", &json!({}))?;
    refusals(again.port(), &key, &forms)?;
    let third = busy_session(&home)?;
    assert_eq!(home.leaks()?, []);

    // What was searched is what was meant to be: the logs are there, and tell of what happened.
    let log = proxy_log(&home);
    for word in ["demo", id.as_str(), "accepted", "127.0.0.1"] {
        assert!(log.contains(word), "{word:?} is missing in:\n{log}");
    }
    let at_bridge = first.stderr();
    assert!(!at_bridge.is_empty(), "a bridge with --debug has nothing to say");
    assert!(home.captured().streams().len() > 10);
    assert!(home.processes().len() >= 4);

    for session in [first, second, third] {
        assert_eq!(session.finish()?.0, Exit::Code(0));
    }
    again.stop()?;
    assert_eq!(home.leaks()?, []);
    home.close()
}

/// Every attempt to get in is in the log, with its outcome, and with the reason of a refusal.
#[test]
pub(crate) fn the_log_tells_of_each_attempt_without_the_key() -> Result {
    let home = Home::new()?;
    let demo = home.run(["--name", "demo", "--shared-key-auth", "--", DEMO_SERVER])?;
    let key = home.key("demo")?;
    let attempts = [
        ("absent", Request::mcp(demo.port(), "{}")),
        ("repeated", Request::mcp(demo.port(), "{}").key(&key).key(&key)),
        ("malformed", Request::mcp(demo.port(), "{}").key("not a key")),
        ("wrong", Request::mcp(demo.port(), "{}").key(&mistyped(&key))),
    ];
    let mut lines = Vec::new();
    for (what, attempt) in attempts {
        let mut http = Http::open(demo.port())?;
        let from = http.local_addr()?.to_string();
        http.send(&attempt.bytes());
        assert_eq!(http.response()?.status, 401, "{what}");
        let told = || Ok(proxy_log(&home).contains(&from));
        wait_until(&format!("the log tells of a key that is {what}"), ANSWER_BOUND, told)?;
        let log = proxy_log(&home);
        let line = log.lines().find(|line| line.contains(&from)).unwrap_or_default();
        assert!(line.contains("demo") && !line.contains("accepted"), "{line}");
        // Reasons are told apart by more than by time and address.
        let words: Vec<_> = line.split_whitespace().skip(1).filter(|word| !word.contains(&from)).collect();
        lines.push(words.join(" "));
    }
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 4, "{lines:?}");

    let mut http = Http::open(demo.port())?;
    let from = http.local_addr()?.to_string();
    http.send(&Request::mcp(demo.port(), "{}").key(&key).bytes());
    http.response()?;
    wait_until("the log tells of the right key", ANSWER_BOUND, || Ok(proxy_log(&home).contains(&from)))?;
    let log = proxy_log(&home);
    let line = log.lines().find(|line| line.contains(&from)).unwrap_or_default();
    assert!(line.contains("accepted") && demo.key_id().is_some_and(|id| line.contains(id)), "{line}");
    demo.stop()?;
    home.close()
}

/// A server that tells all it knows does not know the key.
#[test]
pub(crate) fn a_server_cannot_tell_what_it_was_never_given() -> Result {
    let python = need_part!(Python);
    let home = Home::new()?;
    let run = home.thv(["run", "-f", "--name", "demo", "--shared-key-auth", "--"]);
    let demo = run.args(server(&python, "reports.py")).foreground()?;
    let key = home.key("demo")?;
    let mut session = home.bridge("demo")?;
    session.initialize()?;
    let told = call_text(&mut session, "report", &json!({}))?;
    assert!(told.contains("TOOLHIVE_SHARED_KEY"), "{told}");
    assert_eq!(SecretForms::of(&key)?.find_in(told.as_bytes()), None);
    session.finish()?;
    demo.stop()?;
    home.close()
}

/// The search finds a key wherever it is planted; without this, finding none would prove nothing.
#[test]
fn a_planted_key_is_found() -> Result {
    let home = Home::new()?;
    let demo = home.run(["--name", "demo", "--shared-key-auth", "--", DEMO_SERVER])?;
    let key = home.key("demo")?;
    assert_eq!(home.leaks()?, []);
    let found = |home: &Home, place: &str| -> Result {
        let leaks = home.leaks()?;
        ensure!(leaks.iter().any(|leak| leak.place.contains(place)), "not found in {place}: {leaks:?}");
        Ok(())
    };

    let log = home.path().join("state/workloads/demo/proxy.log");
    let length = log.metadata()?.len();
    let mut file = File::options().append(true).open(&log)?;
    writeln!(file, "debug: header X-ToolHive-Auth: {}", spellings(&key)[2])?;
    found(&home, "proxy.log")?;
    file.set_len(length)?;
    assert_eq!(home.leaks()?, []);

    let waiting = |change: &dyn Fn(&mut Command)| {
        let mut command = home.command("sh");
        change(command.args(["-c", "echo up; read line"]));
        let mut running = home.start(command)?;
        running.line(ANSWER_BOUND)?;
        Ok::<_, thv_e2e::Failure>(running)
    };
    let careless = waiting(&|command| _ = command.env("KEY", &key))?;
    found(&home, &format!("/proc/{}/environ", careless.pid()))?;
    drop(careless);
    assert_eq!(home.leaks()?, []);

    demo.stop()?;
    // What was captured stays: from here on the home is not clean any more.
    let mut command = home.command("sh");
    command.args(["-c", r#"echo "$KEY""#]).env("KEY", &key);
    home.start(command)?.wait(ANSWER_BOUND)?;
    found(&home, "stdout")?;
    let failure = home.close().err().map(|failure| failure.to_string()).unwrap_or_default();
    ensure!(failure.contains("a key leaked"), "{failure:?}");
    ensure!(!failure.contains(&key), "the report of a leak must not be another");
    Ok(())
}
