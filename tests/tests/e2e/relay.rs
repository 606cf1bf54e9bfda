//! The bridge over a real supervisor: what goes through unchanged, what is answered in the server's stead, and what
//! the client never notices.

use crate::locked::{Locked, check_error, eventually, finish};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Instant;
use thv_e2e::{
    ANSWER_BOUND, Exit, FINISH_BOUND, Foreground, Home, PROTOCOL_VERSION, Result, STOP_BOUND, Signal, ensure,
};

/// A server that keeps each line it reads in `$1` and does what the methods of a test ask for.
const SCRIPT: &str = r#"
answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
while IFS= read -r line; do
    printf '%s\n' "$line" >>"$1"
    id=$(printf '%s' "$line" | sed -n -E 's/.*"id" *: *("[^"]*"|[0-9]+).*/\1/p')
    case $line in
        *'"method":"initialize"'*)
            answer "$id" '{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"script","version":"1"}}' ;;
        *'"method":"test/exact"'*) cat "$2" ;;
        *'"method":"test/talk"'*)
            printf '{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"aside"}}\n'
            printf '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1}}\n'
            answer "$id" '{"talked":true}' ;;
        *'"method":"test/ask"'*)
            asker=$id
            printf '{"jsonrpc":"2.0","id":"from-the-server","method":"roots/list"}\n' ;;
        *'"id":"from-the-server"'*) answer "$asker" '{"heard":true}' ;;
        *'"method":"test/exit"'*) exit 3 ;;
        *'"method":"ping"'*) answer "$id" '{}' ;;
    esac
done
"#;

/// The scripted server behind a lock.
struct Scripted {
    supervisor: Foreground,
    record: PathBuf,
}

impl Scripted {
    /// `exact` is what it says to `test/exact`.
    fn run(home: &Home, exact: &str) -> Result<Self> {
        let script = home.file("server.sh", SCRIPT)?;
        let exact = home.file("exact", exact)?;
        let record = home.file("record", "")?;
        let run = home.thv(["run", "-f", "--name", "demo", "--shared-key-auth", "--", "sh"]);
        let supervisor = run.arg(script).arg(&record).arg(exact).foreground()?;
        home.key("demo")?;
        Ok(Self { supervisor, record })
    }

    fn lines(&self) -> Result<Vec<String>> {
        Ok(std::fs::read_to_string(&self.record)?.lines().map(str::to_owned).collect())
    }

    /// Waits until the server has read a line with this text.
    fn read(&self, text: &str) -> Result {
        let found = eventually(|| Ok(self.lines()?.into_iter().find(|line| line.contains(text))))?;
        ensure!(found.is_some(), "the server never read {text}");
        Ok(())
    }
}

fn echo(text: &str) -> Value {
    json!({ "name": "echo", "arguments": { "text": text } })
}

fn check_echo(answer: &Value, text: &str) -> Result {
    ensure!(answer["result"]["content"][0]["text"] == text, "no echo of {text}: {answer}");
    Ok(())
}

#[test]
fn messages_go_through_byte_for_byte_in_both_directions() -> Result {
    let answer = concat!(
        r#"{ "jsonrpc":"2.0","result": {"nextCursor":null,"progress":1.0,"big":123456789012345678901234567890, "#,
        r#""exp":1E+2,"neg":-0,"text":"\u00e9é\/\ud83d\ude00","unknown":{"a":[ ]},"z":1,"a":2},"#,
        r#""id":12345678901234567890 , "extra": [1.10]}"#,
    );
    let request = concat!(
        r#" {"jsonrpc":"2.0" , "id":12345678901234567890,"method":"test/exact","unknown":{"b":1,"a":1.0},"#,
        r#""params":{"big":123456789012345678901234567890,"exp":1e-7,"null":null,"text":"\u00e9é\/\u0000","#,
        "\"_meta\":{\"progressToken\":\"t\"}}}\t",
    );
    let notification = r#"{"params":{"x":1.50},"method":"notifications/made_up","jsonrpc":"2.0"}"#;
    let home = Home::new()?;
    let server = Scripted::run(&home, &format!("{answer}\n"))?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    bridge.send_bytes(format!("{notification}\n{request}\r\n").as_bytes())?;
    let line = bridge.running().line(ANSWER_BOUND)?;
    assert_eq!(line.as_deref().map(String::from_utf8_lossy).as_deref(), Some(answer));
    server.read("notifications/made_up")?;
    let lines = server.lines()?;
    for sent in [request, notification] {
        assert!(lines.iter().any(|line| line == sent), "{sent}\nis not among\n{}", lines.join("\n"));
    }
    finish(bridge)?;
    server.supervisor.stop()?;
    home.close()
}

