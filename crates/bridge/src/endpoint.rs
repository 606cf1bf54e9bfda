//! Where the messages of a 2024-11-05 session are posted: the URI in the stream's first event, which must lead to where
//! the stream came from. A server that names another place would have us send key and messages there.

use http::Uri;

/// Resolves the reference of an `endpoint` event (RFC 3986, section 5.2) against the path of the stream. Nothing for one
/// that leads elsewhere than to `authority` over plain HTTP, or that is no URI.
pub(crate) fn resolve(stream: &Uri, authority: &str, reference: &str) -> Option<Uri> {
    let reference = reference.split('#').next().unwrap_or_default();
    let base = stream.path();
    let (path, query) = match strip_scheme(reference)? {
        Some(rest) => {
            let rest = rest.strip_prefix("//")?;
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            if !rest[..end].eq_ignore_ascii_case(authority) {
                return None;
            }
            split(&rest[end..])
        }
        None if reference.is_empty() || !reference.is_ascii() => return None,
        None => split(reference),
    };
    let absolute = if path.is_empty() {
        if reference.starts_with('?') { base.to_owned() } else { "/".to_owned() }
    } else if path.starts_with('/') {
        without_dots(path)
    } else {
        let folder = &base[..=base.rfind('/')?];
        without_dots(&format!("{folder}{path}"))
    };
    let text = match query {
        Some(query) => format!("{absolute}?{query}"),
        None => absolute,
    };
    Uri::try_from(text).ok().filter(|uri| uri.authority().is_none() && uri.path().starts_with('/'))
}

/// What follows `http:`, if the reference begins with that or with an authority; nothing at all for another scheme.
fn strip_scheme(reference: &str) -> Option<Option<&str>> {
    if reference.starts_with("//") {
        return Some(Some(reference));
    }
    match reference.split_once(':') {
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            scheme.eq_ignore_ascii_case("http").then_some(Some(rest))
        }
        _ => Some(None),
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)))
}

/// RFC 3986, section 5.2.4, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHORITY: &str = "127.0.0.1:41873";

    fn check(reference: &str, expect: Option<&str>) {
        let stream = Uri::from_static("/base/sse?x=1");
        let found = resolve(&stream, AUTHORITY, reference).map(|uri| uri.to_string());
        assert_eq!(found.as_deref(), expect, "{reference:?}");
    }

    #[test]
    fn references_to_the_same_place() {
        check("/messages/?session_id=ab%20c", Some("/messages/?session_id=ab%20c"));
        check("/messages", Some("/messages"));
        check("messages?s=1", Some("/base/messages?s=1"));
        check("./messages", Some("/base/messages"));
        check("../messages/", Some("/messages/"));
        check("../../../up/..", Some("/"));
        check("a/./b/../c/.", Some("/base/a/c/"));
        check("?s=1", Some("/base/sse?s=1"));
        check("/m?next=http://elsewhere/", Some("/m?next=http://elsewhere/"));
        check("/m#fragment", Some("/m"));
        check("http://127.0.0.1:41873/m?s=1", Some("/m?s=1"));
        check("HTTP://127.0.0.1:41873?s=1", Some("/?s=1"));
        check("//127.0.0.1:41873/m", Some("/m"));
    }

    #[test]
    fn references_that_lead_elsewhere_or_nowhere() {
        for reference in [
            "",
            "#x",
            "http://127.0.0.1:41874/m",
            "http://127.0.0.1/m",
            "http://user@127.0.0.1:41873/m",
            "http://127.0.0.1:41873@elsewhere/m",
            "http://elsewhere:41873/m",
            "//elsewhere/m",
            "https://127.0.0.1:41873/m",
            "http:/m",
            "ftp://127.0.0.1:41873/m",
            "javascript:alert(1)",
            "/a b",
            "/a\u{e9}",
        ] {
            check(reference, None);
        }
    }
}
