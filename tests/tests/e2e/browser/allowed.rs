//! A page of an origin that the user listed: a client like any other, if it has the key.

use super::{CLIENT, MARK};
use serde_json::{Value, json};
use thv_e2e::{Browser, Foreground, Home, Result, Room, ensure, need_browser, need_part};

const FOREIGN: &str = "evil.example";

/// A session of the page: it calls a tool, watches another one's progress, and hears what the server says unasked.
fn works(room: &Room, base: &str, key: Option<&str>) -> Result {
    let knocked = room.order("knock", &json!({ "base": base, "key": key }))?;
    let answer = &knocked["messages"][0]["result"];
    ensure!(knocked["status"] == 200 && answer["serverInfo"]["name"].is_string(), "{knocked}");
    // The page may read the header, which takes the server's permission.
    let session = knocked["session"].as_str().unwrap_or_default();
    ensure!(!session.is_empty(), "no session id to be seen: {knocked}");

    let calls = json!([
        { "name": "echo", "arguments": { "message": "ä𝄞" } },
        {
            "name": "trigger-long-running-operation",
            "arguments": { "duration": 0.2, "steps": 2 },
            "_meta": { "progressToken": "p" },
        },
        { "name": "toggle-simulated-logging", "arguments": {} },
    ]);
    let order = json!({ "base": base, "key": key, "session": session, "calls": calls });
    let seen = room.order("session", &order)?;
    let text = |call: usize, message: usize| {
        &seen["answers"][call]["messages"][message]["result"]["content"][0]["text"]
    };
    ensure!(seen["initialized"] == 202 && seen["stream"] == 200, "{seen}");
    ensure!(text(0, 0) == "Echo: ä𝄞", "{seen}");
    // As an event stream: twice the progress, then the result.
    let progress = &seen["answers"][1];
    ensure!(progress["type"].as_str().is_some_and(|it| it.starts_with("text/event-stream")), "{seen}");
    for step in 0..2 {
        ensure!(progress["messages"][step]["params"]["progress"] == step + 1, "{seen}");
    }
    ensure!(text(1, 2).as_str().is_some_and(|text| text.contains("completed")), "{seen}");
    ensure!(seen["first"]["method"].as_str().is_some_and(|it| it.starts_with("notifications/")), "{seen}");
    ensure!(matches!(seen["ended"].as_u64(), Some(200..=204)), "{seen}");
    Ok(())
}

/// The page sees why it is refused: the key is missing, or is not the one.
fn unauthorized(room: &Room, base: &str, key: Option<&str>, name: &str) -> Result {
    let knocked = room.order("knock", &json!({ "base": base, "key": key }))?;
    let error = &knocked["messages"][0]["error"];
    ensure!(knocked["status"] == 401 && error["code"] == -33001, "{knocked}");
    ensure!(knocked["session"].is_null(), "{knocked}");
    let challenge = format!("ToolHive-SharedKey realm=\"{name}\"");
    ensure!(knocked["challenge"] == challenge.as_str(), "{knocked}");
    Ok(())
}

/// The page sees nothing at all.
fn foreign(room: &Room, base: &str, key: &str) -> Result {
    for key in [None, Some(key)] {
        let knocked = room.order("knock", &json!({ "base": base, "key": key }))?;
        ensure!(knocked == json!({ "error": "TypeError" }), "{knocked}");
    }
    Ok(())
}

fn base(supervisor: &Foreground) -> String {
    format!("http://127.0.0.1:{}", supervisor.port())
}

#[test]
fn a_page_of_an_allowed_origin_works_with_the_key_alone() -> Result {
    // 32 bytes like any key's, but nobody's.
    const WRONG: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    need_browser!();
    let everything = need_part!(Node).join("mcp-server-everything").to_string_lossy().into_owned();
    let home = Home::new()?;
    let room = Room::open(CLIENT)?;
    let listed = format!("http://127.0.0.1:{}", room.port());
    // The same page on another port is of another origin.
    let other = room.annex(0)?;
    let locked = ["--shared-key-auth", "--allowed-origins", &listed];
    let stdio = home.run([&["--name", "by-stdio"], &locked[..], &["--", &everything, "stdio"]].concat())?;
    let served = ["--transport", "streamable-http", "--", &everything, "streamableHttp"];
    let http = home.run([&["--name", "by-http"], &locked[..], &served].concat())?;
    let browser = Browser::open(&home, &format!("{listed}/"), &[FOREIGN])?;
    ensure!(room.order("origin", &Value::Null)? == listed.as_str(), "the browser began elsewhere");

    for supervisor in [&stdio, &http] {
        let key = home.key(supervisor.name())?;
        let checks = works(&room, &base(supervisor), Some(&key))
            .and_then(|()| unauthorized(&room, &base(supervisor), None, supervisor.name()))
            .and_then(|()| unauthorized(&room, &base(supervisor), Some(WRONG), supervisor.name()));
        checks.map_err(|failure| failure.during(supervisor.name()))?;
    }
    for host in ["127.0.0.1", "localhost", FOREIGN] {
        let port = if host == "127.0.0.1" { other.port() } else { room.port() };
        room.go(&format!("http://{host}:{port}"))?;
        for supervisor in [&stdio, &http] {
            let checked = foreign(&room, &base(supervisor), &home.key(supervisor.name())?);
            checked.map_err(|failure| failure.during(format!("{host} at {}", supervisor.name())))?;
        }
    }
    browser.close()?;
    stdio.stop()?;
    http.stop()?;
    home.close()
}

#[test]
fn an_open_workload_is_open_to_its_listed_origin() -> Result {
    need_browser!();
    let everything = need_part!(Node).join("mcp-server-everything").to_string_lossy().into_owned();
    let home = Home::new()?;
    let room = Room::open(CLIENT)?;
    let listed = format!("http://{FOREIGN}:{}", room.port());
    let open = home.run(["--name", "open", "--allowed-origins", &listed, "--", &everything, "stdio"])?;
    let browser = Browser::open(&home, &format!("{listed}/"), &[FOREIGN])?;
    works(&room, &base(&open), None)?;
    room.go(&format!("http://127.0.0.1:{}", room.port()))?;
    foreign(&room, &base(&open), MARK)?;
    browser.close()?;
    open.stop()?;
    home.close()
}
