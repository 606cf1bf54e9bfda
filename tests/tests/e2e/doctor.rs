//! `thv doctor`: each thing that can be wrong is found, with why it matters and what mends it, and `--fix` mends what
//! loses nothing. What it says of the keychain is tested with the keychains.

use crate::DEMO_SERVER;
use crate::fixture::{GONE_BOUND, answers, call_text, list, server, wait_until};
use serde_json::{Value, json};
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};
use thv_e2e::{Detached, Exit, Failure, Home, Proc, Result, STOP_BOUND, Signal, ensure, need_part};

/// What it found, in the order in which it was shown, and how it ended.
struct Report {
    rows: Vec<Value>,
    exit: Exit,
}

impl Report {
    fn of(home: &Home, more: &[&str]) -> Result<Self> {
        let output = home.thv(["doctor", "--format", "json"]).args(more).output()?;
        let rows: Vec<Value> = serde_json::from_value(output.json()?)?;
        for row in &rows {
            let names: Vec<_> = row.as_object().into_iter().flat_map(|row| row.keys()).collect();
            assert_eq!(names, ["check", "fixed", "mend", "weight", "what", "why"], "{row}");
            let text = |name: &str| row[name].as_str().is_some_and(|text| !text.is_empty());
            ensure!(row["weight"] == "fine" || text("why") && text("mend"), "no way out: {row}");
        }
        let problem = rows.iter().any(|row| row["weight"] == "problem" && row["fixed"] == false);
        assert_eq!(output.exit, Exit::Code(problem.into()), "{output:?}");
        Ok(Self { rows, exit: output.exit })
    }

    fn look(home: &Home) -> Result<Self> {
        Self::of(home, &[])
    }

    fn fix(home: &Home) -> Result<Self> {
        Self::of(home, &["--fix"])
    }

    fn is_fine(&self) -> Result {
        let other = self.rows.iter().find(|row| row["weight"] != "fine");
        ensure!(self.exit == Exit::Code(0) && other.is_none(), "{other:?}");
        Ok(())
    }

    fn all(&self, check: &str) -> Vec<&Value> {
        self.rows.iter().filter(|row| row["check"] == check).collect()
    }

    /// The only finding of a kind: its weight, and all these words in what it says and advises.
    fn one(&self, check: &str, weight: &str, words: &[&str]) -> Result {
        let all = self.all(check);
        let [row] = all[..] else { return Err(Failure::new(format!("one {check}: {:?}", self.rows))) };
        ensure!(row["weight"] == weight, "{row}");
        for word in words {
            ensure!(row.to_string().contains(word), "{word:?} is missing in {row}");
        }
        Ok(())
    }
}

/// A locked workload with the demo server, in the background.
fn demo(home: &Home, name: &str) -> Result<Detached> {
    home.detached(["--name", name, "--shared-key-auth", "--", DEMO_SERVER])
}

fn supervisor(home: &Home) -> Result<Proc> {
    home.supervisor("demo").ok_or_else(|| Failure::new("no supervisor"))
}

fn kill(process: &Proc) -> Result {
    process.kill();
    wait_until("it is dead", STOP_BOUND, || Ok(!process.is_alive()))
}

fn remove(home: &Home) -> Result {
    home.thv(["rm", "demo"]).output()?.expect(0)?;
    Report::look(home)?.is_fine()
}

fn set(path: &Path, mode: u32) -> Result {
    Ok(std::fs::set_permissions(path, Permissions::from_mode(mode))?)
}

fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::symlink_metadata(path)?.permissions().mode() & 0o7777)
}

fn write(path: &Path, text: &[u8]) -> Result {
    Ok(File::create(path)?.write_all(text)?)
}

/// The only control socket.
fn socket(home: &Home) -> Result<std::path::PathBuf> {
    let mut all = home.path().join("run").read_dir()?;
    let first = all.next().ok_or_else(|| Failure::new("no socket"))??;
    ensure!(all.next().is_none(), "two sockets");
    Ok(first.path())
}

