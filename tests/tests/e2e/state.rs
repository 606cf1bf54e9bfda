//! State files that are damaged, links and strangers in the home, a full disk: named, left as they are, survived.

mod full;
mod links;
mod others;

use crate::DEMO_SERVER;
use crate::fixture::{answers, list, refused, store_entries};
use serde_json::json;
use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use thv_e2e::{Detached, Exit, Failure, Home, Output, Result, STOP_BOUND, ensure, need_part};

fn demo(home: &Home, name: &str) -> Result<Detached> {
    home.detached(["--name", name, "--shared-key-auth", "--", DEMO_SERVER])
}

fn write(path: &Path, content: &[u8]) -> Result {
    Ok(File::create(path)?.write_all(content)?)
}

/// Damage by what it is called, and the file's content made of its content before.
type Damage = (&'static str, fn(&[u8]) -> Vec<u8>);

const DAMAGES: [Damage; 5] = [
    ("empty", |_| Vec::new()),
    ("garbage", |_| b"\x00\xffno such thing\n".to_vec()),
    ("truncated", |whole| whole[..whole.len() / 2].to_vec()),
    ("too large", |_| vec![b' '; (4 << 20) + 1]),
    ("a future version", |whole| {
        let text = String::from_utf8_lossy(whole);
        text.replacen("\"v\": 1", "\"v\": 2", 1).replacen("v0.1.0", "v9.9.9", 1).into_bytes()
    }),
];

/// Every command that needs the file fails, names it, and leaves it as it is; another workload is not touched.
fn damaged(home: &Home, file: &Path, code: &[i32], commands: &[&[&str]]) -> Result {
    let before = std::fs::read(file)?;
    for command in commands {
        let output = home.thv(*command).stdin("").output()?;
        let fails = matches!(output.exit, Exit::Code(exit) if code.contains(&exit));
        let named = file.file_name().is_some_and(|name| output.stderr.contains(&*name.to_string_lossy()));
        ensure!(fails && named && !output.stderr.contains("panicked"), "{output:?}");
        ensure!(std::fs::read(file)? == before, "{} was changed by {}", file.display(), output.label);
    }
    answers(home, "fine")
}

#[test]
fn damaged_files_of_a_workload_are_named_and_left_as_they_are() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        demo(home, "fine")?;
        for name in ["status.json", "runconfig.json"] {
            for (what, damage) in DAMAGES {
                let check = || -> Result {
                    demo(home, "hurt")?;
                    home.thv(["stop", "hurt"]).output()?.expect(0)?;
                    let file = home.path().join("state/workloads/hurt").join(name);
                    let whole = std::fs::read(&file)?;
                    write(&file, &damage(&whole))?;
                    let commands: [&[&str]; 6] = [
                        &["list", "--all"],
                        &["status", "hurt"],
                        &["start", "hurt"],
                        &["restart", "hurt"],
                        &["key", "show", "hurt", "--yes"],
                        &["export", "hurt", "-"],
                    ];
                    damaged(home, &file, &[1], &commands)?;
                    // A bridge tells the client, whose user may never see a terminal.
                    let mut bridge = home.bridge("hurt")?;
                    let answer = bridge.request("tools/list", &json!({}))?;
                    assert_eq!(answer["error"]["data"]["reason"], "not_running", "{answer}");
                    ensure!(answer.to_string().contains(name), "{answer}");
                    assert_eq!(bridge.finish()?, (Exit::Code(0), Vec::new()));
                    let run = ["run", "--name", "hurt", "--shared-key-auth", "--", DEMO_SERVER];
                    let output = home.thv(run).output()?;
                    ensure!(matches!(output.exit, Exit::Code(1 | 4)), "{output:?}");
                    let rows = home.thv(["list", "--format", "json"]).output()?.json()?;
                    assert_eq!(rows[0]["name"], "fine");
                    // Mended, all is as it was; and what cannot be mended can be removed.
                    let broken = std::fs::read(&file)?;
                    write(&file, &whole)?;
                    home.thv(["start", "hurt"]).output()?.expect(0)?;
                    answers(home, "hurt")?;
                    home.thv(["stop", "hurt"]).output()?.expect(0)?;
                    write(&file, &broken)?;
                    let output = home.thv(["rm", "hurt"]).output()?.expect(0)?;
                    kept(home, &output, name, &broken)?;
                    let left = store_entries(home, &python)?;
                    let left: Vec<_> =
                        left.as_object().into_iter().flat_map(|entries| entries.keys()).collect();
                    assert!(left.iter().all(|entry| entry.contains("fine")), "{left:?}");
                    Ok(())
                };
                check().map_err(|failure| failure.during(format!("{name}, {what}")))?;
            }
        }
        home.thv(["rm", "--all"]).output()?.expect(0).map(drop)
    })
}

