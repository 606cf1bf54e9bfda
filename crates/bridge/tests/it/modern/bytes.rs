//! Whatever a message looks like, it leaves as it came: only the line ends in it become spaces.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use super::VERSION;
use crate::client::Client;
use crate::server::{Server, stream, text_reply};

/// How many messages are tried where `PROPTEST_CASES` does not say.
const MESSAGES: u32 = 200;

/// JSON in any spelling.
fn json() -> impl Strategy<Value = String> {
    let string = prop_oneof![
        any::<String>().prop_map(|text| Value::from(text).to_string()),
        Just(r#""\u00e9\ud83d\ude00\/\u0000""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
        Just("\"\u{2028}\u{7f}😀\"".to_owned()),
    ];
    let number = prop::sample::select(
        &["1", "1.0", "-0", "0.0e-7", "1E400", "9007199254740993", "123456789012345678901234567890.10"][..],
    );
    let leaf = prop_oneof![
        string,
        number.prop_map(str::to_owned),
        prop::sample::select(&["null", "true", "false", "{}", "[ ]"][..]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let space = || prop::sample::select(&["", " ", "\t", "  "][..]);
        let list = prop::collection::vec((space(), inner.clone()), 0..4).prop_map(|parts| {
            let parts: Vec<String> =
                parts.iter().map(|(space, part)| format!("{space}{part}{space}")).collect();
            format!("[{}]", parts.join(","))
        });
        let name = prop::sample::select(&["a", "b", "id", "method", "\\u0061", "_meta", "name", "é"][..]);
        let object = prop::collection::vec((name, space(), inner), 0..4).prop_map(|parts| {
            let parts: Vec<String> =
                parts.iter().map(|(name, space, part)| format!("{space}\"{name}\"{space}:{part}")).collect();
            format!("{{{}}}", parts.join(","))
        });
        prop_oneof![list, object]
    })
}

fn request(id: u32, method: &str, inner: &str) -> String {
    let meta = format!(
        r#"{{ "io.modelcontextprotocol/protocolVersion":"{VERSION}", "x":{inner},"io.modelcontextprotocol/clientCapabilities":{{}}}}"#
    );
    format!(
        r#"{{"params" : {{"arguments":{inner},"name":"t", "_meta":{meta}}},"id":{id},"y":{inner},"method":"{method}","jsonrpc":"2.0"}}"#
    )
}

#[test]
fn any_message_passes_both_ways() {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = MESSAGES;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answers: Arc<Mutex<(String, bool)>> = Arc::default();
    let theirs = Arc::clone(&answers);
    let server = runtime.block_on(Server::start(move |_| {
        let (answer, as_stream) = theirs.lock().unwrap().clone();
        if as_stream { stream([&*format!("data: {answer}\n\n")]) } else { text_reply(200, &answer) }
    }));
    let mut client = runtime.block_on(async { Client::to(&server) });
    // One listing, in vain, is out of the way.
    let nothing = r#"{"jsonrpc":"2.0","id":0,"result":{"tools":[]}}"#;
    *answers.lock().unwrap() = (nothing.to_owned(), false);
    runtime.block_on(async {
        client.write(format!("{}\n", request(0, "tools/list", "{}")).as_bytes()).await;
        assert_eq!(client.line().await, nothing);
    });

    let client = tokio::sync::Mutex::new(client);
    let id = std::cell::Cell::new(0);
    let method =
        prop::sample::select(&["tools/call", "tools/list", "resources/read", "server/discover", "m"][..]);
    let all = (json(), json(), method, any::<bool>());
    let outcome = TestRunner::new(config).run(&all, |(question, said, method, as_stream)| {
        id.set(id.get() + 1);
        let line = request(id.get(), method, &question);
        let answer = format!(
            r#"{{"x":{said},"result":{{"tools":{said},"content": {said} }} ,"id":{} ,"jsonrpc":"2.0"}}"#,
            id.get()
        );
        *answers.lock().unwrap() = (answer.clone(), as_stream);
        let heard = runtime.block_on(async {
            let mut client = client.lock().await;
            client.write(format!("{line}\n").as_bytes()).await;
            client.line().await
        });
        prop_assert_eq!(heard, answer);
        let sent = server.requests().pop().unwrap().body;
        prop_assert_eq!(String::from_utf8_lossy(&sent), line);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}
