//! Endpoints that need no key: the proof, health, and the ends of OAuth's roads.

use http::{Method, StatusCode};
use thv_auth::{ConnInfo, LocalLayer, LockLayer, Refusal};
use thv_keygen::proof::{self, Challenge, Endpoints, Proof};
use thv_keygen::{Name, header};

use crate::{ADVICE, KEY, Seen, conn, guards, key, keys, locked, realm, request, send, text};

const ID: &str = "08b5d7d2ef52b8b6";

fn challenge() -> Challenge {
    Challenge::from_bytes([0xaa; 32])
}

fn ends() -> Endpoints {
    Endpoints { client: conn().peer, server: conn().local }
}

#[tokio::test]
async fn the_proof_is_the_contracts_own_vector() {
    let asks = challenge().encode();
    let headers = [(header::CHALLENGE, asks.as_str()), (header::KEY_ID, ID)];
    let (status, refusal, response) =
        send(&locked(), request(Method::GET, header::PROOF_PATH, &headers)).await;
    assert_eq!((status, refusal), (StatusCode::NO_CONTENT, None));
    let all: Vec<_> = response.headers().get_all(header::PROOF).iter().collect();
    assert_eq!(all, ["MWxv+okJfznsyVvi1/cwTJzNUDBx6L6v7ekU6R6LQl0="]);
    assert_eq!(text(response).await, "");
}

#[tokio::test]
async fn a_proof_of_one_server_is_none_of_another() {
    let asks = challenge().encode();
    let headers = [(header::CHALLENGE, asks.as_str()), (header::KEY_ID, ID)];
    // The very same key, but the server has another name.
    let other = LockLayer::new(guards(), keys([key(0)]), realm("git"));
    let (_, _, response) = send(&other, request(Method::GET, header::PROOF_PATH, &headers)).await;
    let proof = Proof::parse(response.headers()[header::PROOF].as_bytes()).unwrap();
    let time = Name::parse("time").unwrap();
    let git = Name::parse("git").unwrap();
    assert!(!proof::verify(&key(0), &time, &ends(), &challenge(), &proof));
    assert!(proof::verify(&key(0), &git, &ends(), &challenge(), &proof));

    // Another connection of the same client to the same server.
    let mut request = request(Method::GET, header::PROOF_PATH, &headers);
    request.extensions_mut().insert(ConnInfo { peer: "127.0.0.1:50001".parse().unwrap(), ..conn() });
    let (_, _, response) = send(&locked(), request).await;
    let proof = Proof::parse(response.headers()[header::PROOF].as_bytes()).unwrap();
    assert!(!proof::verify(&key(0), &time, &ends(), &challenge(), &proof));
}

#[tokio::test]
async fn every_live_key_proves_with_itself() {
    let layer = LockLayer::new(guards(), keys([key(1), key(2)]), realm("time"));
    let asks = challenge().encode();
    for n in [1, 2] {
        let id = key(n).id().to_string();
        let headers = [(header::CHALLENGE, asks.as_str()), (header::KEY_ID, &id)];
        let (_, _, response) = send(&layer, request(Method::GET, header::PROOF_PATH, &headers)).await;
        let proof = Proof::parse(response.headers()[header::PROOF].as_bytes()).unwrap();
        let name = Name::parse("time").unwrap();
        assert!(proof::verify(&key(n), &name, &ends(), &challenge(), &proof));
        assert!(!proof::verify(&key(3 - n), &name, &ends(), &challenge(), &proof));
    }
}

fn c(text: &str) -> (&str, &str) {
    (header::CHALLENGE, text)
}

fn k(text: &str) -> (&str, &str) {
    (header::KEY_ID, text)
}

#[tokio::test]
async fn a_malformed_question_is_400_and_an_unknown_key_404() {
    let good = challenge().encode();
    let url_safe = Challenge::from_bytes([0xfb; 32]).encode().replace('+', "-").replace('/', "_");
    let unknown = key(9).id().to_string();
    let cases = [
        (vec![], Refusal::ProofMalformed),
        (vec![c(&good)], Refusal::ProofMalformed),
        (vec![k(ID)], Refusal::ProofMalformed),
        (vec![c(&good), c(&good), k(ID)], Refusal::ProofMalformed),
        (vec![c(&good), k(ID), k(ID)], Refusal::ProofMalformed),
        (vec![c(good.trim_end_matches('=')), k(ID)], Refusal::ProofMalformed),
        (vec![c(&url_safe), k(ID)], Refusal::ProofMalformed),
        (vec![c(""), k(ID)], Refusal::ProofMalformed),
        (vec![c(&good), k("08B5D7D2EF52B8B6")], Refusal::ProofMalformed),
        (vec![c(&good), k("08b5d7d2ef52b8b")], Refusal::ProofMalformed),
        (vec![c(&good), k("é8b5d7d2ef52b8b")], Refusal::ProofMalformed),
        // The key itself is no id, and no reason to answer.
        (vec![c(&good), k(KEY)], Refusal::ProofMalformed),
        (vec![c(&good), k(&unknown)], Refusal::ProofUnknownKey),
    ];
    for (headers, expected) in cases {
        let (status, refusal, response) =
            send(&locked(), request(Method::GET, header::PROOF_PATH, &headers)).await;
        assert_eq!(refusal, Some(expected), "{headers:?}");
        assert_eq!(status, if expected == Refusal::ProofMalformed { 400 } else { 404 });
        assert!(!response.headers().contains_key(header::PROOF));
    }
}

