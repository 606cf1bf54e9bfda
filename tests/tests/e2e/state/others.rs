//! Those who are not ours: another user at the control socket or in its place, and a process with a pid that was ours.

use super::demo;
use crate::fixture::{answers, list, refused, wait_until};
use crate::locked::{edit_status, status};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thv_e2e::{ANSWER_BOUND, Exit, Failure, Home, Proc, Result, Running, STOP_BOUND, ensure, parts};

/// A user that is neither we nor anybody else who has something here.
const NOBODY: &str = "65534";

/// Asks a supervisor to end, and tells what it gets.
const ASKS: &str = r#"
use IO::Socket::UNIX;
$SIG{PIPE} = "IGNORE";
my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "cannot connect: $!";
syswrite($socket, "{\"op\":\"stop\"}\n");
my $count = sysread($socket, my $bytes, 65536);
print "got ", $count ? $bytes : "nothing", "\n";
"#;

/// Listens in the place of a supervisor, and tells of each connection and of what it is sent.
const LISTENS: &str = r#"
use IO::Socket::UNIX;
$| = 1;
my $listener = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 16) or die "cannot listen: $!";
print "up\n";
while (my $connection = $listener->accept) {
    print "connected\n";
    while (sysread($connection, my $bytes, 65536)) { print "bytes ", unpack("H*", $bytes), "\n" }
}
"#;

/// A program of another user. Perl's basic package is on every Debian, and may be read by everybody.
fn nobody(home: &Home, script: &str, socket: &Path) -> Result<Running> {
    let mut command = home.command("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "perl", "-e", script]);
    command.arg(socket).current_dir("/");
    home.start(command)
}

/// Opens everything on the way to the control socket to others, or closes it again, which is all that the modes are for:
/// what is tested is what stands behind them.
fn open_to_others(home: &Home, open: bool) -> Result {
    let folders = [home.path().join("run"), home.path()];
    for folder in folders.iter().map(PathBuf::as_path).chain(home.path().parent()) {
        std::fs::set_permissions(folder, Permissions::from_mode(if open { 0o777 } else { 0o700 }))?;
    }
    for entry in home.path().join("run").read_dir()? {
        std::fs::set_permissions(entry?.path(), Permissions::from_mode(if open { 0o666 } else { 0o600 }))?;
    }
    Ok(())
}

fn socket(home: &Home) -> Result<PathBuf> {
    let socket = home.path().join("run").read_dir()?.next();
    Ok(socket.ok_or_else(|| Failure::new("there is no socket"))??.path())
}

/// Returns from a test where there is no other user to be had.
macro_rules! need_another_user {
    () => {
        if !rustix::process::geteuid().is_root() {
            let test = parts::test_name(file!(), line!());
            return parts::missing("another user", "run the tests as root, in a container", &test)
                .map(Into::into)?;
        }
    };
}

#[test]
fn another_user_at_the_control_socket_is_turned_away() -> Result {
    need_another_user!();
    Home::with(|home| {
        demo(home, "demo")?;
        let supervisor = home.supervisor("demo");
        open_to_others(home, true)?;
        let mut stranger = nobody(home, ASKS, &socket(home)?)?;
        let exit = stranger.wait(STOP_BOUND)?;
        open_to_others(home, false)?;
        assert_eq!((exit, stranger.stdout()), (Exit::Code(0), "got nothing\n".to_owned()));
        let log = home.thv(["logs", "--proxy", "demo"]).output()?.expect(0)?.stdout;
        ensure!(log.contains("another user reached the control socket"), "{log}");
        assert_eq!(home.supervisor("demo"), supervisor);
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn another_user_in_the_place_of_the_control_socket_is_told_nothing() -> Result {
    need_another_user!();
    Home::with(|home| {
        demo(home, "demo")?;
        let supervisor = home.supervisor("demo");
        let socket = socket(home)?;
        let aside = home.user().join("aside.sock");
        std::fs::rename(&socket, &aside)?;
        open_to_others(home, true)?;
        let mut stranger = nobody(home, LISTENS, &socket)?;
        let up = stranger.line(STOP_BOUND)?;
        ensure!(up.as_deref() == Some(b"up"), "{}", stranger.stderr());
        open_to_others(home, false)?;

        let commands: [&[&str]; 4] =
            [&["stop", "demo"], &["restart", "demo"], &["key", "disable", "demo"], &["rm", "demo"]];
        for command in commands {
            refused(home.thv(command), 6, &["control socket of demo", "another user"])?;
        }
        let status = home.thv(["status", "demo"]).output()?.expect(0)?.stdout;
        ensure!(status.contains("does not answer"), "{status}");
        let mut bridge = home.bridge("demo")?;
        let answer = bridge.request("tools/list", &json!({}))?;
        assert_eq!(answer["error"]["data"]["reason"], "not_running", "{answer}");
        ensure!(answer.to_string().contains("another user"), "{answer}");
        assert_eq!(bridge.finish()?, (Exit::Code(0), Vec::new()));

        wait_until("all connections were seen", ANSWER_BOUND, || {
            Ok(stranger.stdout().matches("connected").count() > commands.len())
        })?;
        ensure!(!stranger.stdout().contains("bytes"), "{}", stranger.stdout());
        drop(stranger);
        std::fs::rename(&aside, &socket)?;
        assert_eq!(home.supervisor("demo"), supervisor, "nothing was done to it");
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_process_with_a_pid_that_was_ours_is_let_be() -> Result {
    Home::with(|home| {
        for command in ["stop", "restart", "start", "rm"] {
            let check = || -> Result {
                demo(home, "demo")?;
                let once = status(home, "demo")?["supervisor"]["start_time"].clone();
                home.thv(["stop", "demo"]).output()?.expect(0)?;
                // It leads a session, as guardians do, and has a child.
                let mut sleeping = home.command("setsid");
                sleeping.args(["sh", "-c", "sleep 600 & echo $!; wait"]);
                let mut bystander = home.start(sleeping)?;
                let child = bystander.line(STOP_BOUND)?.unwrap_or_default();
                let pids = [bystander.pid(), String::from_utf8_lossy(&child).parse().unwrap_or_default()];
                let bystanders: Vec<Proc> =
                    home.processes().into_iter().filter(|process| pids.contains(&process.pid)).collect();
                assert_eq!(bystanders.len(), 2);

                edit_status(home, "demo", |status| {
                    status["supervisor"] = json!({ "pid": bystander.pid(), "start_time": once });
                    status["status"] = "running".into();
                    status["desired"] = "running".into();
                })?;
                let groups = home.path().join("state/workloads/demo/groups");
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&groups)?;
                std::fs::File::create(groups.join(format!("{}-{once}", bystander.pid())))?;
                assert_eq!(list(home)?[0]["pid"], Value::Null);

                let output = home.thv([command, "demo"]).output()?.expect(0)?;
                if command == "stop" {
                    ensure!(output.stderr.contains("was not running"), "{output:?}");
                }
                ensure!(bystanders.iter().all(Proc::is_alive), "{command} ended a bystander");
                bystanders.iter().for_each(Proc::kill);
                if command != "rm" {
                    home.thv(["rm", "demo"]).output()?.expect(0)?;
                }
                Ok(())
            };
            check().map_err(|failure| failure.during(command))?;
        }
        Ok(())
    })
}
