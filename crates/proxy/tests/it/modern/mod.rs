//! Callers of the modern era (MCP 2026-07-28).

mod eras;
mod headers;
mod requests;
mod shared;
mod subscriptions;