#[test]
fn what_the_server_says_of_its_own_accord_reaches_the_client_and_back() -> Result {
    let home = Home::new()?;
    let server = Scripted::run(&home, "")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let id = bridge.ask("test/talk", &json!({ "_meta": { "progressToken": "t" } }))?;
    let said: Vec<_> = (0..3).map(|_| bridge.recv(ANSWER_BOUND)).collect::<Result<_>>()?;
    let at = |of: &dyn Fn(&Value) -> bool| said.iter().position(of);
    let progress = at(&|message| message["params"]["progressToken"] == "t");
    let answer = at(&|message| message["id"] == id && message["result"] == json!({ "talked": true }));
    // What belongs to no request comes by the session's own stream, in no order with the answers.
    let aside = at(&|message| message["params"]["data"] == "aside");
    assert!(progress.is_some() && progress < answer && aside.is_some(), "{said:?}");

    let id = bridge.ask("test/ask", &json!({}))?;
    let question = bridge.recv(ANSWER_BOUND)?;
    assert_eq!(question, json!({ "jsonrpc": "2.0", "id": "from-the-server", "method": "roots/list" }));
    bridge.send(&json!({ "jsonrpc": "2.0", "id": "from-the-server", "result": { "roots": [] } }))?;
    assert_eq!(bridge.answer(id)?["result"], json!({ "heard": true }));
    finish(bridge)?;
    server.supervisor.stop()?;
    home.close()
}

#[test]
fn notifications_arrive_in_order_and_before_what_waits_for_them() -> Result {
    let home = Home::new()?;
    let server = Scripted::run(&home, "")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let count = 40;
    for number in 0..count {
        bridge.notify("notifications/counted", &json!({ "number": number }))?;
    }
    server.read(&format!("\"number\":{}", count - 1))?;
    let lines = server.lines()?;
    let counted: Vec<u64> = lines
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["params"]["number"].as_u64())
        .collect();
    assert_eq!(counted, (0..count).collect::<Vec<_>>());
    let at = |text: &str| lines.iter().position(|line| line.contains(text));
    assert!(at("notifications/initialized") < at("notifications/counted"), "{lines:?}");
    finish(bridge)?;
    server.supervisor.stop()?;
    home.close()
}

#[test]
fn a_cancelled_request_is_not_answered_and_the_server_is_told() -> Result {
    let home = Home::new()?;
    let server = Scripted::run(&home, "")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let id = bridge.ask("test/silent", &json!({}))?;
    server.read("test/silent")?;
    bridge.notify("notifications/cancelled", &json!({ "requestId": id, "reason": "changed my mind" }))?;
    server.read("changed my mind")?;
    assert_eq!(bridge.request("ping", &json!({}))?["result"], json!({}));
    // An answer to it would be left over now.
    finish(bridge)?;
    server.supervisor.stop()?;
    home.close()
}

