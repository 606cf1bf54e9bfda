//! The servers: how each is started, and what clients do with it.

use super::clients::{Client, newer_node};
use super::hosting::Hosting;
use super::transcript::Chance;
use crate::fixture::{example, fixture};
use crate::sdk::NEWEST;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thv_e2e::{Exit, Failure, Home, Result, ensure, need_part};

/// What a server speaks on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// Its standard input and output.
    Stdio,
    /// Streamable HTTP, at `/mcp`.
    Http,
    /// HTTP with SSE, as of 2024-11-05, at `/sse`.
    Sse,
}

/// A server.
#[derive(Clone, Copy)]
pub(super) enum Server {
    /// The reference server of the protocol's authors, on the TypeScript SDK.
    Everything,
    /// The same on its standard input and output, behind `supergateway`, which others made.
    Gateway,
    /// `mcp-server-git`, on the Python SDK, with a small repository.
    Git,
    /// A server of ours on FastMCP.
    FastMcp,
    /// A server of ours on the Rust SDK.
    Rmcp,
}

impl Server {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Everything => "server-everything",
            Self::Gateway => "server-everything behind supergateway",
            Self::Git => "mcp-server-git",
            Self::FastMcp => "FastMCP",
            Self::Rmcp => "rmcp",
        }
    }

    /// Its command; `None` where a missing part is allowed. Over HTTP it listens on the port in `PORT`.
    pub(super) fn command(self, home: &Home, wire: Wire) -> Result<Option<Vec<String>>> {
        let mut command = Vec::new();
        self.put_command(home, wire, &mut command)?;
        Ok((!command.is_empty()).then_some(command))
    }

    fn put_command(self, home: &Home, wire: Wire, command: &mut Vec<String>) -> Result {
        let word = match (self, wire) {
            (_, Wire::Stdio) => "stdio",
            (_, Wire::Sse) => "sse",
            (Self::Everything, Wire::Http) => "streamableHttp",
            (_, Wire::Http) => "http",
        };
        let words = match self {
            Self::Everything => vec![need_part!(Node).join("mcp-server-everything"), word.into()],
            Self::Gateway => gateway(&need_part!(Node)),
            Self::Git => {
                vec![need_part!(Python).join("mcp-server-git"), "--repository".into(), repository(home)?]
            }
            Self::FastMcp => {
                let script = fixture("compat/servers/fastmcp_server.py");
                vec![need_part!(Python).join("python3"), "-B".into(), script, word.into()]
            }
            Self::Rmcp => vec![example("rmcp_server")?, word.into()],
        };
        command.extend(words.iter().map(|word| word.to_string_lossy().into_owned()));
        Ok(())
    }

    /// The revision that it and a client settle on.
    pub(super) const fn settles(self, wire: Wire, client: Client) -> &'static str {
        match (self, wire) {
            (Self::Git | Self::FastMcp | Self::Rmcp, Wire::Stdio | Wire::Http) if client.is_probing() => {
                NEWEST
            }
            _ => "2025-11-25",
        }
    }

    /// What a driver does with it.
    pub(super) fn plan(self, home: &Home, hosting: Hosting, client: Client) -> Result<Value> {
        let wire = hosting.wire();
        let file = match self {
            Self::Everything | Self::Gateway => "everything",
            Self::Git => "git",
            Self::FastMcp | Self::Rmcp if self.settles(wire, client) == NEWEST => "fixture_newest",
            Self::FastMcp | Self::Rmcp => "fixture",
        };
        let mut plan = std::fs::read_to_string(fixture(&format!("compat/plans/{file}.json")))?;
        plan = plan.replace("REPOSITORY", &home.user().join("repository").to_string_lossy());
        // Over HTTP, server-everything takes 4 MiB at most, supergateway a hundred kilobytes, and the Python SDK events
        // of 1 MiB.
        let (largest, bytes) = match (self, wire) {
            (Self::Gateway, _) => ("90 KB", "90000"),
            (Self::Everything, Wire::Http | Wire::Sse) => ("1 MB", "1000000"),
            (_, Wire::Http | Wire::Sse) if client.is_python() => ("1 MB", "1000000"),
            _ => ("5 MiB", "5242880"),
        };
        plan = plan.replace("5 MiB", largest).replace("5242880", bytes);
        let mut plan: Vec<Value> =
            serde_json::from_str(&plan).map_err(|error| Failure::from(error).during(file))?;
        // server-everything asks for the roots 350 ms after the session's begin, whether or not the client has opened
        // the stream for it by then.
        if wire == Wire::Http {
            plan.retain(|step| step["name"] != "log message after the roots");
        }
        // supergateway never crosses a cancelled request off: whatever the server asks or tells afterwards comes with the
        // reply to that request, which the bridge has closed by then.
        if matches!(self, Self::Gateway) {
            let (cancel, mut others): (Vec<_>, Vec<_>) =
                plan.into_iter().partition(|step| step["do"] == "cancel");
            others.extend(cancel);
            plan = others;
        }
        Ok(plan.into())
    }

    /// What a client may hear from it or not, for reasons of its own.
    pub(super) fn may_say(self, wire: Wire) -> Option<Chance> {
        // server-everything registers more tools when the session has begun, and asks for the roots a moment later. Over
        // streamable HTTP the client opens the stream for such news at the same time, and each that comes first is lost.
        (matches!(self, Self::Everything | Self::Gateway) && wire == Wire::Http).then_some(Chance {
            news: "notifications/tools/list_changed",
            question: "roots/list",
            log: "Roots updated",
        })
    }

    /// What the Inspector asks it, each time with a session of its own: method, and options beside it.
    pub(super) fn inspected(self, home: &Home, wire: Wire) -> Vec<Vec<String>> {
        let repository = format!("repo_path={}", home.user().join("repository").display());
        let requests: &[&[&str]] = match (self, wire) {
            (Self::Everything, Wire::Http) => &[
                &["tools/list"],
                &["tools/call", "--tool-name", "get-sum", "--tool-arg", "a=19", "b=23"],
                &["resources/list"],
                &["resources/templates/list"],
                &["resources/read", "--uri", "demo://resource/static/document/architecture.md"],
                &["prompts/list"],
                &["prompts/get", "--prompt-name", "args-prompt", "--prompt-args", "city=Zürich"],
                &["logging/setLevel", "--log-level", "debug"],
            ],
            (Self::Everything | Self::Gateway, _) => {
                &[&["tools/list"], &["tools/call", "--tool-name", "get-sum", "--tool-arg", "a=19", "b=23"]]
            }
            (Self::Git, _) => {
                &[&["tools/list"], &["tools/call", "--tool-name", "git_log", "--tool-arg", &repository]]
            }
            (Self::FastMcp | Self::Rmcp, _) => &[
                &["tools/list"],
                &["tools/call", "--tool-name", "echo", "--tool-arg", "text=ä𝄞"],
                &["prompts/get", "--prompt-name", "greet", "--prompt-args", "name=Ada"],
            ],
        };
        requests.iter().map(|request| request.iter().map(|&word| word.to_owned()).collect()).collect()
    }
}

