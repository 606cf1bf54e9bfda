//! The transparent proxy between real sockets, with upstreams that the tests play.

mod bodies;
mod endpoint;
mod faults;
mod harness;
mod heads;
mod once;
mod pool;
mod streams;
#[cfg(feature = "tls")]
mod tls;