#[test]
fn a_hundred_requests_at_once_are_answered_once_each() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let texts: Vec<_> = (0..100).map(|number| format!("text {number}")).collect();
    let ids: Vec<_> =
        texts.iter().map(|text| bridge.ask("tools/call", &echo(text))).collect::<Result<_>>()?;
    for (id, text) in ids.into_iter().zip(&texts) {
        check_echo(&bridge.answer(id)?, text)?;
    }
    finish(bridge)?;
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn a_line_that_is_no_message_is_answered_as_json_rpc_asks_and_harms_nothing() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let cases: &[(&[u8], i64)] = &[
        (b"never-to-arrive", -32700),
        (br#"{"jsonrpc":"2.0","id":1,"method":"never-to-arrive""#, -32700),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"never-to-arrive\xff\"}", -32700),
        (b"\xff\xfe\x00", -32700),
        (b"[]", -32600),
        (b"{}", -32600),
        (b"null", -32600),
        (br#"{"id":1,"method":"never-to-arrive"}"#, -32600),
        (br#"{"jsonrpc":"2.0","id":null,"method":"never-to-arrive"}"#, -32600),
    ];
    for (line, code) in cases {
        // Empty lines are no messages and no mistakes.
        bridge.send_bytes(&[b"\n\r\n", *line, b"\n"].concat())?;
        let answer = bridge.recv(ANSWER_BOUND)?;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(code)), "{answer}");
        check_echo(&bridge.request("tools/call", &echo("still here"))?, "still here")?;
    }
    finish(bridge)?;
    assert!(!locked.recorded()?.contains("never-to-arrive"));
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn a_line_over_the_limit_is_answered_with_both_sizes() -> Result {
    const LIMIT: usize = 16 << 20;
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let filler = "x".repeat(LIMIT);
    let line =
        json!({ "jsonrpc": "2.0", "id": 77, "method": "never-to-arrive", "params": { "filler": filler } });
    let line = line.to_string();
    bridge.send_bytes(format!("{line}\n").as_bytes())?;
    let answer = bridge.answer(77)?;
    check_error(&answer, -33006, "too_large")?;
    assert_eq!(answer["error"]["data"], json!({ "reason": "too_large", "limit": LIMIT, "size": line.len() }));
    check_echo(&bridge.request("tools/call", &echo("still here"))?, "still here")?;
    // A notification over it has nobody to be told, and does no harm either.
    let line = json!({ "jsonrpc": "2.0", "method": "notifications/never-to-arrive", "params": { "filler": filler } });
    bridge.send(&line)?;
    check_echo(&bridge.request("tools/call", &echo("and again"))?, "and again")?;
    finish(bridge)?;
    assert!(!locked.recorded()?.contains("never-to-arrive"));
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn the_limit_of_the_workload_is_the_limit_of_its_bridge() -> Result {
    let home = Home::new()?;
    let locked = Locked::run_with(&home, "demo", &["--max-message-bytes", "2000"])?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let sized = |size: usize| {
        let message = |filler: usize| json!({ "jsonrpc": "2.0", "id": size, "method": "ping", "params": { "filler": "x".repeat(filler) } });
        message(size - message(0).to_string().len())
    };
    bridge.send(&sized(2000))?;
    assert_eq!(bridge.answer(2000)?["result"], json!({}));
    bridge.send(&sized(2001))?;
    let answer = bridge.answer(2001)?;
    check_error(&answer, -33006, "too_large")?;
    assert_eq!(answer["error"]["data"], json!({ "reason": "too_large", "limit": 2000, "size": 2001 }));
    finish(bridge)?;
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn the_end_of_stdin_and_sigterm_answer_what_still_waits() -> Result {
    let home = Home::new()?;
    let server = Scripted::run(&home, "")?;
    // The supervisor's own arguments name the script, too.
    let of_session = |command: &str| command.contains("server.sh") && !command.contains(" run -f ");
    let servers = || home.processes().iter().filter(|process| of_session(&process.command)).count();
    for gently in [true, false] {
        let mut bridge = home.bridge("demo")?;
        bridge.initialize()?;
        let ids: Vec<_> = (0..3).map(|_| bridge.ask("test/silent", &json!({}))).collect::<Result<_>>()?;
        let asked = eventually(|| {
            let asked = server.lines()?.iter().filter(|line| line.contains("test/silent")).count();
            Ok((asked == if gently { 3 } else { 6 }).then_some(()))
        })?;
        assert!(asked.is_some(), "the requests never reached the server");
        let start = Instant::now();
        let rest = if gently {
            let (exit, rest) = bridge.finish()?;
            assert_eq!(exit, Exit::Code(0));
            rest
        } else {
            bridge.running().signal(Signal::TERM)?;
            assert_eq!(bridge.running().wait(FINISH_BOUND)?, Exit::Code(0));
            let mut rest = Vec::new();
            while let Some(line) = bridge.running().line(FINISH_BOUND)? {
                rest.push(serde_json::from_slice(&line)?);
            }
            rest
        };
        assert!(start.elapsed() < FINISH_BOUND, "it took {:?}", start.elapsed());
        let mut answered: Vec<_> = rest.iter().filter_map(|answer| answer["id"].as_u64()).collect();
        answered.sort_unstable();
        assert_eq!(answered, ids, "{rest:?}");
        for answer in &rest {
            check_error(answer, -33007, "shutting_down")?;
        }
        // Its session has ended with it, and so has the server of that session.
        let gone = eventually(|| Ok((servers() == 0).then_some(())))?;
        assert!(gone.is_some(), "the session's server still runs");
    }
    server.supervisor.stop()?;
    home.close()
}

#[test]
fn answers_that_come_soon_after_the_end_of_stdin_are_still_passed_on() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let mut bridge = home.bridge("demo")?;
    let (id, hello) =
        (1, json!({ "protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": {} }));
    bridge.send(&json!({ "jsonrpc": "2.0", "id": id, "method": "initialize", "params": hello }))?;
    let (exit, rest) = bridge.finish()?;
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(rest.len(), 1, "{rest:?}");
    // A loaded machine may need longer than the bridge waits; then it says so.
    let answer = &rest[0];
    assert!(
        answer["id"] == id && (answer["result"].is_object() || answer["error"]["code"] == -33007),
        "{answer}"
    );
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn a_bridge_with_nothing_to_do_ends_at_once_on_every_signal() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut bridge = home.bridge("demo")?;
        bridge.initialize()?;
        bridge.running().signal(signal)?;
        assert_eq!(bridge.running().wait(FINISH_BOUND)?, Exit::Code(0), "{signal:?}");
        assert_eq!(bridge.running().line(FINISH_BOUND)?, None);
    }
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn a_workload_that_does_not_run_is_said_to_each_request() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    locked.supervisor.stop()?;
    let mut bridge = home.bridge("demo")?;
    for method in ["initialize", "tools/list"] {
        let answer = bridge.request(method, &json!({}))?;
        check_error(&answer, -33004, "not_running")?;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("thv start demo") && message.contains("thv logs demo"), "{message}");
    }
    // It is found as soon as it runs.
    let again = home.thv(["start", "-f", "demo"]).foreground()?;
    bridge.initialize()?;
    check_echo(&bridge.request("tools/call", &echo("back"))?, "back")?;
    finish(bridge)?;
    again.stop()?;
    home.close()
}

