//! The texts that a locked server shows to those it refuses.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use thv_keygen::Name;
use thv_keygen::header::SCHEME;

use crate::refusal::{JSON, Refusal};

/// JSON-RPC error code of a refused key, outside the range that JSON-RPC reserves.
const KEY_REFUSED: i64 = -33001;

/// The name of a locked server and the advice it gives to clients without a key.
///
/// Local users who reach the port can read both.
#[derive(Clone)]
pub struct Realm(Arc<Texts>);

struct Texts {
    name: Name,
    challenge: HeaderValue,
    unauthorized: Bytes,
    registration: Bytes,
}

/// Why a [`Realm`] could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RealmError {
    /// RFC 6749 section 5.2 allows printable ASCII without `"` and `\` in an `error_description`.
    #[error("advice is made of printable ASCII characters other than '\"' and '\\', and is not empty")]
    Advice,
}

impl Realm {
    /// Prepares the texts. `advice` is one sentence that tells a person how to get in; it goes out in the body
    /// of every 401 and as the `error_description` of a refused OAuth registration.
    ///
    /// # Errors
    /// The advice is empty or has a character that RFC 6749 keeps out of an `error_description`.
    pub fn new(name: Name, advice: &str) -> Result<Self, RealmError> {
        let fits = |c: u8| matches!(c, b' '..=b'~') && c != b'"' && c != b'\\';
        if advice.is_empty() || !advice.bytes().all(fits) {
            return Err(RealmError::Advice);
        }
        let challenge = HeaderValue::try_from(format!("{SCHEME} realm=\"{name}\""))
            .unwrap_or_else(|_| unreachable!("the grammar of names is within that of header values"));
        let unauthorized = format!(
            r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{KEY_REFUSED},"message":"{advice}","data":{{"reason":"key_refused"}}}}}}"#
        );
        let registration = format!(r#"{{"error":"invalid_client_metadata","error_description":"{advice}"}}"#);
        Ok(Self(Arc::new(Texts {
            name,
            challenge,
            unauthorized: unauthorized.into(),
            registration: registration.into(),
        })))
    }

    /// The server's name, to which its proofs are bound.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.0.name
    }

    /// The 401 that every request without a live key gets, whatever was wrong with it.
    pub(crate) fn unauthorized<R: From<Bytes>>(&self, why: Refusal) -> Response<R> {
        let mut response = json(StatusCode::UNAUTHORIZED, &self.0.unauthorized, why);
        response.headers_mut().insert(WWW_AUTHENTICATE, self.0.challenge.clone());
        response
    }

    /// The answer to a dynamic client registration (RFC 7591 section 3.2.2): no such thing here, and what to do
    /// instead. Clients that start an OAuth dance show its description to their user.
    pub(crate) fn registration<R: From<Bytes>>(&self) -> Response<R> {
        let mut response = json(StatusCode::BAD_REQUEST, &self.0.registration, Refusal::Registration);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Realm").field(&self.0.name).finish()
    }
}

fn json<R: From<Bytes>>(status: StatusCode, body: &Bytes, why: Refusal) -> Response<R> {
    let mut response = Response::new(R::from(body.clone()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response.extensions_mut().insert(why);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_that_a_client_could_not_show_is_refused() {
        let name = Name::parse("time").unwrap();
        for advice in ["", "say \"please\"", "back\\slash", "two\nlines", "é"] {
            assert_eq!(Realm::new(name.clone(), advice).err(), Some(RealmError::Advice), "{advice:?}");
        }
        assert!(Realm::new(name, "Start your client with: thv proxy stdio time").is_ok());
    }
}
