//! Callers of the modern era (MCP 2026-07-28): no `initialize`, no session, every request for itself.
//!
//! Requests of one owner share a server, another than any session has: a server's era is settled by its first
//! message. So that callers who share it cannot be taken for one another, each request gets an id of ours, which is
//! its progress token too; what comes back gets the caller's own again. Every other byte stays as it was.
//!
//! | message of the server | goes to |
//! |---|---|
//! | answer | the POST of its request, as JSON if it comes first; an error gives the response its status |
//! | progress | the POST whose request handed out the token |
//! | what names a subscription | the POST of that `subscriptions/listen` |
//! | a log message | the request that has the server to itself, if it asked for log messages; else nobody |
//! | any other notification | the request that has the server to itself; else nobody |
//! | a request | nobody: this era has none, and the server is told so |
//!
//! A caller that closes its response cancels its request: the server is sent `notifications/cancelled`.
//!
//! **Alone.** A log message does not say whose it is. So a request that asks for them gets a server that no other
//! request uses meanwhile, subscriptions aside, whose messages name them: the first of its owner, if that is free, else
//! one of up to three extra ones. A request that was cancelled counts until the server answers it. Before a server that
//! others have used is given away so, it answers `server/discover`: what it says until then is nobody's. Extra servers
//! take up half of [`Options::max_sessions`](super::Options::max_sessions) at most, and end after five minutes without
//! use, or ten seconds if a cancelled request was not answered. Where no more may be, the request waits ten seconds for
//! one to come free, and shares one then; others share at once. Log messages of a shared server are dropped.
//!
//! **Era.** Before it gets a request of a caller, a server is asked `server/discover`. One that knows no modern
//! version is ended, and its callers are refused with 400 and an error that none of the revision's own codes carries,
//! which sends them back to `initialize`. That is remembered for a while.
//!
//! **End.** A server that nobody uses for [`Options::session_ttl`](super::Options::session_ttl) is ended, and the
//! next request starts another. When one exits, the requests in flight are answered with an error, and the next
//! request starts another.

mod ask;
mod call;
mod gate;
mod lease;
mod outlet;
mod pool;
mod route;
mod schemas;
mod usage;
mod worker;

pub(super) use gate::{Headed, check, is_modern, mismatch, take};
pub(super) use lease::Lease;
pub(super) use outlet::respond;
pub(super) use pool::{Maker, NoWorker, Pool};
pub(super) use usage::Way;
pub(super) use worker::Worker;
