//! A program of another user on the port of an HTTP server: it gets nothing, not a byte.

use super::{NAME, Record, STRANGER, bridge, end, free_port, guarding, nothing_left, posting, reason};
use crate::fixture::{GONE_BOUND, call, call_text, others, wait_until};
use serde_json::{Value, json};
use thv_e2e::{Detached, Exit, Home, Result, Running, STOP_BOUND, SecretForms, ensure, need_part, parts};

/// A user that is neither we nor anybody else who has something here.
const NOBODY: &str = "65534";

/// Takes a port, as soon as it can, and tells of each byte that it is sent.
const SCRIPT: &str = r#"
use IO::Socket::INET;
$| = 1;
my $listener;
until ($listener) {
    $listener = IO::Socket::INET->new(
        LocalAddr => "127.0.0.1", LocalPort => $ARGV[0], Listen => 64, ReuseAddr => 1);
    select(undef, undef, undef, 0.002) unless $listener;
}
print "up\n";
while (my $connection = $listener->accept) {
    while (sysread($connection, my $bytes, 65536)) { print "bytes ", unpack("H*", $bytes), "\n" }
}
"#;

/// The stranger. Perl's basic package is on every Debian, and may be read by everybody.
struct Stranger(Running);

impl Stranger {
    /// `None` where there is no other user to be had.
    fn wait_for(home: &Home, port: u16) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let mut command = home.command("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "perl", "-e", SCRIPT]);
        home.start({
            command.arg(port.to_string());
            command
        })
        .map(|running| Some(Self(running)))
    }

    /// Waits until it has the port.
    fn has_it(&mut self) -> Result {
        let line = self.0.line(STOP_BOUND)?.unwrap_or_default();
        ensure!(line == b"up", "{:?}\n{}", String::from_utf8_lossy(&line), self.0.stderr());
        Ok(())
    }

    /// Checks that it got not a byte.
    fn got_nothing(&self) {
        assert_eq!(self.0.stdout(), "up\n");
    }
}

/// Makes a stranger, or returns from the test where there can be none.
macro_rules! stranger {
    ($home:expr, $port:expr) => {
        match Stranger::wait_for($home, $port)? {
            Some(stranger) => stranger,
            None => {
                let test = parts::test_name(file!(), line!());
                return parts::missing("another user", "run the tests as root, in a container", &test)
                    .map(Into::into)?;
            }
        }
    };
}

#[test]
fn a_stranger_who_came_first_gets_nothing_and_the_server_does_not_start() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let port = free_port()?;
        let mut stranger = stranger!(home, port);
        stranger.has_it()?;
        let port = port.to_string();
        let run = ["--target-port", &port, "--ready-timeout", "2s"];
        // One that waits for its port: the stranger is asked in its place.
        let output = guarding(home, &python, &run, &["--stay"]).output()?.expect(1)?;
        ensure!(output.stderr.contains("held by another program"), "{output:?}");
        // One that gives up: what it says is passed on.
        let output = guarding(home, &python, &run, &[]).output()?.expect(1)?;
        ensure!(output.stderr.contains("Address already in use"), "{output:?}");
        stranger.got_nothing();
        drop(stranger);
        nothing_left(home, &python)
    })
}