#[test]
fn all_is_well_and_that_is_said_for_people_and_programs() -> Result {
    Home::with(|home| {
        // Before anything was made there is nothing wrong, and nothing is made by looking.
        Report::look(home)?;
        assert_eq!(home.path().read_dir()?.count(), 0);
        demo(home, "demo")?;
        let report = Report::look(home)?;
        report.is_fine()?;
        for check in ["folder", "store", "workloads", "clock"] {
            report.one(check, "fine", &[])?;
        }
        let text = home.thv(["doctor"]).output()?.expect(0)?.stdout;
        ensure!(text.lines().all(|line| line.starts_with("fine ")), "{text}");

        kill(&supervisor(home)?)?;
        write(&home.path().join("config/servers.toml"), b"")?;
        set(&home.path().join("config/servers.toml"), 0o666)?;
        let text = home.thv(["doctor"]).output()?.expect(1)?;
        ensure!(text.stderr.contains("there is 1 problem"), "{text:?}");
        for line in
            ["problem  ", "note     demo does not run", "         why: ", "         try: thv start demo"]
        {
            ensure!(text.stdout.lines().any(|said| said.starts_with(line)), "{line:?}: {text:?}");
        }
        let text = home.thv(["doctor", "--fix"]).output()?.expect(0)?.stdout;
        ensure!(text.lines().any(|line| line.starts_with("mended   ")), "{text}");
        remove(home)
    })
}

#[test]
fn what_is_open_to_others_is_found_wherever_it_lies_and_closed_off() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        let (folder, servers) =
            (home.path().join("state/workloads/demo"), home.path().join("config/servers.toml"));
        write(&servers, b"")?;
        set(&servers, 0o644)?;
        Report::look(home)?.one("file", "note", &["servers.toml", "0644", "chmod 600"])?;

        let (log, socket) = (folder.join("proxy.log"), socket(home)?);
        set(&log, 0o640)?;
        set(&folder, 0o755)?;
        set(&socket, 0o666)?;
        symlink("/nowhere", home.path().join("state/link"))?;
        let report = Report::look(home)?;
        report.one("folder", "problem", &["workloads/demo", "0755", "chmod"])?;
        let files: Vec<_> = report.all("file").iter().map(|row| row["what"].to_string()).collect();
        for name in ["proxy.log", "servers.toml", ".sock", "link is a symbolic link"] {
            ensure!(files.iter().any(|what| what.contains(name)), "{name}: {files:?}");
        }
        assert_eq!(files.len(), 4, "{files:?}");
        // One file that is open does not hide everything else.
        report.one("store", "fine", &["keys rest in"])?;

        let report = Report::fix(home)?;
        assert_eq!(report.exit, Exit::Code(1), "a link is not mended");
        assert_eq!((mode(&log)?, mode(&folder)?, mode(&socket)?), (0o600, 0o700, 0o600));
        std::fs::remove_file(home.path().join("state/link"))?;
        Report::look(home)?.is_fine()?;
        answers(home, "demo")?;
        remove(home)
    })
}

#[test]
fn in_folders_that_cannot_be_trusted_nothing_is_looked_at_until_they_are_mended() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        set(&home.path().join("state"), 0o770)?;
        let report = Report::look(home)?;
        report.one("folder", "problem", &["state", "0770"])?;
        report.one("not-looked-at", "note", &[])?;
        assert_eq!(report.all("store"), Vec::<&Value>::new());
        let report = Report::fix(home)?;
        assert_eq!(report.exit, Exit::Code(0));
        report.one("store", "fine", &[])?;
        remove(home)
    })
}

#[test]
fn the_socket_of_a_live_supervisor_stays_whatever_its_files_say() -> Result {
    Home::with(|home| {
        for name in ["status.json", "runconfig.json"] {
            for command in ["stop", "rm"] {
                demo(home, "demo")?;
                let (supervisor, socket) = (supervisor(home)?, socket(home)?);
                let file = home.path().join("state/workloads/demo").join(name);
                let whole = std::fs::read(&file)?;
                write(&file, b"{")?;
                let report = Report::fix(home)?;
                report.one("workload", "problem", &["demo", name, "thv rm demo"])?;
                let pid = format!("pid {}", supervisor.pid);
                report.one("orphan-supervisor", "problem", &[&pid, "thv rm demo"])?;
                assert!(socket.exists(), "{name}");
                if command == "stop" {
                    write(&file, &whole)?;
                    Report::look(home)?.is_fine()?;
                }
                // Over the socket, not by a signal.
                let output = home.thv([command, "demo"]).output()?.expect(0)?;
                ensure!(!output.stderr.contains("signal"), "{output:?}");
                assert!(!supervisor.is_alive() && !socket.exists());
                home.thv(["rm", "demo"]).output()?;
                assert_eq!(home.processes(), []);
            }
        }
        Ok(())
    })
}

