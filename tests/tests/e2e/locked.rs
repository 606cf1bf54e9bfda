//! What several themes need: a locked workload whose server writes down what reaches it, and the contract's
//! formulas written down a second time, so that the product is not measured with its own ruler.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thv_e2e::http::{Request, Response};
use thv_e2e::{Exit, Failure, Foreground, Home, McpStdio, PROTOCOL_VERSION, Result, ensure};

/// Where a listener proves itself.
pub(crate) const PROOF_PATH: &str = "/.well-known/toolhive/proof";

/// How long something that no event tells of may take.
const SOON: Duration = Duration::from_secs(10);

/// A locked workload in the foreground. Its server is the demo server behind a `tee`.
pub(crate) struct Locked<'home> {
    pub(crate) home: &'home Home,
    pub(crate) supervisor: Foreground,
    pub(crate) key: String,
    /// A session that is open from the start.
    pub(crate) session: String,
}

impl<'home> Locked<'home> {
    pub(crate) fn run(home: &'home Home, name: &str) -> Result<Self> {
        Self::run_with(home, name, &[])
    }

    pub(crate) fn run_with(home: &'home Home, name: &str, options: &[&str]) -> Result<Self> {
        let record = record(home, name);
        let run = home.thv(["run", "-f", "--name", name, "--shared-key-auth"]).args(options);
        let run = run.args(["--", "sh", "-c", r#"tee -a "$0" | "$1""#]).arg(record).arg(crate::DEMO_SERVER);
        let supervisor = run.foreground()?;
        let mut locked = Self { home, supervisor, key: home.key(name)?, session: String::new() };
        locked.session = locked.open_session()?;
        Ok(locked)
    }

    pub(crate) fn port(&self) -> u16 {
        self.supervisor.port()
    }

    pub(crate) fn name(&self) -> &str {
        self.supervisor.name()
    }

    /// Begins a session by hand and returns its id.
    pub(crate) fn open_session(&self) -> Result<String> {
        let answer = Request::mcp(self.port(), &initialize(1)).key(&self.key).send()?;
        let session = answer.header("mcp-session-id").map(str::to_owned);
        ensure!(answer.status == 200, "initialize: {answer:?}");
        session.ok_or_else(|| Failure::new(format!("no session: {answer:?}")))
    }

    /// A request within the session that lacks nothing but the key.
    pub(crate) fn request(&self, body: &Value) -> Request {
        self.request_at("/mcp", body)
    }

    /// The same, to another target.
    pub(crate) fn request_at(&self, target: &str, body: &Value) -> Request {
        Request::new("POST", target, self.port())
            .header("Accept", "application/json, text/event-stream")
            .header("Content-Type", "application/json")
            .header("MCP-Protocol-Version", PROTOCOL_VERSION)
            .header("Mcp-Session-Id", &self.session)
            .body(body.to_string())
    }

    /// Whether the door still opens: a request with the key is answered by the server.
    pub(crate) fn check_open(&self) -> Result {
        check_pong(&self.request(&ping(7)).key(&self.key).send()?, 7)
    }

    /// Everything that the workload's servers were sent.
    pub(crate) fn recorded(&self) -> Result<String> {
        Ok(std::fs::read_to_string(record(self.home, self.name()))?)
    }

    /// Waits until the supervisor's log holds all of `words` in one line, and returns that line.
    pub(crate) fn logged(&self, words: &[&str]) -> Result<String> {
        let log = self.folder().join("proxy.log");
        let found = eventually(|| {
            let text = std::fs::read_to_string(&log)?;
            Ok(text.lines().find(|line| words.iter().all(|word| line.contains(word))).map(str::to_owned))
        })?;
        found.ok_or_else(|| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            Failure::new(format!("no line with {words:?} in {}:\n{text}", log.display()))
        })
    }

    /// Leads everybody who looks the workload up to another port, while its supervisor lives on.
    pub(crate) fn redirect(&self, port: u16) -> Result {
        edit_status(self.home, self.name(), |status| status["port"] = port.into())
    }

    fn folder(&self) -> PathBuf {
        folder(self.home, self.name())
    }
}

fn record(home: &Home, name: &str) -> PathBuf {
    home.user().join(format!("{name}.stdin"))
}

fn folder(home: &Home, name: &str) -> PathBuf {
    home.path().join("state/workloads").join(name)
}

/// The workload's `status.json`.
pub(crate) fn status(home: &Home, name: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(folder(home, name).join("status.json"))?)?)
}

/// Rewrites the workload's `status.json` in one step, as its supervisor would.
pub(crate) fn edit_status(home: &Home, name: &str, change: impl FnOnce(&mut Value)) -> Result {
    let mut content = status(home, name)?;
    change(&mut content);
    let folder = folder(home, name);
    let mut file: File =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(".edited"))?;
    file.write_all(content.to_string().as_bytes())?;
    Ok(std::fs::rename(folder.join(".edited"), folder.join("status.json"))?)
}

