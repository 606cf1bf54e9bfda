//! Which header fields go on, in either direction.

use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, ORIGIN, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Carries keys between us and our neighbours, never through us.
pub(super) const AUTH: HeaderName = HeaderName::from_static("x-toolhive-auth");

/// The challenge scheme that is ours alone.
const SCHEME: &[u8] = b"ToolHive-SharedKey";

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Fields about one connection (RFC 9110, section 7.6.1, and RFC 2616, section 13.5.1). `Trailer` is not among them:
/// it announces what comes at the end.
const HOP_BY_HOP: [HeaderName; 9] = [
    KEEP_ALIVE,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("http2-settings"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    CONNECTION,
];

/// What browsers say of a request (W3C, Fetch Metadata Request Headers).
const FETCH_METADATA: [HeaderName; 5] = [
    HeaderName::from_static("sec-fetch-dest"),
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("sec-fetch-storage-access"),
    HeaderName::from_static("sec-fetch-user"),
];

/// Fields that an operator may not set on requests, since they are set here.
pub(super) fn is_ours_to_set(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, EXPECT, TRAILER, AUTH].contains(name) || HOP_BY_HOP.contains(name)
}

/// Turns a client's fields into those for the upstream, but for `Host` and the key, which belong to the connection.
pub(super) fn to_upstream(headers: &mut HeaderMap, extra: &HeaderMap) {
    let trailers = tokens(headers, &TE).any(|token| {
        let name = token.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"trailers")
    });
    drop_hop_by_hop(headers);
    headers.remove(AUTH);
    // It is met here: the body is asked for when the upstream is connected.
    headers.remove(EXPECT);
    drop_page(headers);
    headers.remove(HOST);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    for name in extra.keys() {
        headers.remove(name);
        for value in extra.get_all(name) {
            headers.append(name, value.clone());
        }
    }
}

/// Drops what a browser says of the page that asks. Who may call has been judged in front by the time a request gets here;
/// a server that judges once more knows neither our address nor the pages that were allowed, and would refuse them.
fn drop_page(headers: &mut HeaderMap) {
    headers.remove(ORIGIN);
    for name in &FETCH_METADATA {
        headers.remove(name);
    }
}

