//! Callers of the modern era (MCP 2026-07-28): no `initialize`, no session, every request for itself.
//!
//! All requests of one owner share one server, another than any session has: a server's era is settled by its first
//! message. So that callers who share it cannot be taken for one another, each request gets an id of ours, which is
//! its progress token too; what comes back gets the caller's own again. Every other byte stays as it was.
//!
//! | message of the server | goes to |
//! |---|---|
//! | answer | the POST of its request, as JSON if it comes first; an error gives the response its status |
//! | progress | the POST whose request handed out the token |
//! | what names a subscription | the POST of that `subscriptions/listen` |
//! | a log message | the one request in flight that asked for log messages; nobody, if there are several |
//! | any other notification | the one request in flight, subscriptions aside; nobody, if there are several |
//! | a request | nobody: this era has none, and the server is told so |
//!
//! A caller that closes its response cancels its request: the server is sent `notifications/cancelled`.
//!
//! **Era.** Before it gets a request of a caller, a server is asked `server/discover`. One that knows no modern
//! version is ended, and its callers are refused with 400 and an error that none of the revision's own codes carries,
//! which sends them back to `initialize`. That is remembered for a while.
//!
//! **End.** A server that nobody uses for [`Options::session_ttl`](super::Options::session_ttl) is ended, and the
//! next request starts another. When one exits, the requests in flight are answered with an error, and the next
//! request starts another.

mod gate;
mod outlet;
mod pool;
mod route;
mod schemas;
mod worker;

pub(super) use gate::{Headed, check, is_modern, mismatch, take};
pub(super) use outlet::respond;
pub(super) use pool::{NoWorker, Pool};
pub(super) use worker::Worker;
