//! What a server does wrong, and what clients make of it: over the bridge each request is answered exactly once, and at
//! the port the status says what was the matter.

use super::{
    Elsewhere, LOST, NAME, NOT_RUNNING, Record, UPSTREAM_HTTP, bridge, calling, end, guard, posting, reason,
};
use crate::fixture::{GONE_BOUND, call, call_text, wait_until};
use serde_json::{Value, json};
use thv_e2e::http::{Http, Request, Response};
use thv_e2e::{Foreground, Home, McpStdio, Result, STOP_BOUND, ensure, need_part};

/// A guarded server that breaks the rules, a client on either way, and what the server was sent.
struct Scene<'home> {
    guarded: Foreground,
    key: String,
    session: McpStdio,
    record: Record,
    home: &'home Home,
}

impl<'home> Scene<'home> {
    fn new(home: &'home Home, python: &std::path::Path) -> Result<Self> {
        let record = Record::new(home);
        let guarded = guard(home, python, &["--record", &record.path()])?;
        Ok(Self { guarded, key: home.key(NAME)?, session: bridge(home)?, record, home })
    }

    /// The tool call, over the bridge.
    fn over_bridge(&mut self, kind: &str) -> Result<Value> {
        call(&mut self.session, "fault", &json!({ "kind": kind }))
    }

    fn request(&self, kind: &str) -> Request {
        posting(self.guarded.port(), &self.key, "fault", &json!({ "kind": kind }))
    }

    /// The tool call, at the port.
    fn at_port(&self, kind: &str) -> Result<Response> {
        self.request(kind).send()
    }

    /// Lets the server go on with what it holds back.
    fn release(&self) -> Result {
        let release = posting(self.guarded.port(), &self.key, "release", &json!({})).send()?;
        assert_eq!(release.status, 200);
        Ok(())
    }

    /// How often the server was asked to do something wrong.
    fn asked(&self) -> Result<usize> {
        self.record.calls("fault")
    }

    /// Checks that everything works still, that each request was answered once, and ends it all.
    fn close(mut self) -> Result {
        assert_eq!(call_text(&mut self.session, "echo", &json!({ "text": "still here" }))?, "still here");
        end(self.session)?;
        self.guarded.stop()?;
        self.home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    }
}

/// A response in which the proxy says that it could not pass on the server's.
fn is_refusal(response: &Response, expected: (i64, &str)) -> Result {
    let body = response.json()?;
    assert_eq!((response.status, reason(&body), &body["id"]), (502, expected, &Value::Null), "{body}");
    assert_eq!(response.header("Content-Type"), Some("application/json"));
    let message = body["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains(&format!("thv logs {NAME}")), "{message}");
    Ok(())
}

#[test]
fn answers_that_are_none_become_an_error_each() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let mut scene = Scene::new(home, &python)?;
        for (kind, expected, status) in [
            ("silent", LOST, None),
            ("no_http", UPSTREAM_HTTP, Some(502)),
            ("endless_head", UPSTREAM_HTTP, Some(502)),
            ("upgrade", UPSTREAM_HTTP, Some(502)),
            ("our_challenge", UPSTREAM_HTTP, Some(401)),
        ] {
            let before = scene.asked()?;
            let answer = scene.over_bridge(kind)?;
            assert_eq!(reason(&answer), expected, "{kind}: {answer}");
            assert_eq!(answer["error"]["data"]["httpStatus"], json!(status), "{kind}: {answer}");
            is_refusal(&scene.at_port(kind)?, expected).map_err(|failure| failure.during(kind))?;
            // Each was sent once, whatever became of it.
            assert_eq!(scene.asked()?, before + 2, "{kind}");
        }
        let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
        // Before that it was not up yet, perhaps.
        let told = log
            .lines()
            .filter(|line| line.contains("not forwarded in full") && !line.contains("cannot be reached"));
        assert_eq!(told.count(), 10, "{log}");
        scene.close()
    })
}

