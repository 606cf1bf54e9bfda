//! The operating system's keychain against a real gnome-keyring: as it works, and as it fails.
//!
//! Each failure has a stated outcome: an error of the right sort within the bound, and nothing lost.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use crate::desktop::{Desktop, Driver, Start, await_call, present};

/// The promised bound, and what a busy machine may add.
const BOUND: Duration = Duration::from_millis(3_000 + 500);

/// The order is answered with this sort of error, in time.
#[track_caller]
fn refuses(driver: &mut Driver, order: &str, sort: &str) -> String {
    let (answer, took) = driver.ask_timed(order);
    assert!(answer.starts_with(&format!("{sort}: ")), "{order}: {answer}");
    assert!(took < BOUND, "{order}: {took:?}");
    answer
}

/// Reading, writing and deleting are all refused.
#[track_caller]
fn all_refuse(driver: &mut Driver, sort: &str) {
    for order in ["get a", "set a hunter2", "delete a"] {
        let answer = refuses(driver, order, sort);
        assert!(!answer.contains("hunter2"), "{answer}");
    }
}

#[track_caller]
fn probes(driver: &mut Driver, state: &str) {
    let (answer, took) = driver.ask_timed("probe");
    assert!(answer.starts_with(&format!("{state} ")), "{answer}");
    assert!(took < BOUND, "{took:?}");
}

#[test]
fn the_whole_life_of_a_workloads_keys() {
    if !present() {
        return;
    }
    let desktop = Desktop::unlocked();
    let mut driver = desktop.driver("thv");
    probes(&mut driver, "reachable");
    let key = driver.ask("vault");
    assert_eq!(key.len(), 44, "{key}");
    let attributes = ["service", "thv", "username", "workload:time:shared-key"];
    let seen = desktop.secret_tool(&[&["lookup"], &attributes[..]].concat(), "");
    assert_eq!(seen, key, "other programs see exactly the key's text");
}

#[test]
fn secrets_of_any_bytes_are_kept_as_text() {
    if !present() {
        return;
    }
    let desktop = Desktop::unlocked();
    let mut driver = desktop.driver("thv");
    assert_eq!(driver.ask("secrets"), "a b");
    assert_eq!(driver.ask("set-bytes c"), "done");
    assert_eq!(desktop.secret_tool(&["lookup", "service", "thv", "username", "secret:c"], ""), "base64:AP9h");
    assert_eq!(driver.ask("delete c"), "true");
    assert_eq!(driver.ask("delete c"), "false");
    assert_eq!(driver.ask("get c"), "none");
    let mut later = desktop.driver("thv");
    assert_eq!(later.ask("get a"), "value \"2\"");
}

#[test]
fn several_hundred_entries_are_read_though_each_call_has_its_bound() {
    if !present() {
        return;
    }
    let desktop = Desktop::unlocked();
    // On a slow machine the bound is as it is for users; on a fast one it would not do for all of them at once.
    let answer = desktop.driver("thv").ask("many 400 500");
    assert!(answer.starts_with("true true "), "{answer}");
}

#[test]
fn the_file_finds_its_master_key_there_and_two_homes_never_meet() {
    if !present() {
        return;
    }
    let desktop = Desktop::unlocked();
    let (mut one, mut two) = (desktop.driver("thv"), desktop.driver("thv:1234"));
    assert_eq!(one.ask(&format!("file {} a", desktop.file("one.enc").display())), "kept");
    assert_eq!(one.ask("master thv:1234"), "false");
    assert_eq!(two.ask(&format!("file {} a", desktop.file("two.enc").display())), "kept");
    let crossed = two.ask(&format!("file {} a", desktop.file("one.enc").display()));
    assert!(crossed.starts_with("other cannot use"), "{crossed}");

    assert_eq!(one.ask("set a 1"), "done");
    assert_eq!(two.ask("get a"), "none");
    assert_eq!(two.ask("set a 2"), "done");
    assert_eq!(two.ask("delete a"), "true");
    assert_eq!(one.ask("get a"), "value \"1\"");
}