#[test]
fn mistakes_in_the_call_itself_end_it_before_the_first_message() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let request = format!("{}\n", json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }));
    let cases: &[(&[&str], i32)] = &[
        (&["proxy", "stdio", "nobody"], 3),
        (&["proxy", "stdio", "../demo"], 2),
        (&["proxy", "stdio", ""], 2),
        (&["proxy", "stdio"], 2),
        (&["proxy", "stdio", "demo", "other"], 2),
        (&["proxy", "stdio", "demo", "--drain", "soon"], 2),
        (&["proxy", "stdio", "demo", "--frobnicate"], 2),
    ];
    for (args, code) in cases {
        let output = home.thv(*args).stdin(request.as_str()).output()?.expect(*code)?;
        assert_eq!(output.stdout, "", "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
    locked.supervisor.stop()?;
    home.close()
}

#[test]
pub(crate) fn a_supervisor_that_was_restarted_is_found_again_with_a_fresh_session() -> Result {
    let home = Home::new()?;
    let first = Locked::run(&home, "demo")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    check_echo(&bridge.request("tools/call", &echo("one"))?, "one")?;
    let port = first.port();
    first.supervisor.stop()?;
    let answer = bridge.request("tools/call", &echo("between"))?;
    check_error(&answer, -33004, "not_running")?;

    let second = home.thv(["start", "-f", "demo"]).foreground()?;
    check_echo(&bridge.request("tools/call", &echo("two"))?, "two")?;
    second.stop()?;

    // Its port is taken by somebody else meanwhile: it moves, and is followed.
    let squatter = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    let third = home.thv(["start", "-f", "demo"]).foreground()?;
    assert_ne!(third.port(), port);
    check_echo(&bridge.request("tools/call", &echo("three"))?, "three")?;
    drop(squatter);
    finish(bridge)?;
    third.stop()?;
    home.close()
}

#[test]
pub(crate) fn a_supervisor_that_was_killed_is_found_again_as_well() -> Result {
    let home = Home::new()?;
    let first = Locked::run(&home, "demo")?;
    // It shall not be the bridge that starts it again.
    let mut bridge = home.thv(["proxy", "stdio", "demo", "--no-start"]).bridge()?;
    bridge.initialize()?;
    first.supervisor.kill();
    let second = home.thv(["start", "-f", "demo"]).foreground()?;
    check_echo(&bridge.request("tools/call", &echo("two"))?, "two")?;
    finish(bridge)?;
    second.stop()?;
    home.close()
}

#[test]
pub(crate) fn a_workload_made_anew_under_a_live_bridge_is_reached_with_its_new_key() -> Result {
    let home = Home::new()?;
    let first = Locked::run(&home, "demo")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let (port, key) = (first.port().to_string(), first.key.clone());
    first.supervisor.stop()?;
    home.thv(["rm", "demo"]).output()?.expect(0)?;
    let second = Locked::run_with(&home, "demo", &["--proxy-port", &port])?;
    assert_ne!(second.key, key);
    check_echo(&bridge.request("tools/call", &echo("two"))?, "two")?;
    finish(bridge)?;
    second.supervisor.stop()?;
    home.close()
}

#[test]
pub(crate) fn a_workload_that_was_removed_under_a_live_bridge_is_said_to_be_gone() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    locked.supervisor.stop()?;
    home.thv(["rm", "demo"]).output()?.expect(0)?;
    check_error(&bridge.request("tools/list", &json!({}))?, -33004, "not_running")?;
    finish(bridge)?;
    home.close()
}

