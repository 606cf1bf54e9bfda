//! End-to-end tests of `thv`, by theme. `cargo xtask e2e` builds what they need and runs them.

mod browser;
mod bytes;
mod cli;
mod compat;
mod conformance;
#[cfg(target_os = "linux")]
mod doctor;
mod far_end;
mod fixture;
mod given;
mod homes;
mod http;
#[cfg(target_os = "linux")]
mod keychain;
mod keys;
mod killed;
mod leaks;
mod life;
mod lifecycle;
mod listing;
mod locked;
mod packages;
mod parts;
mod recovery;
mod relay;
mod requests;
mod sdk;
mod servers;
mod state;

/// The bundled example server: tools `echo`, `add` and `now` on stdio.
const DEMO_SERVER: &str = env!("CARGO_BIN_EXE_demo-server");
