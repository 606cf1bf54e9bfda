//! The key check: a request passes with exactly one live key in `X-ToolHive-Auth`, and without that field.
//!
//! Whatever is wrong with the key, the answer is the same 401: `WWW-Authenticate: ToolHive-SharedKey
//! realm="<name>"` and a JSON-RPC error (-33001, id null) with the realm's advice. The reason is in the
//! response's extensions as a [`Refusal`], for the log alone.
//!
//! The key is checked on every request. A session id is never a credential.
//!
//! # Cost
//!
//! A request that passes costs the decoding of 44 characters and one comparison for each live key, without
//! allocation, plus what the [`on_accept`](KeyLayer::on_accept) hook does. Without a hook the layer inserts an
//! [`Identity`] into the request's extensions, which boxes it.

mod layer;
mod service;

use std::time::SystemTime;

use http::{HeaderMap, HeaderName};
use thv_keygen::{KeySet, LiveKey, SharedKey, header};

#[cfg(doc)]
use crate::Identity;
use crate::Refusal;

pub use layer::KeyLayer;
pub use service::KeyCheck;

/// The field that carries the key.
pub(crate) static AUTH: HeaderName = HeaderName::from_static(header::AUTH);

/// The longest field that is looked at, in bytes.
const MAX_FIELD: usize = 128;

/// Takes the key off a request and finds the live one that it is.
fn authenticate<'k>(
    keys: &'k KeySet,
    headers: &mut HeaderMap,
    now: SystemTime,
) -> Result<&'k LiveKey, Refusal> {
    // One look-up finds the field, removes it and, by the difference, tells whether it was repeated.
    let fields = headers.len();
    let field = headers.remove(&AUTH).ok_or(Refusal::KeyMissing)?;
    if fields - headers.len() != 1 {
        return Err(Refusal::KeyRepeated);
    }
    if field.len() > MAX_FIELD {
        return Err(Refusal::KeyTooLong);
    }
    let presented = SharedKey::parse(&field).map_err(|_| Refusal::KeyMalformed)?;
    keys.check(&presented, now).ok_or(Refusal::KeyWrong)
}
