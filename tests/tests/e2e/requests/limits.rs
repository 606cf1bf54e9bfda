//! Framing, sizes and times: requests that are no request, or too much of one.

use super::{check_error, check_foreign, less, marked, with_locked};
use crate::locked::{check_pong, check_unauthorized, ping};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use thv_e2e::Result;
use thv_e2e::http::{Http, Request};

/// How long a header may take, by contract, and the time that a loaded machine may add.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(4);

/// Messages that two readers may see as two different ones. Each is followed by a second request, which must not
/// be answered: nobody knows where it begins.
#[test]
fn ambiguous_framing_is_refused_and_ends_the_connection() -> Result {
    with_locked(&[], |locked| {
        let body = marked().to_string();
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let length = chunked.len().to_string();
        let with = |fields: &[(&str, &str)]| {
            let request = locked.request(&marked()).key(&locked.key).without("Content-Length");
            fields.iter().fold(request, |request, (name, value)| request.header(name, *value))
        };
        let cases = [
            ("length, then chunks", with(&[("Content-Length", &length), ("Transfer-Encoding", "chunked")])),
            ("chunks, then length", with(&[("Transfer-Encoding", "chunked"), ("Content-Length", &length)])),
            ("length zero and chunks", with(&[("Content-Length", "0"), ("Transfer-Encoding", "chunked")])),
            (
                "chunks in other letters",
                with(&[("content-length", &length), ("TRANSFER-ENCODING", "Chunked")]),
            ),
            ("two lengths", with(&[("Content-Length", &length), ("Content-Length", "1")])),
            ("a length that is none", with(&[("Content-Length", "+5")])),
            ("a negative length", with(&[("Content-Length", "-1")])),
            ("lengths joined", with(&[("Content-Length", "5, 6")])),
            ("chunks that are not last", with(&[("Transfer-Encoding", "chunked, gzip")])),
            ("another coding", with(&[("Transfer-Encoding", "identity")])),
        ];
        for (case, request) in cases {
            let head = request.bytes();
            let head = head.strip_suffix(body.as_bytes()).unwrap_or(&head);
            let second = locked.request(&marked()).key(&locked.key).bytes();
            let mut http = Http::open(locked.port())?;
            http.send(&[head, chunked.as_bytes(), &second].concat());
            let answer = http.response().map_err(|failure| failure.during(case))?;
            assert_eq!(answer.status, 400, "{case}: {answer:?}");
            assert!(http.closes()?, "{case}: the connection stays open");
            locked.check_open()?;
        }
        Ok(())
    })
}

#[test]
fn bytes_that_are_no_request_are_not_answered_as_one() -> Result {
    with_locked(&[], |locked| {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
        let cases: &[(&str, &[u8])] = &[
            ("the preface of HTTP/2", preface),
            ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
            ("a method alone", b"GET\r\n\r\n"),
            ("an unknown version", b"GET /health HTTP/3.0\r\n\r\n"),
            ("HTTP/0.9", b"GET /health\r\n\r\n"),
            ("zero bytes", &[0; 64]),
        ];
        for (case, bytes) in cases {
            let mut http = Http::open(locked.port())?;
            http.send(bytes);
            // Either is a refusal: an answer to say so, or none.
            if let Ok(answer) = http.response() {
                assert_eq!(answer.status, 400, "{case}: {answer:?}");
            }
            assert!(http.closes()?, "{case}: the connection stays open");
        }
        // HTTP/1.0 knows no Host, and is not excused for that.
        let mut http = Http::open(locked.port())?;
        http.send(format!("GET /mcp HTTP/1.0\r\nX-ToolHive-Auth: {}\r\n\r\n", locked.key).as_bytes());
        let answer = String::from_utf8_lossy(&http.read_through("}}}")?).into_owned();
        assert!(answer.contains(" 403 ") && answer.contains("host_missing"), "{answer}");
        assert!(http.closes()?);
        Ok(())
    })
}

