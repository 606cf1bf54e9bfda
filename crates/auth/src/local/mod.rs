//! Endpoints that are answered here, without a key, and never forwarded.
//!
//! Paths are matched raw, undecoded and case-sensitive: `//health` and `/%68ealth` are other paths.
//!
//! | request | answer |
//! |---|---|
//! | `GET /.well-known/toolhive/proof` | 204 with the proof; 404 for a key id that is not live; 400 for a challenge or id that is missing, repeated or malformed |
//! | `GET /health` | 204, nothing disclosed |
//! | `/.well-known/oauth-*`, `/.well-known/openid-*` | 404: there is no authorization server |
//! | `POST /register` | 400 `invalid_client_metadata` with the realm's advice |
//!
//! A client that gets a 401 and knows OAuth starts its dance whatever the scheme of the challenge. The last two
//! rows end that dance at once and with a sentence that the client shows to its user.
//!
//! The proof needs a [`ConnInfo`](crate::ConnInfo) in the request's extensions. Without one nothing can be
//! proved, and the answer is 404.
//!
//! An [open](LocalLayer::open) server answers `GET /health`, has no proof (404), leaves the OAuth paths to
//! whatever it fronts, and drops a key that a client sends all the same.

mod layer;
mod proof;
mod service;

pub use layer::LocalLayer;
pub use service::Local;
