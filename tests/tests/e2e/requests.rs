//! The request: what a web page, a confused client or an attacker without the key may send, byte by byte.

mod limits;

use crate::locked::{
    Locked, PROOF_PATH, check_no_cors, check_pong, check_unauthorized, initialize, key_id, ping, proof,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use thv_e2e::http::{Http, Request, Response};
use thv_e2e::{Home, Result, ensure};

const MARK: &str = "never-to-arrive";

/// A message that must not reach the server.
fn marked() -> Value {
    json!({ "jsonrpc": "2.0", "id": 7, "method": "ping", "params": { "mark": MARK } })
}

/// A request with the key and nothing wrong, less one field.
fn less(locked: &Locked<'_>, field: &str) -> Request {
    locked.request(&marked()).key(&locked.key).without(field)
}

fn check_error(answer: &Response, status: u16, code: i64) -> Result<Value> {
    ensure!(answer.status == status && answer.whole, "{answer:?}");
    ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
    let body = answer.json()?;
    ensure!(body["jsonrpc"] == "2.0" && body.get("result").is_none(), "{answer:?}");
    ensure!(body["error"]["code"] == code, "expected {code}: {answer:?}");
    ensure!(body["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{answer:?}");
    Ok(body)
}

/// The guard's refusal, which needs no key to be seen and none to be avoided.
fn check_foreign(answer: &Response, reason: &str) -> Result {
    let body = check_error(answer, 403, -32600)?;
    check_no_cors(answer)?;
    ensure!(
        body["id"].is_null() && body["error"]["data"]["reason"] == reason,
        "expected {reason}: {answer:?}"
    );
    Ok(())
}

/// Runs the test, then makes sure that no marked message got through and that the door still opens.
fn with_locked(options: &[&str], test: impl FnOnce(&Locked<'_>) -> Result) -> Result {
    let home = Home::new()?;
    let locked = Locked::run_with(&home, "demo", options)?;
    test(&locked)?;
    locked.check_open()?;
    assert!(!locked.recorded()?.contains(MARK), "a refused message reached the server");
    locked.supervisor.stop()?;
    home.close()
}

type Change = fn(&Locked<'_>) -> Request;

const FOREIGN: &[(&str, &str, Change)] = &[
    ("no Host", "host_missing", |l| less(l, "Host")),
    ("an empty Host", "host_foreign", |l| less(l, "Host").header("Host", "")),
    ("another name", "host_foreign", |l| {
        less(l, "Host").header("Host", format!("evil.example:{}", l.port()))
    }),
    ("no port", "host_foreign", |l| less(l, "Host").header("Host", "127.0.0.1")),
    ("another port", "host_foreign", |l| less(l, "Host").header("Host", "127.0.0.1:1")),
    ("all addresses", "host_foreign", |l| less(l, "Host").header("Host", format!("0.0.0.0:{}", l.port()))),
    ("a short address", "host_foreign", |l| less(l, "Host").header("Host", format!("127.1:{}", l.port()))),
    ("another loopback", "host_foreign", |l| {
        less(l, "Host").header("Host", format!("127.0.0.2:{}", l.port()))
    }),
    ("a name that begins well", "host_foreign", |l| {
        less(l, "Host").header("Host", format!("127.0.0.1.evil.example:{}", l.port()))
    }),
    ("a trailing dot", "host_foreign", |l| {
        less(l, "Host").header("Host", format!("localhost.:{}", l.port()))
    }),
    ("a user before it", "host_foreign", |l| {
        less(l, "Host").header("Host", format!("evil@127.0.0.1:{}", l.port()))
    }),
    ("two in one field", "host_foreign", |l| {
        less(l, "Host").header("Host", format!("127.0.0.1:{0}, 127.0.0.1:{0}", l.port()))
    }),
    ("the same twice", "host_repeated", |l| less(l, "").header("Host", format!("127.0.0.1:{}", l.port()))),
    ("a foreign second", "host_repeated", |l| less(l, "").header("host", "evil.example")),
    ("a foreign first", "host_repeated", |l| {
        less(l, "Host").header("Host", "evil.example").header("Host", format!("127.0.0.1:{}", l.port()))
    }),
    ("Origin null", "origin_foreign", |l| less(l, "").header("Origin", "null")),
    ("an empty Origin", "origin_foreign", |l| less(l, "").header("Origin", "")),
    ("a foreign Origin", "origin_foreign", |l| less(l, "").header("Origin", "http://evil.example")),
    ("another port of ours", "origin_foreign", |l| less(l, "").header("Origin", "http://127.0.0.1:1")),
    ("another scheme of ours", "origin_foreign", |l| {
        less(l, "").header("Origin", format!("https://127.0.0.1:{}", l.port()))
    }),
    ("an Origin with a path", "origin_foreign", |l| {
        less(l, "").header("Origin", format!("http://127.0.0.1:{}/", l.port()))
    }),
    ("our Origin twice", "origin_repeated", |l| {
        let own = format!("http://127.0.0.1:{}", l.port());
        less(l, "").header("Origin", own.clone()).header("Origin", own)
    }),
    ("a foreign Origin second", "origin_repeated", |l| {
        less(l, "")
            .header("Origin", format!("http://127.0.0.1:{}", l.port()))
            .header("origin", "http://evil.example")
    }),
    ("from another site", "cross_site", |l| less(l, "").header("Sec-Fetch-Site", "cross-site")),
    ("from a neighbour", "cross_site", |l| less(l, "").header("Sec-Fetch-Site", "same-site")),
    ("from an unknown place", "cross_site", |l| less(l, "").header("Sec-Fetch-Site", "moon")),
    ("from two places", "cross_site", |l| {
        less(l, "").header("Sec-Fetch-Site", "same-origin").header("Sec-Fetch-Site", "cross-site")
    }),
    ("from our Origin but another site", "cross_site", |l| {
        less(l, "")
            .header("Origin", format!("http://127.0.0.1:{}", l.port()))
            .header("Sec-Fetch-Site", "cross-site")
    }),
    ("a target elsewhere", "target_mismatch", |l| absolute(l, "http://evil.example/mcp")),
    ("a target under another name of ours", "target_mismatch", |l| {
        absolute(l, &format!("http://localhost:{}/mcp", l.port()))
    }),
    ("a target without the port", "target_mismatch", |l| absolute(l, "http://127.0.0.1/mcp")),
    ("a target of another scheme", "target_mismatch", |l| {
        absolute(l, &format!("https://127.0.0.1:{}/mcp", l.port()))
    }),
    ("a target with a user", "target_mismatch", |l| {
        absolute(l, &format!("http://me@127.0.0.1:{}/mcp", l.port()))
    }),
];

fn absolute(locked: &Locked<'_>, target: &str) -> Request {
    locked.request_at(target, &marked()).key(&locked.key)
}

#[test]
fn what_was_not_meant_for_this_listener_is_refused_whatever_key_it_has() -> Result {
    with_locked(&[], |locked| {
        for (case, reason, request) in FOREIGN {
            for request in [request(locked), request(locked).without("X-ToolHive-Auth")] {
                let answer = request.send().map_err(|failure| failure.during(case))?;
                check_foreign(&answer, reason).map_err(|failure| failure.during(case))?;
            }
        }
        // Not even whether there are local endpoints.
        for target in ["/health", "/register", PROOF_PATH, "/.well-known/oauth-authorization-server"] {
            let request = Request::new("GET", target, locked.port()).header("Origin", "http://evil.example");
            check_foreign(&request.send()?, "origin_foreign").map_err(|failure| failure.during(target))?;
        }
        Ok(())
    })
}

#[test]
fn what_was_meant_for_this_listener_passes() -> Result {
    with_locked(&[], |locked| {
        let port = locked.port();
        let open = |field: &str| locked.request(&ping(7)).key(&locked.key).without(field);
        let host = |host: &str| open("Host").header("Host", format!("{host}:{port}"));
        let origin = |host: &str| open("").header("Origin", format!("http://{host}:{port}"));
        let target = |target: &str| locked.request_at(target, &ping(7)).key(&locked.key);
        let cases = [
            host("localhost"),
            host("LocalHost"),
            host("[::1]"),
            origin("127.0.0.1"),
            origin("localhost"),
            origin("[::1]"),
            open("").header("Sec-Fetch-Site", "none"),
            open("").header("Sec-Fetch-Site", "same-origin"),
            target(&format!("http://127.0.0.1:{port}/mcp")),
            target(&format!("HTTP://localhost:{port}/mcp"))
                .without("Host")
                .header("Host", format!("LOCALHOST:{port}")),
            target("/mcp?session=1"),
        ];
        for request in cases {
            let checked = request.send().and_then(|answer| check_pong(&answer, 7));
            checked.map_err(|failure| failure.during(format!("{request:?}")))?;
        }
        Ok(())
    })
}

#[test]
fn connect_options_and_unknown_methods_reach_nothing() -> Result {
    with_locked(&[], |locked| {
        let port = locked.port();
        for target in ["evil.example:443".to_owned(), format!("127.0.0.1:{port}")] {
            for key in [None, Some(&locked.key)] {
                let request = Request::new("CONNECT", &target, port);
                let request = key.map_or(request.clone(), |key| request.key(key));
                check_error(&request.send()?, 405, -32600)?;
            }
        }
        for method in ["OPTIONS", "PUT", "PATCH", "TRACE", "PROPFIND", "GET", "DELETE"] {
            let bare = Request::new(method, "/mcp", port);
            check_unauthorized(&bare.send()?, "demo").map_err(|failure| failure.during(method))?;
            let other = Request::new(method, "/nowhere", port);
            check_unauthorized(&other.send()?, "demo").map_err(|failure| failure.during(method))?;
        }
        check_unauthorized(&Request::new("OPTIONS", "*", port).send()?, "demo")?;
        // A preflight, as a browser sends it for a page of this very listener.
        let preflight = Request::new("OPTIONS", "/mcp", port)
            .header("Origin", format!("http://127.0.0.1:{port}"))
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "x-toolhive-auth");
        check_unauthorized(&preflight.send()?, "demo")?;
        // A HEAD has no body, so that the rest of the contract's 401 must do.
        let mut http = Http::open(port)?;
        http.send(&Request::new("HEAD", "/mcp", port).bytes());
        let head = String::from_utf8_lossy(&http.read_through("\r\n\r\n")?).to_ascii_lowercase();
        assert!(
            head.starts_with("http/1.1 401 ") && head.contains("toolhive-sharedkey realm=\"demo\""),
            "{head}"
        );
        for method in ["OPTIONS", "PUT", "PATCH", "TRACE", "PROPFIND"] {
            assert_eq!(Request::new(method, "/mcp", port).key(&locked.key).send()?.status, 405, "{method}");
        }
        Ok(())
    })
}

#[test]
fn no_upgrade_is_ever_taken() -> Result {
    with_locked(&[], |locked| {
        let upgrades: [(&str, &[(&str, &str)]); 3] = [
            (
                "h2c",
                &[
                    ("Connection", "Upgrade, HTTP2-Settings"),
                    ("Upgrade", "h2c"),
                    ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
                ],
            ),
            (
                "websocket",
                &[
                    ("Connection", "Upgrade"),
                    ("Upgrade", "websocket"),
                    ("Sec-WebSocket-Version", "13"),
                    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ],
            ),
            ("TLS", &[("Connection", "upgrade"), ("Upgrade", "TLS/1.2, HTTP/1.1")]),
        ];
        for (case, fields) in upgrades {
            let with = |request: Request| {
                fields.iter().fold(request, |request, (name, value)| request.header(name, *value))
            };
            let bare = with(locked.request(&marked())).send()?;
            check_unauthorized(&bare, "demo").map_err(|failure| failure.during(case))?;
            // Ignored, as RFC 9110 (section 7.8) allows: the request is answered in HTTP/1.1.
            let mut http = Http::open(locked.port())?;
            http.send(&with(locked.request(&ping(7)).key(&locked.key)).bytes());
            let head = http.read_through("\r\n")?;
            assert!(head.starts_with(b"HTTP/1.1 200 "), "{case}: {:?}", String::from_utf8_lossy(&head));
        }
        Ok(())
    })
}

#[test]
fn a_path_is_what_it_is_byte_for_byte() -> Result {
    with_locked(&[], |locked| {
        let targets = [
            "//mcp",
            "/mcp/",
            "/MCP",
            "/%6dcp",
            "/mc%70",
            "/%6d%63%70",
            "/mcp%2f",
            "/mcp;x=1",
            "/./mcp",
            "/%2e/mcp",
            "/health/../mcp",
            "/mcp/../health",
            "/mcp/%2e%2e/health",
            "/%68ealth",
            "//health",
            "/health/",
            "/.well-known/toolhive/../toolhive/proof",
            "/.well-known/toolhive/%70roof",
            "//.well-known/toolhive/proof",
            "/.well-known//oauth-authorization-server",
            "/.well-known/Oauth-x",
            "/%72egister",
            "/register/",
            "/",
            "/sse",
            "/.well-known/other",
            "/.well-known/toolhive/other",
        ];
        for target in targets {
            for method in ["GET", "POST"] {
                let request = Request::new(method, target, locked.port());
                check_unauthorized(&request.send()?, "demo").map_err(|failure| failure.during(target))?;
            }
            let answer = locked.request_at(target, &marked()).key(&locked.key).send()?;
            assert_eq!(answer.status, 404, "{target}: {answer:?}");
        }
        Ok(())
    })
}

#[test]
fn the_local_endpoints_need_no_key_and_disclose_nothing() -> Result {
    with_locked(&[], |locked| {
        let ask = |method: &str, target: &str| Request::new(method, target, locked.port());
        let health = ask("GET", "/health").send()?;
        assert_eq!((health.status, health.body.len()), (204, 0));
        for target in [
            "/.well-known/oauth-protected-resource",
            "/.well-known/oauth-protected-resource/mcp",
            "/.well-known/oauth-authorization-server",
            "/.well-known/openid-configuration",
        ] {
            assert_eq!(ask("GET", target).send()?.status, 404, "{target}");
        }
        let client =
            json!({ "client_name": "x", "redirect_uris": ["http://localhost:1/callback"] }).to_string();
        let register =
            ask("POST", "/register").header("Content-Type", "application/json").body(client).send()?;
        assert_eq!(register.status, 400);
        let answer = register.json()?;
        assert_eq!(answer["error"], "invalid_client_metadata");
        let description = answer["error_description"].as_str().unwrap_or_default();
        assert!(description.contains("thv proxy stdio demo"), "{register:?}");
        for (method, target) in [("POST", "/health"), ("GET", "/register"), ("POST", PROOF_PATH)] {
            check_unauthorized(&ask(method, target).send()?, "demo")
                .map_err(|failure| failure.during(target))?;
        }
        Ok(())
    })
}

#[test]
fn the_proof_is_given_to_one_well_formed_question_and_bound_to_its_connection() -> Result {
    with_locked(&[], |locked| {
        let id = key_id(&locked.key)?;
        let challenge = STANDARD.encode([0xfb; 32]);
        let question = |fields: &[(&str, &str)]| {
            let request = Request::new("GET", PROOF_PATH, locked.port());
            fields.iter().fold(request, |request, (name, value)| request.header(name, *value))
        };
        let (c, k) = ("X-ToolHive-Challenge", "X-ToolHive-Key-Id");
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, locked.port()));

        // Two questions on one connection and one on another: three answers, each for its own 4-tuple.
        let mut proofs = Vec::new();
        let (mut one, mut two) = (Http::open(locked.port())?, Http::open(locked.port())?);
        for at in [0, 0, 1] {
            let http = if at == 0 { &mut one } else { &mut two };
            http.send(&question(&[(c, &challenge), (k, &id)]).bytes());
            let answer = http.response()?;
            assert_eq!((answer.status, answer.body.len()), (204, 0), "{answer:?}");
            let expected = proof(&locked.key, "demo", http.local_addr()?, server, &challenge)?;
            assert_eq!(answer.header("x-toolhive-proof"), Some(expected.as_str()));
            proofs.push(expected);
        }
        assert!(proofs[0] == proofs[1] && proofs[1] != proofs[2]);

        let url_safe = URL_SAFE.encode([0xfb; 32]);
        let short = STANDARD.encode([0xfb; 31]);
        let long = STANDARD.encode([0xfb; 33]);
        let upper = id.to_ascii_uppercase();
        let malformed: [(&str, &[(&str, &str)]); 13] = [
            ("nothing", &[]),
            ("no challenge", &[(k, &id)]),
            ("no key id", &[(c, &challenge)]),
            ("two challenges", &[(c, &challenge), (c, &challenge), (k, &id)]),
            ("two key ids", &[(c, &challenge), (k, &id), (k, &id)]),
            ("an unpadded challenge", &[(c, challenge.trim_end_matches('=')), (k, &id)]),
            ("a URL-safe challenge", &[(c, &url_safe), (k, &id)]),
            ("a short challenge", &[(c, &short), (k, &id)]),
            ("a long challenge", &[(c, &long), (k, &id)]),
            ("an empty challenge", &[(c, ""), (k, &id)]),
            ("a key id in capitals", &[(c, &challenge), (k, &format!("{upper}A")[..16])]),
            ("a short key id", &[(c, &challenge), (k, &id[..15])]),
            ("the key in place of its id", &[(c, &challenge), (k, &locked.key)]),
        ];
        for (case, fields) in malformed {
            let answer = question(fields).send()?;
            // An id of digits alone has no capitals; then it is the known one.
            if case == "a key id in capitals" && upper == id {
                continue;
            }
            assert_eq!((answer.status, answer.header("x-toolhive-proof")), (400, None), "{case}: {answer:?}");
        }
        let unknown = question(&[(c, &challenge), (k, "0123456789abcdef")]).send()?;
        assert_eq!((unknown.status, unknown.header("x-toolhive-proof")), (404, None), "{unknown:?}");
        // Whoever holds the key is not answered here by another method either, let alone forwarded.
        let post = locked.request_at(PROOF_PATH, &marked()).key(&locked.key).send()?;
        assert!(matches!(post.status, 404 | 405), "{post:?}");
        Ok(())
    })
}

#[test]
fn sessions_are_known_or_not_after_the_key_alone() -> Result {
    with_locked(&[], |locked| {
        let bare =
            |method: &str| Request::new(method, "/mcp", locked.port()).header("Accept", "text/event-stream");
        let sessions = ["00000000-0000-4000-8000-000000000000", "x", ""];
        for method in ["POST", "GET", "DELETE"] {
            for session in sessions {
                let request = bare(method).header("Mcp-Session-Id", session);
                check_unauthorized(&request.send()?, "demo")?;
            }
        }
        let unknown = |request: Request| -> Result {
            let answer = request.key(&locked.key).send()?;
            check_error(&answer, 404, -32600).map(drop)
        };
        let session = sessions[0];
        unknown(bare("GET").header("Mcp-Session-Id", session))?;
        unknown(bare("DELETE").header("Mcp-Session-Id", session))?;
        unknown(locked.request(&marked()).without("Mcp-Session-Id").header("Mcp-Session-Id", session))?;
        // A session that has ended is as unknown as one that never was.
        let ended = locked.open_session()?;
        let end = bare("DELETE").header("Mcp-Session-Id", &ended).key(&locked.key).send()?;
        assert!((200..300).contains(&end.status), "{end:?}");
        unknown(bare("GET").header("Mcp-Session-Id", &ended))?;
        unknown(locked.request(&marked()).without("Mcp-Session-Id").header("Mcp-Session-Id", &ended))?;
        // None at all, and two of them, are another fault.
        for method in ["GET", "DELETE"] {
            check_error(&bare(method).key(&locked.key).send()?, 400, -32600)?;
        }
        let none = locked.request(&marked()).without("Mcp-Session-Id").key(&locked.key);
        assert_eq!(none.send()?.status, 400);
        let two = locked.request(&marked()).header("Mcp-Session-Id", session).key(&locked.key);
        assert_eq!(two.send()?.status, 400);
        Ok(())
    })
}

#[test]
fn a_listed_origin_gets_cors_and_still_needs_the_key() -> Result {
    let app = "http://app.example";
    with_locked(&["--allowed-origins", app], |locked| {
        let preflight = |origin: &str| {
            Request::new("OPTIONS", "/mcp", locked.port())
                .header("Origin", origin)
                .header("Sec-Fetch-Site", "cross-site")
                .header("Access-Control-Request-Method", "POST")
                .header("Access-Control-Request-Headers", "content-type, x-toolhive-auth")
                .send()
        };
        let check_marked = |answer: &Response| -> Result {
            ensure!(answer.header("access-control-allow-origin") == Some(app), "{answer:?}");
            let vary = answer.header_values("vary").join(",").to_ascii_lowercase();
            ensure!(vary.split(',').any(|field| field.trim() == "origin"), "{answer:?}");
            ensure!(answer.header("access-control-allow-credentials").is_none(), "{answer:?}");
            Ok(())
        };
        let granted = preflight(app)?;
        assert!(matches!(granted.status, 200 | 204), "{granted:?}");
        check_marked(&granted)?;
        let allowed = granted.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
        for field in ["content-type", "x-toolhive-auth", "mcp-session-id", "mcp-protocol-version"] {
            assert!(allowed.split(',').any(|name| name.trim() == field), "{field} is not in {allowed}");
        }
        assert!(
            granted.header("access-control-allow-methods").is_some_and(|methods| methods.contains("POST"))
        );

        for origin in
            ["http://other.example", "null", "http://app.example.evil.example", "https://app.example"]
        {
            check_foreign(&preflight(origin)?, "origin_foreign").map_err(|failure| failure.during(origin))?;
        }
        let from_app =
            |request: Request| request.header("Origin", app).header("Sec-Fetch-Site", "cross-site");
        let answer = from_app(locked.request(&ping(7)).key(&locked.key)).send()?;
        check_pong(&answer, 7)?;
        check_marked(&answer)?;
        // A page sees its own refusal, and no key of ours gets into it.
        let refused = from_app(locked.request(&marked())).send()?;
        assert_eq!(refused.status, 401, "{refused:?}");
        check_marked(&refused)?;
        let twice = locked.request(&marked()).key(&locked.key).header("Origin", app).header("Origin", app);
        check_foreign(&twice.send()?, "origin_repeated")?;
        // Who has no Origin is no page: nothing is said of CORS but that answers differ.
        let plain = locked.request(&ping(7)).key(&locked.key).send()?;
        check_pong(&plain, 7)?;
        check_no_cors(&plain)
    })
}

#[test]
fn without_listed_origins_nothing_is_said_of_cors() -> Result {
    with_locked(&[], |locked| {
        let own = format!("http://localhost:{}", locked.port());
        let answer = locked.request(&ping(7)).key(&locked.key).header("Origin", own).send()?;
        check_pong(&answer, 7)?;
        check_no_cors(&answer)?;
        let session = Request::mcp(locked.port(), &initialize(1)).key(&locked.key).send()?;
        check_no_cors(&session)
    })
}
