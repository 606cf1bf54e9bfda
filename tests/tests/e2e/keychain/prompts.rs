//! Questions to a person: secrets, passphrases and passwords typed unseen, and those that want a yes.

use super::passphrase::{forget, need_kernel_keyring, passphrase};
use super::settings;
use crate::fixture::demo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use thv_e2e::{Exit, Home, Result, Thv, ensure, parts};

/// Answers each question, and gives how it ended and what stood on the screen.
fn typed(thv: &Thv<'_>, answers: &[(&str, &str)]) -> Result<(Exit, String)> {
    let mut terminal = thv.terminal()?;
    for (question, answer) in answers {
        terminal.await_text(question)?;
        // A yes or no may be seen; everything else that is asked for may not.
        if question.ends_with("[y/N]") { terminal.enter(answer)? } else { terminal.enter_unseen(answer)? }
    }
    terminal.finish()
}

/// A value that the search for leaks can look for.
fn value(home: &Home, what: &str) -> Result<String> {
    let seed = format!("{what} {}", home.path().display());
    let text = STANDARD.encode(Sha256::digest(seed));
    home.watch(&text)?;
    Ok(text)
}

fn secret(home: &Home, name: &str) -> Result<String> {
    let output = home.thv(["secret", "get", name, "--yes"]).shows_key().output()?.expect(0)?;
    Ok(output.stdout.trim_end_matches('\n').to_owned())
}

#[test]
fn a_secret_is_typed_unseen() -> Result {
    Home::with(|home| {
        let text = value(home, "token")?;
        let (exit, screen) =
            typed(&home.thv(["secret", "set", "token"]), &[("Type the secret token: ", &text)])?;
        ensure!(exit == Exit::Code(0) && screen.contains("kept token"), "{exit:?} {screen}");
        ensure!(!screen.contains(&text), "it was shown while it was typed");
        assert_eq!(secret(home, "token")?, text);
        // Nothing is kept of somebody who changed their mind.
        let (exit, screen) = typed(&home.thv(["secret", "set", "none"]), &[("Type the secret none: ", "")])?;
        ensure!(exit == Exit::Code(2) && screen.contains("would be empty"), "{exit:?} {screen}");
        assert_eq!(home.thv(["secret", "list"]).output()?.expect(0)?.stdout, "token\n");
        Ok(())
    })
}

#[test]
fn a_new_passphrase_is_typed_twice_and_the_two_are_the_same() -> Result {
    need_kernel_keyring!();
    Home::with(|home| {
        let test = || -> Result {
            let text = passphrase(home)?;
            let choose = home.thv(["secret", "provider", "passphrase"]);
            let (first, second) = ("Type a passphrase for the store: ", "Type it again: ");
            let (exit, screen) = typed(&choose, &[(first, &text), (second, "another")])?;
            ensure!(exit == Exit::Code(2) && screen.contains("not the same"), "{exit:?} {screen}");
            assert!(!home.path().join("config/config.toml").exists(), "it was chosen all the same");

            let (exit, screen) = typed(&choose, &[(first, &text), (second, &text)])?;
            ensure!(exit == Exit::Code(0) && !screen.contains(&text), "{exit:?} {screen}");
            ensure!(settings(home)?.contains("\"passphrase\""), "{}", settings(home)?);
            forget(home)?;
            let ask = "Type the passphrase of the store: ";
            let unlock = home.thv(["secret", "unlock"]);
            let (exit, screen) = typed(&unlock, &[(ask, "another")])?;
            ensure!(exit == Exit::Code(5) && screen.contains("the passphrase is wrong"), "{exit:?} {screen}");
            let (exit, screen) = typed(&unlock, &[(ask, &text)])?;
            ensure!(exit == Exit::Code(0) && screen.contains("unlocked for 12h"), "{exit:?} {screen}");
            assert!(!screen.contains(&text));
            home.thv(["secret", "list"]).output()?.expect(0).map(drop)
        };
        let outcome = test();
        let forgotten = forget(home);
        outcome.and(forgotten)
    })
}

#[test]
fn a_yes_shows_a_key_or_a_secret_and_anything_else_does_not() -> Result {
    Home::with(|home| {
        let running = demo(home, "demo")?;
        let (key, text) = (home.key("demo")?, value(home, "token")?);
        home.thv(["secret", "set", "token"]).stdin(text.as_str()).output()?.expect(0)?;
        for (args, question, shown) in [
            (["key", "show", "demo"], "[y/N]", &key),
            (["secret", "get", "token"], "Show the secret token here? [y/N]", &text),
        ] {
            for answer in ["", "n", "maybe"] {
                let (exit, screen) = typed(&home.thv(args), &[(question, answer)])?;
                ensure!(exit == Exit::Code(6) && screen.contains("was not shown"), "{exit:?} {screen}");
                ensure!(!screen.contains(shown.as_str()), "{screen}");
            }
            for answer in ["y", "yes"] {
                let (exit, screen) = typed(&home.thv(args).shows_key(), &[(question, answer)])?;
                ensure!(exit == Exit::Code(0) && screen.contains(shown.as_str()), "{exit:?}");
            }
        }
        running.stop()?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

/// Where the keychain does not have it, ToolHive's password is asked for.
pub(super) fn imports_with_a_typed_password(home: &Home, file: &Path, password: &str) -> Result {
    let import = home.thv(["secret", "import", "toolhive", "--file"]).arg(file);
    let ask = "Type the password of the ToolHive store: ";
    let (exit, screen) = typed(&import, &[(ask, "wrong")])?;
    ensure!(exit == Exit::Code(6) && screen.contains("was not imported"), "{exit:?} {screen}");
    let (exit, screen) = typed(&import, &[(ask, password)])?;
    ensure!(exit == Exit::Code(0) && screen.contains("imported 2 of 2"), "{exit:?} {screen}");
    ensure!(!screen.contains(password), "it was shown while it was typed");
    Ok(())
}