#[test]
fn a_supervisor_whose_workload_is_gone_is_named_by_pid() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        let supervisor = supervisor(home)?;
        std::fs::remove_dir_all(home.path().join("state/workloads/demo"))?;
        let report = Report::fix(home)?;
        report.one(
            "orphan-supervisor",
            "problem",
            &["whose workload is gone", &format!("kill {}", supervisor.pid)],
        )?;
        assert!(supervisor.is_alive(), "no process is ended for the sake of a look");
        supervisor.signal(Signal::TERM);
        wait_until("it has ended", GONE_BOUND, || Ok(!supervisor.is_alive()))?;
        Report::fix(home)?;
        Report::look(home)?.is_fine()
    })
}

#[test]
fn a_supervisor_that_was_killed_leaves_a_note_and_a_socket() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        let socket = socket(home)?;
        kill(&supervisor(home)?)?;
        let report = Report::look(home)?;
        report.one("down", "note", &["demo does not run", "the next client", "thv start demo"])?;
        report.one("socket", "note", &["belongs to no running workload", "thv doctor --fix"])?;
        assert!(socket.exists(), "nothing is changed by looking");
        let report = Report::fix(home)?;
        assert_eq!(report.all("socket")[0]["fixed"], true);
        assert!(!socket.exists());
        home.thv(["start", "demo"]).output()?.expect(0)?;
        Report::look(home)?.is_fine()?;
        remove(home)
    })
}

#[test]
fn what_a_cut_off_command_left_is_told_from_what_another_one_is_at() -> Result {
    Home::with(|home| {
        // Its server never says a word, so this waits.
        let run = ["run", "--name", "demo", "--shared-key-auth", "--", "/bin/sleep", "600"];
        let mut running = home.thv(run).start()?;
        let config = home.path().join("state/workloads/demo/runconfig.json");
        wait_until("it is half made", STOP_BOUND, || Ok(config.exists()))?;
        let report = Report::fix(home)?;
        report.one("changing", "note", &["demo", "another command"])?;
        assert_eq!((report.exit, report.all("unfinished")), (Exit::Code(0), Vec::new()));
        running.signal(Signal::INT)?;
        running.wait(STOP_BOUND)?;
        Report::look(home)?.is_fine()?;

        let output = home.thv(run).env("THV_TEST_KILL_AFTER", "key-made").output()?;
        assert_eq!(output.exit, Exit::Signal(Signal::KILL.as_raw()), "{output:?}");
        let report = Report::look(home)?;
        report.one("unfinished", "problem", &["demo is half made", "thv doctor --fix"])?;
        assert!(config.exists(), "nothing is changed by looking");
        assert_eq!(Report::fix(home)?.exit, Exit::Code(0));
        assert!(!home.path().join("state/workloads/demo").exists());
        Report::look(home)?.is_fine()
    })
}

#[test]
fn processes_that_a_killed_supervisor_left_are_counted_and_ended() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let run = home.thv(["run", "--name", "demo", "--shared-key-auth", "--"]);
        run.args(server(&python, "family.py")).output()?.expect(0)?;
        let mut session = home.bridge("demo")?;
        session.initialize()?;
        let tree: Vec<u32> = serde_json::from_str(&call_text(&mut session, "tree", &json!({}))?)?;
        let all = home.processes();
        let of = |pid: u32| all.iter().find(|process| process.pid == pid).cloned();
        let tree: Vec<Proc> = tree.into_iter().filter_map(of).collect();
        let guardian = tree[0].parent().and_then(of).ok_or_else(|| Failure::new("no guardian"))?;
        let killed = [&supervisor(home)?, &guardian];
        // None sees the end of another.
        killed.iter().for_each(|process| process.signal(Signal::STOP));
        killed.iter().for_each(|process| process.kill());
        wait_until("they are dead", STOP_BOUND, || Ok(!killed.iter().any(|process| process.is_alive())))?;
        // The bridge would start the workload anew, which ends them, too.
        drop(session);

        let report = Report::look(home)?;
        report.one("orphans", "problem", &["processes are left of demo", "thv doctor --fix"])?;
        assert!(tree[1..].iter().any(Proc::is_alive), "they are ended by looking");
        assert_eq!(Report::fix(home)?.all("orphans")[0]["fixed"], true);
        wait_until("they are gone", GONE_BOUND, || Ok(!tree.iter().any(Proc::is_alive)))?;
        remove(home)
    })
}

