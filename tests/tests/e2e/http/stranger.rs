//! A program on the port of an HTTP server that is not that server, of another user or of our own: it gets nothing, not a
//! byte.

use super::{
    NAME, Record, STRANGER, bridge, end, free_port, guarding, nothing_left, posting, reason, server,
};
use crate::fixture::{GONE_BOUND, call, call_text, others, refused, wait_until};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use thv_e2e::{
    Detached, Exit, Home, Result, Running, STOP_BOUND, SecretForms, Thv, ensure, need_part, parts,
};

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

/// Whose program the stranger is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    OurUsers,
    AnotherUsers,
}

impl Whose {
    /// What a log says of it.
    fn shown(self) -> &'static str {
        match self {
            Self::OurUsers => "perl (pid ",
            Self::AnotherUsers => NOBODY,
        }
    }
}

/// The stranger. Perl's basic package is on every Debian, and may be read by everybody.
struct Stranger(Running);

impl Stranger {
    fn wait_for(home: &Home, port: u16, whose: Whose) -> Result<Self> {
        let mut command = match whose {
            Whose::OurUsers => home.command("perl"),
            Whose::AnotherUsers => {
                let mut command = home.command("setpriv");
                command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "perl"]);
                command
            }
        };
        command.args(["-e", SCRIPT, &port.to_string()]);
        home.start(command).map(Self)
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

/// Tests against a stranger of our own user, and one of another user where there is one to be had.
fn with_each(test: impl Fn(&Home, Whose) -> Result) -> Result {
    Home::with(|home| test(home, Whose::OurUsers))?;
    if !rustix::process::geteuid().is_root() {
        let test = parts::test_name(file!(), line!());
        return parts::missing("another user", "run the tests as root, in a container", &test)
            .map(Into::into);
    }
    Home::with(|home| test(home, Whose::AnotherUsers))
}

/// A server that listens when it is told to, so that somebody else can come before it.
struct Slow {
    up: PathBuf,
    go: PathBuf,
}

impl Slow {
    fn new(home: &Home) -> Self {
        Self { up: home.user().join("up"), go: home.user().join("go") }
    }

    /// `thv run` of it on a port.
    fn run<'home>(&self, home: &'home Home, python: &Path, port: u16, options: [&[&str]; 2]) -> Thv<'home> {
        let script = r#"echo > "$0"; until [ -e "$1" ]; do sleep 0.02; done; shift; exec "$@""#;
        let port = port.to_string();
        let run = ["run", "--name", NAME, "--shared-key-auth", "--transport", "streamable-http"];
        let run = home.thv(run).args(["--target-port", &port]).args(options[0]);
        run.args(["--", "sh", "-c", script]).arg(&self.up).arg(&self.go).args(server(python, options[1]))
    }

    /// Waits until it has been started.
    fn is_up(&self) -> Result {
        wait_until("it is started", STOP_BOUND, || Ok(self.up.exists()))
    }

    fn listen(&self) -> Result {
        Ok(std::fs::File::create(&self.go).map(drop)?)
    }

    fn reset(&self) -> Result {
        std::fs::remove_file(&self.up)?;
        Ok(std::fs::remove_file(&self.go)?)
    }
}

#[test]
fn a_server_is_not_started_while_somebody_has_its_port() -> Result {
    let python = need_part!(Python);
    with_each(|home, whose| {
        let port = free_port()?;
        let mut stranger = Stranger::wait_for(home, port, whose)?;
        stranger.has_it()?;
        let starts = home.user().join("starts");
        let option = starts.to_string_lossy().into_owned();
        for more in [&[][..], &["-f"]] {
            let port = port.to_string();
            let run = [&["--target-port", &*port], more].concat();
            let words = [&format!("port {port} is held by perl (pid "), "--target-port"];
            let words = words.map(|word| word as &str);
            refused(guarding(home, &python, &run, &["--starts", &option]), 6, &words)?;
        }
        ensure!(!starts.exists(), "it was started");
        stranger.got_nothing();
        drop(stranger);
        nothing_left(home, &python)
    })
}

