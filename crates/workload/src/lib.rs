//! The life of a workload: what was asked for, what is running, who may change it.
//!
//! A workload is a named MCP server under management. This crate keeps its run config and its status on disk,
//! locks it while it changes, starts its server in a process group that cannot outlive it, and supervises it. What
//! stands in front of the server is handed in as a [`supervisor::Front`], where keys rest as a
//! [`supervisor::Keys`]: the crate knows neither HTTP nor keychains.
//!
//! What it refuses to do:
//!
//! - It reads no environment and no `$HOME`: every path comes from the [`home::Home`] that it is given.
//! - It follows no link under that home and works in no folder that others could have written to.
//! - It never ends a process that it cannot prove to be the one it started (pid and start time).
//! - It prints nothing.
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod creation;
pub mod family;
pub mod files;
pub mod groups;
pub mod guardian;
pub mod home;
pub mod http;
pub mod keyset;
pub mod lock;
pub mod orphans;
pub mod process;
pub mod registry;
pub mod server;
mod span;
pub mod status;
pub mod steps;
pub mod supervisor;
mod sys;