#[test]
fn a_stranger_on_a_port_is_named_with_pid_and_program() -> Result {
    let us = format!("(pid {})", std::process::id());
    let program = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    Home::with(|home| {
        let port = demo(home, "demo")?.port;
        // Beside the workload, where `localhost` may lead.
        let beside = TcpListener::bind(("::1", port));
        if let Ok(beside) = beside {
            let report = Report::look(home)?;
            report.one(
                "port",
                "problem",
                &[&us, program.trim_end(), &format!("[::1]:{port}"), "without asking"],
            )?;
            drop(beside);
        }
        // Where nobody is sent.
        let apart = TcpListener::bind(("127.0.0.2", port))?;
        Report::look(home)?.one("port", "note", &[&us, "no danger"])?;
        drop(apart);
        Report::look(home)?.is_fine()?;

        // In its place.
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        let instead = TcpListener::bind(("127.0.0.1", port))?;
        Report::look(home)?.one("port", "problem", &[&us, "thv start demo, which moves to another port"])?;
        drop(instead);
        remove(home)?;

        let port = port.to_string();
        let run = ["--name", "demo", "--proxy-port", &port, "--", DEMO_SERVER];
        home.detached(run)?;
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        let instead = TcpListener::bind(("127.0.0.1", port.parse().unwrap_or(0)))?;
        Report::look(home)?.one(
            "port",
            "problem",
            &[&us, "another --proxy-port", "in the place of the workload"],
        )?;
        drop(instead);
        remove(home)
    })
}

#[test]
fn a_clock_that_was_set_back_is_known_by_what_is_from_later() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        let settings = home.path().join("config/config.toml");
        let whole = std::fs::read_to_string(&settings)?;
        let line = whole.lines().find(|line| line.starts_with("chosen_at")).unwrap_or_default();
        write(&settings, whole.replace(line, "chosen_at = \"2199-01-01T00:00:00Z\"").as_bytes())?;
        let words = ["the clock says 20", "the choice of the store is from 2199-01-01T00:00:00Z"];
        Report::look(home)?.one("clock", "problem", &words)?;
        write(&settings, whole.as_bytes())?;
        Report::look(home)?.one("clock", "fine", &["nothing here is from a later time"])?;
        let later = SystemTime::now() + Duration::from_secs(3_600);
        File::options().append(true).open(&settings)?.set_modified(later)?;
        Report::look(home)?.one("clock", "problem", &["config.toml is from"])?;
        File::options().append(true).open(&settings)?.set_modified(SystemTime::now())?;
        remove(home)
    })
}

#[test]
fn a_store_that_is_used_no_more_is_named_and_left_alone() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        let old = home.path().join("state/secrets.enc.1.old");
        std::fs::copy(home.path().join("state/secrets.enc"), &old)?;
        Report::fix(home)?.one("unused-store", "note", &["secrets.enc.1.old", "rm "])?;
        assert!(old.exists());
        std::fs::remove_file(&old)?;
        remove(home)
    })
}

/// Without its settings a home does not know of the file that it moved to, and must not begin another one.
#[test]
fn a_store_that_the_settings_forgot_is_not_passed_over() -> Result {
    Home::with(|home| {
        demo(home, "demo")?;
        let state = home.path().join("state");
        std::fs::rename(state.join("secrets.enc"), state.join("secrets-2.enc"))?;
        let settings = home.path().join("config/config.toml");
        let whole = std::fs::read_to_string(&settings)?;
        std::fs::remove_file(&settings)?;
        Report::look(home)?.one("store", "problem", &["secrets-2.enc", "from a backup", "[store]"])?;
        for args in [&["secret", "set", "token"][..], &["key", "show", "demo", "--yes"], &["rm", "demo"]] {
            let output = home.thv(args).stdin("hush").output()?.expect(1)?;
            ensure!(output.stderr.contains("secrets-2.enc"), "{output:?}");
        }
        assert!(!settings.exists() && !state.join("secrets.enc").exists());
        write(&settings, format!("{whole}file = \"secrets-2.enc\"\n").as_bytes())?;
        home.key("demo")?;
        assert_eq!(list(home)?.len(), 1);
        set(&settings, 0o600)?;
        remove(home)
    })
}
