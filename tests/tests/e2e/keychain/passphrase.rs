//! A store under a passphrase: unlocked once by a person, readable then by every process of the user, whatever session
//! it runs in, for as long as was said and not longer; and never by a passphrase that is wrong.

use super::providers::exchange;
use super::{add, demo, end, no_key, refused_soon, service, settings};
use crate::fixture::{answers, refused, wait_until};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use std::process::{Command, Stdio};
use thv_e2e::{
    ANSWER_BOUND, BINARY_VARIABLE, Desktop, Exit, Failure, Home, Output, Result, ensure, need_keyring, parts,
};

/// Returns from the test where the kernel keeps no keys for users, as in many containers.
macro_rules! need_kernel_keyring {
    () => {
        let probe = std::process::Command::new("keyctl")
            .args(["show", "@u"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        if !probe.is_ok_and(|status| status.success()) {
            let test = parts::test_name(file!(), line!());
            let advice = "apt-get install keyutils, on a machine where keyctl show @u works";
            return parts::missing("kernel keyring", advice, &test).map(Into::into)?;
        }
    };
}

pub(super) use need_kernel_keyring;

/// A passphrase that the search for leaks can look for.
pub(super) fn passphrase(home: &Home) -> Result<String> {
    let text = STANDARD.encode(Sha256::digest(home.path().as_os_str().as_encoded_bytes()));
    home.watch(&text)?;
    Ok(text)
}

/// A home under a passphrase with one workload; the passphrase and its key.
fn under_a_passphrase(home: &Home) -> Result<(String, String)> {
    let text = passphrase(home)?;
    let choose = home.thv(["secret", "provider", "passphrase", "--passphrase-fd", "0"]);
    choose.stdin(format!("{text}\n")).output()?.expect(0)?;
    demo(home, "demo")?;
    Ok((text, home.key("demo")?))
}

fn unlock(home: &Home, text: &str, lifetime: &str) -> Result<Output> {
    let unlock = home.thv(["secret", "unlock", "--passphrase-fd", "0", "--for", lifetime]);
    unlock.stdin(format!("{text}\n")).output()
}

/// The keys in the kernel that belong to this home.
fn in_the_kernel(home: &Home) -> Result<Vec<String>> {
    let wanted = format!(" user: {}:master-key:", service(home));
    let output = Command::new("keyctl").args(["show", "@u"]).output()?;
    let keys = String::from_utf8_lossy(&output.stdout).into_owned();
    let ours = keys.lines().filter(|line| line.contains(&wanted));
    Ok(ours.filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect())
}

/// Takes them out of the kernel.
pub(super) fn forget(home: &Home) -> Result {
    for key in in_the_kernel(home)? {
        let mut unlink = Command::new("keyctl");
        let unlinked = unlink.args(["unlink", &key, "@u"]).stdout(Stdio::null()).status()?;
        ensure!(unlinked.success(), "the key {key} stays in the kernel");
    }
    Ok(())
}

/// Everything is refused for want of the passphrase, in time, and the bridge says what to do.
fn is_locked(home: &Home) -> Result {
    let words = ["passphrase", "thv secret unlock"];
    for args in [
        &["key", "show", "demo", "--yes"][..],
        &["restart", "demo"],
        &["secret", "list"],
        &["run", "--name", "new", "--shared-key-auth", "--", crate::DEMO_SERVER],
        &["secret", "provider", "file"],
    ] {
        refused_soon(home.thv(args), &words)?;
    }
    assert!(!home.path().join("state/workloads/new").exists());
    let mut bridge = home.bridge("demo")?;
    let answer = no_key(&mut bridge, "keychain_locked")?;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("thv secret unlock"), "{message}");
    end(bridge)
}

/// Everything works, without the passphrase.
fn is_open(home: &Home, key: &str) -> Result {
    assert_eq!(home.key("demo")?, key);
    home.thv(["restart", "demo"]).output()?.expect(0)?;
    answers(home, "demo")
}

/// Forgets what the kernel has of a home, whatever becomes of the test, and says how it went.
fn tidily(test: impl FnOnce(&Home) -> Result) -> Result {
    Home::with(|home| {
        let outcome = test(home);
        let forgotten = forget(home);
        outcome.and(forgotten)
    })
}

#[test]
fn unlocked_once_it_is_open_to_all_and_locked_again_in_time() -> Result {
    need_kernel_keyring!();
    tidily(|home| {
        let (text, key) = under_a_passphrase(home)?;
        let chosen = settings(home)?;
        is_open(home, &key)?;
        forget(home)?;
        is_locked(home)?;
        let mut waiting = home.bridge("demo")?;
        no_key(&mut waiting, "keychain_locked")?;

        let output = unlock(home, &text, "1h")?.expect(0)?;
        ensure!(output.stderr.contains("1h"), "{output:?}");
        waiting.initialize()?;
        add(&mut waiting)?;
        is_open(home, &key)?;
        demo(home, "other")?;
        home.thv(["secret", "set", "token"]).stdin("hush").output()?.expect(0)?;
        assert_eq!(in_the_kernel(home)?.len(), 1);

        // A shorter time is taken at its word.
        unlock(home, &text, "1s")?.expect(0)?;
        wait_until("it is locked again", ANSWER_BOUND, || Ok(in_the_kernel(home)?.is_empty()))?;
        is_locked(home)?;
        // The running ones serve, and those who have the key go on.
        add(&mut waiting)?;
        end(waiting)?;
        assert_eq!(settings(home)?, chosen);
        unlock(home, &text, "1h")?.expect(0)?;
        assert_eq!(home.thv(["secret", "get", "token", "--yes"]).output()?.expect(0)?.stdout, "hush\n");
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_wrong_passphrase_opens_nothing_and_is_not_kept() -> Result {
    need_kernel_keyring!();
    tidily(|home| {
        let (text, key) = under_a_passphrase(home)?;
        forget(home)?;
        let file = home.path().join("state/secrets.enc");
        let before = (settings(home)?, std::fs::read(&file)?);
        for wrong in ["wrong", &text[1..], &format!("{text} "), &text.to_lowercase(), "\n"] {
            let output = unlock(home, wrong, "1h")?.expect(5)?;
            ensure!(
                output.stderr.contains("passphrase") && !output.stderr.contains("unlocked for"),
                "{output:?}"
            );
            assert_eq!(in_the_kernel(home)?, Vec::<String>::new(), "{wrong:?} was kept");
        }
        is_locked(home)?;
        unlock(home, &text, "1h")?.expect(0)?;
        // Nor does a wrong one lock what is open, or take the place of the right one.
        unlock(home, "wrong", "1h")?.expect(5)?;
        is_open(home, &key)?;
        assert_eq!((settings(home)?, std::fs::read(&file)?), before);
        refused(home.thv(["secret", "unlock"]), 6, &["terminal", "--passphrase-fd"])?;
        refused(home.thv(["secret", "unlock", "--passphrase-fd", "0"]), 2, &["empty"])?;
        refused(home.thv(["secret", "unlock", "--passphrase-fd", "77"]), 2, &["77"])?;
        let output =
            home.thv(["secret", "unlock", "--passphrase-fd", "0", "--for", "0s"]).stdin(text).output()?;
        output.expect(2)?;
        is_open(home, &key)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

/// Descriptors are what password managers in shells hand in.
#[test]
fn a_passphrase_comes_in_on_any_descriptor() -> Result {
    need_kernel_keyring!();
    tidily(|home| {
        let (text, key) = under_a_passphrase(home)?;
        forget(home)?;
        let file = home.file("passphrase", "")?;
        let thv = std::env::var(BINARY_VARIABLE).map_err(|error| Failure::new(error.to_string()))?;
        for (script, works) in [
            (r#"exec "$1" secret unlock --passphrase-fd 3 3<"$0""#, false),
            (r#"cat | (exec 7<&0 </dev/null; exec "$1" secret unlock --passphrase-fd 7)"#, true),
        ] {
            let mut command = home.command("sh");
            command.args(["-c", script]).arg(&file).arg(&thv);
            let mut shell = home.start(command)?;
            let _ = shell.send(text.as_bytes());
            shell.close_stdin();
            let exit = shell.wait(ANSWER_BOUND)?;
            assert_eq!(exit == Exit::Code(0), works, "{script}: {}", shell.stderr());
        }
        is_open(home, &key)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

/// `thv ARGS` started by another program, which puts it into another session.
fn within(home: &Home, wrapper: &[&str], args: &[&str]) -> Result<Output> {
    let thv = std::env::var(BINARY_VARIABLE).map_err(|error| Failure::new(error.to_string()))?;
    let mut command = home.command(wrapper[0]);
    command.args(&wrapper[1..]).arg(thv).args(args);
    let output = command.stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let label = format!("{} thv {}", wrapper.join(" "), args.join(" "));
    Ok(Output {
        label,
        exit: output.status.into(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

#[test]
fn a_process_of_any_session_finds_the_key() -> Result {
    need_kernel_keyring!();
    tidily(|home| {
        let (text, key) = under_a_passphrase(home)?;
        let sessions: [&[&str]; 5] = [
            &["setsid", "--wait"],
            // A login's keyring of its own, as a container or `su` has it.
            &["keyctl", "session", "-"],
            // A session that outlived its login.
            &["keyctl", "session", "-", "sh", "-c", r#"keyctl revoke @s; exec "$0" "$@""#],
            &["unshare", "--mount", "--ipc", "--uts"],
            &["env", "-i", "PATH=/usr/bin:/bin"],
        ];
        let show = ["key", "show", "demo", "--yes"];
        for session in sessions {
            let home_variable = format!("THV_HOME={}", home.path().display());
            let mut wrapper = session.to_vec();
            wrapper.extend(["env", &home_variable]);
            forget(home)?;
            let output = within(home, &wrapper, &show)?.expect(5)?;
            ensure!(output.stderr.contains("thv secret unlock"), "{output:?}");
            // Unlocked here, read there.
            unlock(home, &text, "1h")?.expect(0)?;
            assert_eq!(within(home, &wrapper, &show)?.expect(0)?.stdout.trim(), key);
            within(home, &wrapper, &["restart", "demo"])?.expect(0)?;
            answers(home, "demo")?;
            // Unlocked there, by a process whose session ends with it, and read here.
            forget(home)?;
            let thv = std::env::var(BINARY_VARIABLE).map_err(|error| Failure::new(error.to_string()))?;
            let mut command = home.command(wrapper[0]);
            command.args(&wrapper[1..]).arg(thv).args([
                "secret",
                "unlock",
                "--passphrase-fd",
                "0",
                "--for",
                "1h",
            ]);
            let mut there = home.start(command)?;
            there.send(format!("{text}\n").as_bytes())?;
            there.close_stdin();
            assert_eq!(there.wait(ANSWER_BOUND)?, Exit::Code(0), "{}", there.stderr());
            assert_eq!(home.key("demo")?, key);
        }
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn another_passphrase_takes_the_place_of_the_old_one() -> Result {
    need_kernel_keyring!();
    tidily(|home| {
        let (text, key) = under_a_passphrase(home)?;
        exchange(home, "passphrase")?.expect(0)?;
        assert_eq!(home.key("demo")?, key);
        forget(home)?;
        unlock(home, &text, "1h")?.expect(5)?;
        is_locked(home)?;
        let unlock = home.thv(["secret", "unlock", "--passphrase-fd", "0"]);
        unlock.stdin("correct horse battery staple\n").output()?.expect(0)?;
        is_open(home, &key)?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn there_is_nothing_to_unlock_elsewhere() -> Result {
    need_keyring!();
    Home::with(|home| {
        demo(home, "demo")?;
        let output = home.thv(["secret", "unlock"]).output()?.expect(0)?;
        ensure!(output.stderr.contains("nothing to unlock"), "{output:?}");
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })?;
    Desktop::unlocked()?.with_home(|home| {
        demo(home, "demo")?;
        home.thv(["secret", "unlock"]).output()?.expect(0)?;
        refused(home.thv(["secret", "unlock", "--passphrase-fd", "0"]).stdin("x"), 2, &["--passphrase-fd"])?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}
