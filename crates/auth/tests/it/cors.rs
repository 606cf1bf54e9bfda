//! CORS: nothing by default, that one origin for a listed one.

use http::{Method, StatusCode};
use thv_auth::{LockLayer, Refusal};

use crate::{KEY, Seen, guards, key, keys, locked, realm, request, send};

const ORIGIN: (&str, &str) = ("origin", "https://app.example");
const ASKS: (&str, &str) = ("access-control-request-method", "POST");

fn for_app() -> LockLayer {
    let guards = guards().allow_origins(["https://app.example", "http://other.example"]).unwrap();
    LockLayer::new(guards, keys([key(0)]), realm("time"))
}

#[tokio::test]
async fn without_a_listed_origin_no_response_speaks_of_cors() {
    let own = ("origin", "http://127.0.0.1:41873");
    for headers in [vec![("x-toolhive-auth", KEY)], vec![("x-toolhive-auth", KEY), own], vec![own]] {
        let (_, _, response) = send(&locked(), request(Method::POST, "/mcp", &headers)).await;
        assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control-")));
        assert!(!response.headers().contains_key("vary"));
    }
}

#[tokio::test]
async fn options_is_refused_like_any_request_without_a_key() {
    for headers in [vec![], vec![ASKS], vec![("origin", "http://127.0.0.1:41873"), ASKS]] {
        let (status, refusal, _) = send(&locked(), request(Method::OPTIONS, "/mcp", &headers)).await;
        assert_eq!((status, refusal), (StatusCode::UNAUTHORIZED, Some(Refusal::KeyMissing)));
    }
    // A listed origin, but no question about a method: not a preflight.
    let (status, _, _) = send(&for_app(), request(Method::OPTIONS, "/mcp", &[ORIGIN])).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // A page that is not listed gets no answer to its question.
    let foreign = [("origin", "http://evil.example"), ASKS];
    let (status, _, response) = send(&for_app(), request(Method::OPTIONS, "/mcp", &foreign)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_preflight_of_a_listed_origin_is_answered_here() {
    let wants = "content-type, x-toolhive-auth, Mcp-Param-City, x-evil, mcp-param-\u{e9}";
    let headers = [ORIGIN, ASKS, ("access-control-request-headers", wants)];
    let (status, refusal, response) = send(&for_app(), request(Method::OPTIONS, "/mcp", &headers)).await;
    assert_eq!((status, refusal), (StatusCode::NO_CONTENT, None));
    let answer = response.headers();
    assert_eq!(answer["access-control-allow-origin"], "https://app.example");
    assert_eq!(answer["access-control-allow-methods"], "GET, POST, DELETE");
    assert!(answer["vary"].to_str().unwrap().contains("origin"));
    let allowed = answer["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("x-toolhive-auth"), "{allowed}");
    assert!(!allowed.contains("x-evil") && !allowed.contains('*'), "{allowed}");
    assert!(!answer.contains_key("access-control-allow-credentials"));
}

#[tokio::test]
async fn parameters_of_tools_may_be_sent_as_headers() {
    let headers = [ORIGIN, ASKS, ("access-control-request-headers", "accept,Mcp-Param-City")];
    let (_, _, response) = send(&for_app(), request(Method::OPTIONS, "/mcp", &headers)).await;
    let allowed = response.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.ends_with(", mcp-param-city"), "{allowed}");
}

#[tokio::test]
async fn responses_to_a_listed_origin_name_it_refusals_too() {
    let with_key = [ORIGIN, ("x-toolhive-auth", KEY), ("sec-fetch-site", "cross-site")];
    for (headers, expected) in [(&with_key[..], StatusCode::OK), (&[ORIGIN][..], StatusCode::UNAUTHORIZED)] {
        let (status, _, response) = send(&for_app(), request(Method::POST, "/mcp", headers)).await;
        assert_eq!(status, expected);
        let all: Vec<_> = response.headers().get_all("access-control-allow-origin").iter().collect();
        assert_eq!(all, ["https://app.example"]);
        let exposed = response.headers()["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("mcp-session-id"), "{exposed}");
        assert_eq!(response.headers()["vary"], "origin");
        // What the upstream said of CORS is gone.
        assert!(!response.headers().contains_key("access-control-allow-private-network"));
    }
}

#[tokio::test]
async fn a_client_without_an_origin_sees_that_answers_vary() {
    let headers = [("x-toolhive-auth", KEY)];
    let (_, _, response) = send(&for_app(), request(Method::POST, "/mcp", &headers)).await;
    assert!(response.extensions().get::<Seen>().is_some());
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    assert_eq!(response.headers()["vary"], "origin");
}