#[test]
fn errors_of_the_server_s_own_are_passed_on_as_they_are() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let mut scene = Scene::new(home, &python)?;
        for (kind, id) in [("busy_json", json!("of the test")), ("busy_json_without_id", Value::Null)] {
            let answer = scene.over_bridge(kind)?;
            let error = json!({ "code": -32050, "message": "out of order", "data": { "bay": 7 } });
            assert_eq!(answer["error"], error, "{kind}");
            let response = scene.at_port(kind)?;
            assert_eq!(response.status, 503);
            assert_eq!(response.json()?, json!({ "jsonrpc": "2.0", "id": id, "error": error }), "{kind}");
        }
        let answer = scene.over_bridge("busy_text")?;
        assert_eq!((reason(&answer), &answer["error"]["data"]["httpStatus"]), (UPSTREAM_HTTP, &json!(503)));
        let response = scene.at_port("busy_text")?;
        assert_eq!((response.status, &*response.text()), (503, "try again later\n"));
        assert_eq!(
            (response.header("Content-Type"), response.header("Retry-After")),
            (Some("text/plain"), Some("7"))
        );
        let answer = scene.over_bridge("other_challenge")?;
        assert_eq!((reason(&answer), &answer["error"]["data"]["httpStatus"]), (UPSTREAM_HTTP, &json!(401)));
        let response = scene.at_port("other_challenge")?;
        assert_eq!((response.status, &*response.text()), (401, "who are you?"));
        assert_eq!(response.header("WWW-Authenticate"), Some("Bearer realm=\"x\""));

        for (kind, media, body) in [
            ("wrong_type", "text/html; charset=utf-8", "<html>Welcome</html>"),
            ("broken_json", "application/json", "{\"jsonrpc\": \"2.0\", \"id\": "),
        ] {
            let answer = scene.over_bridge(kind)?;
            assert_eq!(
                (reason(&answer), &answer["error"]["data"]["httpStatus"]),
                (UPSTREAM_HTTP, &json!(200))
            );
            let response = scene.at_port(kind)?;
            let seen = (response.status, response.header("Content-Type"), &*response.text());
            assert_eq!(seen, (200, Some(media), body));
        }
        scene.close()
    })
}

#[test]
fn an_answer_that_breaks_off_is_told_of_and_never_looks_whole() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let mut scene = Scene::new(home, &python)?;
        let asked = |kind: &str| json!({ "name": "fault", "arguments": { "kind": kind } });
        for (kind, beginning, whole) in [
            ("reset", ": something\n\n", false),
            ("half_event", "data: {\"jsonrpc\": \"2.0\", \"id\"", false),
            ("half_event_ended", "data: {\"jsonrpc\": \"2.0\", \"id\"", true),
        ] {
            let before = scene.asked()?;
            let pending = scene.session.ask("tools/call", &asked(kind))?;
            let mut port = Http::open(scene.guarded.port())?;
            port.send(&scene.request(kind).bytes());
            // What is there passes at once, whether or not more is to come.
            let head = port.read_through(beginning)?;
            ensure!(head.starts_with(b"HTTP/1.1 200 "), "{kind}: {:?}", String::from_utf8_lossy(&head));
            wait_until("both were asked", STOP_BOUND, || Ok(scene.asked()? == before + 2))?;
            scene.release()?;
            let answer = scene.session.answer(pending)?;
            assert_eq!(reason(&answer), LOST, "{kind}: {answer}");
            assert_eq!(port.read_through("0\r\n\r\n").is_ok(), whole, "{kind}");
        }
        for (kind, whole) in [("cut", false), ("no_event", true)] {
            let answer = scene.over_bridge(kind)?;
            assert_eq!(reason(&answer), LOST, "{kind}: {answer}");
            let response = scene.at_port(kind)?;
            assert_eq!((response.status, response.whole), (200, whole), "{kind}");
        }
        scene.close()
    })
}

#[test]
fn a_server_that_takes_its_time_holds_up_nobody_else() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let mut scene = Scene::new(home, &python)?;
        let before = scene.asked()?;
        let asked = json!({ "name": "fault", "arguments": { "kind": "slow" } });
        let pending: Vec<u64> =
            (0..8).map(|_| scene.session.ask("tools/call", &asked)).collect::<Result<_>>()?;
        let mut port = Http::open(scene.guarded.port())?;
        port.send(&scene.request("slow").bytes());
        wait_until("all are there", STOP_BOUND, || Ok(scene.asked()? == before + 9))?;
        assert_eq!(call_text(&mut scene.session, "echo", &json!({ "text": "between" }))?, "between");
        scene.release()?;
        for id in pending {
            assert_eq!(scene.session.answer(id)?["result"]["content"][0]["text"], "at last");
        }
        let response = port.response()?;
        ensure!(response.status == 200 && response.text().contains("at last"), "{response:?}");
        scene.close()
    })
}

