//! Workloads without a key, where no proof tells the workload from a stranger: that it lives is asked before each new
//! connection.

use std::sync::{Arc, Mutex};

use serde_json::json;
use thv_bridge::{LocateError, Options, Reason, Target, Why};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::client::Client;
use crate::failure;
use crate::server::{Reply, Server, usual};

async fn open_server() -> (Server, Target) {
    let server = Server::start(|request| match request.rpc().as_str() {
        "hang" => Reply::Hang,
        _ => usual(request),
    })
    .await;
    server.set_key(None);
    let target = server.target();
    (server, target)
}

/// Somebody who takes the port and hears what is said there.
async fn squat(addr: std::net::SocketAddr) -> Arc<Mutex<Vec<u8>>> {
    let listener = loop {
        match TcpListener::bind(addr).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let heard = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&heard);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let heard = Arc::clone(&theirs);
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    heard.lock().unwrap().extend_from_slice(&bytes[..count]);
                }
            });
        }
    });
    heard
}

#[tokio::test]
async fn whoever_takes_the_port_of_a_workload_that_is_gone_hears_nothing() {
    let (server, target) = open_server().await;
    let place: Arc<Mutex<Option<Target>>> = Arc::new(Mutex::new(Some(target.clone())));
    let theirs = Arc::clone(&place);
    let mut client = Client::with(Options::default(), move |_, _| {
        theirs.lock().unwrap().clone().ok_or_else(|| LocateError::new(Reason::NotRunning, "gone"))
    });
    client.open().await;
    client.call(1, "work", json!({})).await;
    *place.lock().unwrap() = None;
    drop(server);
    let heard = crate::soon(squat(target.addr)).await;
    for id in 2..5 {
        client.notify("notifications/x", json!({"secret": true})).await;
        assert_eq!(failure(&client.call(id, "work", json!({})).await), (-33004, "not_running"));
    }
    // It comes back elsewhere.
    let (second, there) = open_server().await;
    *place.lock().unwrap() = Some(there);
    assert_eq!(client.call(9, "work", json!({})).await["result"], json!({}));
    assert!(second.posted().contains(&"work".to_owned()));
    client.end().await;
    assert_eq!(*heard.lock().unwrap(), b"");
}

#[tokio::test]
async fn requests_on_kept_connections_ask_nobody_and_further_connections_do_not_replace_them() {
    let (server, target) = open_server().await;
    let mut client = Client::with(Options::default(), move |_, _| Ok(target.clone()));
    client.call(0, "work", json!({})).await;
    for id in 1..=3 {
        client.request(id, "hang", json!({})).await;
        server.saw_rpc("hang", id).await;
    }
    for id in 10..20 {
        client.call(id, "work", json!({})).await;
    }
    let asked = client.asked();
    assert_eq!(asked[0], Why::Start);
    assert!(asked[1..].iter().all(|why| *why == Why::Look), "{asked:?}");
    // One at most before each connection; ten requests one after the other share one.
    assert!(
        (3..=5).contains(&asked.len()) && server.connections() <= 5,
        "{asked:?}, {}",
        server.connections()
    );
}
