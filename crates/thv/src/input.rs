//! Where values and passphrases come from: standard input, a descriptor, or a person at the terminal. Never arguments,
//! which every process can read.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};

use thv_keychain::Secret;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure, Outcome};

/// The longest value, in bytes.
const LIMIT: usize = 64 << 10;

/// A value from standard input, or typed unseen. One line break at its end does not belong to it.
pub fn value(what: &str) -> Outcome<Secret> {
    let value = if io::stdin().is_terminal() {
        typed(&format!("Type {what}: "))?
    } else {
        piped(io::stdin().lock(), what)?
    };
    if value.expose().is_empty() {
        return Err(Failure::new(Exit::Usage, format!("{what} would be empty"))
            .hint("pipe it in: printf %s VALUE | thv secret set NAME"));
    }
    Ok(value)
}

/// A passphrase or password from a descriptor, or typed unseen.
pub fn passphrase(what: &str, descriptor: Option<u32>, flag: &str) -> Outcome<Secret> {
    let value = match descriptor {
        Some(descriptor) => piped(open(descriptor)?, what)?,
        None if io::stdin().is_terminal() => typed(&format!("Type {what}: "))?,
        None => {
            return Err(Failure::new(Exit::Refused, format!("there is no terminal to ask for {what}"))
                .hint(format!("hand it in on a descriptor: {flag} 3 3< <(your password manager)")));
        }
    };
    if value.expose().is_empty() {
        return Err(Failure::new(Exit::Usage, format!("{what} is empty")));
    }
    Ok(value)
}

/// A new passphrase, asked for twice when a person types it.
pub fn new_passphrase(what: &str, descriptor: Option<u32>, flag: &str) -> Outcome<Secret> {
    let first = passphrase(what, descriptor, flag)?;
    if descriptor.is_none() {
        let second = typed("Type it again: ")?;
        if first.expose() != second.expose() {
            return Err(Failure::new(Exit::Usage, "the two are not the same").hint("nothing was changed"));
        }
    }
    Ok(first)
}

fn typed(prompt: &str) -> Outcome<Secret> {
    let text = rpassword::prompt_password(prompt)
        .map_err(|error| Failure::new(Exit::Failed, "the terminal cannot be read").because(&error))?;
    Ok(Secret::new(text.into_bytes()))
}

fn piped(mut input: impl Read, what: &str) -> Outcome<Secret> {
    // Room for all of it at once: a buffer that grows leaves its older half behind in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT + 3));
    let read = input.by_ref().take(LIMIT as u64 + 3).read_to_end(&mut bytes);
    read.map_err(|error| Failure::new(Exit::Failed, format!("{what} cannot be read")).because(&error))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.len() > LIMIT {
        return Err(Failure::new(Exit::Refused, format!("{what} is longer than {LIMIT} bytes")));
    }
    Ok(bytes.into())
}

#[cfg(unix)]
fn open(descriptor: u32) -> Outcome<File> {
    File::open(format!("/dev/fd/{descriptor}")).map_err(|error| {
        Failure::new(Exit::Usage, format!("descriptor {descriptor} cannot be read")).because(&error)
    })
}

#[cfg(not(unix))]
fn open(descriptor: u32) -> Outcome<File> {
    Err(Failure::new(Exit::Refused, format!("descriptor {descriptor} cannot be read on this system")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_does_not_belong_to_a_value() {
        for (given, expected) in [
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a", "a"),
            ("", ""),
            ("a\r", "a\r"),
            (" a ", " a "),
        ] {
            assert_eq!(piped(given.as_bytes(), "x").unwrap().expose(), expected.as_bytes(), "{given:?}");
        }
        let longest = vec![b'x'; LIMIT];
        assert_eq!(piped(&*[&longest[..], b"\r\n"].concat(), "x").unwrap().expose().len(), LIMIT);
        assert_eq!(piped(&*[&longest[..], b"x"].concat(), "x").unwrap_err().exit(), Exit::Refused);
    }
}
