//! A real browser at the door: what pages of other origins achieve, which is nothing, and what a page of an allowed
//! origin does with the key.

mod allowed;
mod foreign;
mod rebound;

use crate::DEMO_SERVER;
use crate::fixture::wait_until;
use crate::locked::initialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use thv_e2e::http::Request;
use thv_e2e::{Failure, Foreground, Home, ORDER_BOUND, Result, ensure};

/// What pages send and no server may ever get.
const MARK: &str = "never-to-arrive";

/// The ids of the requests that tell the server's account of one time from that of another.
const FIRST: u64 = 470_001;
const LAST: u64 = 470_002;

/// The script of a page that tries to get in.
const ATTEMPTS: &str = concat!(
    include_str!("../../../fixtures/browser/driver.js"),
    include_str!("../../../fixtures/browser/attempts.js"),
);

/// The script of a page that is a client.
const CLIENT: &str = concat!(
    include_str!("../../../fixtures/browser/driver.js"),
    include_str!("../../../fixtures/browser/client.js"),
);

/// A tool call that must not reach a server, as the text of a body.
fn marked() -> String {
    let arguments = json!({ "text": MARK, "message": MARK });
    let params = json!({ "name": "echo", "arguments": arguments });
    json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params }).to_string()
}

/// What is behind a workload's door.
enum Server<'command> {
    /// The demo server behind a `tee` that writes down what comes in.
    Demo,
    /// A server that speaks HTTP itself and writes a line to its log for each request.
    Http(&'command str),
}

/// A workload at which pages knock, and what it wrote down about them.
struct Door<'home> {
    home: &'home Home,
    supervisor: Foreground,
    /// `None` if it is open.
    key: Option<String>,
    session: String,
    /// How much of the supervisor's log has been looked at.
    read: usize,
    /// Where the server's own account of what reached it is, and what stood there before any page came.
    record: PathBuf,
    before: Vec<String>,
}

impl<'home> Door<'home> {
    fn run(home: &'home Home, name: &str, options: &[&str], server: &Server<'_>) -> Result<Self> {
        let written = home.user().join(format!("{name}.stdin"));
        let run = home.thv(["run", "-f", "--name", name]).args(options);
        let (run, record) = match server {
            Server::Demo => {
                let run =
                    run.args(["--", "sh", "-c", r#"tee -a "$0" | "$1""#]).arg(&written).arg(DEMO_SERVER);
                (run, written)
            }
            Server::Http(command) => {
                let run = run.args(["--transport", "streamable-http", "--", command, "streamableHttp"]);
                (run, folder(home, name).join("server.log"))
            }
        };
        let supervisor = run.foreground()?;
        let key = supervisor.key_id().is_some().then(|| home.key(name)).transpose()?;
        let mut door =
            Self { home, supervisor, key, session: String::new(), read: 0, record, before: Vec::new() };
        door.session = door.check_open(FIRST)?;
        door.before = door.recorded()?;
        door.refusals()?;
        Ok(door)
    }

    fn port(&self) -> u16 {
        self.supervisor.port()
    }

    fn speaks_http(&self) -> bool {
        self.record.ends_with("server.log")
    }

    fn is_locked(&self) -> bool {
        self.key.is_some()
    }

    /// Makes sure that the door opens for whom it should, and that the server writes down that somebody came, so that
    /// all who came before have been written down as well. Returns the session that this began.
    fn check_open(&self, id: u64) -> Result<String> {
        let request = Request::mcp(self.port(), &initialize(id));
        let request = self.key.iter().fold(request, |request, key| request.key(key));
        let answer = request.send()?;
        let session = answer.header("mcp-session-id").filter(|_| answer.status == 200);
        let session = session.ok_or_else(|| Failure::new(format!("initialize: {answer:?}")))?;
        let (by_id, by_session) = (format!("\"id\":{id},"), format!("ID: {session}\n"));
        wait_until("the server wrote it down", ORDER_BOUND, || {
            let text = std::fs::read_to_string(&self.record)?;
            Ok(text.ends_with('\n') && (text.contains(&by_id) || text.contains(&by_session)))
        })?;
        Ok(session.to_owned())
    }

    /// What the server wrote down of what reached it.
    fn recorded(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(&self.record)?;
        // The server that speaks HTTP says more than that.
        let reached = |line: &&str| !self.speaks_http() || line.contains("Received");
        Ok(text.lines().filter(reached).map(str::to_owned).collect())
    }

    /// What an order needs to know to knock at this door under a host name.
    fn target(&self, host: &str) -> Value {
        json!({
            "base": format!("http://{host}:{}", self.port()),
            // A page that learned the key of some other place, and knows the session too.
            "key": self.key.as_deref().unwrap_or("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
            "session": self.session,
            "body": marked(),
        })
    }

    /// The reasons of the refusals that the log has gained since the last call. No request may have passed.
    fn refusals(&mut self) -> Result<Vec<String>> {
        let log = std::fs::read_to_string(folder(self.home, self.supervisor.name()).join("proxy.log"))?;
        // A line that is still being written is left for the next call.
        let end = log.rfind('\n').map_or(0, |end| end + 1);
        let new = log.get(self.read..end).unwrap_or_default();
        ensure!(self.read == 0 || !new.contains("outcome=\"accepted\""), "a page was let in:\n{new}");
        self.read = end;
        let reason = |line: &str| Some(line.split_once("reason=\"")?.1.split_once('"')?.0.to_owned());
        Ok(new.lines().filter_map(reason).collect())
    }

    /// Waits for refusals, all for this reason.
    fn check_refused(&mut self, reason: &str) -> Result {
        wait_until("a refusal is in the log", ORDER_BOUND, || {
            let refusals = self.refusals()?;
            ensure!(refusals.iter().all(|found| found == reason), "expected {reason}: {refusals:?}");
            Ok(!refusals.is_empty())
        })
    }

    /// Makes sure that nothing reached the server since the door was opened, and that whoever may come in still can.
    fn close(self) -> Result {
        self.check_open(LAST)?;
        let mut recorded = self.recorded()?;
        recorded.pop();
        ensure!(
            recorded == self.before,
            "it reached the server: {recorded:?}, and before: {:?}",
            self.before
        );
        self.supervisor.stop()?;
        Ok(())
    }
}

fn folder(home: &Home, name: &str) -> PathBuf {
    home.path().join("state/workloads").join(name)
}