#[test]
fn a_stranger_who_takes_the_port_of_a_server_that_died_gets_nothing() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let port = free_port()?;
        let record = Record::new(home);
        let options = ["--stay", "--sessions", "--record", &record.path()];
        let run = ["--target-port", &port.to_string()];
        let guarded = Detached::of(guarding(home, &python, &run, &options).output()?)?;
        let key = home.key(NAME)?;
        let mut session = bridge(home)?;
        let mut stranger = stranger!(home, port);
        let mut upstream_keys = Vec::new();
        // The server is back before the stranger has the port, now and then.
        while !stranger.0.stdout().contains("up") {
            let report: Value = serde_json::from_str(&call_text(&mut session, "report", &json!({}))?)?;
            let supervisor = home.supervisor(NAME).map(|process| process.pid).unwrap_or_default();
            for process in others(home, supervisor) {
                if report["pid"] == process.pid {
                    process.kill();
                    wait_until("it is dead", STOP_BOUND, || Ok(!process.is_alive()))?;
                }
            }
            let taken = || stranger.0.stdout().contains("up");
            wait_until("somebody has the port", GONE_BOUND, || {
                Ok(taken() || call(&mut session, "report", &json!({}))?.get("result").is_some())
            })?;
        }
        stranger.has_it()?;
        let before = record.requests()?;
        upstream_keys.extend(before.iter().flat_map(|one| one.values("x-toolhive-auth")).map(str::to_owned));
        ensure!(!upstream_keys.is_empty(), "the server was sent no key");

        wait_until("it is met", GONE_BOUND, || {
            let answer = call(&mut session, "echo", &json!({ "text": "for the server alone" }))?;
            ensure!(answer.get("result").is_none(), "{answer}");
            Ok(reason(&answer) == STRANGER)
        })?;
        let post = posting(guarded.port, &key, "echo", &json!({ "text": "for the server alone" })).send()?;
        let body = post.json()?;
        assert_eq!((post.status, reason(&body), &body["id"]), (502, STRANGER, &Value::Null));
        let message = body["error"]["message"].as_str().unwrap_or_default();
        ensure!(!message.contains(NOBODY), "who it is is for the log: {message}");
        stranger.got_nothing();
        let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
        let line = log.lines().find(|line| line.contains(NOBODY) && line.contains(&port.to_string()));
        ensure!(line.is_some_and(|line| line.contains("WARN")), "{log}");
        assert_eq!(record.requests()?.len(), before.len());

        // When the stranger leaves, the server that waits has its port back, and all is well.
        drop(stranger);
        wait_until("it works again", GONE_BOUND, || {
            let answer = call(&mut session, "echo", &json!({ "text": "again" }))?;
            Ok(answer.get("result").is_some())
        })?;
        end(session)?;
        for key in upstream_keys {
            let mut leaks = Vec::new();
            SecretForms::of(&key)?.search_dir(&home.path(), &mut leaks)?;
            ensure!(leaks.is_empty(), "the upstream key is in the open: {leaks:?}");
        }
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}

#[test]
fn a_server_that_waits_for_its_port_is_reached_when_the_stranger_leaves() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let port = free_port()?;
        let mut stranger = stranger!(home, port);
        stranger.has_it()?;
        let starts = home.user().join("starts");
        let options = ["--stay", "--starts", &starts.to_string_lossy()];
        let mut run = guarding(home, &python, &["--target-port", &port.to_string()], &options).start()?;
        wait_until("it waits", STOP_BOUND, || Ok(starts.exists()))?;
        ensure!(run.poll()?.is_none(), "{}", run.stderr());
        stranger.got_nothing();
        drop(stranger);
        assert_eq!(run.wait(GONE_BOUND)?, Exit::Code(0));
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "mine" }))?, "mine");
        end(session)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}

#[test]
fn a_start_that_meets_a_stranger_tells_of_it_once_in_its_log() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let port = free_port()?;
        let run = ["--target-port", &port.to_string()];
        Detached::of(guarding(home, &python, &run, &["--stay"]).output()?)?;
        home.thv(["stop", NAME]).output()?.expect(0)?;
        let mut stranger = stranger!(home, port);
        stranger.has_it()?;
        let start = home.thv(["start", NAME, "--ready-timeout", "2s"]).output()?.expect(1)?;
        ensure!(start.stderr.contains("held by another program"), "{start:?}");
        stranger.got_nothing();
        drop(stranger);
        // However often the server was asked for.
        let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
        assert_eq!(log.lines().filter(|line| line.contains(NOBODY)).count(), 1, "{log}");
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}