#[test]
fn a_body_that_is_no_message_is_refused_with_its_reason() -> Result {
    with_locked(&[], |locked| {
        let post = |body: &[u8]| locked.request(&Value::Null).key(&locked.key).body(body).send();
        let deep = "[".repeat(100_000);
        let cases: &[(&str, &[u8], i64)] = &[
            ("nothing", b"", -32700),
            ("half a message", br#"{"jsonrpc":"2.0","id":1,"#, -32700),
            ("a word", b"never-to-arrive", -32700),
            ("not UTF-8", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}", -32700),
            ("two messages", br#"{"jsonrpc":"2.0","method":"a"}{"jsonrpc":"2.0","method":"b"}"#, -32700),
            ("deep", deep.as_bytes(), -32700),
            ("a number", b"7", -32600),
            ("an empty object", b"{}", -32600),
            ("an empty batch", b"[]", -32600),
            ("no version", br#"{"id":1,"method":"ping","params":{"mark":"never-to-arrive"}}"#, -32600),
            ("a null id", br#"{"jsonrpc":"2.0","id":null,"method":"never-to-arrive"}"#, -32600),
            (
                "two methods",
                br#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"never-to-arrive"}"#,
                -32600,
            ),
            ("a method that is none", br#"{"jsonrpc":"2.0","id":1,"method":["never-to-arrive"]}"#, -32600),
        ];
        for (case, body, code) in cases {
            let answer = post(body).map_err(|failure| failure.during(case))?;
            check_error(&answer, 400, *code).map_err(|failure| failure.during(case))?;
            locked.check_open().map_err(|failure| failure.during(format!("after {case}")))?;
        }
        let text = less(locked, "Content-Type").header("Content-Type", "text/plain").send()?;
        assert_eq!(text.status, 415, "{text:?}");
        let accept = less(locked, "Accept").header("Accept", "text/html").send()?;
        assert_eq!(accept.status, 406, "{accept:?}");
        let version =
            less(locked, "MCP-Protocol-Version").header("MCP-Protocol-Version", "tomorrow").send()?;
        assert_eq!(version.status, 400, "{version:?}");
        Ok(())
    })
}

#[test]
fn a_body_over_the_limit_is_refused_and_nothing_else_suffers() -> Result {
    with_locked(&[], |locked| {
        let huge = format!(
            "{}{}\"}}}}",
            r#"{"jsonrpc":"2.0","id":1,"method":"never-to-arrive","params":{"x":""#,
            "x".repeat(20 << 20)
        );
        let whole = locked.request(&Value::Null).body(huge.clone());
        check_error(&whole.clone().key(&locked.key).send()?, 413, -33006)?;
        // Without announcing its length.
        let request = locked.request(&Value::Null).key(&locked.key).without("Content-Length");
        let head = request.header("Transfer-Encoding", "chunked").bytes();
        let head = head.strip_suffix(b"null").unwrap_or(&head);
        let chunk = format!("{:x}\r\n{huge}\r\n0\r\n\r\n", huge.len());
        let mut http = Http::open(locked.port())?;
        http.send(&[head, chunk.as_bytes()].concat());
        check_error(&http.response()?, 413, -33006)?;
        // Whoever has no key is not told of limits.
        check_unauthorized(&whole.send()?, "demo")?;
        check_unauthorized(&whole.key("guess").send()?, "demo")
    })
}

#[test]
fn the_limit_is_what_was_asked_for() -> Result {
    with_locked(&["--max-message-bytes", "2000"], |locked| {
        let sized = |size: usize| {
            let message = |filler: usize| {
                let params = json!({ "filler": "x".repeat(filler) });
                json!({ "jsonrpc": "2.0", "id": 7, "method": "ping", "params": params }).to_string()
            };
            let request = locked.request(&Value::Null).key(&locked.key);
            request.body(message(size - message(0).len())).send()
        };
        check_pong(&sized(2000)?, 7)?;
        check_error(&sized(2001)?, 413, -33006)?;
        Ok(())
    })
}

#[test]
fn half_a_header_is_given_ten_seconds_and_no_more() -> Result {
    with_locked(&[], |locked| {
        let start = Instant::now();
        let mut waiting = Vec::new();
        let begun = locked.request(&marked()).key(&locked.key).bytes();
        for sent in [&b""[..], b"P", &begun[..begun.len() / 4]] {
            let mut http = Http::open(locked.port())?;
            http.send(sent);
            http.set_bound(HEADER_LIMIT + GRACE);
            waiting.push(http);
        }
        // A drop now and then is no progress. The pace is the client's own doing.
        let mut dripping = Http::open(locked.port())?;
        dripping.set_bound(Duration::from_millis(250));
        dripping.send(b"GET /mcp HTTP/1.1\r\nX-Drip: ");
        let mut dripped = false;
        while !dripped && start.elapsed() < HEADER_LIMIT + GRACE {
            dripping.send(b"x");
            dripped = match dripping.response() {
                Ok(answer) => answer.status == 408,
                Err(_) => dripping.closes()?,
            };
        }
        assert!(dripped, "a drop now and then keeps a connection open");
        for mut http in waiting {
            // Some servers say 408 first, which is as good.
            let said = http.response();
            assert!(said.is_err() || said.is_ok_and(|answer| answer.status == 408));
            assert!(http.closes()?, "half a header keeps a connection open");
        }
        assert!(start.elapsed() < HEADER_LIMIT + GRACE, "it took {:?}", start.elapsed());
        Ok(())
    })
}

#[test]
fn silent_connections_by_the_hundred_shut_nobody_out() -> Result {
    with_locked(&[], |locked| {
        // One that has shown its key stays, whatever comes behind it.
        let mut trusted = Http::open(locked.port())?;
        trusted.send(&locked.request(&ping(1)).key(&locked.key).bytes());
        check_pong(&trusted.response()?, 1)?;
        let mut silent = Vec::new();
        for _ in 0..400 {
            silent.push(Http::open(locked.port())?);
        }
        locked.check_open()?;
        trusted.send(&locked.request(&ping(2)).key(&locked.key).bytes());
        check_pong(&trusted.response()?, 2)?;
        drop(silent);
        Ok(())
    })
}

#[test]
fn pipelined_requests_are_judged_one_by_one_and_answered_in_order() -> Result {
    with_locked(&[], |locked| {
        let good = |id| locked.request(&ping(id)).key(&locked.key).bytes();
        let health = Request::new("GET", "/health", locked.port()).bytes();
        let bare = locked.request(&marked()).bytes();
        let foreign = less(locked, "").header("Origin", "null").bytes();
        let mut http = Http::open(locked.port())?;
        http.send(&[good(1), bare.clone(), good(2), health, foreign, bare, good(3)].concat());
        check_pong(&http.response()?, 1)?;
        check_unauthorized(&http.response()?, "demo")?;
        check_pong(&http.response()?, 2)?;
        assert_eq!(http.response()?.status, 204);
        check_foreign(&http.response()?, "origin_foreign")?;
        check_unauthorized(&http.response()?, "demo")?;
        check_pong(&http.response()?, 3)
    })
}
