//! The key: the forms in which it opens the door, and all those in which it does not.

use crate::locked::{Locked, PROOF_PATH, check_pong, check_unauthorized, key_id, ping, raw_key};
use base64::Engine as _;
use base64::alphabet::{STANDARD as ALPHABET, URL_SAFE};
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, STANDARD};
use serde_json::{Value, json};
use thv_e2e::http::{Http, Request};
use thv_e2e::{Failure, Home, Result, ensure};

/// How many workloads may be made until one has a key that looks as a test wants it.
const MAX_KEYS: usize = 60;

/// A workload whose key's text has two characters at least that differ between the alphabets, so that every form
/// of it is another text.
fn with_a_telling_key(home: &Home) -> Result<Locked<'_>> {
    for number in 0..MAX_KEYS {
        let locked = Locked::run(home, &format!("demo-{number}"))?;
        if locked.key.matches(['+', '/']).count() >= 2 {
            return Ok(locked);
        }
        locked.supervisor.stop()?;
    }
    Err(Failure::new(format!("{MAX_KEYS} keys without two characters of + and /: these are not random")))
}

/// One key, and the forms that it can be given.
struct Forms<'a> {
    locked: &'a Locked<'a>,
    /// A key of the right form that is live nowhere.
    wrong: String,
    /// The key of another workload of the same home.
    other: String,
}

impl<'a> Forms<'a> {
    fn new(locked: &'a Locked<'a>, other: &Locked<'_>) -> Result<Self> {
        let mut raw = raw_key(&locked.key)?;
        raw[31] ^= 1;
        Ok(Self { locked, wrong: STANDARD.encode(raw), other: other.key.clone() })
    }

    fn key(&self) -> &str {
        &self.locked.key
    }

    fn unpadded(&self) -> &str {
        self.key().trim_end_matches('=')
    }

    fn url_safe(&self) -> String {
        self.key().replace('+', "-").replace('/', "_")
    }

    /// The first character that differs in the URL-safe form, the others in the standard one.
    fn mixed(&self) -> String {
        self.key().replacen('+', "-", 1).replacen('/', "_", usize::from(!self.key().contains('+')))
    }

    /// Another text of the same bytes, for a reader that ignores the bits beyond the last.
    fn trailing_bits(&self) -> String {
        let alphabet = ALPHABET.as_str();
        let last = alphabet.find(&self.key()[42..43]).unwrap_or_default();
        format!("{}{}=", &self.key()[..42], &alphabet[last + 1..last + 2])
    }

    fn hex(&self) -> String {
        raw_key(self.key()).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A request with nothing wrong but what a case adds. It is never to reach the server.
    fn request(&self) -> Request {
        self.locked.request(&marked())
    }

    fn at(&self, target: &str) -> Request {
        self.locked.request_at(target, &marked())
    }
}

const MARK: &str = "never-to-arrive";

fn marked() -> Value {
    json!({ "jsonrpc": "2.0", "id": 1, "method": "ping", "params": { "mark": MARK } })
}

type Case = (&'static str, fn(&Forms<'_>) -> Request);

