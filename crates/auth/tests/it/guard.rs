//! Host, origin, target, framing, method: what was not meant for this server.

use http::{Method, StatusCode};
use thv_auth::{ConnInfo, GuardLayer, Guards, Refusal};

use crate::{HOST, Seen, guards, request, send, text};

/// Checks a `POST /mcp` with these headers against a guard on [`HOST`] that also admits host `box`, host
/// `relay:80` and the origin `https://app.example`.
async fn check(headers: &[(&str, &str)], expected: Option<Refusal>) {
    check_target("/mcp", headers, expected).await;
}

async fn check_target(target: &str, headers: &[(&str, &str)], expected: Option<Refusal>) {
    let guards =
        guards().allow_hosts(["box", "Relay:80"]).unwrap().allow_origins(["https://app.example"]).unwrap();
    let request = request(Method::POST, target, headers);
    let (status, refusal, response) = send(&GuardLayer::new(guards), request).await;
    assert_eq!(refusal, expected, "{target} {headers:?}");
    let Some(refusal) = refusal else {
        assert_eq!(status, StatusCode::OK);
        return;
    };
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = text(response).await;
    assert!(body.starts_with(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":""#), "{body}");
    assert!(body.ends_with(&format!(r#""data":{{"reason":"{refusal}"}}}}}}"#)), "{body}");
    assert_eq!(status, if refusal == Refusal::Framing { 400 } else { 403 });
}

#[tokio::test]
async fn host_names_this_listener_with_its_port() {
    for host in [
        "127.0.0.1:41873",
        "localhost:41873",
        "LocalHost:41873",
        "[::1]:41873",
        "box:41873",
        "BOX:41873",
        "relay:80",
        "relay",
    ] {
        check(&[("host", host)], None).await;
    }
    for host in [
        "",
        "127.0.0.1",
        "localhost",
        "127.0.0.1:41874",
        "127.0.0.1:80",
        "evil.example",
        "evil.example:41873",
        "localhost.:41873",
        "localhost.evil.example:41873",
        "127.0.0.1.evil.example:41873",
        "0.0.0.0:41873",
        "127.1:41873",
        "0x7f000001:41873",
        "::1:41873",
        "[::]:41873",
        "[::ffff:127.0.0.1]:41873",
        "box",
        "box:80",
        "relay:41873",
        "127.0.0.1:+41873",
        "127.0.0.1:041873",
        "127.0.0.1:41873 ",
        "127.0.0.1:41873,evil.example",
        "me@127.0.0.1:41873",
        "127.0.0.1:41873/",
        "http://127.0.0.1:41873",
        "lócalhost:41873",
    ] {
        check(&[("host", host)], Some(Refusal::HostForeign)).await;
    }
}

#[tokio::test]
async fn host_appears_exactly_once() {
    check(&[("host", HOST), ("host", HOST)], Some(Refusal::HostRepeated)).await;
    check(&[("host", HOST), ("host", "evil.example")], Some(Refusal::HostRepeated)).await;

    let mut bare = request(Method::POST, "/mcp", &[]);
    bare.headers_mut().clear();
    let (status, refusal, _) = send(&GuardLayer::new(guards()), bare).await;
    assert_eq!((status, refusal), (StatusCode::FORBIDDEN, Some(Refusal::HostMissing)));
}

#[tokio::test]
async fn port_80_may_be_left_out() {
    let guards = Guards::new("127.0.0.1:80".parse().unwrap()).unwrap();
    let layer = GuardLayer::new(guards);
    for (host, expected) in [
        ("localhost", None),
        ("localhost:80", None),
        ("[::1]", None),
        ("localhost:8080", Some(Refusal::HostForeign)),
    ] {
        let headers = [("host", host), ("origin", &format!("http://{host}"))];
        let (_, refusal, _) = send(&layer, request(Method::POST, "/mcp", &headers)).await;
        assert_eq!(refusal, expected, "{host}");
    }
}

#[tokio::test]
async fn the_bound_address_is_a_host_and_a_wildcard_is_not() {
    let cases = [
        // (bound, reached, Host, admitted)
        ("192.168.1.5:4000", None, "192.168.1.5:4000", true),
        ("192.168.1.5:4000", None, "192.168.1.6:4000", false),
        ("127.0.0.2:4000", None, "127.0.0.2:4000", true),
        ("[fd00::5]:4000", None, "[fd00::5]:4000", true),
        ("[fd00::5]:4000", None, "[FD00::5]:4000", true),
        ("0.0.0.0:4000", None, "0.0.0.0:4000", false),
        ("0.0.0.0:4000", None, "192.168.1.5:4000", false),
        ("0.0.0.0:4000", Some("192.168.1.5:4000"), "192.168.1.5:4000", true),
        ("0.0.0.0:4000", Some("192.168.1.5:4000"), "192.168.1.5:4001", false),
        ("0.0.0.0:4000", Some("192.168.1.5:4000"), "192.168.1.6:4000", false),
        ("0.0.0.0:4000", Some("127.0.0.1:4000"), "0.0.0.0:4000", false),
        ("[::]:4000", Some("[::ffff:192.168.1.5]:4000"), "192.168.1.5:4000", true),
        // A listener on one address takes no other for its own, whatever the extension says.
        ("192.168.1.5:4000", Some("10.0.0.1:4000"), "10.0.0.1:4000", false),
    ];
    for (bound, reached, host, admitted) in cases {
        let layer = GuardLayer::new(Guards::new(bound.parse().unwrap()).unwrap());
        let mut request = request(Method::POST, "/mcp", &[("host", host)]);
        request.extensions_mut().clear();
        if let Some(reached) = reached {
            let peer = "192.168.1.9:50000".parse().unwrap();
            request.extensions_mut().insert(ConnInfo { peer, local: reached.parse().unwrap() });
        }
        let (_, refusal, _) = send(&layer, request).await;
        assert_eq!(refusal.is_none(), admitted, "{bound} {reached:?} {host}");
    }
}

#[tokio::test]
async fn an_absolute_target_equals_host() {
    check_target("http://127.0.0.1:41873/mcp", &[], None).await;
    check_target("HTTP://LOCALHOST:41873/mcp", &[("host", "localhost:41873")], None).await;
    for target in [
        "http://evil.example/mcp",
        "http://localhost:41873/mcp",
        "http://127.0.0.1/mcp",
        "http://127.0.0.1:80/mcp",
        "http://me@127.0.0.1:41873/mcp",
        "https://127.0.0.1:41873/mcp",
        "ws://127.0.0.1:41873/mcp",
        "127.0.0.1:41873",
    ] {
        check_target(target, &[], Some(Refusal::TargetMismatch)).await;
    }
    // An honest target does not heal a foreign Host.
    check_target("http://127.0.0.1:41873/mcp", &[("host", "evil.example")], Some(Refusal::HostForeign)).await;
}

#[tokio::test]
async fn origin_is_own_or_listed() {
    for origin in [
        "http://127.0.0.1:41873",
        "http://localhost:41873",
        "http://[::1]:41873",
        "http://box:41873",
        "https://app.example",
    ] {
        check(&[("origin", origin)], None).await;
    }
    for origin in [
        "null",
        "",
        "*",
        "http://evil.example",
        "http://localhost",
        "http://localhost:5173",
        "https://127.0.0.1:41873",
        "127.0.0.1:41873",
        "http://127.0.0.1:41873/",
        "http://127.0.0.1:41873, http://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://sub.app.example",
    ] {
        check(&[("origin", origin)], Some(Refusal::OriginForeign)).await;
    }
    let own = ("origin", "http://127.0.0.1:41873");
    check(&[own, own], Some(Refusal::OriginRepeated)).await;
    let listed = ("origin", "https://app.example");
    check(&[listed, ("origin", "http://evil.example")], Some(Refusal::OriginRepeated)).await;
}

#[tokio::test]
async fn another_site_needs_a_listed_origin() {
    let own = ("origin", "http://127.0.0.1:41873");
    let listed = ("origin", "https://app.example");
    for site in ["none", "same-origin"] {
        check(&[("sec-fetch-site", site)], None).await;
        check(&[("sec-fetch-site", site), own], None).await;
    }
    for site in ["cross-site", "same-site", "", "None", "none, cross-site"] {
        check(&[("sec-fetch-site", site)], Some(Refusal::CrossSite)).await;
        check(&[("sec-fetch-site", site), own], Some(Refusal::CrossSite)).await;
        check(&[("sec-fetch-site", site), listed], None).await;
    }
    check(&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], Some(Refusal::CrossSite)).await;
}

#[tokio::test]
async fn length_and_encoding_exclude_each_other() {
    check(&[("content-length", "2"), ("transfer-encoding", "chunked")], Some(Refusal::Framing)).await;
    check(&[("transfer-encoding", "chunked"), ("content-length", "2")], Some(Refusal::Framing)).await;
    check(&[("transfer-encoding", "chunked")], None).await;
    check(&[("content-length", "2")], None).await;
}

#[tokio::test]
async fn connect_is_not_served() {
    for (target, headers) in
        [("127.0.0.1:41873", vec![]), ("evil.example:443", vec![("host", "evil.example:443")])]
    {
        let request = request(Method::CONNECT, target, &headers);
        let (status, refusal, response) = send(&GuardLayer::new(guards()), request).await;
        assert_eq!((status, refusal), (StatusCode::METHOD_NOT_ALLOWED, Some(Refusal::Connect)));
        assert_eq!(response.headers()["allow"], "GET, POST, DELETE");
    }
}

#[tokio::test]
async fn an_upgrade_is_never_passed_on() {
    let offer = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("x-other", "1")];
    let request = request(Method::GET, "/mcp", &offer);
    let (status, _, response) = send(&GuardLayer::new(guards()), request).await;
    assert_eq!(status, StatusCode::OK);
    let seen = &response.extensions().get::<Seen>().unwrap().headers;
    assert!(!seen.contains_key("upgrade"));
    assert_eq!(seen["connection"], "keep-alive");
    assert_eq!(seen["x-other"], "1");
}