#[test]
fn a_stranger_who_comes_while_the_server_starts_gets_nothing() -> Result {
    let python = need_part!(Python);
    with_each(|home, whose| {
        for (options, words) in [
            // One that waits for its port: the stranger is asked in its place.
            (&["--stay"][..], "held by another program"),
            // One that gives up: what it says is passed on.
            (&[], "Address already in use"),
        ] {
            let (port, slow) = (free_port()?, Slow::new(home));
            let mut run = slow.run(home, &python, port, [&["--ready-timeout", "3s"], options]).start()?;
            slow.is_up()?;
            let mut stranger = Stranger::wait_for(home, port, whose)?;
            stranger.has_it()?;
            slow.listen()?;
            assert_eq!(run.wait(GONE_BOUND)?, Exit::Code(1));
            ensure!(run.stderr().contains(words), "{}", run.stderr());
            stranger.got_nothing();
            drop(stranger);
            slow.reset()?;
            nothing_left(home, &python)?;
        }
        Ok(())
    })
}

#[test]
fn a_stranger_who_takes_the_port_of_a_server_that_died_gets_nothing() -> Result {
    let python = need_part!(Python);
    with_each(|home, whose| {
        let port = free_port()?;
        let record = Record::new(home);
        let options = ["--stay", "--sessions", "--record", &record.path()];
        let run = ["--target-port", &port.to_string()];
        let guarded = Detached::of(guarding(home, &python, &run, &options).output()?)?;
        let key = home.key(NAME)?;
        let mut session = bridge(home)?;
        let mut stranger = Stranger::wait_for(home, port, whose)?;
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
        let shown = whose.shown();
        ensure!(!message.contains(shown), "who it is is for the log: {message}");
        stranger.got_nothing();
        let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
        let line = log.lines().find(|line| line.contains(shown) && line.contains(&port.to_string()));
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
    with_each(|home, whose| {
        let (port, slow) = (free_port()?, Slow::new(home));
        let starts = home.user().join("starts");
        let options = ["--stay", "--starts", &starts.to_string_lossy()];
        let mut run = slow.run(home, &python, port, [&[], &options]).start()?;
        slow.is_up()?;
        let mut stranger = Stranger::wait_for(home, port, whose)?;
        stranger.has_it()?;
        slow.listen()?;
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
    with_each(|home, whose| {
        let (port, slow) = (free_port()?, Slow::new(home));
        slow.listen()?;
        Detached::of(slow.run(home, &python, port, [&[], &["--stay"]]).output()?)?;
        home.thv(["stop", NAME]).output()?.expect(0)?;
        slow.reset()?;
        let mut start = home.thv(["start", NAME, "--ready-timeout", "3s"]).start()?;
        slow.is_up()?;
        let mut stranger = Stranger::wait_for(home, port, whose)?;
        stranger.has_it()?;
        slow.listen()?;
        assert_eq!(start.wait(GONE_BOUND)?, Exit::Code(1));
        ensure!(start.stderr().contains("held by another program"), "{}", start.stderr());
        stranger.got_nothing();
        drop(stranger);
        // However often the server was asked for.
        let log = home.thv(["logs", "--proxy", NAME]).output()?.expect(0)?.stdout;
        assert_eq!(log.lines().filter(|line| line.contains(whose.shown())).count(), 1, "{log}");
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}

#[test]
fn what_a_server_starts_may_listen_for_it() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        // In a session of its own, as a child of nobody that is left but the guardian.
        let script = r#"setsid "$0" "$@" & exec sleep 600"#;
        let run = home.thv(["run", "--name", NAME, "--shared-key-auth", "--transport", "streamable-http"]);
        let run = run.args(["--", "sh", "-c", script]).args(server(&python, &["--demand-key"]));
        Detached::of(run.output()?)?;
        let mut session = bridge(home)?;
        assert_eq!(call_text(&mut session, "echo", &json!({ "text": "child" }))?, "child");
        end(session)?;
        home.thv(["rm", NAME]).output()?.expect(0)?;
        nothing_left(home, &python)
    })
}