#[test]
fn the_entries_of_a_home_are_told_and_those_of_nobody_else() {
    if !present() {
        return;
    }
    let desktop = Desktop::unlocked();
    let (mut one, mut two) = (desktop.driver("thv"), desktop.driver("thv:1234"));
    assert_eq!(one.ask("entries"), "none");
    one.ask("vault");
    assert_eq!(one.ask("set b 1"), "done");
    assert_eq!(one.ask("set a 1"), "done");
    assert_eq!(two.ask("set a 2"), "done");
    // Another program's item under our service, one that is no entry at all, and a second of one name.
    for attributes in
        [&["username", "toolhive"][..], &["extra", "1"], &["username", "secret:a", "extra", "1"]]
    {
        desktop.secret_tool(&[&["store", "--label", "x", "service", "thv"], attributes].concat(), "hunter2");
    }
    let ours = "secret:a secret:b workload:time:shared-key workload:time:shared-key:set";
    assert_eq!(one.ask("entries"), ours);
    assert_eq!(two.ask("entries"), "secret:a");
}

#[test]
fn eight_processes_that_begin_a_file_at_once_agree_on_one_master_key() {
    if !present() {
        return;
    }
    let desktop = Desktop::unlocked();
    let path = desktop.file("secrets.enc");
    let mut drivers: Vec<_> = (0..8).map(|_| desktop.driver("thv")).collect();
    for (n, driver) in drivers.iter_mut().enumerate() {
        driver.tell(&format!("file {} {n}", path.display()));
    }
    for driver in &mut drivers {
        assert_eq!(driver.answer().0, "kept");
    }
    assert_eq!(drivers[0].ask(&format!("file-names {}", path.display())), "0 1 2 3 4 5 6 7");
    let attributes = ["service", "thv", "username", "master-key"];
    let found = desktop.secret_tool(&[&["search", "--all"], &attributes[..]].concat(), "");
    assert_eq!(found.matches("secret = ").count(), 1, "one master key");
}

#[test]
fn a_locked_keychain_says_so_and_loses_nothing() {
    if !present() {
        return;
    }
    let mut desktop = Desktop::unlocked();
    let mut driver = desktop.driver("thv");
    assert_eq!(driver.ask("set a 1"), "done");
    desktop.kill();
    desktop.start(Start::Locked);
    for mut driver in [driver, desktop.driver("thv")] {
        probes(&mut driver, "locked");
        all_refuse(&mut driver, "locked");
        // Nothing may be taken for absent either.
        refuses(&mut driver, "get b", "locked");
        refuses(&mut driver, "delete b", "locked");
        refuses(&mut driver, "entries", "locked");
    }
    desktop.kill();
    desktop.start(Start::Unlocked);
    assert_eq!(desktop.driver("thv").ask("get a"), "value \"1\"");
}

#[test]
fn a_keychain_without_a_collection_is_not_an_empty_one() {
    if !present() {
        return;
    }
    let mut desktop = Desktop::without_keyring();
    desktop.start(Start::Locked);
    let mut driver = desktop.driver("thv");
    probes(&mut driver, "no-collection");
    all_refuse(&mut driver, "no-collection");
    refuses(&mut driver, "entries", "no-collection");
}

#[test]
fn a_daemon_killed_in_the_middle_of_a_call_is_an_error_in_time() {
    if !present() {
        return;
    }
    let mut desktop = Desktop::unlocked();
    let mut driver = desktop.driver("thv");
    assert_eq!(driver.ask("set a 1"), "done");
    let monitor = desktop.monitor();
    desktop.signal("-STOP");
    driver.tell("get a");
    await_call(&monitor, "SearchItems");
    desktop.kill();
    let (answer, took) = driver.answer();
    assert!(answer.starts_with("unavailable: "), "{answer}");
    assert!(took < BOUND, "{took:?}");
    desktop.start(Start::Unlocked);
    assert_eq!(driver.ask("get a"), "value \"1\"");
}

#[test]
fn a_daemon_that_is_started_anew_is_found_again() {
    if !present() {
        return;
    }
    let mut desktop = Desktop::unlocked();
    let mut driver = desktop.driver("thv");
    assert_eq!(driver.ask("set a 1"), "done");
    for n in 2..5 {
        desktop.kill();
        refuses(&mut driver, "get a", "unavailable");
        desktop.start(Start::Unlocked);
        assert_eq!(driver.ask("get a"), format!("value \"{}\"", n - 1));
        desktop.kill();
        desktop.start(Start::Unlocked);
        assert_eq!(driver.ask(&format!("set a {n}")), "done", "a write on a session that died");
    }
    assert_eq!(driver.ask("delete a"), "true");
}