/// Asks until there is something, for a while.
pub(crate) fn eventually<T>(mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let end = Instant::now() + SOON;
    loop {
        let found = look()?;
        if found.is_some() || Instant::now() >= end {
            return Ok(found);
        }
        // What is looked for is the work of other processes, which send no event here.
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn initialize(id: u64) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "initialize", "params": {
        "protocolVersion": PROTOCOL_VERSION,
        "capabilities": {},
        "clientInfo": { "name": "thv-e2e", "version": "1" },
    }})
}

pub(crate) fn ping(id: u64) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": "ping" })
}

/// Whether this is the server's answer to [`ping`].
pub(crate) fn check_pong(answer: &Response, id: u64) -> Result {
    ensure!(answer.status == 200, "{answer:?}");
    let expected = json!({ "jsonrpc": "2.0", "id": id, "result": {} });
    ensure!(answer.json()? == expected, "{answer:?}");
    Ok(())
}

/// Whether this is the 401 of the contract to the letter, with no hint of what was wrong.
pub(crate) fn check_unauthorized(answer: &Response, name: &str) -> Result {
    ensure!(answer.status == 401 && answer.whole, "{answer:?}");
    let challenge = format!("ToolHive-SharedKey realm=\"{name}\"");
    ensure!(answer.header("www-authenticate") == Some(&challenge), "{answer:?}");
    ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
    check_no_cors(answer)?;
    let mut body = answer.json()?;
    let message = body["error"]["message"].take();
    let message = message.as_str().unwrap_or_default();
    ensure!(message.contains(&format!("thv proxy stdio {name}")), "no advice: {answer:?}");
    let error = json!({ "code": -33001, "message": null, "data": { "reason": "key_refused" } });
    let expected = json!({ "jsonrpc": "2.0", "id": null, "error": error });
    ensure!(body == expected, "{answer:?}");
    Ok(())
}

/// Whether a response tells browsers nothing.
pub(crate) fn check_no_cors(answer: &Response) -> Result {
    let cors = answer.headers.iter().any(|(name, _)| name.starts_with("access-control-"));
    ensure!(!cors, "a CORS header: {answer:?}");
    Ok(())
}

/// The raw bytes of a key's text.
pub(crate) fn raw_key(key: &str) -> Result<[u8; 32]> {
    let raw = STANDARD.decode(key).ok().and_then(|raw| raw.try_into().ok());
    raw.ok_or_else(|| Failure::new("this is not the text of a key"))
}

/// A key's public name.
pub(crate) fn key_id(key: &str) -> Result<String> {
    let digest = Sha256::new_with_prefix("toolhive-key-id-v1").chain_update(raw_key(key)?).finalize();
    Ok(digest[..8].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What a listener with this key has to answer to a challenge on this connection.
pub(crate) fn proof(
    key: &str,
    name: &str,
    client: SocketAddr,
    server: SocketAddr,
    challenge: &str,
) -> Result<String> {
    let mut message = format!("toolhive-proof-v1\0{}\0", name.to_ascii_lowercase()).into_bytes();
    for end in [client, server] {
        let ip = match end.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        message.extend_from_slice(&ip.octets());
        message.extend_from_slice(&end.port().to_be_bytes());
    }
    message.extend(STANDARD.decode(challenge).map_err(|error| Failure::new(error.to_string()))?);
    // HMAC as in RFC 2104; the key is shorter than a block.
    let mut block = [0; 64];
    block[..32].copy_from_slice(&raw_key(key)?);
    let padded = |pad: u8| Sha256::new_with_prefix(block.map(|byte| byte ^ pad));
    let inner = padded(0x36).chain_update(message).finalize();
    Ok(STANDARD.encode(padded(0x5c).chain_update(inner).finalize()))
}

#[test]
fn the_formulas_give_the_vector_of_the_contract() -> Result {
    let key = STANDARD.encode(std::array::from_fn::<u8, 32, _>(|at| at as u8));
    assert_eq!(key_id(&key)?, "08b5d7d2ef52b8b6");
    let (client, server) =
        (SocketAddr::from(([127, 0, 0, 1], 50_000)), SocketAddr::from(([127, 0, 0, 1], 41_873)));
    let seen = proof(&key, "time", client, server, &STANDARD.encode([0xaa; 32]))?;
    assert_eq!(seen, "MWxv+okJfznsyVvi1/cwTJzNUDBx6L6v7ekU6R6LQl0=");
    Ok(())
}

/// The bridge answered with an error of its own, and says something.
pub(crate) fn check_error(answer: &Value, code: i64, reason: &str) -> Result {
    let error = &answer["error"];
    ensure!(error["code"] == code && error["data"]["reason"] == reason, "expected {code} {reason}: {answer}");
    ensure!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "no message: {answer}");
    Ok(())
}

/// Ends a bridge that has nothing more to say.
pub(crate) fn finish(bridge: McpStdio) -> Result {
    let (exit, rest) = bridge.finish()?;
    ensure!(exit == Exit::Code(0), "the bridge ended with {exit:?}");
    ensure!(rest.is_empty(), "more than one answer: {rest:?}");
    Ok(())
}
