//! The bridge against strangers: whoever sits where a workload's supervisor should, it is sent no key and no message
//! before it has proved itself; and what becomes of requests when a proved far end fails.

mod listener;
mod scenes;
mod supervisor;

use crate::locked::{Locked, PROOF_PATH, check_error, edit_status, eventually, finish, key_id, status};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use listener::{Conn, Listener, check_learned_nothing};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use supervisor::{FakeSupervisor, Proving, Reply, bare_reply, is_call, json_reply};
use thv_e2e::http::Request;
use thv_e2e::{ANSWER_BOUND, Failure, Home, Result, STOP_BOUND, Signal, ensure};

/// Stands in a message that no stranger may see.
const MARK: &str = "for-the-real-one-alone";

/// Within this time a silent stranger is found out, by contract, and the time that a loaded machine may add.
const PROOF_LIMIT: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(3);

/// How often the port's hand-over is played.
const HAND_OVERS: usize = 5;

fn call() -> Value {
    json!({ "name": "echo", "arguments": { "text": MARK } })
}

/// A supervisor that lives, and whose port somebody else claims.
fn with_locked(test: impl FnOnce(&Locked<'_>) -> Result) -> Result {
    let home = Home::new()?;
    let locked = Locked::run(&home, "demo")?;
    test(&locked)?;
    locked.supervisor.stop()?;
    home.close()
}

/// Lets a stranger take the workload's place, asks a bridge for two things, and makes sure that the stranger learned
/// nothing from it.
fn check_stranger(locked: &Locked<'_>, serve: impl Fn(&mut Conn) + Send + Sync + 'static) -> Result {
    let stranger = Listener::start(serve)?;
    locked.redirect(stranger.port())?;
    let mut bridge = locked.home.bridge(locked.name())?;
    for method in ["initialize", "tools/call"] {
        check_error(&bridge.request(method, &call())?, -33003, "stranger")?;
    }
    finish(bridge)?;
    check_learned_nothing(&stranger.end(), &locked.key, &[MARK])
}

/// Passes bytes on in both directions until both sides have ended; returns what `from` sent and what `to` answered.
fn splice(from: &TcpStream, to: &TcpStream) -> (Vec<u8>, Vec<u8>) {
    let pass = |mut from: &TcpStream, mut to: &TcpStream| {
        let (mut passed, mut block) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = from.read(&mut block) {
            passed.extend_from_slice(&block[..count]);
            // What cannot be passed on is still to be seen.
            let _ = to.write_all(&block[..count]);
        }
        let _ = to.shutdown(Shutdown::Write);
        passed
    };
    std::thread::scope(|scope| {
        let answers = scope.spawn(move || pass(to, from));
        let sent = pass(from, to);
        (sent, answers.join().unwrap_or_default())
    })
}

fn has_proof(answered: &[u8]) -> bool {
    String::from_utf8_lossy(answered).to_ascii_lowercase().contains("x-toolhive-proof: ")
}

type Squatter = (&'static str, fn(&mut Conn));

const SQUATTERS: &[Squatter] = &[
    ("answers 200 to everything", |conn| {
        while conn.request().is_some() {
            conn.send(json_reply("200 OK", "", r#"{"jsonrpc":"2.0","id":1,"result":{}}"#));
        }
    }),
    ("answers 204 without a proof", |conn| {
        while conn.request().is_some() {
            conn.send("HTTP/1.1 204 No Content\r\n\r\n");
        }
    }),
    ("gives the challenge back", |conn| {
        while let Some(seen) = conn.request() {
            let challenge = seen.header("x-toolhive-challenge").unwrap_or_default();
            conn.send(format!("HTTP/1.1 204 No Content\r\nX-ToolHive-Proof: {challenge}\r\n\r\n"));
        }
    }),
    ("proves with zeros", |conn| {
        while conn.request().is_some() {
            let proof = STANDARD.encode([0; 32]);
            conn.send(format!("HTTP/1.1 204 No Content\r\nX-ToolHive-Proof: {proof}\r\n\r\n"));
        }
    }),
    ("does not know the key", |conn| {
        while conn.request().is_some() {
            conn.send(bare_reply("404 Not Found", ""));
        }
    }),
    ("refuses like a supervisor", |conn| {
        while conn.request().is_some() {
            let fields = "WWW-Authenticate: ToolHive-SharedKey realm=\"demo\"\r\n";
            conn.send(bare_reply("401 Unauthorized", fields));
        }
    }),
    ("goes on for ever", |conn| {
        conn.request();
        conn.send("HTTP/1.1 204 No Content\r\n");
        while conn.send("X-More: and more and more and more and more and more\r\n") {}
    }),
    ("speaks another protocol", |conn| {
        conn.send("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
    }),
    ("answers before it was asked", |conn| {
        conn.send("HTTP/1.1 204 No Content\r\n\r\n");
    }),
    ("says half an answer and hangs up", |conn| {
        conn.request();
        conn.send("HTTP/1.1 204 No Content\r\nX-ToolHive-Proof: AAAA");
        conn.hang_up();
    }),
    ("hangs up on the question", |conn| {
        conn.request();
        conn.hang_up();
    }),
    ("hangs up at once", Conn::hang_up),
];

#[test]
fn squatters_learn_nothing() -> Result {
    with_locked(|locked| {
        for (case, serve) in SQUATTERS {
            check_stranger(locked, serve).map_err(|failure| failure.during(case))?;
        }
        Ok(())
    })
}

#[test]
fn random_proofs_prove_nothing() -> Result {
    with_locked(|locked| {
        check_stranger(locked, |conn| {
            while conn.request().is_some() {
                let mut random = [0; 32];
                let read =
                    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random));
                assert!(read.is_ok());
                let proof = STANDARD.encode(random);
                conn.send(format!("HTTP/1.1 204 No Content\r\nX-ToolHive-Proof: {proof}\r\n\r\n"));
            }
        })
    })
}

#[test]
fn an_old_proof_proves_nothing() -> Result {
    with_locked(|locked| {
        let question = Request::new("GET", PROOF_PATH, locked.port())
            .header("X-ToolHive-Challenge", STANDARD.encode([9; 32]))
            .header("X-ToolHive-Key-Id", key_id(&locked.key)?);
        let old = question.send()?.header("x-toolhive-proof").map(str::to_owned);
        let old = old.ok_or_else(|| Failure::new("no proof to play back"))?;
        check_stranger(locked, move |conn| {
            while conn.request().is_some() {
                conn.send(format!("HTTP/1.1 204 No Content\r\nX-ToolHive-Proof: {old}\r\n\r\n"));
            }
        })
    })
}

#[test]
fn silence_is_no_proof_and_is_waited_out_for_two_seconds() -> Result {
    with_locked(|locked| {
        // One that reads, and one that does not even accept.
        let silent = Listener::start(|_| {})?;
        let deaf = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        for port in [silent.port(), deaf.local_addr()?.port()] {
            locked.redirect(port)?;
            let mut bridge = locked.home.bridge("demo")?;
            let start = Instant::now();
            check_error(&bridge.request("initialize", &call())?, -33003, "stranger")?;
            let took = start.elapsed();
            ensure!(took < PROOF_LIMIT + GRACE, "it took {took:?}");
            finish(bridge)?;
        }
        check_learned_nothing(&silent.end(), &locked.key, &[MARK])?;
        deaf.set_nonblocking(true)?;
        let mut unheard = Vec::new();
        while let Ok((mut stream, _)) = deaf.accept() {
            stream.set_nonblocking(false)?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            unheard.push(bytes);
        }
        check_learned_nothing(&unheard, &locked.key, &[MARK])
    })
}

#[test]
fn a_live_proof_of_the_real_one_proves_nothing_for_another_port() -> Result {
    with_locked(|locked| {
        let real = locked.port();
        let (sender, spliced) = channel();
        check_stranger(locked, move |conn| {
            let Some(seen) = conn.request() else { return };
            let Ok(mut to) = TcpStream::connect((Ipv4Addr::LOCALHOST, real)) else { return };
            // The real one wants its own name in `Host`; all else goes through as it came.
            let fields = seen.headers.iter().filter(|(name, _)| name != "host");
            let fields: String = fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!("GET {} HTTP/1.1\r\nHost: 127.0.0.1:{real}\r\n{fields}\r\n", seen.path);
            let _ = to.write_all(head.as_bytes());
            let _ = sender.send(splice(&conn.stream, &to));
        })?;
        let spliced: Vec<_> = spliced.try_iter().collect();
        ensure!(spliced.iter().any(|(_, answered)| has_proof(answered)), "the real one proved nothing");
        ensure!(spliced.iter().all(|(sent, _)| sent.is_empty()), "more than the challenge was sent");
        Ok(())
    })
}

#[test]
fn another_workload_is_a_stranger_too() -> Result {
    let home = Home::new()?;
    let (locked, other) = (Locked::run(&home, "demo")?, Locked::run(&home, "other")?);
    locked.redirect(other.port())?;
    let mut bridge = home.bridge("demo")?;
    check_error(&bridge.request("initialize", &call())?, -33003, "stranger")?;
    finish(bridge)?;
    assert!(!other.recorded()?.contains(MARK));
    locked.supervisor.stop()?;
    other.supervisor.stop()?;
    home.close()
}

/// The attack that the addresses in the proof are for: the squatter accepts the bridge, gives the port up, waits until
/// the real supervisor listens on that very port, and passes the bridge's bytes on.
#[test]
fn a_port_handed_over_to_the_real_one_proves_nothing_for_the_squatter() -> Result {
    let home = Home::new()?;
    // Lends its life to the forged status: to whoever looks, the supervisor of `demo` lives.
    let other = Locked::run(&home, "other")?;
    // A start that takes longer than the bridge waits for a proof, or a port that another test gets first, leaves
    // nothing to be seen.
    let mut handed_over = false;
    for attempt in 0..HAND_OVERS {
        handed_over = handed_over || hand_over(&home, &format!("demo-{attempt}"))?;
    }
    assert!(handed_over, "no proof of the real one was ever passed on in time");
    other.supervisor.stop()?;
    home.close()
}

/// Plays the attack once; false if no proof was passed on, so that nothing was shown.
fn hand_over(home: &Home, name: &str) -> Result<bool> {
    let locked = Locked::run(home, name)?;
    let (key, port) = (locked.key.clone(), locked.port());
    locked.supervisor.stop()?;
    let (stopped, alive) = (status(home, name)?, status(home, "other")?);
    let Ok(squatter) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { return Ok(false) };
    edit_status(home, name, |status| {
        *status = alive;
        status["port"] = port.into();
    })?;
    // A bridge asks the control socket, too: the one of the other workload answers as that status says.
    std::os::unix::fs::symlink(control_socket(home, "other"), control_socket(home, name))?;

    let mut bridge = home.bridge(name)?;
    let mut from = accept_within(&squatter, ANSWER_BOUND)?;
    drop(squatter);
    edit_status(home, name, |status| *status = stopped)?;
    let real = home.thv(["start", "-f", name]).foreground()?;
    if real.port() != port {
        real.stop()?;
        return Ok(false);
    }

    from.set_read_timeout(Some(ANSWER_BOUND))?;
    let (mut sent, mut block) = (Vec::new(), [0; 4096]);
    while !sent.ends_with(b"\r\n\r\n") {
        let count = from.read(&mut block)?;
        ensure!(count > 0, "the bridge went away, having sent {:?}", String::from_utf8_lossy(&sent));
        sent.extend_from_slice(&block[..count]);
    }
    let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    to.write_all(&sent)?;
    let (answer, spliced) = std::thread::scope(|scope| {
        let splicing = scope.spawn(|| splice(&from, &to));
        // Now the bridge has something to lose, and finds the real one by itself.
        let answer = bridge.initialize().and_then(|_| bridge.request("tools/call", &call()));
        (answer, splicing.join())
    });
    let (more, answered) = spliced.map_err(|_| Failure::new("the splice panicked"))?;
    sent.extend(more);
    check_learned_nothing(&[sent], &key, &[MARK])?;
    ensure!(answer.as_ref().is_ok_and(|answer| answer["result"]["content"][0]["text"] == MARK), "{answer:?}");
    finish(bridge)?;
    real.stop()?;
    Ok(has_proof(&answered))
}

/// Where a workload's supervisor answers commands.
fn control_socket(home: &Home, name: &str) -> PathBuf {
    let hash = Sha256::digest(name.as_bytes());
    let short: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    home.path().join("run").join(format!("{short}.sock"))
}

fn accept_within(listener: &TcpListener, bound: Duration) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let end = Instant::now() + bound;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(Failure::new(format!("the bridge did not come: {error}"))),
        }
    }
}

