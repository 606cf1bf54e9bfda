//! `cargo xtask demo`: the whole story on a fresh machine. A real MCP server is put behind a lock, refuses a
//! caller without the key, answers through the bridge, and is gone without a trace. Each claim is checked.

use crate::cargo::build;
use crate::steps::Steps;
use crate::term::Term;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;
use thv_e2e::http::{Request, Response};
use thv_e2e::{Exit, Failure, Foreground, Home, McpStdio, Result, ensure};

const NAME: &str = "demo";

pub(crate) fn run(term: Term) -> Result {
    let start = Instant::now();
    let story = Story { term };
    println!("{}", term.heading("A lock for a local MCP server, from nothing to an answer"));
    println!("Everything happens in a temporary home; nothing of yours is touched.");

    let mut steps = Steps::new(term);
    let thv = build(&mut steps, "thv", "thv")?;
    let server = build(&mut steps, "thv-e2e", "demo-server")?;

    let home = Home::with_binary(thv)?;
    let path = home.path();
    let told = story.tell(&home, &server);
    // The home ends in any case, and the first failure is the one to tell.
    told.and(home.close())?;
    ensure!(!path.exists(), "{} is still there", path.display());
    story.good(&format!(
        "no process of it is left, the key stands in no file and no log, {} is removed",
        path.display()
    ));

    println!("\n{} in {:.1} s.", term.good("All as promised"), start.elapsed().as_secs_f64());
    println!(
        "Next: thv run -f --name NAME --shared-key-auth -- YOUR-SERVER, and tell your AI client to start"
    );
    println!("      thv proxy stdio NAME");
    Ok(())
}

struct Story {
    term: Term,
}

impl Story {
    fn tell(&self, home: &Home, server: &Path) -> Result {
        self.chapter(1, "Put the server behind a lock");
        let program = server.file_name().unwrap_or(server.as_os_str()).to_string_lossy();
        self.command(&format!("thv run -f --name {NAME} --shared-key-auth -- {program}"));
        let supervisor =
            home.thv(["run", "-f", "--name", NAME, "--shared-key-auth", "--"]).arg(server).foreground()?;
        self.said(supervisor.line());
        ensure!(supervisor.key_id().is_some(), "the workload is open; it should be locked");

        self.visit(home, &supervisor).map_err(|failure| {
            Failure::new(format!("{failure}\nthe supervisor said on stderr:\n{}", supervisor.stderr()))
        })?;

        self.chapter(5, "Clean up");
        let (pid, port) = (supervisor.pid(), supervisor.port());
        self.command(&format!("kill -TERM {pid}"));
        let exit = supervisor.stop()?;
        ensure!(exit == Exit::Code(0), "the supervisor ended with {exit:?}");
        ensure!(TcpStream::connect(("127.0.0.1", port)).is_err(), "something still listens on port {port}");
        self.good(&format!("the supervisor has ended, port {port} is closed"));
        Ok(())
    }

    fn visit(&self, home: &Home, supervisor: &Foreground) -> Result {
        self.chapter(2, "Knock without the key");
        self.command(&format!("curl -si {} -d '{{}}'", supervisor.url()));
        let refused = Request::mcp(supervisor.port(), "{}").send()?;
        self.check_refusal(&refused)?;

        self.chapter(3, "Come in through the bridge, as an AI client does");
        self.command(&format!("thv proxy stdio {NAME}"));
        // From here on the key counts as leaked wherever the end of the home finds it.
        home.key(NAME)?;
        let mut bridge = home.bridge(NAME)?;
        self.converse(&mut bridge)?;
        let (exit, rest) = bridge.finish()?;
        ensure!(exit == Exit::Code(0), "the bridge ended with {exit:?}");
        ensure!(rest.is_empty(), "the bridge had more to say: {rest:?}");
        self.good("the bridge ended with its input");

        self.chapter(4, "See what runs");
        self.command("thv list");
        let list = home.thv(["list"]).output()?.expect(0)?;
        list.stdout.lines().for_each(|line| self.said(line));
        let row = list.stdout.lines().find(|line| line.split_whitespace().next() == Some(NAME));
        ensure!(row.is_some_and(|row| row.contains("running")), "`thv list` does not show {NAME} running");
        Ok(())
    }

    fn check_refusal(&self, refused: &Response) -> Result {
        self.said(&refused.line);
        ensure!(refused.status == 401, "a caller without the key was not refused with 401");
        let challenge = refused.header("www-authenticate").unwrap_or_default();
        self.said(&format!("www-authenticate: {challenge}"));
        let expected = format!("ToolHive-SharedKey realm=\"{NAME}\"");
        ensure!(challenge == expected, "the challenge should be {expected}");
        let body = refused.json()?;
        self.said(&body.to_string());
        let advice = body["error"]["message"].as_str().unwrap_or_default();
        ensure!(body["error"]["code"] == -33001, "the error code should be -33001");
        ensure!(
            advice.contains(&format!("thv proxy stdio {NAME}")),
            "the refusal should say how to come in: thv proxy stdio {NAME}"
        );
        self.good("refused, with advice");
        Ok(())
    }

    fn converse(&self, bridge: &mut McpStdio) -> Result {
        self.asked("initialize", &Value::Null);
        let hello = bridge.initialize()?;
        let server = hello["serverInfo"]["name"].as_str().unwrap_or_default();
        self.answered(&format!("{server}, MCP {}", hello["protocolVersion"].as_str().unwrap_or_default()));
        ensure!(server == "demo-server", "this is not the server that was started: {hello}");

        self.asked("tools/list", &Value::Null);
        let list = bridge.request("tools/list", &json!({}))?;
        let tools = list["result"]["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        let tools: Vec<_> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
        self.answered(&tools.join(", "));
        ensure!(tools == ["echo", "add", "now"], "these are not its tools: {list}");

        let sum = self.call(bridge, "add", &json!({ "a": 19, "b": 23 }))?;
        ensure!(sum == "42", "19 and 23 is not {sum}");
        let echo = self.call(bridge, "echo", &json!({ "text": "schön, dass du da bist" }))?;
        ensure!(echo == "schön, dass du da bist", "the echo is another text");
        let now = self.call(bridge, "now", &json!({}))?;
        ensure!(now.starts_with("20") && now.ends_with('Z'), "this is not a time");
        Ok(())
    }

    fn call(&self, bridge: &mut McpStdio, tool: &str, arguments: &Value) -> Result<String> {
        self.asked(&format!("tools/call {tool}"), arguments);
        let answer = bridge.request("tools/call", &json!({ "name": tool, "arguments": arguments }))?;
        let text = answer["result"]["content"][0]["text"].as_str();
        let text = text.ok_or_else(|| Failure::new(format!("the call was not answered: {answer}")))?;
        self.answered(text);
        Ok(text.to_owned())
    }

    fn chapter(&self, number: u8, title: &str) {
        println!("\n{}", self.term.heading(format_args!("{number}. {title}")));
    }

    fn command(&self, command: &str) {
        println!("   {} {command}", self.term.faint("$"));
    }

    fn said(&self, line: &str) {
        println!("   {line}");
    }

    fn asked(&self, what: &str, arguments: &Value) {
        let arguments = if arguments.is_null() { String::new() } else { format!(" {arguments}") };
        println!("   {} {what}{arguments}", self.term.faint("→"));
    }

    fn answered(&self, what: &str) {
        println!("   {} {what}", self.term.faint("←"));
    }

    fn good(&self, what: &str) {
        println!("   {} {what}", self.term.good("✓"));
    }
}
