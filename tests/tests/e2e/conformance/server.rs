//! Servers as the suite sees them: directly, through the transparent proxy, and hosted from their standard input and
//! output.

use super::{LEGACY, MODERN, Suite};
use crate::fixture::{example, fixture, listening};
use thv_e2e::{Exit, Home, Result, ensure, need_part};

/// A server with all that the suite looks for.
#[derive(Clone, Copy)]
enum Fixture {
    /// On the official Python SDK.
    Python,
    /// On the official Rust SDK.
    Rmcp,
}

impl Fixture {
    /// Its command, but for the transport; `None` where a missing part is allowed.
    fn command(self) -> Result<Option<Vec<String>>> {
        let mut command = Vec::new();
        self.put_command(&mut command)?;
        Ok((!command.is_empty()).then_some(command))
    }

    fn put_command(self, command: &mut Vec<String>) -> Result {
        let words = match self {
            Self::Python => {
                let script = fixture("conformance/server.py");
                vec![need_part!(Python).join("python3"), "-B".into(), script]
            }
            Self::Rmcp => vec![example("rmcp_conformance")?],
        };
        command.extend(words.iter().map(|word| word.to_string_lossy().into_owned()));
        Ok(())
    }
}

fn judged(fixture: Fixture, revision: &str, least: usize) -> Result {
    let node = need_part!(Node);
    let Some(command) = fixture.command()? else { return Ok(()) };
    Home::with(|home| {
        let suite = Suite { home, programs: node };
        let run = |label: &str, url: &str, key: &str| {
            let origin = url.trim_end_matches("/mcp");
            let env = [("CONFORMANCE_ORIGIN", origin), ("CONFORMANCE_KEY", key)];
            suite.run(label, "header.mjs", &env, &["server", "--url", url, "--requirements", revision])
        };
        let with = |transport: &str| [&command[..], &[transport.to_owned()]].concat();

        let (mut server, port) = listening(home, &with("http"))?;
        let direct = run("direct", &format!("http://127.0.0.1:{port}/mcp"), "none")?;
        server.stop()?;
        ensure!(direct.all("SUCCESS") >= least, "too little passes directly: {direct:?}");

        for (label, options, transport) in
            [("proxied", &["--transport", "streamable-http"][..], "http"), ("hosted", &[], "stdio")]
        {
            let server = with(transport);
            let words = [&["--name", label, "--shared-key-auth"], options, &["--"]].concat();
            let guarded = home.run(words.into_iter().chain(server.iter().map(String::as_str)))?;
            let seen = run(label, guarded.url(), &home.key(label)?)?;
            let worse = seen.worse_than(&direct);
            ensure!(worse.is_empty(), "{label}, the suite sees less than directly:\n{worse}");
            assert_eq!(guarded.stop()?, Exit::Code(0));
        }
        Ok(())
    })
}

#[test]
fn a_server_of_the_python_sdk_passes_as_much_with_sessions() -> Result {
    judged(Fixture::Python, LEGACY, 80)
}

#[test]
fn a_server_of_the_python_sdk_passes_as_much_without_sessions() -> Result {
    judged(Fixture::Python, MODERN, 160)
}

#[test]
fn a_server_of_the_rust_sdk_passes_as_much_with_sessions() -> Result {
    judged(Fixture::Rmcp, LEGACY, 80)
}

#[test]
fn a_server_of_the_rust_sdk_passes_as_much_without_sessions() -> Result {
    judged(Fixture::Rmcp, MODERN, 160)
}
