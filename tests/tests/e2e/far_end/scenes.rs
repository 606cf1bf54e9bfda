//! A far end that has proved itself and then fails: each request is answered once, with what is true.

use super::listener::Seen;
use super::supervisor::{FakeSupervisor, Proving, Reply, bare_reply, id, is_call, json_reply, result};
use super::{call, check_error, finish, with_locked};
use crate::locked::Locked;
use serde_json::{Value, json};
use thv_e2e::{Result, ensure};

/// What a proved far end does with a call, how often it may be asked, and what the client is told.
struct Scene {
    name: &'static str,
    reply: fn(&Seen, usize) -> Reply,
    calls: usize,
    check: fn(&Value) -> Result,
}

const OUR_401: &str = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: ToolHive-SharedKey realm=\"demo\"\r\n\
                       Content-Length: 0\r\n\r\n";

fn http_error(answer: &Value, status: u16) -> Result {
    check_error(answer, -33005, "upstream_http")?;
    ensure!(answer["error"]["data"]["httpStatus"] == status, "{answer}");
    Ok(())
}

fn is_served(answer: &Value) -> Result {
    ensure!(answer["result"] == json!({ "served": true }), "{answer}");
    Ok(())
}

const SCENES: &[Scene] = &[
    Scene {
        name: "our 401 once: the key is read again and the request sent again",
        reply: |_, before| if before == 0 { Reply::Say(OUR_401.into()) } else { Reply::Serve },
        calls: 2,
        check: is_served,
    },
    Scene {
        name: "our 401 twice",
        reply: |_, _| Reply::Say(OUR_401.into()),
        calls: 2,
        check: |answer| {
            check_error(answer, -33001, "key_refused")?;
            ensure!(
                answer["error"]["message"].as_str().is_some_and(|text| text.contains("thv ")),
                "no advice: {answer}"
            );
            Ok(())
        },
    },
    Scene {
        name: "our 401 in other letters, with more beside it",
        reply: |_, _| {
            Reply::Say(bare_reply(
                "401 No",
                "www-authenticate: toolhive-sharedkey Realm=\"demo\", error=\"x\"\r\n",
            ))
        },
        calls: 2,
        check: |answer| check_error(answer, -33001, "key_refused"),
    },
    Scene {
        name: "the server's own 401",
        reply: |_, _| {
            Reply::Say(bare_reply("401 Unauthorized", "WWW-Authenticate: Bearer realm=\"api\"\r\n"))
        },
        calls: 1,
        check: |answer| http_error(answer, 401),
    },
    Scene {
        name: "the server's own 403 with an error under no id",
        reply: |_, _| {
            let body =
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"not yours","data":1.0}}"#;
            Reply::Say(json_reply("403 Forbidden", "", body))
        },
        calls: 1,
        check: |answer| {
            let expected = json!({ "code": -32001, "message": "not yours", "data": 1.0 });
            ensure!(answer["error"] == expected, "{answer}");
            Ok(())
        },
    },
    Scene {
        name: "an error with a body that answers the request",
        reply: |seen, _| {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":{},"error":{{"code":-32603,"message":"broken"}}}}"#,
                id(seen)
            );
            Reply::Say(json_reply("500 Internal Server Error", "", &body))
        },
        calls: 1,
        check: |answer| {
            ensure!(answer["error"] == json!({ "code": -32603, "message": "broken" }), "{answer}");
            Ok(())
        },
    },
    Scene {
        name: "a lost session, begun anew once and invisibly",
        reply: |_, before| {
            if before == 0 { Reply::Say(bare_reply("404 Not Found", "")) } else { Reply::Serve }
        },
        calls: 2,
        check: is_served,
    },
    Scene {
        name: "a session that is lost again",
        reply: |_, _| Reply::Say(bare_reply("404 Not Found", "")),
        calls: 2,
        check: |answer| http_error(answer, 404),
    },
    Scene {
        name: "an error without a body",
        reply: |_, _| Reply::Say(bare_reply("500 Internal Server Error", "")),
        calls: 1,
        check: |answer| http_error(answer, 500),
    },
    Scene {
        name: "an error with another body",
        reply: |_, _| {
            let body = "<html>try again later</html>";
            let length = body.len();
            Reply::Say(format!(
                "HTTP/1.1 503 No\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
        },
        calls: 1,
        check: |answer| http_error(answer, 503),
    },
    Scene {
        name: "no answer in it",
        reply: |_, _| Reply::Say(bare_reply("202 Accepted", "")),
        calls: 1,
        check: |answer| http_error(answer, 202),
    },
    Scene {
        name: "no message in it",
        reply: |_, _| Reply::Say(json_reply("200 OK", "", "hello")),
        calls: 1,
        check: |answer| http_error(answer, 200),
    },
    Scene {
        name: "an answer to somebody else",
        reply: |_, _| Reply::Say(json_reply("200 OK", "", r#"{"jsonrpc":"2.0","id":"other","result":{}}"#)),
        calls: 1,
        check: |answer| http_error(answer, 200),
    },
    Scene {
        name: "lost before the answer",
        reply: |_, _| Reply::SayAndHangUp(String::new()),
        calls: 1,
        check: |answer| check_error(answer, -33002, "connection_lost"),
    },
    Scene {
        name: "lost in the head of the answer",
        reply: |_, _| Reply::SayAndHangUp("HTTP/1.1 200 OK\r\nContent-Ty".into()),
        calls: 1,
        check: |answer| check_error(answer, -33002, "connection_lost"),
    },
    Scene {
        name: "lost in the body of the answer",
        reply: |seen, _| {
            let whole = json_reply("200 OK", "", &result(seen, &json!({ "served": true })));
            Reply::SayAndHangUp(whole[..whole.len() - 5].into())
        },
        calls: 1,
        check: |answer| check_error(answer, -33002, "connection_lost"),
    },
    Scene {
        name: "lost in an event stream",
        reply: |_, _| {
            Reply::SayAndHangUp(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
                 6\r\ndata: \r\n"
                    .into(),
            )
        },
        calls: 1,
        check: |answer| check_error(answer, -33002, "connection_lost"),
    },
    Scene {
        name: "an event stream that ends without the answer",
        reply: |_, _| {
            Reply::SayAndHangUp(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 6\r\n\r\n: hi\n\n"
                    .into(),
            )
        },
        calls: 1,
        check: |answer| check_error(answer, -33002, "connection_lost"),
    },
    Scene {
        name: "an event stream with two answers",
        reply: |seen, _| {
            let data = format!("data: {}\n\n", result(seen, &json!({ "served": true }))).repeat(2);
            let length = data.len();
            Reply::Say(format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {length}\r\n\r\n{data}"
            ))
        },
        calls: 1,
        check: is_served,
    },
];

#[test]
fn what_a_proved_far_end_may_do_is_answered_once_and_honestly() -> Result {
    with_locked(|locked| {
        for scene in SCENES {
            play(locked, scene).map_err(|failure| failure.during(scene.name))?;
        }
        Ok(())
    })
}

fn play(locked: &Locked<'_>, scene: &Scene) -> Result {
    let fake = FakeSupervisor::start(&locked.key, "demo", Proving::Well, scene.reply)?;
    locked.redirect(fake.port())?;
    let mut bridge = locked.home.bridge("demo")?;
    bridge.initialize()?;
    (scene.check)(&bridge.request("tools/call", &call())?)?;
    // Whatever it was, the next request is served.
    let next = bridge.request("ping", &json!({}))?;
    is_served(&next).map_err(|failure| failure.during("the next request"))?;
    finish(bridge)?;
    let seen = fake.end()?;
    let calls: Vec<_> = seen.iter().filter(|seen| is_call(seen)).collect();
    ensure!(calls.len() == scene.calls, "the call was sent {} times", calls.len());
    // A refused connection was proved with the refused key: it carries nothing more.
    let refused = scene.name.starts_with("our 401").then(|| calls[0].connection);
    let later = seen.iter().skip_while(|seen| !is_call(seen)).skip(1).map(|seen| seen.connection);
    ensure!(
        later.clone().all(|connection| Some(connection) != refused),
        "a refused connection was used again"
    );
    Ok(())
}

#[test]
fn a_session_that_is_lost_under_many_requests_is_begun_anew_once() -> Result {
    with_locked(|locked| {
        let fake = FakeSupervisor::start(&locked.key, "demo", Proving::Well, |seen, _| {
            let lost = seen.header("mcp-session-id") == Some("fake-1");
            if lost { Reply::Say(bare_reply("404 Not Found", "")) } else { Reply::Serve }
        })?;
        locked.redirect(fake.port())?;
        let mut bridge = locked.home.bridge("demo")?;
        bridge.initialize()?;
        let ids: Vec<_> = (0..20).map(|_| bridge.ask("tools/call", &call())).collect::<Result<_>>()?;
        for id in ids {
            is_served(&bridge.answer(id)?)?;
        }
        finish(bridge)?;
        let begun = fake.end()?.iter().filter(|seen| seen.body.contains("\"initialize\"")).count();
        assert_eq!(begun, 2, "the session was begun {begun} times");
        Ok(())
    })
}

#[test]
fn a_far_end_that_proves_itself_and_hangs_up_loses_no_request_silently() -> Result {
    with_locked(|locked| {
        let fake = FakeSupervisor::start(&locked.key, "demo", Proving::AndHangingUp, |_, _| Reply::Serve)?;
        locked.redirect(fake.port())?;
        let mut bridge = locked.home.bridge("demo")?;
        let answer = bridge.request("initialize", &call())?;
        // Which of them is a matter of when the hang-up is noticed; each is true.
        let honest = [-33002, -33003, -33004].iter().any(|code| answer["error"]["code"] == *code);
        ensure!(honest, "{answer}");
        finish(bridge)?;
        fake.end().map(drop)
    })
}
