//! Names on the wire: header fields, the authentication scheme, the path of the proof.
//!
//! Field names are lowercase, as the `http` crate wants them; RFC 9110 section 5.1 makes them case-insensitive.

/// Carries the key's text form, once, on every request to a guarded endpoint.
pub const AUTH: &str = "x-toolhive-auth";
/// Carries 32 random bytes in padded standard base64: what the server is asked to sign.
pub const CHALLENGE: &str = "x-toolhive-challenge";
/// Names the key the challenger holds, as 16 lowercase hex digits.
pub const KEY_ID: &str = "x-toolhive-key-id";
/// Carries the server's proof in padded standard base64.
pub const PROOF: &str = "x-toolhive-proof";
/// The scheme of our `WWW-Authenticate` challenge (RFC 9110 section 11.6.1).
pub const SCHEME: &str = "ToolHive-SharedKey";
/// Where a listener answers challenges.
pub const PROOF_PATH: &str = "/.well-known/toolhive/proof";
