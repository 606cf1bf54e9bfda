//! `thv completions`: what a shell needs to complete command lines.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::args::Cli;
use crate::say;

/// Writes the completions of one shell to standard output.
pub fn write(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "thv", &mut script);
    say::raw(&script);
}
