//! URLs with encryption: the certificate decides.

use super::{Elsewhere, NAME, Record, bridge, end};
use crate::fixture::{call_text, fixture, only_row};
use serde_json::json;
use std::path::Path;
use thv_e2e::{Exit, Home, Result, Thv, ensure, need_part};

/// A file in `fixtures/http/tls`. The certificates are the tests' alone, and last until 2120.
fn file(name: &str) -> String {
    fixture("http/tls").join(name).to_string_lossy().into_owned()
}

/// A server that shows this certificate, and its URL.
fn serving(home: &Home, python: &Path, certificate: &str, record: &Record) -> Result<(Elsewhere, String)> {
    let options = ["--tls", &file(certificate), &file("key.pem"), "--record", &record.path()];
    let elsewhere = Elsewhere::start(home, python, &options)?;
    let url = format!("https://127.0.0.1:{}/mcp", elsewhere.port);
    Ok((elsewhere, url))
}

/// `thv run` of a URL for which this authority is trusted.
fn run<'home>(home: &'home Home, authority: &str, url: &str) -> Thv<'home> {
    let run = ["run", "-f", "--name", NAME, "--shared-key-auth", "--ready-timeout", "2s", url];
    home.thv(run).env("SSL_CERT_FILE", file(authority))
}

#[test]
fn a_server_with_a_trusted_certificate_is_reached() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let (elsewhere, url) = serving(home, &python, "here.pem", &record)?;
        let guarded = run(home, "ca.pem", &url).foreground()?;
        assert_eq!(only_row(home)?["remote"], true);
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "sealed" }))?, "sealed");
        let large = "x".repeat(2 << 20);
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": large }))?, large);
        end(session)?;
        assert_eq!(guarded.stop()?, Exit::Code(0));
        for request in record.requests()? {
            assert_eq!(request.values("host"), [format!("127.0.0.1:{}", elsewhere.port)]);
        }
        Ok(())
    })
}

#[test]
fn localhost_is_a_name_that_a_certificate_can_have() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let (elsewhere, _) = serving(home, &python, "localhost.pem", &record)?;
        let url = format!("https://localhost:{}/mcp", elsewhere.port);
        let guarded = run(home, "localhost_ca.pem", &url).foreground()?;
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "sealed" }))?, "sealed");
        end(session)?;
        assert_eq!(guarded.stop()?, Exit::Code(0));
        for request in record.requests()? {
            assert_eq!(request.values("host"), [format!("localhost:{}", elsewhere.port)]);
        }
        home.thv(["rm", NAME]).output()?.expect(0)?;
        // It is not a certificate of the address, nor the other way round.
        let address = format!("https://127.0.0.1:{}/mcp", elsewhere.port);
        let output = run(home, "localhost_ca.pem", &address).output()?.expect(1)?;
        ensure!(output.stderr.contains("not valid for"), "{output:?}");
        Ok(())
    })
}

#[test]
fn a_server_that_cannot_prove_its_name_is_sent_nothing() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        for (certificate, authority, words) in [
            ("elsewhere.pem", "ca.pem", &["not valid for", "127.0.0.1"][..]),
            ("here.pem", "other_ca.pem", &["UnknownIssuer"]),
        ] {
            let (_elsewhere, url) = serving(home, &python, certificate, &record)?;
            let output = run(home, authority, &url).output()?.expect(1)?;
            for word in words.iter().chain(&["certificate", url.as_str()]) {
                ensure!(output.stderr.contains(word), "{word:?} is missing in:\n{}", output.stderr);
            }
            assert_eq!(crate::fixture::list(home)?, Vec::<serde_json::Value>::new());
        }
        assert_eq!(record.requests()?.len(), 0);
        // Who speaks no TLS at all is not spoken to either.
        let plain = Elsewhere::start(home, &python, &["--record", &record.path()])?;
        let url = format!("https://127.0.0.1:{}/mcp", plain.port);
        let output = run(home, "ca.pem", &url).output()?.expect(1)?;
        ensure!(output.stderr.contains(&url), "{output:?}");
        assert_eq!(record.requests()?.len(), 0);
        Ok(())
    })
}

#[test]
fn a_certificate_that_is_exchanged_for_a_bad_one_ends_it() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let record = Record::new(home);
        let (elsewhere, url) = serving(home, &python, "here.pem", &record)?;
        let port = elsewhere.port;
        let guarded = run(home, "ca.pem", &url).foreground()?;
        let mut session = bridge(home)?;
        elsewhere.kill();
        let before = record.requests()?.len();
        let options = ["--tls", &file("elsewhere.pem"), &file("key.pem"), "--record", &record.path()];
        let _other = Elsewhere::start_at(home, &python, port, &options)?;
        for _ in 0..2 {
            let answer = crate::fixture::call(&mut session, "echo", &json!({ "text": "x" }))?;
            ensure!(answer.get("result").is_none(), "{answer}");
        }
        assert_eq!(record.requests()?.len(), before);
        let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
        ensure!(log.contains("certificate"), "{log}");
        end(session)?;
        guarded.stop()?;
        Ok(())
    })
}