const REFUSED: &[Case] = &[
    ("none", |forms| forms.request()),
    ("empty", |forms| forms.request().key("")),
    ("a wrong one", |forms| forms.request().key(&forms.wrong)),
    ("the key of another workload", |forms| forms.request().key(&forms.other)),
    ("two fields, both right", |forms| forms.request().key(forms.key()).key(forms.key())),
    ("two fields, the first right", |forms| forms.request().key(forms.key()).key(&forms.wrong)),
    ("two fields, the last right", |forms| forms.request().key(&forms.wrong).key(forms.key())),
    ("two fields, the first empty", |forms| forms.request().key("").key(forms.key())),
    ("two fields, names in other cases", |forms| {
        forms.request().header("x-toolhive-auth", forms.key()).header("X-TOOLHIVE-AUTH", forms.key())
    }),
    ("comma-joined", |forms| forms.request().key(&format!("{0},{0}", forms.key()))),
    ("comma-joined with a space", |forms| forms.request().key(&format!("{}, {}", forms.key(), forms.wrong))),
    ("a trailing comma", |forms| forms.request().key(&format!("{},", forms.unpadded()))),
    ("in the query", |forms| forms.at(&format!("/mcp?X-ToolHive-Auth={}", forms.key()))),
    ("in the query as key", |forms| forms.at(&format!("/mcp?key={}", forms.url_safe()))),
    ("in the path", |forms| forms.at(&format!("/mcp/{}", forms.url_safe()))),
    ("as a bearer", |forms| forms.request().header("Authorization", format!("Bearer {}", forms.key()))),
    ("under our scheme", |forms| {
        forms.request().header("Authorization", format!("ToolHive-SharedKey {}", forms.key()))
    }),
    ("as basic credentials", |forms| {
        let credentials = STANDARD.encode(format!("thv:{}", forms.key()));
        forms.request().header("Authorization", format!("Basic {credentials}"))
    }),
    ("in a cookie", |forms| forms.request().header("Cookie", format!("X-ToolHive-Auth={}", forms.key()))),
    ("under a name with underscores", |forms| forms.request().header("X_ToolHive_Auth", forms.key())),
    ("under the name of the key id", |forms| forms.request().header("X-ToolHive-Key-Id", forms.key())),
    ("its public name", |forms| forms.request().key(&key_id(forms.key()).unwrap_or_default())),
    ("with a scheme", |forms| forms.request().key(&format!("Bearer {}", forms.key()))),
    ("quoted", |forms| forms.request().key(&format!("\"{}\"", forms.key()))),
    ("percent-encoded", |forms| {
        forms.request().key(&forms.key().replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"))
    }),
    ("in hex", |forms| forms.request().key(&forms.hex())),
    ("10 KiB", |forms| forms.request().key(&"A".repeat(10 * 1024))),
    ("10 KiB that begin with the key", |forms| {
        forms.request().key(&format!("{}{}", forms.key(), "A".repeat(10 * 1024)))
    }),
    ("10 KiB of padding", |forms| forms.request().key(&format!("{}{}", forms.key(), "=".repeat(10 * 1024)))),
    ("non-ASCII", |forms| forms.request().key(&format!("é{}", &forms.key()[2..]))),
    ("non-ASCII behind it", |forms| forms.request().key(&format!("{}\u{a0}", forms.key()))),
    ("full-width", |forms| forms.request().key(&format!("{}＝", forms.unpadded()))),
    ("mixed alphabets", |forms| forms.request().key(&forms.mixed())),
    ("mixed alphabets, unpadded", |forms| forms.request().key(forms.mixed().trim_end_matches('='))),
    ("doubled padding", |forms| forms.request().key(&format!("{}=", forms.key()))),
    ("padding in place of a character", |forms| forms.request().key(&format!("{}==", &forms.key()[..42]))),
    ("padding in front", |forms| forms.request().key(&format!("={}", forms.unpadded()))),
    ("a character more", |forms| forms.request().key(&format!("{}A", forms.unpadded()))),
    ("a character less", |forms| forms.request().key(&forms.key()[1..])),
    ("two characters less", |forms| forms.request().key(&forms.key()[..42])),
    ("an inner space", |forms| {
        forms.request().key(&format!("{} {}", &forms.key()[..20], &forms.key()[20..]))
    }),
    ("a space in place of a character", |forms| {
        forms.request().key(&format!("{} {}", &forms.key()[..20], &forms.key()[21..]))
    }),
    ("an inner tab", |forms| forms.request().key(&format!("{}\t{}", &forms.key()[..20], &forms.key()[20..]))),
    ("trailing bits", |forms| forms.request().key(&forms.trailing_bits())),
    ("trailing bits, unpadded", |forms| forms.request().key(forms.trailing_bits().trim_end_matches('='))),
    ("in other letters", |forms| forms.request().key(&forms.key().to_ascii_lowercase())),
    ("the session alone, at GET", |forms| {
        Request::new("GET", "/mcp", forms.locked.port())
            .header("Accept", "text/event-stream")
            .header("Mcp-Session-Id", &forms.locked.session)
    }),
    ("the session alone, at DELETE", |forms| {
        Request::new("DELETE", "/mcp", forms.locked.port()).header("Mcp-Session-Id", &forms.locked.session)
    }),
    ("in the body", |forms| {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": MARK, "params": { "key": forms.key() } });
        forms.locked.request(&body)
    }),
];

const ACCEPTED: &[Case] = &[
    ("as shown", |forms| forms.locked.request(&ping(7)).key(forms.key())),
    ("unpadded", |forms| forms.locked.request(&ping(7)).key(forms.unpadded())),
    ("URL-safe", |forms| forms.locked.request(&ping(7)).key(&forms.url_safe())),
    ("URL-safe and unpadded", |forms| {
        let text = GeneralPurpose::new(&URL_SAFE, NO_PAD).encode(raw_key(forms.key()).unwrap_or_default());
        forms.locked.request(&ping(7)).key(&text)
    }),
    ("name in lower case", |forms| forms.locked.request(&ping(7)).header("x-toolhive-auth", forms.key())),
    ("name in upper case", |forms| forms.locked.request(&ping(7)).header("X-TOOLHIVE-AUTH", forms.key())),
    ("space around the value", |forms| forms.locked.request(&ping(7)).key(&format!(" \t{} ", forms.key()))),
    ("beside a bearer for the server", |forms| {
        forms.locked.request(&ping(7)).key(forms.key()).header("Authorization", "Bearer other")
    }),
];

#[test]
pub(crate) fn nothing_but_exactly_one_live_key_opens_the_door() -> Result {
    let home = Home::new()?;
    let other = Locked::run(&home, "other")?;
    let locked = with_a_telling_key(&home)?;
    let forms = Forms::new(&locked, &other)?;
    let mut bodies = Vec::new();
    for (case, request) in REFUSED {
        let answer = request(&forms).send().map_err(|failure| failure.during(case))?;
        check_unauthorized(&answer, locked.name()).map_err(|failure| failure.during(case))?;
        bodies.push(answer.text());
        locked.check_open().map_err(|failure| failure.during(format!("a live key after {case}")))?;
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "the answer tells what was wrong: {bodies:?}");
    assert!(!locked.recorded()?.contains(MARK), "a refused message reached the server");
    // The home's end searches what the servers were sent for the keys, too.
    other.check_open()?;
    locked.supervisor.stop()?;
    other.supervisor.stop()?;
    home.close()
}

#[test]
pub(crate) fn every_text_form_of_the_key_opens_the_door() -> Result {
    let home = Home::new()?;
    let locked = with_a_telling_key(&home)?;
    let forms = Forms::new(&locked, &locked)?;
    for (case, request) in ACCEPTED {
        let checked = request(&forms).send().and_then(|answer| check_pong(&answer, 7));
        checked.map_err(|failure| failure.during(case))?;
    }
    locked.supervisor.stop()?;
    home.close()
}

/// Bytes that no text can hold, and what a parser may stumble over. `@` stands for the key's place.
#[test]
fn bytes_that_are_no_header_value_open_nothing() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let key = locked.key.as_bytes();
    let cases: &[(&str, &[&[u8]], u16)] = &[
        ("a byte beyond ASCII behind it", &[b": ", key, b"\xff"], 401),
        ("a byte beyond ASCII in front", &[b": \x80", key], 401),
        ("a zero byte behind it", &[b": ", key, b"\0"], 400),
        ("a line feed in it", &[b": ", &key[..20], b"\n", &key[20..]], 400),
        ("a carriage return in it", &[b": ", &key[..20], b"\r", &key[20..]], 400),
        ("folded", &[b":\r\n ", key], 400),
        ("space before the colon", &[b" : ", key], 400),
        ("delete", &[b": ", key, b"\x7f"], 400),
    ];
    for (case, field, status) in cases {
        let bytes = locked.request(&marked()).header("X-ToolHive-Auth@", "").bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (before, after) = text.split_once("@: ").ok_or_else(|| Failure::new("no place for the key"))?;
        let bytes = [before.as_bytes(), &field.concat(), after.as_bytes()].concat();
        let answer = thv_e2e::http::raw(locked.port(), &bytes).map_err(|failure| failure.during(case))?;
        assert_eq!(answer.status, *status, "{case}: {answer:?}");
        if *status == 401 {
            check_unauthorized(&answer, locked.name()).map_err(|failure| failure.during(case))?;
        }
        locked.check_open().map_err(|failure| failure.during(format!("a live key after {case}")))?;
    }
    assert!(!locked.recorded()?.contains(MARK), "a refused message reached the server");
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn a_key_in_the_trailers_is_none() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    for declared in [true, false] {
        let mut request =
            locked.request(&marked()).without("Content-Length").header("Transfer-Encoding", "chunked");
        if declared {
            request = request.header("Trailer", "X-ToolHive-Auth");
        }
        let head = request.bytes();
        let head = head.strip_suffix(marked().to_string().as_bytes()).unwrap_or(&head);
        let body = marked().to_string();
        let rest = format!("{:x}\r\n{body}\r\n0\r\nX-ToolHive-Auth: {}\r\n\r\n", body.len(), locked.key);
        let mut http = Http::open(locked.port())?;
        http.send(&[head, rest.as_bytes()].concat());
        check_unauthorized(&http.response()?, locked.name())?;
        locked.check_open()?;

        // With the key where it belongs, the trailers are dropped: a key in them reaches no server.
        let body = ping(7).to_string();
        let head = String::from_utf8_lossy(head).replacen(
            "\r\n",
            &format!("\r\nX-ToolHive-Auth: {}\r\n", locked.key),
            1,
        );
        let rest = format!("{:x}\r\n{body}\r\n0\r\nX-ToolHive-Auth: {}\r\n\r\n", body.len(), locked.key);
        let mut http = Http::open(locked.port())?;
        http.send(&[head.as_bytes(), rest.as_bytes()].concat());
        check_pong(&http.response()?, 7)?;
    }
    assert!(!locked.recorded()?.contains(MARK), "a refused message reached the server");
    locked.supervisor.stop()?;
    home.close()
}