/// Checks that a removal has kept one file, has said where, and has kept all of it; and removes it.
fn kept(home: &Home, output: &Output, name: &str, content: &[u8]) -> Result {
    let damaged = home.path().join("state/damaged");
    let folders: Vec<_> = damaged.read_dir()?.flatten().map(|entry| entry.path()).collect();
    let [folder] = &folders[..] else { return Err(Failure::new(format!("one folder: {folders:?}"))) };
    let files: Vec<_> = folder.read_dir()?.flatten().map(|entry| entry.path()).collect();
    assert_eq!(files, [folder.join(name)]);
    ensure!(output.stderr.contains(&*files[0].to_string_lossy()), "{output:?}");
    ensure!(std::fs::read(&files[0])? == content, "{} is not what it was", files[0].display());
    for path in [&damaged, folder] {
        assert_eq!(path.metadata()?.mode() & 0o777, 0o700);
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[test]
fn a_file_that_may_not_be_read_is_named_and_kept() -> Result {
    Home::with(|home| {
        let thv = |args: &[&str]| -> Result<Output> {
            if !rustix::process::geteuid().is_root() {
                return home.thv(args).output();
            }
            // Root may read everything, unless it is told not to.
            let powers = "-dac_override,-dac_read_search";
            let mut command = home.command("setpriv");
            command.args(["--inh-caps", powers, "--bounding-set", powers]);
            command.arg(std::env::var_os(thv_e2e::BINARY_VARIABLE).unwrap_or_default()).args(args);
            let mut running = home.start(command)?;
            let exit = running.wait(STOP_BOUND)?;
            let label = format!("thv {}", args.join(" "));
            Ok(Output { label, exit, stdout: running.stdout(), stderr: running.stderr() })
        };
        for name in ["status.json", "runconfig.json"] {
            demo(home, "hurt")?;
            home.thv(["stop", "hurt"]).output()?.expect(0)?;
            let file = home.path().join("state/workloads/hurt").join(name);
            let whole = std::fs::read(&file)?;
            std::fs::set_permissions(&file, Permissions::from_mode(0o000))?;
            for command in [["status", "hurt"], ["start", "hurt"]] {
                let output = thv(&command)?.expect(1)?;
                ensure!(output.stderr.contains(name), "{output:?}");
                ensure!(output.stderr.contains("Permission denied"), "{output:?}");
            }
            let output = thv(&["rm", "hurt"])?.expect(0)?;
            for entry in home.path().join("state/damaged").read_dir()? {
                let file = entry?.path().join(name);
                std::fs::set_permissions(&file, Permissions::from_mode(0o600))?;
            }
            kept(home, &output, name, &whole)?;
        }
        Ok(())
    })
}

/// The supervisor's name is lost with the status file; its control socket still knows it.
#[test]
fn a_live_supervisor_whose_status_file_is_damaged_can_be_stopped_and_removed() -> Result {
    Home::with(|home| {
        for command in ["rm", "rm", "stop"] {
            let running = demo(home, "demo")?;
            let supervisor = home.supervisor("demo");
            let status = home.path().join("state/workloads/demo/status.json");
            let whole = std::fs::read(&status)?;
            write(&status, b"{")?;
            let output = home.thv([command, "demo"]).output()?;
            let expected = if command == "rm" { Exit::Code(0) } else { Exit::Code(1) };
            assert_eq!(output.exit, expected, "{output:?}");
            if command == "stop" {
                // It tells what is wrong, and touches nothing: the workload serves on.
                assert_eq!(std::fs::read(&status)?, b"{");
                write(&status, &whole)?;
                assert_eq!(home.supervisor("demo"), supervisor);
                assert_eq!(list(home)?[0]["port"], running.port);
                home.thv(["rm", "demo"]).output()?.expect(0)?;
            }
            assert_eq!(home.processes(), []);
        }
        Ok(())
    })
}

#[test]
fn a_damaged_store_is_named_and_left_as_it_is() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        demo(home, "fine")?;
        demo(home, "hurt")?;
        home.thv(["stop", "hurt"]).output()?.expect(0)?;
        let key = home.key("hurt")?;
        let entries = store_entries(home, &python)?;
        for name in ["state/secrets.enc", "config/master.key"] {
            let file = home.path().join(name);
            let whole = std::fs::read(&file)?;
            let future: fn(&[u8]) -> Vec<u8> = |whole| {
                let mut changed = whole.to_vec();
                changed[10] ^= 0x40;
                changed
            };
            for (what, damage) in DAMAGES[..4].iter().copied().chain([("another version", future)]) {
                let check = || -> Result {
                    write(&file, &damage(&whole))?;
                    let broken = std::fs::read(&file)?;
                    for command in [
                        &["key", "show", "hurt", "--yes"][..],
                        &["start", "hurt"],
                        &["run", "--name", "new", "--shared-key-auth", "--", DEMO_SERVER],
                        &["rm", "hurt"],
                    ] {
                        let output = home.thv(command).shows_key().output()?;
                        let fails = matches!(output.exit, Exit::Code(1 | 5 | 6));
                        let base = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                        // A changed master key may still be a key, and then it is the store that names it.
                        let named =
                            output.stderr.contains(&base) || output.stderr.contains("another master key");
                        ensure!(fails && named, "{output:?}");
                        ensure!(std::fs::read(&file)? == broken, "it was changed by {}", output.label);
                    }
                    // It was read when the workload started, and is not needed to go on.
                    assert_eq!(
                        home.thv(["list", "--format", "json"]).output()?.expect(0)?.json()?[0]["name"],
                        "fine"
                    );
                    write(&file, &whole)?;
                    // What a failed removal began is finished, or nothing of it has begun.
                    home.thv(["rm", "hurt"]).output()?;
                    demo(home, "hurt")?;
                    home.thv(["stop", "hurt"]).output()?.expect(0)?;
                    Ok(())
                };
                check().map_err(|failure| failure.during(format!("{name}, {what}")))?;
            }
        }
        assert_ne!(home.key("hurt")?, key, "it was removed and made anew");
        assert_eq!(
            store_entries(home, &python)?.as_object().map(serde_json::Map::len),
            entries.as_object().map(serde_json::Map::len)
        );
        // Without its key the store is not made anew.
        let file = home.path().join("config/master.key");
        let aside = home.path().join("config/aside");
        std::fs::rename(&file, &aside)?;
        let store = std::fs::read(home.path().join("state/secrets.enc"))?;
        for command in
            [&["start", "hurt"][..], &["run", "--name", "new", "--shared-key-auth", "--", DEMO_SERVER]]
        {
            let output = home.thv(command).output()?;
            ensure!(matches!(output.exit, Exit::Code(1 | 5 | 6)), "{output:?}");
            ensure!(output.stderr.contains("master.key"), "{output:?}");
        }
        assert!(!file.exists() && std::fs::read(home.path().join("state/secrets.enc"))? == store);
        std::fs::rename(&aside, &file)?;
        answers(home, "fine")?;
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        assert_eq!(store_entries(home, &python)?, json!({}));
        Ok(())
    })
}

