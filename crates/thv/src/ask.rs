//! Questions to the person at the terminal.

use std::io::{self, BufRead as _, IsTerminal as _};

use crate::failure::{Exit, Failure, Outcome};
use crate::say;

/// Asks whether to go on. Without a terminal there is nobody to ask, and `hint` says what to add to the command.
/// `refused` is what did not happen then.
pub fn whether(question: &str, refused: &str, hint: &str) -> Outcome {
    if !io::stdin().is_terminal() {
        let why = format!("{refused}: there is no terminal to ask for confirmation");
        return Err(Failure::new(Exit::Refused, why).hint(hint));
    }
    say::talk(&format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(Exit::Refused, refused))
    }
}