#[test]
fn proxies_in_the_environment_are_not_used() -> Result {
    with_locked(|locked| {
        let proxy = Listener::start(|conn| {
            while conn.request().is_some() {
                conn.send(bare_reply("502 Bad Gateway", ""));
            }
        })?;
        let url = format!("http://127.0.0.1:{}", proxy.port());
        let names = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
        let bridge = locked.home.thv(["proxy", "stdio", "demo"]);
        let bridge = names.iter().fold(bridge, |bridge, name| bridge.env(name, &url));
        let mut bridge = bridge.env("NO_PROXY", "").env("no_proxy", "").bridge()?;
        bridge.initialize()?;
        assert_eq!(bridge.request("tools/call", &call())?["result"]["content"][0]["text"], MARK);
        finish(bridge)?;
        assert_eq!(proxy.end(), Vec::<Vec<u8>>::new());
        Ok(())
    })
}

#[test]
fn redirects_are_not_followed_before_or_after_the_proof() -> Result {
    with_locked(|locked| {
        let elsewhere = Listener::start(|conn| {
            while conn.request().is_some() {
                conn.send(bare_reply("204 No Content", ""));
            }
        })?;
        let target = format!("http://127.0.0.1:{}", elsewhere.port());
        for status in
            ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
        {
            let challenged = bare_reply(status, &format!("Location: {target}{PROOF_PATH}\r\n"));
            check_stranger(locked, move |conn| {
                while conn.request().is_some() {
                    conn.send(&challenged);
                }
            })?;
            let called = bare_reply(status, &format!("Location: {target}/mcp\r\n"));
            let fake = FakeSupervisor::start(&locked.key, "demo", Proving::Well, move |_, _| {
                Reply::Say(called.clone())
            })?;
            locked.redirect(fake.port())?;
            let mut bridge = locked.home.bridge("demo")?;
            bridge.initialize()?;
            let answer = bridge.request("tools/call", &call())?;
            check_error(&answer, -33005, "upstream_http")?;
            assert_eq!(answer["error"]["data"]["httpStatus"].to_string(), status[..3]);
            finish(bridge)?;
            assert_eq!(fake.end()?.iter().filter(|seen| is_call(seen)).count(), 1, "{status}");
        }
        assert_eq!(elsewhere.end(), Vec::<Vec<u8>>::new());
        Ok(())
    })
}

