//! Runs the steps of a chore one after the other: a heading, the time it took, and an end at the first failure
//! with the command that repeats it.

use crate::term::Term;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use thv_e2e::{Failure, Result};

pub(crate) struct Steps {
    term: Term,
    done: Vec<(String, Duration)>,
}

impl Steps {
    pub(crate) fn new(term: Term) -> Self {
        Self { term, done: Vec::new() }
    }

    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// Runs a command that writes to our own stdout and stderr. It gets no stdin.
    pub(crate) fn run(&mut self, heading: &str, command: &mut Command) -> Result {
        let repeat = command_line(command);
        self.step(heading, &repeat, || {
            let status = command.stdin(Stdio::null()).status()?;
            if status.success() { Ok(()) } else { Err(Failure::new(status.to_string())) }
        })
    }

    /// Does something that the command line `repeat` would do alone.
    pub(crate) fn step<T>(
        &mut self,
        heading: &str,
        repeat: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let term = self.term;
        println!("\n{} {}", term.heading(format_args!("== {heading}")), term.faint(repeat));
        let start = Instant::now();
        let value = work()
            .map_err(|failure| Failure::new(format!("{heading}: {failure}\n  to repeat it: {repeat}")))?;
        let took = start.elapsed();
        println!("{}", term.good(format_args!("ok {heading}, {:.1} s", took.as_secs_f64())));
        self.done.push((heading.to_owned(), took));
        Ok(value)
    }

    /// One line for each step that was done.
    pub(crate) fn summary(&self) {
        println!("\n{}", self.term.heading("== done"));
        for (heading, took) in &self.done {
            println!("{:>8.1} s  {heading}", took.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, took)| took).sum();
        println!("{:>8.1} s  in all: {} steps passed", total.as_secs_f64(), self.done.len());
    }
}

/// A command as one types it: the variables it adds, its name without the folder, its arguments.
pub(crate) fn command_line(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        let value = quoted(&value?.to_string_lossy()).into_owned();
        Some(format!("{}={value}", name.to_string_lossy()))
    });
    let program = Path::new(command.get_program());
    // Cargo hands its own full path to xtask; what one types is its name.
    let program = program.file_name().filter(|name| *name == "cargo").unwrap_or(program.as_os_str());
    let words = [program].into_iter().chain(command.get_args()).map(OsStr::to_string_lossy);
    variables.chain(words.map(|word| quoted(&word).into_owned())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_can_be_pasted() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["doc", "it's", "", "a=b"]).env("RUSTDOCFLAGS", "-D warnings").env_remove("GONE");
        assert_eq!(command_line(&command), r"RUSTDOCFLAGS='-D warnings' cargo doc 'it'\''s' '' a=b");
        assert_eq!(command_line(&Command::new("/opt/venv/bin/pip")), "/opt/venv/bin/pip");
    }

    #[test]
    fn a_failed_step_names_the_command_that_repeats_it_and_is_not_done() {
        let mut steps = Steps::new(Term::of_stdout());
        steps.run("good", &mut Command::new("true")).unwrap();
        let failure = steps.run("bad", Command::new("sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert_eq!(failure, "bad: exit status: 3\n  to repeat it: sh -c 'exit 3'");
        let failure = steps.run("lost", &mut Command::new("/no/such/program")).unwrap_err().to_string();
        assert!(failure.contains("to repeat it: /no/such/program"), "{failure}");
        assert_eq!(steps.done.len(), 1);
    }
}