#[test]
pub(crate) fn the_key_of_one_workload_opens_and_proves_no_other() -> Result {
    let home = Home::new()?;
    let (a, b) = (Locked::run(&home, "a")?, Locked::run(&home, "b")?);
    for (at, other) in [(&a, &b), (&b, &a)] {
        check_unauthorized(&at.request(&marked()).key(&other.key).send()?, at.name())?;
        // A session of the other's does not help either, and is unknown to who holds the right key.
        let foreign =
            at.request(&marked()).without("Mcp-Session-Id").header("Mcp-Session-Id", &other.session);
        check_unauthorized(&foreign.clone().key(&other.key).send()?, at.name())?;
        assert_eq!(foreign.key(&at.key).send()?.status, 404);

        let challenge = STANDARD.encode([7; 32]);
        let ask = |id: &str| {
            let request = Request::new("GET", PROOF_PATH, at.port());
            request.header("X-ToolHive-Challenge", &challenge).header("X-ToolHive-Key-Id", id).send()
        };
        let stranger = ask(&key_id(&other.key)?)?;
        assert_eq!((stranger.status, stranger.header("x-toolhive-proof")), (404, None), "{stranger:?}");
        assert_eq!(ask(&key_id(&at.key)?)?.status, 204);
        at.check_open()?;
    }
    a.supervisor.stop()?;
    b.supervisor.stop()?;
    home.close()
}

#[test]
fn every_attempt_is_logged_with_its_outcome_and_source() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let wrong = STANDARD.encode([1; 32]);
    let attempts: [(&str, Request, &[&str]); 4] = [
        ("accepted", locked.request(&ping(7)).key(&locked.key), &["accepted", &key_id(&locked.key)?]),
        ("missing", locked.request(&ping(7)), &["refused", "key_missing"]),
        ("wrong", locked.request(&ping(7)).key(&wrong), &["refused", "key_wrong"]),
        ("malformed", locked.request(&ping(7)).key("guess"), &["refused", "key_malformed"]),
    ];
    for (case, request, words) in attempts {
        let mut http = Http::open(locked.port())?;
        let source = http.local_addr()?.to_string();
        http.send(&request.bytes());
        http.response()?;
        let words = [words, &["demo", source.as_str()][..]].concat();
        let line = locked.logged(&words).map_err(|failure| failure.during(case))?;
        ensure!(!line.contains(&wrong) && !line.contains("guess"), "it tells what was presented: {line}");
    }
    locked.supervisor.stop()?;
    home.close()
}
