//! What becomes of the heads, either way.

use http::{HeaderValue, Method, Request};
use thv_proxy::body::ResponseBody;
use thv_proxy::forward::{Options, OptionsError, Paths, TcpConnect, secret_value};
use tokio::io::AsyncReadExt;

use crate::harness::{Played, get, post, soon, text};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The upstream's view of a request that was sent as these lines: request line and fields, sorted.
async fn seen(played: &Played, lines: &str) -> Vec<String> {
    let _client = played.front.raw(&format!("{}\r\n\r\n", lines.replace('\n', "\r\n"))).await;
    let mut peer = played.accept().await;
    let head = peer.until("\r\n\r\n").await;
    let mut lines: Vec<String> = head.trim_end().split("\r\n").map(str::to_owned).collect();
    lines[1..].sort();
    lines
}

#[tokio::test]
async fn fields_of_requests() {
    let played = Played::new(Options::default()).await;
    let host = format!("host: {}", played.authority());
    for (sent, expect) in [
        ("GET /mcp?a=%20b HTTP/1.1\nHost: front", vec!["GET /mcp?a=%20b HTTP/1.1", &host]),
        ("GET http://front/mcp HTTP/1.1\nHost: front", vec!["GET /mcp HTTP/1.1", &host]),
        ("OPTIONS * HTTP/1.1\nHost: front", vec!["OPTIONS * HTTP/1.1", &host]),
        (
            "DELETE / HTTP/1.1\nHost: front\nMcp-Param-Zz: b\nMcp-Param-Zz: a\nX-Odd: \u{e4} \"x\"",
            vec!["DELETE / HTTP/1.1", &host, "mcp-param-zz: a", "mcp-param-zz: b", "x-odd: \u{e4} \"x\""],
        ),
        (
            "GET / HTTP/1.1\nHost: front\nX-ToolHive-Auth: key\nAuthorization: Bearer t\nCookie: c",
            vec!["GET / HTTP/1.1", "authorization: Bearer t", "cookie: c", &host],
        ),
        (
            "GET / HTTP/1.1\nHost: front\nOrigin: http://x\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: cors\nReferer: http://x/",
            vec!["GET / HTTP/1.1", &host, "referer: http://x/"],
        ),
        (
            "GET / HTTP/1.1\nHost: front\nConnection: Upgrade, X-Mine\nUpgrade: h2c\nHTTP2-Settings: x\nX-Mine: 1\nKeep-Alive: timeout=1\nProxy-Authorization: p\nProxy-Connection: keep-alive",
            vec!["GET / HTTP/1.1", &host],
        ),
        (
            "GET / HTTP/1.1\nHost: front\nTE: trailers, deflate\nConnection: TE, close",
            vec!["GET / HTTP/1.1", "connection: te", &host, "te: trailers"],
        ),
        (
            "POST / HTTP/1.1\nHost: front\nContent-Length: 3\nExpect: 100-continue",
            vec!["POST / HTTP/1.1", "content-length: 3", &host],
        ),
        (
            "POST / HTTP/1.1\nHost: front\nTransfer-Encoding: chunked",
            vec!["POST / HTTP/1.1", &host, "transfer-encoding: chunked"],
        ),
        (
            "GET / HTTP/1.1\nHost: front\nTransfer-Encoding: chunked",
            vec!["GET / HTTP/1.1", &host, "transfer-encoding: chunked"],
        ),
        ("POST / HTTP/1.0\nContent-Length: 0", vec!["POST / HTTP/1.1", "content-length: 0", &host]),
    ] {
        assert_eq!(seen(&played, sent).await, expect, "{sent}");
    }
}

#[tokio::test]
async fn repeated_fields_keep_their_order() {
    let played = Played::new(Options::default()).await;
    let (response, head) = tokio::join!(
        played.front.send({
            let mut request = get("/");
            for value in ["3", "1", "2"] {
                request.headers_mut().append("x-list", HeaderValue::from_static(value));
            }
            request
        }),
        async {
            let mut peer = played.accept().await;
            let head = peer.head().await;
            peer.say("HTTP/1.1 200 OK\r\nX-L: b\r\nX-L: a\r\nX-L: c\r\nSet-Cookie: 2\r\nSet-Cookie: 1\r\ncontent-length: 0\r\n\r\n").await;
            head
        }
    );
    assert!(head.contains("x-list: 3\r\nx-list: 1\r\nx-list: 2\r\n"), "{head}");
    let all = |name: &str| -> Vec<_> {
        response.headers().get_all(name).iter().map(|v| v.to_str().unwrap()).collect()
    };
    assert_eq!((all("x-l"), all("set-cookie")), (vec!["b", "a", "c"], vec!["2", "1"]));
}