#[test]
fn redirects_are_never_followed() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let mut scene = Scene::new(home, &python)?;
        // Whoever followed a redirect would come by here.
        let elsewhere_record = Record(home.user().join("elsewhere"));
        let elsewhere = Elsewhere::start(home, &python, &["--record", &elsewhere_record.path()])?;
        let url = elsewhere.url();
        let port = scene.guarded.port();
        let at_port = |key: &str, location: &str| {
            posting(port, key, "fault", &json!({ "kind": "redirect", "location": location })).send()
        };
        for (location, ours) in [
            ("/mcp", Some("/mcp")),
            ("http://SELF/mcp", Some("/mcp")),
            ("//SELF/other?a=1#b", Some("/other?a=1#b")),
            (&*url, None),
            ("//127.0.0.1:1/mcp", None),
            ("https://SELF/mcp", None),
            ("javascript:alert(1)", None),
        ] {
            let before = scene.asked()?;
            let arguments = json!({ "kind": "redirect", "location": location });
            let answer = call(&mut scene.session, "fault", &arguments)?;
            let status = &answer["error"]["data"]["httpStatus"];
            assert_eq!((reason(&answer), status), (UPSTREAM_HTTP, &json!(307)), "{location}: {answer}");
            let response = at_port(&scene.key, location)?;
            match ours {
                Some(ours) => {
                    assert_eq!(
                        (response.status, response.header("Location")),
                        (307, Some(ours)),
                        "{location}"
                    );
                }
                None => {
                    is_refusal(&response, UPSTREAM_HTTP).map_err(|failure| failure.during(location))?;
                    assert_eq!(response.header("Location"), None);
                    ensure!(!response.text().contains(location), "{location}: {response:?}");
                }
            }
            assert_eq!(scene.asked()?, before + 2, "{location}");
        }
        assert_eq!(elsewhere_record.requests()?.len(), 0);
        scene.close()
    })
}

#[test]
fn a_server_elsewhere_that_is_gone_is_told_of_until_it_is_back() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let elsewhere = Elsewhere::start(home, &python, &[])?;
        let (port, url) = (elsewhere.port, elsewhere.url());
        let guarded = home.detached(["--name", NAME, "--shared-key-auth", &url])?;
        let key = home.key(NAME)?;
        let mut session = bridge(home)?;
        elsewhere.kill();
        let answer = call(&mut session, "echo", &json!({ "text": "x" }))?;
        // A connection that was kept may break when it is used.
        ensure!([NOT_RUNNING, LOST].contains(&reason(&answer)), "{answer}");
        let answer = call(&mut session, "echo", &json!({ "text": "x" }))?;
        assert_eq!(reason(&answer), NOT_RUNNING, "{answer}");
        is_refusal(&posting(guarded.port, &key, "echo", &json!({ "text": "x" })).send()?, NOT_RUNNING)?;
        // The lock is still there.
        let open = Request::mcp(guarded.port, &calling("echo", &json!({ "text": "x" }))).send()?;
        assert_eq!(open.status, 401);
        // It cannot be started while there is nothing behind it.
        let restart = home.thv(["restart", NAME, "--ready-timeout", "1s"]).output()?.expect(1)?;
        ensure!(restart.stderr.contains(&url), "{restart:?}");

        let _back = Elsewhere::start_at(home, &python, port, &[])?;
        wait_until("it works again", GONE_BOUND, || {
            Ok(call(&mut session, "echo", &json!({ "text": "again" }))?.get("result").is_some())
        })?;
        end(session)?;
        home.thv(["rm", NAME]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_client_that_leaves_is_gone_for_the_server_at_once() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let scene = Scene::new(home, &python)?;
        let note = home.user().join("left");
        let arguments = json!({ "kind": "held", "note": note });
        let mut client = Http::open(scene.guarded.port())?;
        client.send(&posting(scene.guarded.port(), &scene.key, "fault", &arguments).bytes());
        wait_until("it is asked", STOP_BOUND, || Ok(scene.record.calls("fault")? == 1))?;
        ensure!(!note.exists(), "the server was left before its client left");
        drop(client);
        wait_until("the server is left", STOP_BOUND, || Ok(note.exists()))?;
        end(scene.session)?;
        scene.guarded.stop()?;
        Ok(())
    })
}