/// A folder and a file outside the home, which nothing may change.
struct Outside {
    folder: PathBuf,
    file: PathBuf,
}

impl Outside {
    fn new(home: &Home) -> Result<Self> {
        let folder = home.user().join("precious");
        std::fs::create_dir(&folder)?;
        std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let file = folder.join("status.json");
        write(&file, b"precious")?;
        std::fs::set_permissions(&file, Permissions::from_mode(0o640))?;
        Ok(Self { folder, file })
    }

    fn check(&self) -> Result {
        let names: Vec<_> = self.folder.read_dir()?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(names == ["status.json"], "the folder outside holds {names:?}");
        ensure!(std::fs::read(&self.file)? == b"precious", "the file outside was changed");
        assert_eq!(self.file.metadata()?.mode() & 0o777, 0o640);
        Ok(())
    }
}

#[test]
fn a_folder_of_the_home_that_others_may_write_to_is_refused() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        for folder in ["", "config", "state", "run", "state/locks", "state/workloads"] {
            let path = home.path().join(folder);
            std::fs::set_permissions(&path, Permissions::from_mode(0o770))?;
            let check = || -> Result {
                for command in [&["start", "demo"][..], &["stop", "demo"], &["rm", "demo"]] {
                    refused(home.thv(command), 6, &["0770", "chmod 700"])?;
                }
                refused(home.thv(["run", "--name", "new", "--", DEMO_SERVER]), 6, &["0770"])?;
                Ok(())
            };
            check().map_err(|failure| failure.during(format!("folder {folder:?}")))?;
            assert_eq!(path.metadata()?.mode() & 0o777, 0o770, "it is not ours to change");
            std::fs::set_permissions(&path, Permissions::from_mode(0o700))?;
        }
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

