//! Pages of foreign origins, with everything that a page has: they learn nothing, and no server hears of it.

use super::{ATTEMPTS, Door, MARK, Server, marked};
use serde_json::{Value, json};
use thv_e2e::{Browser, Home, Result, Room, ensure, need_browser, need_part};

/// An attempt, and what would come of it at a server without guards.
struct Attempt {
    name: &'static str,
    /// The method that arrives: `OPTIONS` is the browser's question whether it may.
    method: &'static str,
    /// What the browser says of the page.
    says: Says,
    /// Whether the page learns something.
    learns: bool,
    /// Whether the message arrives; the form that breaks it up does not count.
    message: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Says {
    /// The page's origin.
    Origin,
    /// That it has none.
    Null,
    /// Nothing but `Sec-Fetch-Site`, and not even that if the server's address is no trustworthy one.
    Nothing,
}

const fn attempt(
    name: &'static str,
    method: &'static str,
    says: Says,
    learns: bool,
    message: bool,
) -> Attempt {
    Attempt { name, method, says, learns, message }
}

const ATTEMPTED: &[Attempt] = &[
    attempt("fetch_get", "GET", Says::Origin, true, false),
    attempt("fetch_health", "GET", Says::Origin, true, false),
    attempt("fetch_text", "POST", Says::Origin, true, true),
    attempt("fetch_json", "OPTIONS", Says::Origin, true, true),
    attempt("fetch_key", "OPTIONS", Says::Origin, true, true),
    attempt("fetch_delete", "OPTIONS", Says::Origin, true, false),
    attempt("fetch_with_credentials", "POST", Says::Origin, true, true),
    attempt("no_cors_get", "GET", Says::Nothing, false, false),
    attempt("no_cors_health", "GET", Says::Nothing, false, false),
    attempt("no_cors_text", "POST", Says::Origin, false, true),
    attempt("no_cors_key", "POST", Says::Origin, false, true),
    attempt("redirected", "POST", Says::Null, false, true),
    attempt("no_origin", "POST", Says::Null, true, true),
    attempt("xhr_text", "POST", Says::Origin, true, true),
    attempt("xhr_key", "OPTIONS", Says::Origin, true, true),
    attempt("form_text", "POST", Says::Origin, false, true),
    attempt("form_urlencoded", "POST", Says::Origin, false, true),
    attempt("form_multipart", "POST", Says::Origin, false, true),
    attempt("frame_mcp", "GET", Says::Nothing, false, false),
    attempt("frame_health", "GET", Says::Nothing, false, false),
    attempt("frame_redirected", "GET", Says::Nothing, false, false),
    attempt("event_source", "GET", Says::Origin, true, false),
    attempt("event_source_with_credentials", "GET", Says::Origin, true, false),
    attempt("image", "GET", Says::Nothing, true, false),
    attempt("image_health", "GET", Says::Nothing, true, false),
    attempt("script", "GET", Says::Nothing, true, false),
    attempt("module", "GET", Says::Origin, true, false),
    attempt("style", "GET", Says::Nothing, true, false),
    attempt("web_socket", "GET", Says::Origin, false, false),
    attempt("beacon_text", "POST", Says::Origin, false, true),
    attempt("beacon_json", "OPTIONS", Says::Origin, false, true),
];

/// A name that somebody else owns and has pointed here.
const FOREIGN: &str = "evil.example";

/// Knocks once, and checks that the page learned nothing and that the log says why it was refused.
fn refused(room: &Room, door: &mut Door<'_>, host: &str, attempt: &Attempt) -> Result {
    let learned = room.order(attempt.name, &door.target(host))?;
    ensure!(learned == json!([]), "the page learned {learned}");
    let own = matches!(host, "127.0.0.1" | "localhost");
    door.check_refused(match attempt.says {
        _ if !own => "host_foreign",
        Says::Origin | Says::Null => "origin_foreign",
        Says::Nothing => "cross_site",
    })
}

/// The same attempt at a server without guards: it is one that a browser lets a page make.
fn works_without_guards(room: &Room, attempt: &Attempt) -> Result {
    let target = json!({
        "base": format!("http://127.0.0.1:{}", room.port()),
        "key": "a-key",
        "session": "a-session",
        "body": marked(),
    });
    let learned = room.order(attempt.name, &target)?;
    ensure!((learned != json!([])) == attempt.learns, "the page learned {learned}");
    let mut arrived = room.arrivals()?;
    let first = arrived[0].clone();
    ensure!(first.method == attempt.method, "{arrived:?}");
    let said = match first.header("origin") {
        None => Says::Nothing,
        Some("null") => Says::Null,
        Some(_) => Says::Origin,
    };
    ensure!(said == attempt.says, "{arrived:?}");
    if attempt.method == "OPTIONS" && arrived.len() == 1 {
        // A beacon does not wait for what follows the permission.
        arrived.extend(room.arrivals()?);
    }
    let text: String = arrived.iter().map(|asked| String::from_utf8_lossy(&asked.body)).collect();
    ensure!(text.contains(MARK) == attempt.message, "{arrived:?}");
    let key = arrived.iter().any(|asked| asked.header("x-toolhive-auth") == Some("a-key"));
    ensure!(key == matches!(attempt.name, "fetch_key" | "xhr_key"), "{arrived:?}");
    Ok(())
}

#[test]
fn a_page_of_a_foreign_origin_gets_nowhere() -> Result {
    need_browser!();
    let everything = need_part!(Node).join("mcp-server-everything").to_string_lossy().into_owned();
    let home = Home::new()?;
    let mut doors = [
        Door::run(&home, "locked", &["--shared-key-auth"], &Server::Demo)?,
        Door::run(&home, "open", &[], &Server::Demo)?,
        Door::run(&home, "http", &[], &Server::Http(&everything))?,
        Door::run(&home, "http-locked", &["--shared-key-auth"], &Server::Http(&everything))?,
    ];
    let room = Room::open(ATTEMPTS)?;
    let origin = |host: &str| format!("http://{host}:{}", room.port());
    let browser = Browser::open(&home, &format!("{}/", origin(FOREIGN)), &[FOREIGN])?;
    ensure!(room.order("origin", &Value::Null)? == origin(FOREIGN), "the browser began elsewhere");

    for attempt in ATTEMPTED {
        works_without_guards(&room, attempt).map_err(|failure| failure.during(attempt.name))?;
    }
    // Another site, the same site on another port, and the name by which the server may be known as well.
    for from in [FOREIGN, "127.0.0.1", "localhost"] {
        room.go(&origin(from))?;
        for door in &mut doors {
            // Browsers lead 0.0.0.0 to loopback, and say nothing of the page then; nor for a name pointed here.
            let hosts: &[&str] = match (from, door.is_locked()) {
                // The guard is the same in front of any server.
                (FOREIGN, true) if door.speaks_http() => &["127.0.0.1"],
                (FOREIGN, true) => &["127.0.0.1", "localhost", "0.0.0.0", FOREIGN],
                (FOREIGN, false) => &["127.0.0.1", "0.0.0.0"],
                // Where no key stands behind the guard.
                (_, false) => &["127.0.0.1"],
                (_, true) => &[],
            };
            for (host, attempt) in hosts.iter().flat_map(|host| ATTEMPTED.iter().map(move |it| (host, it))) {
                let what = format!("{} from {from} at {} as {host}", attempt.name, door.supervisor.name());
                refused(&room, door, host, attempt).map_err(|failure| failure.during(what))?;
            }
        }
    }
    browser.close()?;
    for door in doors {
        door.close()?;
    }
    home.close()
}