#[test]
fn surplus_bytes_after_the_proof_end_the_connection() -> Result {
    with_locked(|locked| {
        let fake = FakeSupervisor::start(&locked.key, "demo", Proving::WithSurplus, |_, _| Reply::Serve)?;
        locked.redirect(fake.port())?;
        let mut bridge = locked.home.bridge("demo")?;
        check_error(&bridge.request("initialize", &call())?, -33003, "stranger")?;
        finish(bridge)?;
        assert_eq!(fake.end()?.len(), 0, "a message was sent all the same");
        Ok(())
    })
}

#[test]
pub(crate) fn a_key_that_is_unknown_over_there_is_read_again_once() -> Result {
    with_locked(|locked| {
        let fake = FakeSupervisor::start(&locked.key, "demo", Proving::AfterUnknown(1), |_, _| Reply::Serve)?;
        locked.redirect(fake.port())?;
        let mut bridge = locked.home.bridge("demo")?;
        bridge.initialize()?;
        finish(bridge)?;
        fake.end().map(drop)
    })
}

/// A workload whose supervisor was killed, and somebody else on its port.
fn orphaned<'home>(home: &'home Home) -> Result<(Locked<'home>, TcpListener)> {
    let mut locked = Locked::run(home, "demo")?;
    let port = locked.port();
    locked.supervisor.signal(Signal::KILL)?;
    locked.supervisor.wait(STOP_BOUND)?;
    let squatter = eventually(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()))?;
    let squatter = squatter.ok_or_else(|| Failure::new("the port did not come free"))?;
    squatter.set_nonblocking(true)?;
    Ok((locked, squatter))
}

#[test]
fn a_supervisor_that_died_is_no_reason_to_ask_who_took_its_port() -> Result {
    let home = Home::new()?;
    let (_dead, squatter) = orphaned(&home)?;
    let mut bridge = home.thv(["proxy", "stdio", "demo", "--no-start"]).bridge()?;
    check_error(&bridge.request("initialize", &call())?, -33004, "not_running")?;
    finish(bridge)?;
    assert!(squatter.accept().is_err(), "somebody who took a dead supervisor's port was asked");
    home.close()
}

#[test]
fn a_supervisor_that_died_is_started_on_another_port_if_its_own_was_taken() -> Result {
    let home = Home::new()?;
    let (dead, squatter) = orphaned(&home)?;
    let mut bridge = home.bridge("demo")?;
    bridge.initialize()?;
    assert_eq!(bridge.request("tools/call", &call())?["result"]["content"][0]["text"], MARK);
    finish(bridge)?;
    assert_ne!(status(&home, "demo")?["port"], dead.port());
    assert!(squatter.accept().is_err(), "somebody who took a dead supervisor's port was asked");
    home.thv(["stop", "demo"]).output()?.expect(0)?;
    home.close()
}
