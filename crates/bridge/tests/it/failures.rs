//! Each row of the error table, and what is mended instead of told.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use thv_bridge::{LocateError, Options, Reason, Why};
use thv_keygen::SharedKey;
use tokio::net::TcpListener;

use crate::client::Client;
use crate::failure;
use crate::server::{Reply, Server, json_reply, status, text_reply, usual};

#[tokio::test]
async fn no_key_to_be_had_is_told_with_the_locators_own_words() {
    for (reason, code) in [
        (Reason::KeyMissing, -33001),
        (Reason::KeychainLocked, -33001),
        (Reason::KeychainUnavailable, -33001),
        (Reason::NotRunning, -33004),
    ] {
        let mut client =
            Client::with(Options::default(), move |_, _| Err(LocateError::new(reason, "do `thv this`")));
        let answer = client.call(1, "initialize", json!({})).await;
        assert_eq!(failure(&answer), (code, reason.as_str()));
        assert_eq!(answer["error"]["message"], "do `thv this`");
    }
}

#[tokio::test]
async fn a_locked_keychain_is_asked_again_by_the_next_request() {
    let server = Server::start(usual).await;
    let target = server.target();
    let unlocked = std::sync::Arc::new(AtomicUsize::new(0));
    let theirs = unlocked.clone();
    let mut client = Client::with(Options::default(), move |_, _| match theirs.load(Ordering::SeqCst) {
        0 => Err(LocateError::new(Reason::KeychainLocked, "locked")),
        _ => Ok(target.clone()),
    });
    assert_eq!(failure(&client.call(1, "work", json!({})).await), (-33001, "keychain_locked"));
    unlocked.store(1, Ordering::SeqCst);
    assert_eq!(client.call(2, "work", json!({})).await["result"], json!({}));
}

#[tokio::test]
async fn a_key_refused_after_it_was_read_again_is_told() {
    let server = Server::start(usual).await;
    server.refuse_keys(2);
    let mut client = Client::to(&server);
    let answer = client.call(1, "work", json!({})).await;
    assert_eq!(failure(&answer), (-33001, "key_refused"));
    assert!(answer["error"]["message"].as_str().unwrap().contains("`thv restart time`"));
    assert_eq!(client.asked(), [Why::Start, Why::Refused]);
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_key_refused_once_is_read_again_and_the_request_sent_again() {
    let server = Server::start(usual).await;
    server.refuse_keys(1);
    let mut client = Client::to(&server);
    client.call(1, "work", json!({})).await;
    assert_eq!(server.posted(), ["work"]);
    assert_eq!(client.asked(), [Why::Start, Why::Refused]);
}

#[tokio::test]
async fn a_rotated_key_is_followed_on_new_connections() {
    let server = std::sync::Arc::new(Server::start(usual).await);
    let theirs = std::sync::Arc::clone(&server);
    let mut client = Client::with(Options::default(), move |_, _| Ok(theirs.target()));
    client.call(1, "work", json!({})).await;
    let old = server.connections();
    server.set_key(Some(SharedKey::generate().unwrap()));
    // The old connections still stand, but their key is refused on them.
    client.call(2, "work", json!({})).await;
    assert_eq!(client.asked(), [Why::Start, Why::Refused]);
    let last = server.requests().pop().unwrap();
    assert!(last.connection > old);
    assert_eq!(last.header("x-toolhive-auth"), Some(server.key().unwrap().expose_text().as_str()));
}

#[tokio::test]
async fn sixty_refused_requests_read_the_key_once() {
    let server = std::sync::Arc::new(Server::start(usual).await);
    let theirs = std::sync::Arc::clone(&server);
    let mut client = Client::with(Options::default(), move |_, _| Ok(theirs.target()));
    client.call("first", "work", json!({})).await;
    server.set_key(Some(SharedKey::generate().unwrap()));
    for id in 0..60 {
        client.request(id, "work", json!({})).await;
    }
    assert_eq!(client.recv_ids(60).await.len(), 60);
    assert_eq!(client.asked(), [Why::Start, Why::Refused]);
}

#[tokio::test]
async fn another_401_or_403_is_the_servers_own_business() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "forbidden" => status(403),
        _ => Reply::Full {
            status: 401,
            headers: vec![("www-authenticate", "Bearer realm=\"ToolHive-SharedKey\"".into())],
            body: Vec::new(),
        },
    })
    .await;
    let mut client = Client::to(&server);
    for (id, method, status) in [(1, "unauthorized", 401), (2, "forbidden", 403)] {
        let answer = client.call(id, method, json!({})).await;
        assert_eq!(failure(&answer), (-33005, "upstream_http"));
        assert_eq!(answer["error"]["data"]["httpStatus"], status);
    }
    assert_eq!(client.asked(), [Why::Start]);
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_request_whose_connection_is_lost_is_not_sent_again() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "cut" => Reply::Cut,
        "half" => Reply::Raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{".into(),
        ),
        "head" => Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-".into()),
        "rubbish" => Reply::Raw(b"SSH-2.0-OpenSSH\r\n\r\n".into()),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    for (id, method) in ["cut", "half", "head", "rubbish"].into_iter().enumerate() {
        let answer = client.call(id, method, json!({})).await;
        assert_eq!(failure(&answer), (-33002, "connection_lost"), "{method}");
    }
    client.call("after", "work", json!({})).await;
    assert_eq!(server.posted(), ["cut", "half", "head", "rubbish", "work"]);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_costs_nothing() {
    let server = Server::start(usual).await;
    let mut client = Client::to(&server);
    for id in 0..50 {
        let answer = client.call(id, "work", json!({})).await;
        assert_eq!(answer["result"], json!({}));
        server.hang_up();
    }
    assert_eq!(server.posted().len(), 50);
}

