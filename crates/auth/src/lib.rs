//! A lock for HTTP servers on this machine: tower layers that admit a request only when it was meant for this
//! server and carries its shared key.
//!
//! Three layers, in this order, each usable alone:
//!
//! 1. [`guard`] refuses what a web page or a confused client could send: a foreign `Host` or `Origin`, `CONNECT`,
//!    ambiguous framing. It also owns CORS.
//! 2. [`local`] answers the endpoints that need no key: the server proof, `GET /health`, and the places where an
//!    OAuth client would start its dance.
//! 3. [`key`] lets a request pass only with a live key, and takes the key off it.
//!
//! [`LockLayer`] puts the three together in that order. [`OpenLayer`] is for a server without a key: the guard
//! stays.
//!
//! ```
//! use std::convert::Infallible;
//! use bytes::Bytes;
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use thv_auth::{Guards, LiveKeys, LockLayer, Realm};
//! use thv_keygen::{KeySet, LiveKey, Name, SharedKey};
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = SharedKey::generate()?;
//! let keys = LiveKeys::new(KeySet::new(vec![LiveKey::new(key.clone(), None, None)]));
//! let realm = Realm::new(Name::parse("time")?, "Start your client with: thv proxy stdio time")?;
//! let lock = LockLayer::new(Guards::new("127.0.0.1:41873".parse()?)?, keys, realm);
//!
//! let server = lock.layer(service_fn(|_: Request<()>| async {
//!     Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
//! }));
//! let request = |key: &str| {
//!     Request::get("/mcp").header("host", "127.0.0.1:41873").header("x-toolhive-auth", key)
//!         .body(())
//! };
//! assert_eq!(server.clone().oneshot(request(&key.expose_text())?).await?.status(), 200);
//! assert_eq!(server.oneshot(request("guess")?).await?.status(), 401);
//! # Ok(())
//! # }
//! ```
//!
//! What this crate refuses to do:
//!
//! - It takes no key from a query string, a cookie, a path or an `Authorization` field, and knows no bypass.
//! - It counts no failures and blocks nobody: a lockout would let a stranger shut the owner out.
//! - It does not terminate TLS and does not read the body; a key in a request's *trailers* never passes because
//!   forwarding no trailers is the forwarder's duty.
//! - It prints nothing, and no refusal repeats what was presented.
#![forbid(unsafe_code)]

mod future;
pub mod guard;
mod identity;
pub mod key;
mod keys;
pub mod local;
mod lock;
mod realm;
mod refusal;

pub use future::ResponseFuture;
pub use guard::{GuardLayer, Guards, GuardsError};
pub use identity::{ConnInfo, Identity};
pub use key::KeyLayer;
pub use keys::LiveKeys;
pub use local::LocalLayer;
pub use lock::{LockLayer, OpenLayer};
pub use realm::{Realm, RealmError};
pub use refusal::Refusal;
