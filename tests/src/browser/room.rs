//! Where a test directs a page: the page asks for orders, one after the other, and reports what came of each.

use super::site::{Answer, Asked, Site};
use crate::{Failure, Result, ensure};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a page may take to carry out an order; the first one waits for the browser to start as well.
pub const ORDER_BOUND: Duration = Duration::from_secs(60);

/// How long a page waits for an order before it asks again.
const POLL: Duration = Duration::from_secs(10);

/// A site whose pages do what the test says. Its page has this script's text in it, and lies at `/`; the script asks
/// `ROOM/next` for its orders and posts to `ROOM/report`. Everything else is answered with openness and written down:
/// what a server would be that has no guard at all.
pub struct Room {
    site: Site,
    script: &'static str,
    desk: Arc<Desk>,
}

impl Room {
    /// A room for pages with this script, in which `ROOM` stands for the room's own origin.
    ///
    /// # Errors
    /// No port could be had.
    pub fn open(script: &'static str) -> Result<Self> {
        let desk = Arc::new(Desk::default());
        let at = Arc::clone(&desk);
        let site = Site::serve(0, move |asked| at.answer(script, asked))?;
        desk.lock().port = site.port();
        Ok(Self { site, script, desk })
    }

    /// Its port on 127.0.0.1.
    pub const fn port(&self) -> u16 {
        self.site.port()
    }

    /// The same site on another port: its pages take their orders from this room.
    ///
    /// # Errors
    /// The port is taken.
    pub fn annex(&self, port: u16) -> Result<Site> {
        let (desk, script) = (Arc::clone(&self.desk), self.script);
        Site::serve(port, move |asked| desk.answer(script, asked))
    }

    /// Has the page carry out an order, and returns what it reports.
    ///
    /// # Errors
    /// It reported nothing within [`ORDER_BOUND`], or that it could not.
    pub fn order(&self, name: &str, arguments: &Value) -> Result<Value> {
        let mut state = self.desk.lock();
        state.number += 1;
        let number = state.number;
        state.orders.push_back(json!({ "number": number, "name": name, "arguments": arguments }));
        self.desk.changed.notify_all();
        let end = Instant::now() + ORDER_BOUND;
        loop {
            while let Some(report) = state.reports.pop_front() {
                // The report of an order that was given up may come late.
                if report["number"] == number {
                    ensure!(report["failed"].is_null(), "the order {name:?}: {}", report["failed"]);
                    return Ok(report["result"].clone());
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "the page did not carry out {name:?} within {ORDER_BOUND:?}");
            state = self.desk.wait(state, left);
        }
    }

    /// Sends the browser to another page of this room, whatever its host name and port, and waits for it.
    ///
    /// # Errors
    /// The page did not arrive there.
    pub fn go(&self, origin: &str) -> Result {
        self.order("go", &json!({ "url": format!("{origin}/") }))?;
        let now = self.order("origin", &Value::Null)?;
        ensure!(now == origin, "the page is at {now} instead of {origin}");
        Ok(())
    }

    /// Waits for the first request since the last call that was answered with openness, and returns all of them.
    ///
    /// # Errors
    /// None came within [`ORDER_BOUND`].
    pub fn arrivals(&self) -> Result<Vec<Asked>> {
        let end = Instant::now() + ORDER_BOUND;
        let mut state = self.desk.lock();
        while state.arrivals.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "nothing arrived within {ORDER_BOUND:?}");
            state = self.desk.wait(state, left);
        }
        Ok(std::mem::take(&mut state.arrivals))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.desk.lock().closed = true;
        self.desk.changed.notify_all();
    }
}

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    port: u16,
    number: u64,
    orders: VecDeque<Value>,
    reports: VecDeque<Value>,
    arrivals: Vec<Asked>,
    closed: bool,
}

impl Desk {
    /// A test that panicked elsewhere must not hide what happened here.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'state>(&self, state: MutexGuard<'state, State>, bound: Duration) -> MutexGuard<'state, State> {
        self.changed.wait_timeout(state, bound).unwrap_or_else(PoisonError::into_inner).0
    }

    fn answer(&self, script: &str, asked: &Asked) -> Answer {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        match (asked.method.as_str(), path) {
            ("GET", "/") => {
                let script = script.replace("ROOM", &format!("http://127.0.0.1:{}", self.lock().port));
                let page = format!(
                    "<!doctype html><meta charset=utf-8><title>page</title><script>{script}</script>"
                );
                Answer::with("text/html", page)
            }
            ("GET", "/favicon.ico") => Answer::new(404),
            ("GET", "/next") => permissive(asked, self.next()),
            ("POST", "/report") => permissive(asked, self.report(&asked.body)),
            (_, "/away") => Answer::new(307).header("Location", query),
            _ => {
                self.lock().arrivals.push(asked.clone());
                self.changed.notify_all();
                permissive(asked, open_answer(asked))
            }
        }
    }

    fn next(&self) -> Answer {
        let end = Instant::now() + POLL;
        let mut state = self.lock();
        loop {
            if let Some(order) = state.orders.pop_front() {
                return Answer::with("application/json", order.to_string());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || state.closed {
                return Answer::new(204);
            }
            state = self.wait(state, left);
        }
    }

    fn report(&self, body: &[u8]) -> Answer {
        let report = serde_json::from_slice(body)
            .unwrap_or_else(|error| json!({ "failed": Failure::from(error).to_string() }));
        self.lock().reports.push_back(report);
        self.changed.notify_all();
        Answer::new(204)
    }
}

/// Every origin may ask for and read everything.
fn permissive(asked: &Asked, answer: Answer) -> Answer {
    let asked_headers = asked.header("access-control-request-headers").unwrap_or("content-type");
    answer
        .header("Access-Control-Allow-Origin", asked.header("origin").unwrap_or("*"))
        .header("Access-Control-Allow-Credentials", "true")
        .header("Access-Control-Allow-Methods", "GET, POST, DELETE")
        .header("Access-Control-Allow-Headers", asked_headers)
}

/// Something that the asking element takes for its own: an image, a script, an event stream.
fn open_answer(asked: &Asked) -> Answer {
    const TEXT: &str = r#"{"open":true}"#;
    let accept = asked.header("accept").unwrap_or_default();
    let wants = |kind: &str| accept.starts_with(kind);
    if wants("text/event-stream") {
        Answer::with("text/event-stream", format!("data: {TEXT}\n\n"))
    } else if wants("image/") {
        Answer::with("image/svg+xml", r#"<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"/>"#)
    } else if wants("text/css") {
        Answer::with("text/css", "")
    } else if wants("text/html") {
        Answer::with("text/html", "<p>open</p>")
    } else if asked.target.ends_with("?script") {
        Answer::with("text/javascript", "void 0")
    } else {
        Answer::with("application/json", TEXT)
    }
}