#[test]
fn a_server_that_exits_in_a_call_is_told_apart_from_a_lost_connection_and_replaced() -> Result {
    let home = Home::new()?;
    let server = Scripted::run(&home, "")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let answer = bridge.request("test/exit", &json!({}))?;
    // It may have run: no second server is asked.
    check_error(&answer, -33002, "connection_lost")?;
    let asked = server.lines()?.iter().filter(|line| line.contains("test/exit")).count();
    assert_eq!(asked, 1);
    // The next request begins a session with another server.
    assert_eq!(bridge.request("ping", &json!({}))?["result"], json!({}));
    finish(bridge)?;
    server.supervisor.stop()?;
    home.close()
}

#[test]
fn a_probe_of_the_newest_revision_is_refused_so_that_its_client_falls_back() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let mut bridge = home.bridge("demo")?;
    let meta = json!({ "io.modelcontextprotocol/protocolVersion": "2026-07-28" });
    let answer = bridge.request("server/discover", &json!({ "_meta": meta }))?;
    assert!(answer["error"]["code"].is_i64() && answer.get("result").is_none(), "{answer}");
    // What its clients take for an answer of that revision, and would not fall back from.
    assert!(![-32020, -32021, -32022].iter().any(|code| answer["error"]["code"] == *code), "{answer}");
    bridge.initialize()?;
    check_echo(&bridge.request("tools/call", &echo("legacy"))?, "legacy")?;
    finish(bridge)?;
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn four_bridges_at_once_do_not_mix_anything_up() -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    let mut bridges: Vec<_> = (0..4).map(|_| home.bridge("demo")).collect::<Result<_>>()?;
    // All start at once, before any of them is answered.
    let hello = json!({ "protocolVersion": PROTOCOL_VERSION, "capabilities": {},
        "clientInfo": { "name": "thv-e2e", "version": "1" } });
    let begun: Vec<_> =
        bridges.iter_mut().map(|bridge| bridge.ask("initialize", &hello)).collect::<Result<_>>()?;
    for (bridge, id) in bridges.iter_mut().zip(begun) {
        assert_eq!(bridge.answer(id)?["result"]["serverInfo"]["name"], "demo-server");
        bridge.notify("notifications/initialized", &json!({}))?;
    }
    // The same ids on each, with other texts.
    let mut asked = Vec::new();
    for round in 0..25 {
        for (number, bridge) in bridges.iter_mut().enumerate() {
            let text = format!("{number}/{round}");
            asked.push((number, bridge.ask("tools/call", &echo(&text))?, text));
        }
    }
    for (number, id, text) in asked {
        check_echo(&bridges[number].answer(id)?, &text)?;
    }
    // One that ends takes nothing of the others with it.
    finish(bridges.remove(0))?;
    for bridge in &mut bridges {
        check_echo(&bridge.request("tools/call", &echo("left"))?, "left")?;
    }
    bridges.into_iter().try_for_each(finish)?;
    locked.supervisor.stop()?;
    home.close()
}

