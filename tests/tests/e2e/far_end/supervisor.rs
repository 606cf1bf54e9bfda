//! A far end that holds the key and proves it, and then does what a test wants: what a supervisor in trouble, or a
//! server behind it, may answer.

use super::listener::{Conn, Listener, Seen};
use crate::locked::proof;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use thv_e2e::{Failure, PROTOCOL_VERSION, Result, ensure};

/// What it does in answer to a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// These bytes.
    Say(String),
    /// These bytes, and then it hangs up.
    SayAndHangUp(String),
    /// What a healthy supervisor would.
    Serve,
}

/// How it answers a challenge.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proving {
    /// As it should.
    Well,
    /// As it should, and says more at once.
    WithSurplus,
    /// It says so many times that it does not know the key, and then proves well.
    AfterUnknown(usize),
    /// It proves well and hangs up.
    AndHangingUp,
}

type Script = dyn Fn(&Seen, usize) -> Reply + Send + Sync;

/// It serves sessions of a server that answers every request with `{}`.
pub(super) struct FakeSupervisor {
    listener: Listener,
    shared: Arc<Shared>,
}

struct Shared {
    key: String,
    name: String,
    proving: Proving,
    script: Box<Script>,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    challenges: usize,
    sessions: usize,
    calls: Vec<Seen>,
    violations: Vec<String>,
}

impl FakeSupervisor {
    /// `script` decides on each request with the method `tools/call`, told how many came before it. All others are
    /// served.
    pub(super) fn start(
        key: &str,
        name: &str,
        proving: Proving,
        script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        let shared = Arc::new(Shared {
            key: key.to_owned(),
            name: name.to_owned(),
            proving,
            script: Box::new(script),
            log: Mutex::default(),
        });
        let listener = Listener::start({
            let shared = Arc::clone(&shared);
            move |conn| shared.serve(conn)
        })?;
        Ok(Self { listener, shared })
    }

    pub(super) fn port(&self) -> u16 {
        self.listener.port()
    }

    /// Ends it and returns the requests that it was sent, challenges left out.
    ///
    /// # Errors
    /// One came on a connection that it had not proved itself on, or with another key.
    pub(super) fn end(self) -> Result<Vec<Seen>> {
        self.listener.end();
        let log = self.shared.log();
        ensure!(log.violations.is_empty(), "{}", log.violations.join("; "));
        Ok(log.calls.clone())
    }
}

impl Shared {
    fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, conn: &mut Conn) {
        let mut proved = false;
        while let Some(seen) = conn.request() {
            if seen.is_challenge() {
                let before = {
                    let mut log = self.log();
                    log.challenges += 1;
                    log.challenges - 1
                };
                if matches!(self.proving, Proving::AfterUnknown(count) if before < count) {
                    conn.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                    continue;
                }
                let Ok(answer) = self.prove(conn, &seen) else { return conn.hang_up() };
                conn.send(answer);
                proved = true;
                if matches!(self.proving, Proving::AndHangingUp) {
                    return conn.hang_up();
                }
                continue;
            }
            let before = {
                let mut log = self.log();
                if !proved {
                    log.violations.push(format!("unproved, and sent {seen:?}"));
                }
                if seen.header("x-toolhive-auth") != Some(&self.key) {
                    log.violations
                        .push(format!("sent another key than was proved: {} {}", seen.method, seen.body));
                }
                let before = log.calls.iter().filter(|call| is_call(call)).count();
                log.calls.push(seen.clone());
                before
            };
            let reply = if is_call(&seen) { (self.script)(&seen, before) } else { Reply::Serve };
            match reply {
                Reply::Serve => conn.send(self.served(&seen)),
                Reply::Say(bytes) => conn.send(bytes),
                Reply::SayAndHangUp(bytes) => {
                    conn.send(bytes);
                    return conn.hang_up();
                }
            };
        }
    }

    fn served(&self, seen: &Seen) -> String {
        match (seen.method.as_str(), message(seen)) {
            ("POST", Ok(message)) if message["method"] == "initialize" => {
                let session = {
                    let mut log = self.log();
                    log.sessions += 1;
                    log.sessions
                };
                let info = json!({ "name": "fake", "version": "1" });
                let hello =
                    json!({ "protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "serverInfo": info });
                json_reply("200 OK", &format!("Mcp-Session-Id: fake-{session}\r\n"), &result(seen, &hello))
            }
            ("POST", Ok(message)) if message.get("id").is_some() => {
                json_reply("200 OK", "", &result(seen, &json!({ "served": true })))
            }
            ("POST", _) => bare_reply("202 Accepted", ""),
            ("DELETE", _) => "HTTP/1.1 204 No Content\r\n\r\n".into(),
            _ => bare_reply("405 Method Not Allowed", "Allow: POST, DELETE\r\n"),
        }
    }

    fn prove(&self, conn: &Conn, seen: &Seen) -> Result<String> {
        let challenge = seen.header("x-toolhive-challenge").unwrap_or_default();
        let (client, server) = (conn.stream.peer_addr()?, conn.stream.local_addr()?);
        let proof = proof(&self.key, &self.name, client, server, challenge)?;
        let surplus = match self.proving {
            Proving::WithSurplus => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            _ => "",
        };
        Ok(format!("HTTP/1.1 204 No Content\r\nX-ToolHive-Proof: {proof}\r\n\r\n{surplus}"))
    }
}

pub(super) fn is_call(seen: &Seen) -> bool {
    seen.method == "POST" && message(seen).is_ok_and(|message| message["method"] == "tools/call")
}

fn message(seen: &Seen) -> Result<Value> {
    serde_json::from_str(&seen.body).map_err(Failure::from)
}

/// The id of the request in it, as JSON.
pub(super) fn id(seen: &Seen) -> String {
    message(seen).map(|message| message["id"].to_string()).unwrap_or_default()
}

/// A response with a JSON body.
pub(super) fn json_reply(status: &str, fields: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    )
}

/// A response without a body.
pub(super) fn bare_reply(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{fields}\r\n")
}

/// The result of a request, as JSON.
pub(super) fn result(seen: &Seen, result: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id(seen))
}
