//! `thv status`: one workload, in full.

use std::fmt::Write as _;

use thv_workload::config::Transport;
use thv_workload::control::Request;

use super::existing;
use super::list::{lock_state, url};
use super::stop::ask;
use crate::args::Status;
use crate::environment::Environment;
use crate::failure::Outcome;
use crate::remote::Remote;
use crate::say;

/// Shows a workload; its supervisor is asked how many sessions there are.
pub fn status(environment: &Environment, args: &Status) -> Outcome {
    let home = environment.checked_home()?;
    let workload = existing(home, &args.name)?;
    let (config, status) = (&workload.config, &workload.status);
    let answer = status.supervisor.and_then(|_| ask(home, &args.name, &Request::Status).ok());

    let mut out = String::new();
    let mut line = |what: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{what:<10}{value}");
        }
    };
    line("name", workload.name.as_str());
    line("status", status.status.as_str());
    line("because", &status.status_context);
    line("desired", status.desired.as_str());
    line("url", &url(&workload));
    line("lock", &lock_state(config.is_locked(), status.key.as_ref().map(|key| key.id.as_str())));
    line("server", &server(config));
    line("pid", &status.supervisor.map(|process| process.pid.to_string()).unwrap_or_default());
    line("started", status.started_at.as_deref().unwrap_or_default());
    line("created", &config.created_at);
    match (&answer, status.supervisor) {
        // A server that speaks HTTP keeps its sessions to itself.
        (Some(answer), _) if config.transport == Transport::Stdio => {
            line("sessions", &answer.sessions.to_string());
        }
        (Some(_), _) => {}
        (None, Some(_)) => line("sessions", "unknown: the supervisor does not answer"),
        (None, None) => {}
    }
    line("files", &home.workload(&args.name).display().to_string());
    say::data(&out);
    Ok(())
}

fn server(config: &thv_workload::config::RunConfig) -> String {
    let words =
        config.command.iter().map(|path| path.display().to_string()).chain(config.cmd_args.iter().cloned());
    if let Some(url) = &config.remote_url {
        return Remote::parse(url, true)
            .map_or_else(|_| "a URL that cannot be used".to_owned(), |url| url.shown());
    }
    let quoted =
        words.map(|word| if word.contains(' ') || word.is_empty() { format!("'{word}'") } else { word });
    quoted.collect::<Vec<_>>().join(" ")
}
