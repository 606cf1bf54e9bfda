//! The key: accepted forms, refused forms, and the one answer to all of the latter.

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use thv_auth::{Identity, KeyLayer, LiveKeys, LockLayer, Refusal};
use thv_keygen::{KeySet, LiveKey, Name};

use crate::{ADVICE, KEY, Seen, Upstream, guards, key, keys, locked, realm, request, send, send_to, text};

const FIELD: &str = "x-toolhive-auth";

async fn refused(headers: &[(&str, &str)], expected: Refusal) {
    refused_at(Method::POST, "/mcp", headers, expected).await;
}

async fn refused_at(method: Method, target: &str, headers: &[(&str, &str)], expected: Refusal) {
    let (status, refusal, response) = send(&locked(), request(method, target, headers)).await;
    assert_eq!((status, refusal), (StatusCode::UNAUTHORIZED, Some(expected)), "{target} {headers:?}");
    let challenges: Vec<_> = response.headers().get_all("www-authenticate").iter().collect();
    assert_eq!(challenges, [r#"ToolHive-SharedKey realm="time""#]);
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":-33001,"message":"{ADVICE}","data":{{"reason":"key_refused"}}}}}}"#
    );
    assert_eq!(text(response).await, body);
}

#[tokio::test]
async fn every_text_form_of_a_live_key_passes() {
    let raw = key(0xfb);
    let padded = raw.expose_text();
    let unpadded = padded.trim_end_matches('=');
    let url_safe = padded.replace('+', "-").replace('/', "_");
    assert_ne!(*padded, url_safe);
    let layer = LockLayer::new(guards(), keys([raw.clone()]), realm("time"));
    for text in [&padded, unpadded, &url_safe, url_safe.trim_end_matches('=')] {
        let (status, _, response) = send(&layer, request(Method::POST, "/mcp", &[(FIELD, text)])).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let seen = response.extensions().get::<Seen>().unwrap();
        assert!(!seen.headers.contains_key(FIELD), "the key was passed on");
        assert_eq!(seen.identity, Some(Identity { key_id: raw.id(), label: None }));
    }
}

#[tokio::test]
async fn anything_else_is_the_same_401() {
    let other = key(1).expose_text();
    let long = "A".repeat(10 * 1024);
    let at_limit = "A".repeat(128);
    refused(&[], Refusal::KeyMissing).await;
    refused(&[(FIELD, &other)], Refusal::KeyWrong).await;
    refused(&[(FIELD, KEY), (FIELD, KEY)], Refusal::KeyRepeated).await;
    refused(&[(FIELD, KEY), (FIELD, &other)], Refusal::KeyRepeated).await;
    refused(&[(FIELD, &other), (FIELD, KEY)], Refusal::KeyRepeated).await;
    refused(&[(FIELD, &format!("{KEY},{KEY}"))], Refusal::KeyMalformed).await;
    refused(&[(FIELD, &format!("{KEY}, {}", &*other))], Refusal::KeyMalformed).await;
    refused(&[(FIELD, &long)], Refusal::KeyTooLong).await;
    refused(&[(FIELD, &format!("{KEY}{}", "=".repeat(85)))], Refusal::KeyTooLong).await;
    refused(&[(FIELD, &at_limit)], Refusal::KeyMalformed).await;
    for malformed in [
        "",
        "secret",
        // Not ASCII.
        "ÀAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        // Both alphabets in one text.
        "+_ECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        // Padding: too much, doubled, in the middle, alone.
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8==",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh==",
        "AAEC=wQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        // White space within.
        "AAECAwQFBgcICQoLDA0O DxAREhMUFRYXGBkaGxwdHh8=",
        "AAECAwQFBgcICQoLDA0O\tDxAREhMUFRYXGBkaGxwdHh8",
        // Trailing bits that decode to nothing.
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9=",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9",
        // 31 and 33 bytes.
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg==",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g",
        // The key in hexadecimal.
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
    ] {
        refused(&[(FIELD, malformed)], Refusal::KeyMalformed).await;
    }
}

#[tokio::test]
async fn the_key_counts_nowhere_else() {
    let bearer = format!("Bearer {KEY}");
    let scheme = format!("ToolHive-SharedKey {KEY}");
    let cookie = format!("x-toolhive-auth={KEY}");
    let encoded = KEY.replace('=', "%3D");
    for headers in [
        [("authorization", bearer.as_str())],
        [("authorization", &scheme)],
        [("cookie", &cookie)],
        [("x-api-key", KEY)],
        [("x_toolhive_auth", KEY)],
    ] {
        refused(&headers, Refusal::KeyMissing).await;
    }
    for target in [
        format!("/mcp?X-ToolHive-Auth={KEY}"),
        format!("/mcp?x-toolhive-auth={encoded}"),
        format!("/{KEY}/mcp"),
    ] {
        refused_at(Method::POST, &target, &[], Refusal::KeyMissing).await;
    }
}

#[tokio::test]
async fn without_a_key_every_method_and_path_is_401() {
    for method in [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
        Method::from_bytes(b"PROPFIND").unwrap(),
    ] {
        for target in ["/", "/mcp", "//mcp", "/%2e/mcp", "/mcp/../health", "/sse", "/no-such-path"] {
            refused_at(method.clone(), target, &[], Refusal::KeyMissing).await;
        }
        refused_at(method, "/mcp", &[("mcp-session-id", "known")], Refusal::KeyMissing).await;
    }
    refused_at(Method::OPTIONS, "*", &[], Refusal::KeyMissing).await;
}

#[tokio::test]
async fn a_set_can_be_exchanged_while_requests_run() {
    let live = keys([key(1)]);
    let layer = LockLayer::new(guards(), live.clone(), realm("time"));
    let send_key = async |n: u8| {
        let text = key(n).expose_text();
        send(&layer, request(Method::POST, "/mcp", &[(FIELD, &text)])).await.0
    };
    assert_eq!(send_key(1).await, StatusCode::OK);
    assert_eq!(send_key(2).await, StatusCode::UNAUTHORIZED);

    live.store(KeySet::new(vec![LiveKey::new(key(1), None, None), LiveKey::new(key(2), None, None)]));
    assert_eq!(send_key(1).await, StatusCode::OK);
    assert_eq!(send_key(2).await, StatusCode::OK);

    live.store(KeySet::new(vec![LiveKey::new(key(2), None, None)]));
    assert_eq!(send_key(1).await, StatusCode::UNAUTHORIZED);
    assert_eq!(send_key(2).await, StatusCode::OK);
    assert_eq!(live.load().len(), 1);

    live.store(KeySet::default());
    assert_eq!(send_key(2).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_ended_key_is_refused_and_a_label_tells_who_came() {
    let hour = Duration::from_secs(3_600);
    let label = Name::parse("Claude").unwrap();
    let set = KeySet::new(vec![
        LiveKey::new(key(1), None, Some(SystemTime::now() - hour)),
        LiveKey::new(key(2), Some(label.clone()), Some(SystemTime::now() + hour)),
    ]);
    let layer = KeyLayer::new(LiveKeys::new(set), realm("time"));
    let ended = key(1).expose_text();
    let (_, refusal, _) = send(&layer, request(Method::POST, "/mcp", &[(FIELD, &ended)])).await;
    assert_eq!(refusal, Some(Refusal::KeyWrong));

    let issued = key(2).expose_text();
    let (_, _, response) = send(&layer, request(Method::POST, "/mcp", &[(FIELD, &issued)])).await;
    let seen = response.extensions().get::<Seen>().unwrap();
    assert_eq!(seen.identity, Some(Identity { key_id: key(2).id(), label: Some(label) }));
}

#[tokio::test]
async fn a_hook_runs_for_accepted_keys_alone() {
    let (accepted, seen_by_hook) = std::sync::mpsc::channel();
    let layer = locked().on_accept(move |live, extensions| {
        assert!(extensions.get::<thv_auth::ConnInfo>().is_some());
        accepted.send(live.id()).unwrap();
    });
    let upstream = Upstream::default();
    for field in ["", KEY, "wrong"] {
        send_to(&layer, &upstream, request(Method::POST, "/mcp", &[(FIELD, field)])).await;
    }
    drop(layer);
    assert_eq!(seen_by_hook.iter().collect::<Vec<_>>(), [key(0).id()]);
    assert_eq!(upstream.calls(), 1);
}
