//! Web pages in front of servers that would let any page in: who may read is decided at the lock.

use super::{NAME, Record, calling, guarding};
use serde_json::json;
use thv_e2e::http::{Request, Response};
use thv_e2e::{Detached, Home, Result, ensure, need_part};

const PAGE: &str = "https://app.example.org";

/// The fields of a response that are about other origins, but for `Vary`.
fn cors(response: &Response) -> Vec<(&str, &str)> {
    let about = response.headers.iter().filter(|(name, _)| name.starts_with("access-control-"));
    about.map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn what_the_server_says_of_origins_is_replaced_by_what_the_user_said() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let run = ["--allowed-origins", PAGE, "--allowed-hosts", "box.example.org"];
        let run = guarding(home, &python, &run, &["--cors", "--record", &record.path()]);
        let port = Detached::of(run.output()?)?.port;
        let key = home.key(NAME)?;
        let before = record.requests()?.len();
        let message = calling("echo", &json!({ "text": "x" }));

        let preflight = |origin: &str| {
            let request = Request::new("OPTIONS", "/mcp", port).header("Origin", origin);
            let request = request.header("Access-Control-Request-Method", "POST");
            request.header("Access-Control-Request-Headers", "content-type, x-toolhive-auth").send()
        };
        let allowed = preflight(PAGE)?;
        assert_eq!((allowed.status, allowed.header("Access-Control-Allow-Origin")), (204, Some(PAGE)));
        ensure!(cors(&allowed).iter().all(|(_, value)| !value.contains('*')), "{allowed:?}");
        let headers = allowed.header("Access-Control-Allow-Headers").unwrap_or_default();
        ensure!(headers.contains("x-toolhive-auth") && headers.contains("content-type"), "{allowed:?}");
        let vary = allowed.header_values("Vary").join(",").to_lowercase();
        ensure!(vary.contains("origin"), "{allowed:?}");
        for foreign in ["https://evil.example.org", "null", "https://app.example.org.evil.example"] {
            let refused = preflight(foreign)?;
            assert_eq!((refused.status, cors(&refused)), (403, Vec::new()), "{foreign}");
            let simple = Request::mcp(port, &message).key(&key).header("Origin", foreign).send()?;
            assert_eq!((simple.status, cors(&simple)), (403, Vec::new()), "{foreign}");
            let get = Request::new("GET", "/mcp", port).header("Origin", foreign).key(&key).send()?;
            assert_eq!((get.status, cors(&get)), (403, Vec::new()), "{foreign}");
        }
        let without_key = Request::mcp(port, &message).header("Origin", PAGE).send()?;
        assert_eq!(without_key.status, 401);
        // A page may read why it was refused.
        assert_eq!(without_key.header("Access-Control-Allow-Origin"), Some(PAGE));
        assert_eq!(record.requests()?.len(), before, "something of this reached the server");

        let called = Request::mcp(port, &message).header("Origin", PAGE).key(&key).send()?;
        assert_eq!(called.status, 200);
        assert_eq!(called.header("Access-Control-Allow-Origin"), Some(PAGE));
        ensure!(cors(&called).iter().all(|(_, value)| !value.contains('*')), "{called:?}");
        assert_eq!(called.header("Access-Control-Allow-Headers"), None);
        let exposed = called.header("Access-Control-Expose-Headers").unwrap_or_default();
        ensure!(exposed.contains("mcp-session-id"), "{called:?}");
        let plain = Request::mcp(port, &message).key(&key).send()?;
        assert_eq!((plain.status, cors(&plain)), (200, Vec::new()));

        // Names of this machine that the user gave, and no others.
        for (host, status) in [
            (format!("box.example.org:{port}"), 200),
            (format!("BOX.example.org:{port}"), 200),
            (format!("localhost:{port}"), 200),
            (format!("evil.example.org:{port}"), 403),
            (format!("box.example.org.evil.example:{port}"), 403),
            ("127.0.0.1:1".to_owned(), 403),
        ] {
            let request = Request::mcp(port, &message).without("Host").header("Host", &*host).key(&key);
            assert_eq!(request.send()?.status, status, "{host}");
        }
        for request in record.requests()? {
            assert_ne!(request.method, "OPTIONS");
            assert_eq!(request.values("access-control-request-method"), Vec::<&str>::new());
        }
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_server_with_a_guard_of_its_own_lets_in_whom_the_user_let_in() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let run = ["--allowed-origins", PAGE, "--allowed-hosts", "box.example.org"];
        let run = guarding(home, &python, &run, &["--strict", "--record", &record.path()]);
        let port = Detached::of(run.output()?)?.port;
        let key = home.key(NAME)?;
        let message = calling("echo", &json!({ "text": "x" }));
        let page = Request::mcp(port, &message).key(&key).header("Origin", PAGE);
        let page = page.header("Sec-Fetch-Site", "cross-site").header("Sec-Fetch-Mode", "cors");
        let called = page.send()?;
        assert_eq!((called.status, called.header("Access-Control-Allow-Origin")), (200, Some(PAGE)));
        let renamed = Request::mcp(port, &message).key(&key).without("Host");
        assert_eq!(renamed.header("Host", format!("box.example.org:{port}")).send()?.status, 200);
        for request in record.requests()? {
            let told =
                request.headers.iter().filter(|(name, _)| name == "origin" || name.starts_with("sec-fetch"));
            assert_eq!(told.count(), 0, "{} {}", request.method, request.path);
        }
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}

#[test]
fn without_a_word_of_the_user_no_page_is_let_in() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let run = guarding(home, &python, &[], &["--cors", "--record", &record.path()]);
        let port = Detached::of(run.output()?)?.port;
        let key = home.key(NAME)?;
        let before = record.requests()?.len();
        let message = calling("echo", &json!({ "text": "x" }));
        let options = Request::new("OPTIONS", "/mcp", port);
        assert_eq!(options.send()?.status, 401);
        let preflight =
            options.header("Origin", PAGE).header("Access-Control-Request-Method", "POST").send()?;
        assert_eq!((preflight.status, cors(&preflight)), (403, Vec::new()));
        let fetched = Request::mcp(port, &message).header("Sec-Fetch-Site", "cross-site").key(&key).send()?;
        assert_eq!((fetched.status, cors(&fetched)), (403, Vec::new()));
        assert_eq!(record.requests()?.len(), before);
        let called = Request::mcp(port, &message).key(&key).send()?;
        assert_eq!((called.status, cors(&called)), (200, Vec::new()));
        home.thv(["rm", NAME]).output()?.expect(0)?;

        for wrong in ["*", "https://app.example.org/path", "app.example.org", ""] {
            let run = guarding(home, &python, &["--allowed-origins", wrong], &[]).output()?.expect(2)?;
            ensure!(run.stdout.is_empty(), "{wrong}: {run:?}");
        }
        assert_eq!(crate::fixture::list(home)?, Vec::<serde_json::Value>::new());
        Ok(())
    })
}
