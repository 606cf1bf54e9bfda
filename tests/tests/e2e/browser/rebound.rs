//! DNS rebinding: a page whose host name led to its own server and now leads to ours. To the browser both are one
//! origin, so that it asks nobody for permission and lets the page read every answer.

use super::{ATTEMPTS, Door, Server};
use serde_json::{Value, json};
use thv_e2e::{Browser, Home, Result, Room, ensure, need_browser};

const NAME: &str = "rebind.example";

/// What the page does, and whether it may look at the answer. All is of the same origin now.
const ATTEMPTED: &[(&str, bool)] = &[
    ("fetch_get", true),
    ("fetch_health", true),
    ("fetch_text", true),
    ("fetch_json", true),
    ("fetch_key", true),
    ("fetch_delete", true),
    ("no_cors_text", true),
    ("xhr_key", true),
    ("form_text", true),
    ("frame_mcp", true),
    ("frame_health", true),
    ("event_source", false),
    ("image", false),
    ("script", false),
    ("web_socket", false),
    ("beacon_json", false),
];

/// What it reads is the guard's refusal and nothing else: no status but 403, and no word of what is behind.
fn check_learned(learned: &Value, reads: bool) -> Result {
    let text = learned.to_string();
    ensure!(text.contains("host_foreign") == reads, "the page learned {text}");
    ensure!(reads || *learned == json!([]), "the page learned {text}");
    let words = ["ToolHive", "demo", "tools", "session", "access-control"];
    let said = words.iter().find(|word| text.contains(**word));
    ensure!(said.is_none(), "the page learned {said:?}: {text}");
    Ok(())
}

fn rebound(options: &[&str]) -> Result {
    need_browser!();
    let home = Home::new()?;
    let room = Room::open(ATTEMPTS)?;
    let site = room.annex(0)?;
    let port = site.port();
    let origin = format!("http://{NAME}:{port}");
    let browser = Browser::open(&home, &format!("{origin}/"), &[NAME])?;
    // The page is there, and its own server answers it.
    ensure!(room.order("origin", &Value::Null)? == origin.as_str(), "the browser began elsewhere");
    let own = room.order("fetch_text", &json!({ "base": origin, "body": "{}" }))?;
    ensure!(own.to_string().contains("status 200"), "{own}");

    drop(site);
    let port = port.to_string();
    let options = [&["--proxy-port", &port], options].concat();
    let mut door = Door::run(&home, "demo", &options, &Server::Demo)?;
    ensure!(door.port().to_string() == port, "the port is {} instead of {port}", door.port());
    for (name, reads) in ATTEMPTED {
        let learned = room.order(name, &door.target(NAME))?;
        let checked = check_learned(&learned, *reads).and_then(|()| door.check_refused("host_foreign"));
        checked.map_err(|failure| failure.during(name))?;
    }
    browser.close()?;
    door.close()?;
    home.close()
}

#[test]
fn a_rebound_name_reaches_no_locked_workload() -> Result {
    rebound(&["--shared-key-auth"])
}

#[test]
fn a_rebound_name_reaches_no_open_workload() -> Result {
    rebound(&[])
}