#[tokio::test]
async fn what_the_operator_adds() {
    let mut options = Options::default();
    options.headers.insert("authorization", HeaderValue::from_static("Bearer secret"));
    let with_key = |connect: TcpConnect| connect.with_key(secret_value("upstream-key").unwrap());
    let played = Played::with(options, "/?token=1", with_key).await;
    let sent = "GET /mcp?x=2 HTTP/1.1\nHost: front\nAuthorization: mine\nX-ToolHive-Auth: front-key";
    let host = format!("host: {}", played.authority());
    let expect = [
        "GET /mcp?token=1&x=2 HTTP/1.1",
        "authorization: Bearer secret",
        &host,
        "x-toolhive-auth: upstream-key",
    ];
    assert_eq!(seen(&played, sent).await, expect);
    assert!(!format!("{:?}", played.forward).contains("token"));
}

#[test]
fn fields_that_cannot_be_added() {
    for name in ["host", "x-toolhive-auth", "connection", "upgrade", "content-length", "te"] {
        let mut options = Options::default();
        options.headers.insert(name, HeaderValue::from_static("x"));
        let upstream = thv_proxy::forward::Upstream::parse("http://h/").unwrap();
        let made = thv_proxy::forward::Forward::new(TcpConnect::to_host("h", 1), upstream, options);
        assert_eq!(made.err(), Some(OptionsError::Header(name.parse().unwrap())));
    }
}

#[tokio::test]
async fn fields_of_responses() {
    let played = Played::new(Options::default()).await;
    let answer = "HTTP/1.1 203 Quite Fine\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Private-Network: true\r\n\
        Vary: Origin\r\nConnection: X-Hop, close\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nUpgrade: h2c\r\n\
        X-ToolHive-Auth: upstream-key\r\nMcp-Session-Id: s\r\nProxy-Authenticate: Basic\r\nContent-Encoding: br\r\n\
        Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok";
    let mut client = played.front.raw("GET / HTTP/1.1\r\nHost: front\r\nConnection: close\r\n\r\n").await;
    let mut peer = played.accept().await;
    peer.head().await;
    peer.say(answer).await;
    let mut seen = String::new();
    soon(client.read_to_string(&mut seen)).await.unwrap();
    let mut lines: Vec<&str> = seen.split("\r\n").collect();
    lines[1..].sort_unstable();
    let expect = [
        "HTTP/1.1 203 Quite Fine",
        "",
        "connection: close",
        "content-encoding: br",
        "content-length: 2",
        "date: Thu, 01 Jan 1970 00:00:00 GMT",
        "mcp-session-id: s",
        "ok",
        "vary: Origin",
    ];
    assert_eq!(lines, expect);
}

#[tokio::test]
async fn statuses_and_bodies_are_unchanged() {
    let played = Played::new(Options::default()).await;
    for status in [200, 202, 204, 300, 304, 400, 401, 403, 404, 405, 409, 421, 429, 500, 503, 599, 999] {
        let body = if matches!(status, 204 | 304) { "" } else { "body" };
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let answer = format!(
            "HTTP/1.1 {status} Any\r\nwww-authenticate: Bearer\r\nretry-after: 1\r\n{length}\r\n{body}"
        );
        let response = played.exchange(post("/", "x"), &answer).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(text(response).await, body);
    }
}

