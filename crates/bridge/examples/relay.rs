//! Relays its own stdin and stdout to a workload.
//!
//! ```console
//! $ relay 127.0.0.1:41873 time 3< key.txt      # the key's text form on descriptor 3
//! $ relay                                      # a demonstration with a server in the same process
//! ```
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::File;
use std::io::Read as _;

use thv_bridge::{Locate, LocateError, Options, Target, Transport, Why, run};
use thv_keygen::proof::{Challenge, Endpoints, prove};
use thv_keygen::{Name, SharedKey, header};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A workload that never moves and whose key never changes.
struct Fixed(Target);

impl Locate for Fixed {
    async fn locate(&self, _why: Why) -> Result<Target, LocateError> {
        Ok(self.0.clone())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = match (arguments.next(), arguments.next()) {
        (Some(addr), Some(name)) => runtime.block_on(relay(&addr, &name)),
        (None, _) => runtime.block_on(demonstrate()),
        _ => Err("usage: relay [ADDRESS NAME]".into()),
    };
    // A read of stdin cannot be taken back; the process must not wait for it.
    runtime.shutdown_background();
    outcome
}

async fn relay(addr: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    File::open("/dev/fd/3")?.take(100).read_to_string(&mut text)?;
    let key = SharedKey::parse(text.trim_end())?;
    let target = Target {
        addr: addr.parse()?,
        path: "/mcp".into(),
        transport: Transport::default(),
        name: Name::parse(name)?,
        key: Some(key),
    };
    let interrupted = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    run(tokio::io::stdin(), tokio::io::stdout(), Fixed(target), Options::default(), interrupted).await?;
    Ok(())
}

async fn demonstrate() -> Result<(), Box<dyn Error>> {
    let key = SharedKey::generate()?;
    let name = Name::parse("demo")?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let (their_key, their_name) = (key.clone(), name.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, their_key.clone(), their_name.clone()));
        }
    });

    let stdin = &br#"{"jsonrpc":"2.0","id":1,"method":"ping"}
{"jsonrpc":"2.0","id":"two","method":"tools/list","params":{"cursor":null}}
this is no message
"#[..];
    println!("key {} proves {addr}; these are the answers to two requests and a stray line:", key.id());
    let target = Target { addr, path: "/mcp".into(), transport: Transport::default(), name, key: Some(key) };
    let (stdout, mut answers) = tokio::io::duplex(64 * 1024);
    run(stdin, stdout, Fixed(target), Options::default(), std::future::pending()).await?;
    let mut text = String::new();
    answers.read_to_string(&mut text).await?;
    print!("{text}");
    Ok(())
}

/// As much of a guarded server as the demonstration needs: it proves itself, checks the key, echoes the id.
async fn serve(stream: TcpStream, key: SharedKey, name: Name) -> std::io::Result<()> {
    let ends = Endpoints { client: stream.peer_addr()?, server: stream.local_addr()? };
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let (mut length, mut challenge, mut presented) = (0, None, None);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap_or(0),
                Some((header::CHALLENGE, value)) => challenge = Challenge::parse(value).ok(),
                Some((header::AUTH, value)) => presented = SharedKey::parse(value).ok(),
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).await?;
        let answer = match challenge {
            Some(challenge) => {
                let proof = prove(&key, &name, &ends, &challenge).encode();
                format!("HTTP/1.1 204 No Content\r\n{}: {proof}\r\n\r\n", header::PROOF)
            }
            None if presented.is_some_and(|presented| presented.ct_eq(&key)) => {
                let message: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
                let answer = serde_json::json!({"jsonrpc": "2.0", "id": message["id"], "result": {}}).to_string();
                let length = answer.len();
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{answer}")
            }
            None => "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: ToolHive-SharedKey\r\ncontent-length: 0\r\n\r\n".into(),
        };
        writer.write_all(answer.as_bytes()).await?;
    }
}