/// `supergateway` with a session for each client, on the port in `PORT`, which it takes as an argument alone.
fn gateway(node: &Path) -> Vec<PathBuf> {
    let newer = newer_node(node);
    let server = format!("{} {} stdio", newer.display(), node.join("mcp-server-everything").display());
    let gateway = node.join("supergateway");
    let words =
        ["--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none", "--stdio", &server];
    ["sh", "-c", r#"exec "$@" --port "$PORT""#, "sh"]
        .map(PathBuf::from)
        .into_iter()
        .chain([newer, gateway])
        .chain(words.map(PathBuf::from))
        .collect()
}

/// A repository with two commits and a change.
fn repository(home: &Home) -> Result<PathBuf> {
    let folder = home.user().join("repository");
    std::fs::create_dir(&folder)?;
    git(home, &folder, &["init", "--quiet", "--initial-branch=main"])?;
    for subject in ["first: ä𝄞", "second"] {
        home.file("repository/file.txt", "one\n")?;
        home.file(&format!("repository/{}.txt", subject.len()), subject)?;
        git(home, &folder, &["add", "."])?;
        git(home, &folder, &["commit", "--quiet", "--message", subject])?;
    }
    home.file("repository/file.txt", "one\nand two\n")?;
    Ok(folder)
}

fn git(home: &Home, folder: &Path, args: &[&str]) -> Result {
    let mut command = home.command("git");
    command
        .current_dir(folder)
        .args(["-c", "user.name=Compat", "-c", "user.email=compat@example.org"])
        .args(args);
    let mut git = home.start(command)?;
    let exit = git.wait(Duration::from_secs(30))?;
    ensure!(exit == Exit::Code(0), "git {args:?}: {exit:?}\n{}", git.stderr());
    Ok(())
}
