//! The keychain from outside: stores that break, supervisors that do not answer, files that were tampered with.

mod crash;
#[cfg(target_os = "linux")]
mod desktop;
mod file;
#[cfg(target_os = "linux")]
mod kernel;
mod model;
mod passphrase;
#[cfg(unix)]
mod processes;
#[cfg(target_os = "linux")]
mod secret_service;
mod world;
