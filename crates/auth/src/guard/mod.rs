//! The guard against requests that were not meant for this server: DNS rebinding, web pages, confused clients.
//!
//! | rule | else |
//! |---|---|
//! | The method is not `CONNECT` | 405 |
//! | Not both `Content-Length` and `Transfer-Encoding` | 400 |
//! | Exactly one `Host`: `127.0.0.1`, `localhost` or `[::1]` in any case, the bound address, or an allowed host, with this listener's port | 403 |
//! | An absolute-form target is `http` and equals `Host` | 403 |
//! | At most one `Origin`: this listener's own, or an allowed one; `null` is foreign | 403 |
//! | `Sec-Fetch-Site`, when present, is `none` or `same-origin`, or the `Origin` is an allowed one | 403 |
//!
//! Refusals have a JSON-RPC error body, and their reason in the response's extensions as a
//! [`Refusal`](crate::Refusal).
//!
//! `Upgrade`, and its mention in `Connection`, is taken off every request: no protocol change is ever negotiated.
//!
//! # CORS
//!
//! By default no response carries a CORS header; those of the inner service are removed, since the guard and not
//! the inner service knows who may ask. For an allowed origin the guard answers the preflight itself, never with
//! `*`, and marks the responses for that origin. An `OPTIONS` request that is no preflight of an allowed origin
//! is passed on, to be refused by the key check.
//!
//! # What the server must do
//!
//! hyper drops a `Content-Length` that meets a `Transfer-Encoding` before any layer sees it. Under hyper the
//! framing rule has to be enforced on the connection (`thv_proxy::serve` does).

mod cors;
mod future;
mod host;
mod layer;
mod rules;
mod service;

pub use future::ResponseFuture;
pub use layer::GuardLayer;
pub use rules::{Guards, GuardsError};
pub use service::Guard;