#[tokio::test]
async fn a_head_request_keeps_the_length() {
    let played = Played::new(Options::default()).await;
    let mut request = get("/");
    *request.method_mut() = Method::HEAD;
    let response = played.exchange(request, "HTTP/1.1 200 OK\r\ncontent-length: 5242880\r\n\r\n").await;
    assert_eq!(response.headers()["content-length"], "5242880");
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn locations() {
    let played = Played::new(Options::default()).await;
    let up = played.authority();
    for (status, location, expect) in [
        (307, "/mcp/".to_owned(), Some("/mcp/")),
        (308, "mcp/".to_owned(), Some("mcp/")),
        (302, format!("http://{up}/mcp/?a=b"), Some("/mcp/?a=b")),
        (303, format!("//{up}/x"), Some("/x")),
        (301, format!("HTTP://{up}"), Some("/")),
        // A loop is the client's to notice: nothing is followed.
        (302, "/mcp".to_owned(), Some("/mcp")),
        (302, "http://evil.test/mcp".to_owned(), None),
        (302, format!("https://{up}/mcp"), None),
        (307, "//evil.test/mcp".to_owned(), None),
        (307, "/\\evil.test".to_owned(), None),
        (308, format!("http://{up}@evil.test/"), None),
        (302, format!("http://{up}//evil.test/"), None),
        (302, "/a\r\nlocation: /b".to_owned(), None),
        (201, format!("http://{up}/x"), Some("/x")),
        (201, "http://evil.test/x".to_owned(), Some("http://evil.test/x")),
    ] {
        let answer = format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let response = played.exchange(get("/mcp"), &answer).await;
        match expect {
            Some(expect) => {
                assert_eq!(response.status(), status, "{location}");
                assert_eq!(response.headers()["location"], expect, "{location}");
            }
            None => {
                assert_eq!(response.status(), 502, "{location}");
                assert!(!response.headers().contains_key("location"));
                let body = text(response).await;
                assert!(
                    body.contains("-33005") && body.contains(&format!("\"httpStatus\":{status}")),
                    "{body}"
                );
                assert!(!body.contains("evil"), "{body}");
            }
        }
    }
}

#[tokio::test]
async fn our_own_challenge_is_not_passed_on() {
    let played = Played::new(Options::default()).await;
    for challenge in ["ToolHive-SharedKey realm=\"x\"", "Bearer, toolhive-sharedkey realm=\"x\""] {
        let answer = format!("HTTP/1.1 401 No\r\nwww-authenticate: {challenge}\r\ncontent-length: 0\r\n\r\n");
        let response = played.exchange(post("/", "x"), &answer).await;
        assert_eq!(response.status(), 502);
        assert!(!response.headers().contains_key("www-authenticate"));
        assert!(text(response).await.contains("\"httpStatus\":401"));
    }
    let answer = "HTTP/1.1 401 No\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n";
    let response = played.exchange(post("/", "x"), answer).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["www-authenticate"].to_str().unwrap()),
        (401, "Bearer")
    );
}

#[tokio::test]
async fn methods_that_are_not_forwarded() {
    let played = Played::new(Options::default()).await;
    for method in [Method::CONNECT, Method::TRACE] {
        let target = if method == Method::CONNECT { "up.test:80" } else { "/" };
        let request = Request::builder().method(method).uri(target).header("host", "front");
        let response = played.front.send(request.body(ResponseBody::default()).unwrap()).await;
        assert_eq!(response.status(), 405);
        assert!(response.headers().contains_key("allow"));
    }
    assert_eq!(played.reported().await.len(), 2);
    // Nobody was dialled.
    let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), played.upstream.accept()).await;
    assert!(waiting.is_err());
}

#[tokio::test]
async fn an_endpoint_elsewhere() {
    let paths = Paths::map("/mcp", "/api/v1/mcp/").unwrap();
    let played =
        Played::with(Options { paths, ..Options::default() }, "/api/v1/mcp/", |connect| connect).await;
    for (ours, theirs) in [("/mcp", "/api/v1/mcp/"), ("/mcp/x?y", "/api/v1/mcp/x?y")] {
        let seen = seen(&played, &format!("GET {ours} HTTP/1.1\nHost: front")).await;
        assert_eq!(seen[0], format!("GET {theirs} HTTP/1.1"));
    }
    for path in ["/", "/mcpx", "/api/v1/mcp/", "/mcp/../admin", "/mcp/%2e%2e/admin"] {
        let (status, error) = played.front.error(get(path)).await;
        assert_eq!((status.as_u16(), error["code"].as_i64()), (404, Some(-32600)), "{path}");
    }
    for (location, expect) in [("/api/v1/mcp/x", Some("/mcp/x")), ("x", Some("/mcp/x")), ("/admin", None)] {
        let answer = format!("HTTP/1.1 307 X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let response = played.exchange(get("/mcp"), &answer).await;
        assert_eq!(
            response.headers().get("location").map(|value| value.to_str().unwrap()),
            expect,
            "{location}"
        );
    }
}

#[tokio::test]
async fn an_interim_response_is_not_the_answer() {
    let played = Played::new(Options::default()).await;
    let answer = format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{OK}");
    let response = played.exchange(post("/", "x"), &answer).await;
    assert_eq!((response.status().as_u16(), text(response).await.as_str()), (200, "ok"));
}

#[tokio::test]
async fn a_client_that_expects_a_continue_gets_it_from_us() {
    let played = Played::new(Options { max_message_bytes: 10, ..Options::default() }).await;
    let head = "POST / HTTP/1.1\r\nHost: front\r\nExpect: 100-continue\r\nContent-Length: ";
    let mut client = played.front.raw(&format!("{head}4\r\n\r\n")).await;
    let mut peer = played.accept().await;
    peer.head().await;
    let mut interim = [0; 25];
    soon(client.read_exact(&mut interim)).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut client, b"body").await.unwrap();
    assert_eq!(peer.until("body").await, "body");

    // One that is refused is not asked for its body.
    let mut client = played.front.raw(&format!("{head}11\r\n\r\n")).await;
    let mut status = [0; 12];
    soon(client.read_exact(&mut status)).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
}