#[test]
fn a_supervisor_that_ends_under_a_pending_request_gets_it_answered() -> Result {
    let home = Home::new()?;
    let server = Scripted::run(&home, "")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    let id = bridge.ask("test/silent", &json!({}))?;
    server.read("test/silent")?;
    let mut supervisor = server.supervisor;
    supervisor.signal(Signal::TERM)?;
    let answer = bridge.answer(id)?;
    assert!(matches!(answer["error"]["code"].as_i64(), Some(-33002 | -33007)), "{answer}");
    assert_eq!(supervisor.wait(STOP_BOUND)?, Exit::Code(0));
    finish(bridge)?;
    home.close()
}

#[test]
fn a_supervisor_that_is_killed_under_a_pending_request_leaves_it_lost() -> Result {
    let home = Home::new()?;
    let server = Scripted::run(&home, "")?;
    // It shall not be the bridge that starts it again.
    let mut bridge = home.thv(["proxy", "stdio", "demo", "--no-start"]).bridge()?;
    bridge.initialize()?;
    let id = bridge.ask("test/silent", &json!({}))?;
    server.read("test/silent")?;
    server.supervisor.kill();
    check_error(&bridge.answer(id)?, -33002, "connection_lost")?;
    // Nobody listens any more, and no process of the workload is left.
    check_error(&bridge.request("ping", &json!({}))?, -33004, "not_running")?;
    finish(bridge)?;
    home.close()
}

#[test]
fn a_client_that_goes_away_without_a_word_leaves_nothing_behind() -> Result {
    let home = Home::new()?;
    let server = Scripted::run(&home, "")?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    bridge.ask("test/silent", &json!({}))?;
    server.read("test/silent")?;
    // Killed together with its client: it cannot end its session.
    bridge.running().kill();
    let mut next = home.bridge("demo")?;
    next.initialize()?;
    assert_eq!(next.request("ping", &json!({}))?["result"], json!({}));
    finish(next)?;
    server.supervisor.stop()?;
    home.close()
}
