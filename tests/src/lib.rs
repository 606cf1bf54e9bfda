//! The harness of the end-to-end tests: it drives the real `thv` from outside, with real servers and clients.
//!
//! It knows the command by its contract alone, so it depends on no other crate of this workspace. A test makes a
//! [`Home`], starts things in it, and asks them:
//!
//! ```no_run
//! # fn main() -> thv_e2e::Result {
//! use thv_e2e::{Home, http::Request};
//!
//! let home = Home::new()?;
//! let server = home.run(["--name", "demo", "--shared-key-auth", "--", "demo-server"])?;
//! let refused = Request::mcp(server.port(), "{}").send()?;
//! assert_eq!(refused.status, 401);
//!
//! let mut bridge = home.bridge("demo")?;
//! bridge.initialize()?;
//! bridge.request("tools/list", &serde_json::json!({}))?;
//! bridge.finish()?;
//! server.stop()?;
//! home.close()
//! # }
//! ```
//!
//! What it refuses to do: it ends no process that it did not start, waits for nothing without a bound, and lets no
//! test leave a process, a directory or a key in the open behind.
#![forbid(unsafe_code)]

mod browser;
mod captured;
mod command;
mod desktop;
mod detached;
mod failure;
mod foreground;
mod home;
pub mod http;
pub mod parts;
mod procs;
mod running;
mod secret;
mod stdio;
mod terminal;

pub use browser::{Answer, Asked, Browser, ORDER_BOUND, Room, Site};
pub use captured::Captured;
pub use command::{Output, Thv};
pub use desktop::{Desktop, Keyring, NO_BUS};
pub use detached::Detached;
pub use failure::{Failure, Result};
pub use foreground::Foreground;
pub use home::{BINARY_VARIABLE, Home};
pub use parts::Part;
pub use procs::Proc;
pub use running::{Exit, Running, STOP_BOUND};
pub use rustix::process::Signal;
pub use secret::{Leak, SecretForms};
pub use stdio::{ANSWER_BOUND, FINISH_BOUND, McpStdio, PROTOCOL_VERSION};
pub use terminal::Terminal;
