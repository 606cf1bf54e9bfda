//! The listener's half of the server proof.

use std::str::FromStr as _;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::CACHE_CONTROL;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use thv_keygen::proof::{self, Challenge, Endpoints};
use thv_keygen::{KeyId, KeySet, Name, header};

use crate::{ConnInfo, Refusal};

static CHALLENGE: HeaderName = HeaderName::from_static(header::CHALLENGE);
static KEY_ID: HeaderName = HeaderName::from_static(header::KEY_ID);
static PROOF: HeaderName = HeaderName::from_static(header::PROOF);

/// Answers a request for a proof.
pub(super) fn answer<R: From<Bytes>>(
    keys: &KeySet,
    name: &Name,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Response<R>, Refusal> {
    let challenge = only(headers, &CHALLENGE).and_then(|text| Challenge::parse(text).ok());
    let key_id = only(headers, &KEY_ID)
        .and_then(|text| std::str::from_utf8(text).ok())
        .and_then(|text| KeyId::from_str(text).ok());
    let (Some(challenge), Some(key_id)) = (challenge, key_id) else {
        return Err(Refusal::ProofMalformed);
    };
    let live = keys.by_id(key_id, SystemTime::now()).ok_or(Refusal::ProofUnknownKey)?;
    let conn = extensions.get::<ConnInfo>().ok_or(Refusal::ProofUnknownKey)?;

    let ends = Endpoints { client: conn.peer, server: conn.local };
    let proof = proof::prove(live.key(), name, &ends, &challenge).encode();
    let mut response = Response::new(R::from(Bytes::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    let proof =
        HeaderValue::try_from(proof).unwrap_or_else(|_| unreachable!("base64 is within header values"));
    response.headers_mut().insert(&PROOF, proof);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The value of a field that appears exactly once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut fields = headers.get_all(name).iter();
    let value = fields.next()?;
    fields.next().is_none().then(|| value.as_bytes())
}
