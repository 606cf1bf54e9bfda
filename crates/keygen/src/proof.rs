//! The server proof: a listener shows that it holds a key, on this very connection, without sending it.
//!
//! The challenger sends 32 random bytes and the id of its key. The listener answers with
//! HMAC-SHA256(raw key, `"toolhive-proof-v1"` ‖ 0x00 ‖ name ‖ 0x00 ‖ client IP ‖ client port ‖ server IP ‖
//! server port ‖ challenge): IPs as 16 bytes (IPv4 mapped to IPv6), ports as two bytes, big-endian, the name in
//! lowercase.
//!
//! Both sides must read both addresses from their own socket. A program that takes over a port and splices the
//! bytes to the real listener stands between two connections with different addresses, so the proof that it
//! relays does not verify.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use constant_time_eq::constant_time_eq_32;
use getrandom::SysRng;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand_core::TryRng as _;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{GenerateError, Name, SharedKey};

const DOMAIN: &[u8] = b"toolhive-proof-v1";

/// 32 random bytes that a proof answers. Public, used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge([u8; 32]);

/// HMAC-SHA256 over a challenge and its connection. Public.
#[derive(Clone, Copy, Debug)]
pub struct Proof([u8; 32]);

/// The two ends of one TCP connection, each side's view taken from its own socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// The side that connected and challenges.
    pub client: SocketAddr,
    /// The side that accepted and proves.
    pub server: SocketAddr,
}

/// A header field that is not 32 bytes in padded standard base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 bytes in padded standard base64")]
pub struct ParseProofError;

impl Challenge {
    /// Draws a new challenge.
    ///
    /// # Errors
    /// The operating system's generator failed.
    pub fn generate() -> Result<Self, GenerateError> {
        let mut raw = [0; 32];
        SysRng.try_fill_bytes(&mut raw).map_err(GenerateError)?;
        Ok(Self(raw))
    }

    /// Takes 32 raw bytes as a challenge, for tests and known answers.
    #[must_use]
    pub fn from_bytes(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// Reads the header form.
    ///
    /// # Errors
    /// Anything but padded standard base64 of 32 bytes.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, ParseProofError> {
        decode(text.as_ref()).map(Self)
    }

    /// The header form: 44 characters of padded standard base64.
    #[must_use]
    pub fn encode(&self) -> String {
        STANDARD.encode(self.0)
    }
}

impl Proof {
    /// Reads the header form.
    ///
    /// # Errors
    /// Anything but padded standard base64 of 32 bytes.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, ParseProofError> {
        decode(text.as_ref()).map(Self)
    }

    /// The header form: 44 characters of padded standard base64.
    #[must_use]
    pub fn encode(&self) -> String {
        STANDARD.encode(self.0)
    }
}

/// Answers a challenge: the listener's half.
#[must_use]
pub fn prove(key: &SharedKey, name: &Name, ends: &Endpoints, challenge: &Challenge) -> Proof {
    Proof(mac(key, name, ends, challenge))
}

/// Checks an answer in constant time: the challenger's half.
#[must_use]
pub fn verify(key: &SharedKey, name: &Name, ends: &Endpoints, challenge: &Challenge, proof: &Proof) -> bool {
    constant_time_eq_32(&mac(key, name, ends, challenge), &proof.0)
}

fn mac(key: &SharedKey, name: &Name, ends: &Endpoints, challenge: &Challenge) -> [u8; 32] {
    // RFC 2104 fills a short key with zeros up to the block of 64 bytes; doing it here leaves no length to fail on.
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key.expose_bytes());
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    mac.update(DOMAIN);
    mac.update(&[0]);
    mac.update(name.lower().as_bytes());
    mac.update(&[0]);
    for end in [ends.client, ends.server] {
        let ip = match end.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        mac.update(&ip.octets());
        mac.update(&end.port().to_be_bytes());
    }
    mac.update(&challenge.0);
    mac.finalize().into_bytes().into()
}

fn decode(text: &[u8]) -> Result<[u8; 32], ParseProofError> {
    if text.len() != 44 {
        return Err(ParseProofError);
    }
    let mut raw = [0; 33];
    match STANDARD.decode_slice_unchecked(text, &mut raw) {
        Ok(32) => Ok(std::array::from_fn(|at| raw[at])),
        _ => Err(ParseProofError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ends(client: &str, server: &str) -> Endpoints {
        Endpoints { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    #[test]
    fn refuses_every_form_but_padded_standard_base64() {
        let good = Challenge::from_bytes([0xfb; 32]).encode();
        assert!(Challenge::parse(&good).is_ok());
        for text in
            ["", good.trim_end_matches('='), &good.replace('+', "-").replace('/', "_"), &format!("{good} ")]
        {
            assert_eq!(Challenge::parse(text), Err(ParseProofError), "{text:?}");
            assert!(Proof::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_proof_is_bound_to_key_name_both_ends_and_challenge() {
        let key = SharedKey::from_bytes([1; 32]);
        let name = Name::parse("time").unwrap();
        let here = ends("127.0.0.1:50000", "127.0.0.1:41873");
        let challenge = Challenge::from_bytes([2; 32]);
        let proof = prove(&key, &name, &here, &challenge);

        assert!(verify(&key, &Name::parse("TIME").unwrap(), &here, &challenge, &proof));
        assert!(verify(
            &key,
            &name,
            &ends("[::ffff:127.0.0.1]:50000", "127.0.0.1:41873"),
            &challenge,
            &proof
        ));

        assert!(!verify(&SharedKey::from_bytes([3; 32]), &name, &here, &challenge, &proof));
        assert!(!verify(&key, &Name::parse("tim").unwrap(), &here, &challenge, &proof));
        assert!(!verify(&key, &name, &here, &Challenge::from_bytes([3; 32]), &proof));
        for (client, server) in [
            ("127.0.0.1:50001", "127.0.0.1:41873"),
            ("127.0.0.2:50000", "127.0.0.1:41873"),
            ("127.0.0.1:50000", "127.0.0.1:41874"),
            ("127.0.0.1:41873", "127.0.0.1:50000"),
        ] {
            assert!(!verify(&key, &name, &ends(client, server), &challenge, &proof), "{client} {server}");
        }
    }

    proptest! {
        #[test]
        fn header_forms_round_trip(raw in any::<[u8; 32]>()) {
            prop_assert_eq!(Challenge::parse(Challenge(raw).encode()), Ok(Challenge(raw)));
            prop_assert_eq!(Proof::parse(Proof(raw).encode()).map(|proof| proof.0), Ok(raw));
        }

        #[test]
        fn parses_nothing_that_it_would_not_write(text in "[A-Za-z0-9+/_=-]{43,45}") {
            if let Ok(challenge) = Challenge::parse(&text) {
                prop_assert_eq!(challenge.encode(), text);
            }
        }
    }
}
