//! The encrypted file among processes: many writers at once, and a disk that is full.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use thv_keychain::{Entry, FileStore, KeyFile, Secret, Store, StoreError};

const FOLDER: &str = "THV_TEST_FOLDER";
const WRITER: &str = "THV_TEST_WRITER";
const WRITERS: usize = 8;
const EACH: usize = 50;

fn open(folder: &Path) -> FileStore<KeyFile> {
    FileStore::new(folder.join("secrets.enc"), KeyFile::new(folder.join("master.key")))
}

fn entry(writer: usize, n: usize) -> Entry {
    Entry::secret(&format!("{writer}-{n}")).unwrap()
}

#[test]
fn eight_processes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let start = |writer: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "processes::writer"]);
        command.env(FOLDER, dir.path()).env(WRITER, writer.to_string());
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let writers: Vec<Child> = (0..WRITERS).map(start).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let entries: Vec<Entry> =
        (0..WRITERS).flat_map(|writer| (0..EACH).map(move |n| entry(writer, n))).collect();
    let values = open(dir.path()).get_many(&entries).unwrap();
    assert_eq!(values.iter().flatten().count(), WRITERS * EACH);
}

/// Not a test but one writer of the other; alone it does nothing.
#[test]
fn writer() {
    let (Some(folder), Ok(writer)) = (std::env::var_os(FOLDER), std::env::var(WRITER)) else {
        return;
    };
    let store = open(folder.as_ref());
    for n in 0..EACH {
        store.set(&entry(writer.parse().unwrap(), n), &Secret::from_text("kept")).unwrap();
    }
}

/// In a mount namespace of its own, where a small disk can be mounted without rights on the real one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = "mount -t tmpfs -o size=32k none \"$THV_TEST_FOLDER\"";
    let namespace = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).env(FOLDER, dir.path());
        command
    };
    if !namespace(disk).status().is_ok_and(|status| status.success()) {
        let text = "no mount namespace to be had, or unshare missing; apt-get install util-linux";
        assert!(std::env::var_os("THV_ALLOW_MISSING").is_some_and(|value| value == "1"), "{text}");
        crate::desktop::not_run(text);
        return;
    }
    let mut command = namespace(&format!("{disk} && exec \"$0\" \"$@\""));
    command.arg(std::env::current_exe().unwrap());
    let output = command.args(["--exact", "processes::cramped", "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("the disk was full"), "{said}");
}

/// Not a test but a process whose disk has room for eight pages; alone it does nothing.
#[test]
fn cramped() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let store = open(folder.as_ref());
    let value = Secret::new(vec![b'x'; 1_000]);
    let mut kept = 0;
    let error = loop {
        match store.set(&entry(0, kept), &value) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 100, "the disk is not small");
    };
    let StoreError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(kept > 2);
    let entries: Vec<Entry> = (0..kept).map(|n| entry(0, n)).collect();
    assert_eq!(store.get_many(&entries).unwrap().iter().flatten().count(), kept, "all of it is still there");
    assert!(store.get(&entry(0, kept)).unwrap().is_none());

    // The half that could not be written is in nobody's way: a smaller store fits again.
    for entry in &entries[1..] {
        assert!(store.delete(entry).unwrap());
    }
    store.set(&entry(1, 0), &value).unwrap();
    println!("the disk was full");
}
