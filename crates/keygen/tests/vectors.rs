//! Known answers, made by an independent implementation (Python's `hmac` and `hashlib`).

use serde::Deserialize;
use thv_keygen::proof::{self, Challenge, Endpoints, Proof};
use thv_keygen::{Name, SharedKey};

#[derive(Deserialize)]
struct Vector {
    comment: String,
    key_hex: String,
    key_text: String,
    key_id: String,
    name: String,
    client: String,
    server: String,
    challenge_hex: String,
    proof: String,
}

fn raw(hex: &str) -> [u8; 32] {
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
}

#[test]
fn every_vector_holds_both_ways() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    assert!(vectors.len() >= 4);
    for vector in vectors {
        let key = SharedKey::from_bytes(raw(&vector.key_hex));
        let name = Name::parse(&vector.name).unwrap();
        let ends =
            Endpoints { client: vector.client.parse().unwrap(), server: vector.server.parse().unwrap() };
        let challenge = Challenge::from_bytes(raw(&vector.challenge_hex));
        let what = &vector.comment;

        assert_eq!(*key.expose_text(), vector.key_text, "{what}");
        assert_eq!(key.id().to_string(), vector.key_id, "{what}");
        assert_eq!(proof::prove(&key, &name, &ends, &challenge).encode(), vector.proof, "{what}");
        let given = Proof::parse(&vector.proof).unwrap();
        assert!(proof::verify(&key, &name, &ends, &challenge, &given), "{what}");
    }
}