/// A small file system of its own, unmounted when dropped.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    /// `None` where mounting is not permitted.
    pub(crate) fn mount(folder: PathBuf) -> Result<Option<Self>> {
        std::fs::create_dir(&folder)?;
        let options = ["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"];
        let mounted = Command::new("mount").args(options).arg(&folder).output();
        Ok(mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder)))
    }

    /// Fills it to the last byte.
    pub(crate) fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; 512]).is_ok() {}
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[test]
fn the_control_socket_is_private_and_refuses_nonsense() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        let sockets: Vec<_> =
            home.path().join("run").read_dir()?.flatten().map(|entry| entry.path()).collect();
        let [socket] = &sockets[..] else { return Err(Failure::new(format!("one socket: {sockets:?}"))) };
        assert_eq!(socket.metadata()?.mode() & 0o777, 0o600);
        let name = socket.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(!name.contains("demo"), "{name}");
        let large = vec![b'x'; 2 << 20];
        for nonsense in [
            &b""[..],
            b"\n",
            b"{\n",
            b"\x00\xff\n",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"{\"op\":\"format\"}\n",
            b"{\"op\":\"keys\",\"set\":[{\"key\":\"hush\"}]}\n",
            b"{\"op\":\"stop\"",
            &large,
        ] {
            let mut stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            // It may hang up before all is written.
            let _ = stream.write_all(nonsense);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer);
            let shown = String::from_utf8_lossy(&nonsense[..nonsense.len().min(40)]);
            ensure!(
                answer.contains("not understood")
                    || answer.contains("not a key set")
                    || nonsense.len() > 1000,
                "{shown:?}: {answer}"
            );
            assert!(!answer.contains("hush"));
            answers(home, "demo")?;
        }
        // One who says nothing keeps nobody waiting for ever.
        let silent = UnixStream::connect(socket)?;
        let output = home.thv(["stop", "demo"]).output()?.expect(0)?;
        ensure!(output.stderr.contains("stopped demo"), "{output:?}");
        drop(silent);
        assert!(!socket.exists());
        let row = &list(home)?[0];
        assert_eq!((&row["status"], &row["desired"]), (&json!("stopped"), &json!("stopped")));
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn names_stay_in_their_folder() -> Result {
    Home::with(|home| {
        let long = "n".repeat(63);
        for name in [
            "../up",
            "a/b",
            "..",
            ".",
            "",
            "a.",
            "-a",
            ".a",
            "stdio",
            "STDIO",
            "nul",
            "COM1",
            "a b",
            "ä",
            &"n".repeat(64),
        ] {
            let equals = format!("--name={name}");
            let output = home.thv(["run", &equals, "--", DEMO_SERVER]).output()?;
            ensure!(output.exit == Exit::Code(2), "{name:?}: {output:?}");
            let output = home.thv(["rm", "--", name]).output()?;
            ensure!(output.exit == Exit::Code(2), "{name:?}: {output:?}");
        }
        let mixed = format!("{}X", &long[1..]);
        for name in [&long, &mixed, "a.b_c-1"] {
            assert_eq!(demo(home, name)?.name, name);
            refused(home.thv(["run", "--name", &name.to_uppercase(), "--", DEMO_SERVER]), 4, &["exists"])?;
            answers(home, &name.to_uppercase())?;
        }
        assert_eq!(list(home)?.len(), 3);
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        let mut outside: Vec<_> = home
            .user()
            .parent()
            .into_iter()
            .flat_map(Path::read_dir)
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        outside.sort();
        assert_eq!(outside, ["thv", "tmp", "user"]);
        Ok(())
    })
}
