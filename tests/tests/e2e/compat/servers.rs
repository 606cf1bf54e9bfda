//! The servers: how each is started, and what clients do with it.

use super::clients::Client;
use super::hosting::Hosting;
use super::transcript::Chance;
use crate::fixture::{example, fixture};
use serde_json::{Value, json};
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

    /// What a driver does with it.
    pub(super) fn plan(self, home: &Home, hosting: Hosting, client: Client) -> Result<Value> {
        let wire = hosting.wire();
        let file = match self {
            Self::Everything => "everything",
            Self::Git => "git",
            Self::FastMcp | Self::Rmcp => "fixture",
        };
        let mut plan = std::fs::read_to_string(fixture(&format!("compat/plans/{file}.json")))?;
        plan = plan.replace("REPOSITORY", &home.user().join("repository").to_string_lossy());
        // Over HTTP, server-everything takes 4 MiB at most, and the Python SDK events of 1 MiB at most.
        if wire != Wire::Stdio && (matches!(self, Self::Everything) || client.is_python()) {
            plan = plan.replace("5 MiB", "1 MB").replace("5242880", "1000000");
        }
        let mut plan: Vec<Value> =
            serde_json::from_str(&plan).map_err(|error| Failure::from(error).during(file))?;
        // server-everything asks for the roots 350 ms after the session's begin, whether or not the client has opened
        // the stream for it by then.
        if wire == Wire::Http {
            plan.retain(|step| step["name"] != "log message after the roots");
        }
        Ok(plan.into())
    }

    /// What a client may hear from it or not, for reasons of its own.
    pub(super) fn may_say(self, wire: Wire) -> Option<Chance> {
        // server-everything registers more tools when the session has begun, and asks for the roots a moment later. Over
        // streamable HTTP the client opens the stream for such news at the same time, and each that comes first is lost.
        (matches!(self, Self::Everything) && wire == Wire::Http).then_some(Chance {
            news: "notifications/tools/list_changed",
            question: "roots/list",
            log: "Roots updated",
        })
    }

    /// A tool to call, with its arguments, for clients that do no more than this.
    pub(super) fn call(self, home: &Home) -> (&'static str, Value) {
        match self {
            Self::Everything => ("get-sum", json!({ "a": 19, "b": 23 })),
            Self::Git => ("git_log", json!({ "repo_path": home.user().join("repository") })),
            Self::FastMcp | Self::Rmcp => ("echo", json!({ "text": "ä𝄞" })),
        }
    }
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