#[tokio::test]
async fn without_the_addresses_nothing_is_proved() {
    let asks = challenge().encode();
    let mut request =
        request(Method::GET, header::PROOF_PATH, &[(header::CHALLENGE, &asks), (header::KEY_ID, ID)]);
    request.extensions_mut().clear();
    let (status, _, response) = send(&locked(), request).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(!response.headers().contains_key(header::PROOF));
}

#[tokio::test]
async fn the_path_of_the_proof_is_never_passed_on() {
    for method in [Method::POST, Method::HEAD, Method::DELETE] {
        let (status, _, _) = send(&locked(), request(method.clone(), header::PROOF_PATH, &[])).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let with_key = request(method, header::PROOF_PATH, &[(header::AUTH, KEY)]);
        let (status, refusal, response) = send(&locked(), with_key).await;
        assert_eq!((status, refusal), (StatusCode::METHOD_NOT_ALLOWED, Some(Refusal::ProofMethod)));
        assert_eq!(response.headers()["allow"], "GET");
    }
}

#[tokio::test]
async fn health_tells_nothing() {
    for target in ["/health", "/health?verbose=1", "http://127.0.0.1:41873/health"] {
        let (status, _, response) = send(&locked(), request(Method::GET, target, &[])).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
        assert!(response.headers().is_empty(), "{:?}", response.headers());
        assert_eq!(text(response).await, "");
    }
}

#[tokio::test]
async fn oauth_ends_here_with_advice() {
    for target in [
        "/.well-known/oauth-protected-resource",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
    ] {
        let (status, refusal, _) = send(&locked(), request(Method::GET, target, &[])).await;
        assert_eq!((status, refusal), (StatusCode::NOT_FOUND, Some(Refusal::Discovery)), "{target}");
        // Not even with a key.
        let (status, _, _) = send(&locked(), request(Method::GET, target, &[(header::AUTH, KEY)])).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{target}");
    }
    let (status, refusal, response) = send(&locked(), request(Method::POST, "/register", &[])).await;
    assert_eq!((status, refusal), (StatusCode::BAD_REQUEST, Some(Refusal::Registration)));
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = format!(r#"{{"error":"invalid_client_metadata","error_description":"{ADVICE}"}}"#);
    assert_eq!(text(response).await, body);
}

#[tokio::test]
async fn paths_are_matched_raw() {
    for (method, target) in [
        (Method::GET, "//health"),
        (Method::GET, "/health/"),
        (Method::GET, "/Health"),
        (Method::GET, "/%68ealth"),
        (Method::GET, "/./health"),
        (Method::GET, "/mcp/../health"),
        (Method::HEAD, "/health"),
        (Method::POST, "/health"),
        (Method::GET, "/register"),
        (Method::POST, "/register/"),
        (Method::POST, "//register"),
        (Method::GET, "/.well-known/%6fauth-protected-resource"),
        (Method::GET, "/.well-known/"),
        (Method::GET, "/mcp/.well-known/openid-configuration"),
        (Method::GET, "/.well-known/toolhive/proof/"),
        (Method::GET, "/.well-known/toolhive%2fproof"),
    ] {
        let (status, refusal, _) = send(&locked(), request(method, target, &[])).await;
        let expected = (StatusCode::UNAUTHORIZED, Some(Refusal::KeyMissing));
        assert_eq!((status, refusal), expected, "{target}");
    }
}

#[tokio::test]
async fn an_open_server_has_health_and_no_proof() {
    let open = LocalLayer::open();
    let (status, _, _) = send(&open, request(Method::GET, "/health", &[])).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let asks = challenge().encode();
    let headers = [(header::CHALLENGE, asks.as_str()), (header::KEY_ID, ID)];
    for method in [Method::GET, Method::POST] {
        let (status, _, response) = send(&open, request(method, header::PROOF_PATH, &headers)).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(!response.headers().contains_key(header::PROOF));
    }
    for (method, target) in [
        (Method::POST, "/mcp"),
        (Method::POST, "/register"),
        (Method::GET, "/.well-known/oauth-protected-resource"),
    ] {
        let (status, _, response) = send(&open, request(method, target, &[(header::AUTH, KEY)])).await;
        assert_eq!(status, StatusCode::OK, "{target}");
        assert!(!response.extensions().get::<Seen>().unwrap().headers.contains_key(header::AUTH));
    }
}
