//! What became of each request, for logs.

use std::fmt;
use std::sync::Arc;

use http::{Method, StatusCode};

use super::fault::Fault;

/// What became of one request.
#[derive(Debug)]
#[non_exhaustive]
pub struct Report<'r> {
    /// The request's method.
    pub method: &'r Method,
    /// The request's path, without the query, which may name a session.
    pub path: &'r str,
    /// The status that the client got; `None` if it left before.
    pub status: Option<StatusCode>,
    /// How it ended.
    pub outcome: Outcome<'r>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'r> {
    /// The upstream's answer was passed on to its end, whatever its status.
    Complete,
    /// It was not: the client got an answer of ours, or one that breaks off.
    Failed(&'r Fault),
    /// The client left before the end.
    ClientLeft,
}

/// Is told of the end of each request, once. It runs on the path of the data and must not block.
#[derive(Clone, Default)]
pub struct OnReport(Option<Arc<Callback>>);

type Callback = dyn Fn(&Report<'_>) + Send + Sync;

impl OnReport {
    /// Calls this.
    pub fn new(callback: impl Fn(&Report<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(callback)))
    }
}

impl fmt::Debug for OnReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnReport").field(&self.0.is_some()).finish()
    }
}

/// Accompanies a request to its end. When it is dropped before, the client has left.
pub(super) struct Tally(Option<Open>);

struct Open {
    callback: Arc<Callback>,
    method: Method,
    path: String,
    status: Option<StatusCode>,
}

impl Tally {
    pub(super) fn new(on_report: &OnReport, method: &Method, path: &str) -> Self {
        Self(on_report.0.as_ref().map(|callback| Open {
            callback: Arc::clone(callback),
            method: method.clone(),
            path: path.to_owned(),
            status: None,
        }))
    }

    pub(super) fn status(&mut self, status: StatusCode) {
        if let Some(open) = &mut self.0 {
            open.status = Some(status);
        }
    }

    pub(super) fn complete(&mut self) {
        self.end(Outcome::Complete);
    }

    pub(super) fn fail(&mut self, fault: &Fault) {
        self.end(Outcome::Failed(fault));
    }

    fn end(&mut self, outcome: Outcome<'_>) {
        if let Some(open) = self.0.take() {
            (open.callback)(&Report { method: &open.method, path: &open.path, status: open.status, outcome });
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.end(Outcome::ClientLeft);
    }
}
