//! What differs between operating systems, and nothing else.

#[cfg(unix)]
mod control;
#[cfg(unix)]
pub use control::ControlListener;
#[cfg(unix)]
pub(crate) use control::{ControlStream, connect_control};
#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::*;

#[cfg(not(unix))]
mod other;
#[cfg(not(unix))]
pub use other::ControlListener;
#[cfg(not(unix))]
pub(crate) use other::*;