#[test]
fn a_daemon_that_the_bus_starts_again_is_locked() {
    if !present() {
        return;
    }
    let mut desktop = Desktop::activating();
    desktop.start(Start::Unlocked);
    let mut driver = desktop.driver("thv");
    assert_eq!(driver.ask("set a 1"), "done");
    desktop.kill();
    all_refuse(&mut driver, "locked");
}

#[test]
fn a_daemon_that_is_stopped_costs_the_bound_and_no_more() {
    if !present() {
        return;
    }
    let desktop = Desktop::unlocked();
    let mut driver = desktop.driver("thv");
    assert_eq!(driver.ask("set a 1"), "done");
    desktop.signal("-STOP");
    all_refuse(&mut driver, "timed-out");
    refuses(&mut driver, "entries", "timed-out");
    probes(&mut driver, "timed-out");
    // A process that never reached it.
    let mut fresh = desktop.driver("thv");
    refuses(&mut fresh, "get a", "timed-out");
    assert!(fresh.end() < BOUND);
    desktop.signal("-CONT");
    assert_eq!(driver.ask("get a"), "value \"1\"");
}

#[test]
fn a_bus_that_takes_connections_and_says_nothing_costs_the_bound_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let _silent = UnixListener::bind(&path).unwrap();
    let mut driver = Driver::start(Some(&format!("unix:path={}", path.display())), "thv");
    refuses(&mut driver, "get a", "timed-out");
    probes(&mut driver, "timed-out");
    // Two calls still hang, and the process ends all the same.
    assert!(driver.end() < BOUND);
}

#[test]
fn no_bus_is_unavailable_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = format!("unix:path={}", dir.path().join("bus").display());
    for address in [Some(nowhere.as_str()), Some("nonsense"), None] {
        let mut driver = Driver::start(address, "thv");
        all_refuse(&mut driver, "unavailable");
        refuses(&mut driver, "entries", "unavailable");
        probes(&mut driver, "unavailable");
    }
}

#[test]
fn a_bus_without_a_keychain_is_unavailable() {
    if !present() {
        return;
    }
    let desktop = Desktop::without_keyring();
    let mut driver = desktop.driver("thv");
    all_refuse(&mut driver, "unavailable");
    probes(&mut driver, "unavailable");
}

#[test]
fn two_items_of_one_name_are_an_error_with_the_way_out() {
    if !present() {
        return;
    }
    let desktop = Desktop::unlocked();
    let mut driver = desktop.driver("thv");
    assert_eq!(driver.ask("set a 1"), "done");
    let attributes = ["service", "thv", "username", "secret:a"];
    let store = [&["store", "--label", "x"], &attributes[..], &["extra", "1"]].concat();
    desktop.secret_tool(&store, "hunter2");
    let answer = refuses(&mut driver, "get a", "ambiguous");
    assert!(answer.contains("2 items"), "{answer}");
    assert!(answer.contains("secret-tool search --all service 'thv' username 'secret:a'"), "{answer}");
    all_refuse(&mut driver, "ambiguous");

    desktop.secret_tool(&[&["clear"], &attributes[..], &["extra", "1"]].concat(), "");
    assert_eq!(driver.ask("get a"), "value \"1\"");
}

#[test]
fn no_call_waits_for_a_prompt_but_the_one_that_opens_it() {
    if !present() {
        return;
    }
    let mut desktop = Desktop::unlocked();
    let mut driver = desktop.driver("thv");
    assert_eq!(driver.ask("set a 1"), "done");
    desktop.kill();
    // The desktop's prompter is there and nobody sits in front of it.
    let prompter = desktop.connect();
    prompter.request_name("org.gnome.keyring.SystemPrompter", false, true, false).unwrap();
    desktop.start(Start::Locked);
    all_refuse(&mut driver, "locked");
    driver.tell("unlock 1");
    await_call(&prompter, "BeginPrompting");
    let (answer, took) = driver.answer();
    assert!(answer.starts_with("locked: "), "{answer}");
    assert!(took < BOUND, "{took:?}");
    refuses(&mut driver, "get a", "locked");
}