/// Makes the framing fields say what is known about the body: its length, `None` if it is chunked.
pub(super) fn frame(headers: &mut HeaderMap, length: Option<u64>) {
    match length {
        Some(0) if !headers.contains_key(CONTENT_LENGTH) => {}
        Some(length) => {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        None => {
            headers.remove(CONTENT_LENGTH);
            // Without it hyper would leave out the body of a GET.
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// Has the upstream answer without compression, so that its events can be read.
pub(super) fn refuse_encodings(headers: &mut HeaderMap) {
    headers.remove(ACCEPT_ENCODING);
}

/// Turns the upstream's fields into those for the client. CORS is for the guards in front to decide.
pub(super) fn to_client(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    headers.remove(AUTH);
    let is_cors = |name: &&HeaderName| name.as_str().starts_with("access-control-");
    if headers.keys().any(|name| is_cors(&name)) {
        let names: Vec<HeaderName> = headers.keys().filter(is_cors).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Takes out of trailers what may not go on.
pub(super) fn trailers(trailers: &mut HeaderMap) {
    trailers.remove(AUTH);
}

/// Whether a challenge uses the scheme that only our own front may use. It errs on the side of yes: the name in a
/// quoted parameter counts too.
pub(super) fn has_our_challenge(headers: &HeaderMap) -> bool {
    headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .any(|value| value.as_bytes().windows(SCHEME.len()).any(|window| window.eq_ignore_ascii_case(SCHEME)))
}

/// How long the upstream keeps an idle connection, if it says so.
pub(super) fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    tokens(headers, &KEEP_ALIVE).find_map(|token| {
        let text = std::str::from_utf8(token).ok()?;
        let (name, seconds) = text.split_once('=')?;
        let seconds = seconds.trim().parse().ok()?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| Duration::from_secs(seconds))
    })
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for token in tokens(headers, &CONNECTION) {
        // Most connections say nothing else.
        if token.eq_ignore_ascii_case(b"keep-alive") || token.eq_ignore_ascii_case(b"close") {
            continue;
        }
        named.extend(HeaderName::from_bytes(token));
    }
    for name in &named {
        headers.remove(name);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The elements of a field that is a comma-separated list.
fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let values = headers.get_all(name).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::try_from(*value).unwrap());
        }
        map
    }

    #[test]
    fn fields_to_the_upstream() {
        let cases = [
            (
                map(&[("mcp-param-x", "1"), ("mcp-param-x", "2")]),
                map(&[("mcp-param-x", "1"), ("mcp-param-x", "2")]),
            ),
            (map(&[("host", "us"), ("x-toolhive-auth", "k"), ("expect", "100-continue")]), map(&[])),
            (
                map(&[
                    ("connection", "close, X-A ,, \"x\""),
                    ("connection", "x-b"),
                    ("x-a", "1"),
                    ("x-b", "1"),
                    ("x-c", "1"),
                ]),
                map(&[("x-c", "1")]),
            ),
            (map(&[("upgrade", "websocket"), ("connection", "upgrade"), ("http2-settings", "x")]), map(&[])),
            (
                map(&[("keep-alive", "timeout=5"), ("proxy-authorization", "x"), ("proxy-connection", "x")]),
                map(&[]),
            ),
            (map(&[("te", "gzip, Trailers;q=1")]), map(&[("te", "trailers"), ("connection", "te")])),
            (map(&[("te", "gzip")]), map(&[])),
            (map(&[("trailer", "x-sum")]), map(&[("trailer", "x-sum")])),
            (
                map(&[
                    ("origin", "https://a"),
                    ("origin", "https://b"),
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "cors"),
                    ("sec-fetch-dest", "empty"),
                    ("sec-ch-ua", "x"),
                    ("referer", "https://a/"),
                ]),
                map(&[("sec-ch-ua", "x"), ("referer", "https://a/")]),
            ),
        ];
        for (mut headers, expect) in cases {
            to_upstream(&mut headers, &HeaderMap::new());
            assert_eq!(headers, expect);
        }
        let mut headers = map(&[("authorization", "mine"), ("x", "1")]);
        to_upstream(&mut headers, &map(&[("authorization", "a"), ("authorization", "b")]));
        assert_eq!(headers, map(&[("authorization", "a"), ("authorization", "b"), ("x", "1")]));
    }

    #[test]
    fn framing() {
        for (sent, length, expect) in [
            (map(&[]), Some(0), map(&[])),
            (map(&[("content-length", "0")]), Some(0), map(&[("content-length", "0")])),
            (map(&[("content-length", "9")]), Some(0), map(&[("content-length", "0")])),
            (map(&[]), Some(7), map(&[("content-length", "7")])),
            (map(&[("content-length", "9")]), None, map(&[("transfer-encoding", "chunked")])),
        ] {
            let mut headers = sent;
            frame(&mut headers, length);
            assert_eq!(headers, expect);
        }
    }

    #[test]
    fn fields_to_the_client() {
        let mut headers = map(&[
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "x"),
            ("connection", "x-a"),
            ("x-a", "1"),
            ("x-toolhive-auth", "k"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a"),
            ("set-cookie", "b"),
        ]);
        to_client(&mut headers);
        assert_eq!(headers, map(&[("set-cookie", "a"), ("set-cookie", "b")]));
    }

    #[test]
    fn challenges() {
        for (value, expect) in [
            ("ToolHive-SharedKey realm=\"x\"", true),
            ("Bearer realm=\"x\", toolhive-sharedkey realm=\"y\"", true),
            ("Bearer realm=\"toolhive\"", false),
            ("", false),
        ] {
            assert_eq!(
                has_our_challenge(&map(&[("www-authenticate", "Basic"), ("www-authenticate", value)])),
                expect
            );
        }
    }

    #[test]
    fn idle_times() {
        for (value, expect) in
            [("timeout=5", Some(5)), ("max=10, Timeout = 7", Some(7)), ("timeout=x", None), ("max=1", None)]
        {
            assert_eq!(
                keep_alive_timeout(&map(&[("keep-alive", value)])),
                expect.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
