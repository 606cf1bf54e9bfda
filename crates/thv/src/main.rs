//! `thv`: a lock for every local MCP server.
//!
//! This file decides which command runs and which exit code it ends with; everything else is elsewhere.
#![forbid(unsafe_code)]
#![allow(
    unreachable_pub,
    reason = "nothing of a binary can be reached from outside; pub marks what other modules use"
)]

mod args;
mod ask;
mod bus;
mod commands;
mod detach;
mod environment;
mod failure;
mod foreign;
mod front;
mod input;
mod keys;
mod launch;
mod locate;
mod logs;
mod passphrase;
#[cfg(unix)]
mod pipes;
mod remote;
mod say;
mod secrets;
mod settings;
mod store;
mod supervise;
mod trial;
mod upstream;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use args::{Cli, Command, Key, Proxy, ProxyCommand};
use environment::Environment;
use failure::{Exit, Failure, Outcome};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    #[cfg(debug_assertions)]
    launch::obey_tests();
    if let Some(code) = launch::helper(&args) {
        return code;
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(cli) {
        Ok(()) if !say::all_arrived() => {
            say::complaint("error: standard output cannot be written to\n");
            code(Exit::Failed)
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say::complaint(&failure.render());
            code(failure.exit())
        }
    }
}

fn run(cli: Cli) -> Outcome {
    // These need no home, and packagers run them where there is none.
    match &cli.command {
        Command::Version => {
            say::data(&format!("thv {}\n", env!("CARGO_PKG_VERSION")));
            return Ok(());
        }
        Command::Completions(completions) => {
            commands::completions::write(completions.shell);
            return Ok(());
        }
        _ => {}
    }
    if let Command::Proxy(proxy) = &cli.command
        && let Some(target) = &proxy.target
    {
        commands::target::take_key_from_environment(target)?;
    }
    let environment = Environment::read()?;
    if cli.command.uses_keys() {
        bus::find(environment.home(), &cli.command);
    }
    protect()?;
    match cli.command {
        Command::Run(run) => commands::run::run(&environment, &run, cli.debug),
        Command::Start(start) => commands::start::start(&environment, &start, cli.debug),
        Command::Proxy(proxy) => match *proxy {
            Proxy { command: Some(ProxyCommand::Stdio(stdio)), .. } => {
                commands::bridge::stdio(&environment, &stdio, cli.debug)
            }
            Proxy { target: Some(target), .. } => commands::target::target(&environment, &target, cli.debug),
            // The parser lets nothing else through.
            Proxy { command: None, target: None } => Ok(()),
        },
        Command::List(list) => commands::list::list(&environment, &list),
        Command::Status(status) => commands::status::status(&environment, &status),
        Command::Logs(logs) => commands::logs::logs(&environment, &logs),
        Command::Stop(stop) => commands::stop::stop(&environment, &stop),
        Command::Restart(restart) => commands::stop::restart(&environment, &restart, cli.debug),
        Command::Rm(rm) => commands::rm::rm(&environment, &rm),
        Command::Export(export) => commands::export::export(&environment, &export),
        Command::Key(Key::Show(show)) => commands::key::show(&environment, &show),
        Command::Key(Key::Enable(switch)) => commands::key::switch(&environment, &switch, true, cli.debug),
        Command::Key(Key::Disable(switch)) => commands::key::switch(&environment, &switch, false, cli.debug),
        Command::Mcp(mcp) => commands::mcp::mcp(&environment, &mcp, cli.debug),
        Command::Secret(secret) => commands::secret::secret(&environment, &secret),
        Command::Doctor(doctor) => commands::doctor::doctor(&environment, &doctor),
        Command::Completions(_) | Command::Version => Ok(()),
    }
}

/// Keys pass through every command that is left: no core dump, no reading by others, and no descriptor that was
/// inherited by mistake lives on in a supervisor.
fn protect() -> Outcome {
    thv_workload::process::keep_descriptors();
    thv_workload::process::harden().map_err(|error| {
        Failure::new(Exit::Failed, "the memory of this process cannot be protected").because(&error)
    })
}

/// Help and version are data; anything else that the parser says is a complaint.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if let Some(reason) = foreign::reason(error) {
        say::talk(reason);
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => code(Exit::Usage),
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}