#[tokio::test]
async fn nobody_listening_is_told_after_asking_once_more() {
    // Bound and not listening: refused, and nobody else can take the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut target = Server::start(usual).await.target();
    target.addr = socket.local_addr().unwrap();
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    let answer = client.call(1, "work", json!({})).await;
    assert_eq!(failure(&answer), (-33004, "not_running"));
    assert!(answer["error"]["message"].as_str().unwrap().contains("`thv logs time`"));
    assert!(client.asked().contains(&Why::Unreachable));
}

#[tokio::test]
async fn a_workload_that_moved_is_followed() {
    let first = Server::start(usual).await;
    let second = Server::start(usual).await;
    let (there, then_there) = (first.target(), second.target());
    let mut client = Client::with(Options::default(), move |why, _| match why {
        Why::Start => Ok(there.clone()),
        _ => Ok(then_there.clone()),
    });
    client.call(1, "work", json!({})).await;
    drop(first);
    client.call(2, "work", json!({})).await;
    assert_eq!(client.asked(), [Why::Start, Why::Unreachable]);
    assert_eq!(second.posted(), ["work"]);
}

#[tokio::test]
async fn a_workload_that_is_just_coming_up_is_waited_for() {
    let server = Server::start(usual).await;
    let (key, addr) = (server.key(), server.addr);
    let target = server.target();
    drop(server);
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    client.request(1, "work", json!({})).await;
    tokio::time::sleep(std::time::Duration::from_millis(60)).await;
    let server = Server::start_on(TcpListener::bind(addr).await.unwrap(), usual);
    server.set_key(key);
    assert_eq!(client.recv().await["result"], json!({}));
}

#[tokio::test]
async fn an_http_error_without_a_message_is_told_with_its_status() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "empty" => status(503),
        "html" => text_reply(502, "<html>Bad Gateway</html>"),
        "json" => text_reply(500, "{\"detail\":\"x\"}"),
        "accepted" => status(202),
        "no-content" => Reply::Raw(b"HTTP/1.1 204 No Content\r\n\r\n".into()),
        "text" => text_reply(200, "hello"),
        "other" => json_reply(200, &json!({"jsonrpc": "2.0", "id": "other", "result": {}})),
        _ => usual(request),
    })
    .await;
    let mut client = Client::to(&server);
    let cases = [
        ("empty", 503),
        ("html", 502),
        ("json", 500),
        ("accepted", 202),
        ("no-content", 204),
        ("text", 200),
        ("other", 200),
    ];
    for (id, (method, status)) in cases.into_iter().enumerate() {
        let answer = client.call(id, method, json!({})).await;
        assert_eq!(failure(&answer), (-33005, "upstream_http"), "{method}");
        assert_eq!(answer["error"]["data"]["httpStatus"], status, "{method}");
    }
}

#[tokio::test]
async fn an_http_error_with_a_message_is_relayed_under_the_requests_id() {
    let server = Server::start(|request| {
        let id = match request.rpc().as_str() {
            "own" => request.id(),
            "null" => json!(null),
            "foreign" => json!("server-error"),
            _ => json!(77),
        };
        let status = if request.rpc() == "fine" { 200 } else { 400 };
        json_reply(
            status,
            &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no", "data": 1.0}}),
        )
    })
    .await;
    let mut client = Client::to(&server);
    for (id, method) in ["own", "null", "foreign", "number", "fine"].into_iter().enumerate() {
        let answer = client.call(id, method, json!({})).await;
        assert_eq!(answer["error"], json!({"code": -32601, "message": "no", "data": 1.0}), "{method}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(usual).await;
    let location = format!("http://{}/mcp", elsewhere.addr);
    let server = Server::start(move |_| Reply::Full {
        status: 307,
        headers: vec![("location", location.clone())],
        body: Vec::new(),
    })
    .await;
    let mut client = Client::to(&server);
    let answer = client.call(1, "work", json!({})).await;
    assert_eq!(failure(&answer), (-33005, "upstream_http"));
    assert_eq!(answer["error"]["data"]["httpStatus"], 307);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn an_answer_over_the_limit_is_told() {
    let server = Server::start(|request| match request.rpc().as_str() {
        "json" => crate::server::result(request, &json!("x".repeat(200))),
        _ => {
            let answer = json!({"jsonrpc": "2.0", "id": request.id(), "result": "x".repeat(200)});
            crate::server::stream([&*crate::server::event(&answer)])
        }
    })
    .await;
    let target = server.target();
    let options = Options { max_answer_bytes: 100, ..Options::default() };
    let mut client = Client::with(options, move |_, _| Ok(target.clone()));
    for (id, method) in ["json", "stream"].into_iter().enumerate() {
        let answer = client.call(id, method, json!({})).await;
        assert_eq!(failure(&answer), (-33006, "too_large"), "{method}");
        assert_eq!(answer["error"]["data"]["limit"], 100);
    }
}

#[test]
fn proxies_in_the_environment_are_not_used() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    // The environment is read by a process at its start, so one is started: a whole session, in this binary.
    let mut session = std::process::Command::new(std::env::current_exe().unwrap());
    session.args(["--exact", "relay::a_session_from_initialize_to_its_end"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"] {
        session.env(name, &url);
    }
    let output = session.env("no_proxy", "").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(proxy.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
