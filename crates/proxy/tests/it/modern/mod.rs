//! Callers of the modern era (MCP 2026-07-28).

mod eras;
mod headers;
mod logs;
mod requests;
mod shared;
mod subscriptions;
