//! Passes requests on to an HTTP server, from a free port of 127.0.0.1, until Ctrl-C:
//!
//! ```text
//! cargo run -p thv-proxy --example forward -- http://127.0.0.1:3001/mcp
//! ```
//!
//! There is no lock on it, and whoever reaches the port can use the server: this shows that the crate works alone, not
//! how to run it. Without a URL it measures itself in front of a small server of its own (use `--release`).

#![allow(clippy::print_stdout)]

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use thv_proxy::forward::{Forward, OnReport, Options, TcpConnect, Upstream};
use thv_proxy::serve::{Limits, serve};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(url) = env::args().nth(1) else { return measure().await };
    let upstream = Upstream::parse(&url)?;
    if upstream.is_https() {
        return Err("this example speaks plain HTTP only".into());
    }
    let options = Options {
        sse_path: Some("/sse".to_owned()),
        on_report: OnReport::new(|report| println!("{report:?}")),
        ..Options::default()
    };
    let connect = TcpConnect::to_host(upstream.host(), upstream.port());
    let path = upstream.path().to_owned();
    let forward = Forward::new(connect, upstream, options)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}{path}", listener.local_addr()?);
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    serve(listener, Limits::default(), |_| forward.clone(), |_, _| {}, interrupted).await;
    Ok(())
}

const CLIENTS: usize = 64;
const TIME: Duration = Duration::from_secs(3);

/// Compares a server with itself behind the proxy: many small answers, and one big one.
async fn measure() -> Result<(), Box<dyn Error>> {
    let direct = backend().await?;
    let upstream = Upstream::parse(&format!("http://{direct}/"))?;
    let forward = Forward::new(TcpConnect::to(direct), upstream, Options::default())?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let proxied = listener.local_addr()?;
    tokio::spawn(async move {
        serve(listener, Limits::default(), |_| forward.clone(), |_, _| {}, std::future::pending()).await;
    });
    for (name, addr) in [("direct", direct), ("proxied", proxied)] {
        let (count, mid) = small(addr).await;
        let bytes = big(addr).await;
        println!("{name:8} {count:>7}/s  p50 of one at a time {mid:?}  {} MB/s", bytes / 1_000_000);
    }
    Ok(())
}

/// Answers `/big` with 256 MiB, anything else with a few bytes.
async fn backend() -> Result<SocketAddr, Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let addr = listener.local_addr()?;
    let big = Bytes::from(vec![b'x'; 256 << 20]);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let big = big.clone();
            let _ = stream.set_nodelay(true);
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let is_big = request.uri().path() == "/big";
                let body = if is_big { big.clone() } else { Bytes::from_static(b"{\"jsonrpc\":\"2.0\"}") };
                async move {
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Full::new(body)))
                }
            });
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(addr)
}

/// A client of one connection, which tells how long each of its requests took.
async fn client(addr: SocketAddr, until: Instant) -> Result<Vec<Duration>, Box<dyn Error + Send + Sync>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut times = Vec::new();
    while Instant::now() < until {
        let began = Instant::now();
        let body = Full::new(Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}"));
        let request = Request::post("/mcp").header("host", "localhost").body(body)?;
        sender.ready().await?;
        sender.send_request(request).await?.into_body().collect().await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

/// Requests a second from many clients, and the middle time of a request from one alone.
async fn small(addr: SocketAddr) -> (u128, Duration) {
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(addr, began + TIME))).collect();
    let mut count = 0;
    for client in clients {
        count += client.await.ok().and_then(Result::ok).map_or(0, |times| times.len());
    }
    let rate = count as u128 * 1000 / began.elapsed().as_millis().max(1);
    let mut times = client(addr, Instant::now() + TIME / 3).await.unwrap_or_default();
    times.sort_unstable();
    (rate, times.get(times.len() / 2).copied().unwrap_or_default())
}

/// Bytes a second of one big answer.
async fn big(addr: SocketAddr) -> u128 {
    let whole = async {
        let stream = TcpStream::connect(addr).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("/big").header("host", "localhost").body(Full::new(Bytes::new()))?;
        let mut body = sender.send_request(request).await?.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, |data| data.len() as u128);
        }
        Ok::<_, Box<dyn Error>>(bytes)
    };
    let began = Instant::now();
    let bytes = whole.await.unwrap_or_default();
    bytes * 1000 / began.elapsed().as_millis().max(1)
}
