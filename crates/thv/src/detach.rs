//! A supervisor of its own: the same binary in a session of its own, told through a pipe what to serve.
//!
//! Two processes take part. The *launcher* (a `run`, a `start`, a bridge) holds the workload's lock. It starts the
//! *supervisor*, writes one [`Errand`] to its standard input, keys included, and reads [`Report`]s from its standard
//! output. When the supervisor is prepared, the launcher saves what has to be saved and writes `go`. If it has thought
//! better of it, or was told of a failure, it writes `no`, and undoes what it did once the supervisor has ended. A pipe
//! that ends without a word tells the supervisor that its launcher is gone: then undoing is left to the supervisor.

use std::ffi::OsString;
use std::io::{BufRead as _, Read as _, Write as _};
use std::pin::Pin;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thv_keygen::{KeySet, Name};
use thv_workload::creation;
use thv_workload::home::Home;
use thv_workload::keyset::KeySetText;
use thv_workload::lock::WorkloadLock;
use thv_workload::registry;
use thv_workload::status::{KeyInfo, State, Unfinished};
use thv_workload::steps::{Step, reached};
use thv_workload::supervisor::Stop;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure, Outcome};
use crate::keys::KeyVault;
use crate::launch::{SUPERVISE, launcher};
use crate::say;
use crate::secrets::Values;
use crate::supervise::{self, Order};

/// Variables of the launcher that a supervisor keeps: where things are, how to reach a keychain, and which certificate
/// authorities to trust.
const KEPT: [&str; 10] = [
    "HOME",
    "PATH",
    "LANG",
    "TZ",
    "TMPDIR",
    "SYSTEMROOT",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The longest errand, in bytes.
const ERRAND: u64 = 1 << 20;

/// What tells the supervisor to go.
const GO: &[u8; 3] = b"go\n";

/// What tells the supervisor that its launcher lives, and goes back on what it did.
const BACK: &[u8; GO.len()] = b"no\n";

/// How long an interrupted supervisor may take to end its server.
const UNDO: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Errand {
    home: Home,
    name: String,
    keys: Option<KeySetText>,
    key_info: Option<KeyInfo>,
    given: Values,
    ready_timeout: Duration,
    debug: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Report {
    /// All that can fail has been done; it waits for its go.
    Prepared {
        port: u16,
        /// What the user should hear.
        notice: Option<String>,
    },
    /// The listener accepts, and the status says so.
    Running {
        /// The line that says so to people and scripts.
        line: String,
    },
    Failed(Failure),
}

/// Starts a supervisor and returns its ready line. The caller holds the workload's lock; when this returns, the
/// workload runs, or nothing of this start is left. `interrupt` ends the attempt.
pub async fn launch(
    order: &mut Order<'_>,
    lock: &WorkloadLock,
    interrupt: impl Future<Output = ()>,
) -> Outcome<String> {
    let name = &order.name.clone();
    let failed = |what: &str, error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, format!("the supervisor of {name} {what}")).because(error)
    };
    let mut child = command().spawn().map_err(|error| failed("cannot be started", &error))?;
    reached(Step::SupervisorStarted);
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Failure::new(Exit::Failed, format!("the supervisor of {name} has no pipes")));
    };
    let mut reports = BufReader::new(stdout);
    let talk = async {
        let errand = errand(order).map_err(|error| failed("cannot be told what to serve", &error))?;
        stdin.write_all(&errand).await.map_err(|error| failed("cannot be told what to serve", &error))?;
        let (port, notice) = match report(&mut reports, name).await? {
            Report::Prepared { port, notice } => (port, notice),
            Report::Failed(failure) => return Err(failure),
            Report::Running { .. } => return Err(garbled(name)),
        };
        reached(Step::Prepared);
        if let Some(notice) = notice {
            say::talk(&notice);
        }
        if order.config.port != port {
            order.config.port = port;
            registry::save_config(order.home, lock, &order.config)
                .map_err(|error| failed("cannot keep its port", &error))?;
        }
        reached(Step::PortSaved);
        Ok(())
    };
    let prepared = tokio::select! {
        biased;
        () = interrupt => Err(Failure::new(Exit::Failed, format!("{name} was not started: interrupted"))),
        prepared = talk => prepared,
    };
    let outcome = match prepared {
        Ok(()) => {
            let _ = stdin.write_all(GO).await;
            reached(Step::Released);
            match report(&mut reports, name).await {
                Ok(Report::Running { line }) => return Ok(line),
                Ok(Report::Failed(failure)) => Err(failure),
                Ok(Report::Prepared { .. }) => Err(garbled(name)),
                Err(failure) => Err(failure),
            }
        }
        Err(failure) => {
            let _ = stdin.write_all(BACK).await;
            Err(failure)
        }
    };
    // The supervisor ends its server first; the launcher waits, so that nothing is left when it returns.
    drop(stdin);
    if tokio::time::timeout(UNDO, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
    outcome
}

fn command() -> Command {
    let mut command = Command::new(launcher().program);
    #[cfg(unix)]
    command.arg0("thv");
    command.arg(SUPERVISE).env_clear();
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    #[cfg(debug_assertions)]
    if let Some(value) = std::env::var_os(crate::launch::KILL_AFTER) {
        command.env(crate::launch::KILL_AFTER, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

fn errand(order: &Order<'_>) -> serde_json::Result<Zeroizing<Vec<u8>>> {
    let errand = Errand {
        home: order.home.clone(),
        name: order.name.as_str().to_owned(),
        keys: order.keys.as_ref().map(KeySetText::from),
        key_info: order.key_info.clone(),
        given: order.given.clone(),
        ready_timeout: order.ready_timeout,
        debug: order.debug,
    };
    // Room for all of it at once: a buffer that grows leaves its older half behind in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(64 << 10));
    serde_json::to_writer(&mut *text, &errand)?;
    text.push(b'\n');
    Ok(text)
}

async fn report(reports: &mut (impl AsyncRead + Unpin), name: &Name) -> Outcome<Report> {
    let mut line = String::new();
    let read = BufReader::new(reports.take(ERRAND)).read_line(&mut line).await;
    match read {
        Ok(0) => Err(Failure::new(Exit::Failed, format!("the supervisor of {name} ended without a word"))
            .hint(format!("thv logs --proxy {name} may show why"))),
        Ok(_) => serde_json::from_str(&line).map_err(|_| garbled(name)),
        Err(error) => {
            Err(Failure::new(Exit::Failed, format!("the supervisor of {name} cannot be heard"))
                .because(&error))
        }
    }
}

fn garbled(name: &Name) -> Failure {
    Failure::new(Exit::Failed, format!("the supervisor of {name} said something that makes no sense"))
}

/// Acts as a supervisor: the far end of [`launch`].
pub fn supervise(_args: &[OsString]) -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{}", failure.render().trim_end());
            tell(&Report::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Outcome {
    let broken = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, "this command is for the program itself").because(error)
    };
    // Before there are keys in its memory.
    thv_workload::process::harden().map_err(|error| broken(&error))?;
    let errand = read_errand().map_err(|error| broken(&error))?;
    let name = Name::parse(&errand.name).map_err(|error| broken(&error))?;
    let keys = errand.keys.as_ref().map(KeySet::try_from).transpose().map_err(|error| broken(&error))?;
    let home = errand.home;
    let config = registry::config(&home, &name).map_err(|error| broken(&error))?;
    let order = Order {
        home: &home,
        name: name.clone(),
        config,
        keys,
        key_info: errand.key_info,
        given: errand.given,
        ready_timeout: errand.ready_timeout,
        debug: errand.debug,
    };
    leave_the_terminal().map_err(|error| broken(&error))?;
    supervise::become_supervisor(&order)?;
    let (runtime, interrupt) = supervise::runtime()?;
    let (outcome, word) = runtime.block_on(async {
        let mut word = None;
        let launcher = match Launcher::open() {
            Ok(input) => said(input),
            Err(error) => return (Err(broken(&error)), Word::Nothing),
        };
        let mut launcher = std::pin::pin!(launcher);
        let outcome = attempt(&order, interrupt, launcher.as_mut(), &mut word).await;
        if let Err(failure) = &outcome {
            tracing::error!("{}", failure.render().trim_end());
        }
        let outcome = outcome.map_err(|failure| {
            tell(&Report::Failed(failure));
            close_output();
        });
        // While the launcher lives it holds the lock, and undoes more than we could.
        let word = match word {
            Some(word) => word,
            None => tokio::time::timeout(UNDO, launcher).await.unwrap_or(Word::Nothing),
        };
        (Ok(outcome), word)
    });
    // A thread may still wait for a line that never comes.
    runtime.shutdown_background();
    let went_well = outcome?.is_ok();
    if word == Word::Nothing || word == Word::Go && !went_well {
        undo_creation(&home, &name);
    }
    Ok(())
}

/// Prepares a workload, waits for what the launcher says, which it leaves in `word`, and serves it if that is `go`.
async fn attempt(
    order: &Order<'_>,
    interrupt: impl Future<Output = ()>,
    mut launcher: Pin<&mut impl Future<Output = Word>>,
    word: &mut Option<Word>,
) -> Outcome {
    let mut stop = std::pin::pin!(interrupt);
    // Neither a signal nor the end of the launcher is to leave a server behind.
    let cancel = async {
        tokio::select! {
            () = &mut stop => {}
            said = &mut launcher => *word = Some(said),
        }
    };
    let prepared = supervise::prepare(order, cancel).await?;
    tell(&Report::Prepared { port: prepared.port, notice: prepared.notice.clone() });
    let said = match *word {
        Some(said) => said,
        None => *word.insert(launcher.await),
    };
    if said != Word::Go {
        return prepared.give_up(order).await;
    }
    let ready = |line: String| {
        tell(&Report::Running { line });
        close_output();
    };
    let stop = async {
        stop.await;
        Stop::BySystem
    };
    prepared.serve(order, ready, stop).await
}

/// Clears away a workload whose creator is gone. A creator that lives holds the lock and does it itself.
fn undo_creation(home: &Home, name: &Name) {
    let is_half_made = || matches!(registry::unfinished(home, name), Ok(Some(Unfinished::Creating)));
    if !is_half_made() {
        return;
    }
    let Ok(lock) = WorkloadLock::acquire(home, name, Duration::from_secs(1)) else { return };
    if !is_half_made() {
        return;
    }
    let finished = KeyVault::to_change(home)
        .map_err(|failure| failure.summary())
        .and_then(|vault| creation::finish(home, &lock, &vault).map_err(|error| error.to_string()));
    if let Err(error) = finished {
        tracing::warn!(%error, "a workload that nobody waits for could not be cleared away");
    }
}

fn read_errand() -> std::io::Result<Errand> {
    let mut line = Zeroizing::new(Vec::with_capacity(64 << 10));
    std::io::stdin().lock().take(ERRAND).read_until(b'\n', &mut line)?;
    serde_json::from_slice(&line).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

fn tell(report: &Report) {
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    // A launcher that is gone hears nothing, and its silence is noticed elsewhere.
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

/// The launcher's end of standard input.
struct Launcher;

#[cfg(unix)]
impl Launcher {
    fn open() -> std::io::Result<tokio::net::unix::pipe::Receiver> {
        use std::os::fd::AsFd as _;
        tokio::net::unix::pipe::Receiver::from_owned_fd(std::io::stdin().as_fd().try_clone_to_owned()?)
    }
}

#[cfg(not(unix))]
impl Launcher {
    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
    fn open() -> std::io::Result<tokio::io::Stdin> {
        Ok(tokio::io::stdin())
    }
}

/// What the launcher has to say to a supervisor that is prepared or has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// Serve.
    Go,
    /// It will not be served; the launcher sees to the rest.
    Back,
    /// Its pipe ended.
    Nothing,
}

async fn said(mut input: impl AsyncRead + Unpin) -> Word {
    let mut word = [0; GO.len()];
    match input.read_exact(&mut word).await {
        Ok(_) if word == *GO => Word::Go,
        Ok(_) if word == *BACK => Word::Back,
        _ => Word::Nothing,
    }
}

/// A session of its own, no descriptor of the launcher's, and no folder that somebody may want to unmount.
#[cfg(unix)]
fn leave_the_terminal() -> std::io::Result<()> {
    thv_workload::process::leave_session()?;
    std::env::set_current_dir("/")
}

#[cfg(not(unix))]
fn leave_the_terminal() -> std::io::Result<()> {
    Ok(())
}

/// Lets the launcher's pipes go: whoever waits for their end shall not wait for ours.
fn close_output() {
    if let Err(error) = thv_workload::process::detach_stdio() {
        tracing::warn!(%error, "standard input and output stay open");
    }
}

impl supervise::Prepared {
    /// Undoes a start that was taken back. A workload that is being created is left to its creator.
    async fn give_up(mut self, order: &Order<'_>) -> Outcome {
        self.end_server().await;
        drop(self.listener);
        self.file
            .update(|status| {
                status.supervisor = None;
                status.status = State::Error;
                "its start was interrupted".clone_into(&mut status.status_context);
            })
            .map_err(|error| supervise::failed(order, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_launcher_says_one_of_two_words_or_nothing() {
        for (given, expected) in [
            (&GO[..], Word::Go),
            (BACK, Word::Back),
            (b"", Word::Nothing),
            (b"go", Word::Nothing),
            (b"og\n", Word::Nothing),
        ] {
            assert_eq!(said(given).await, expected);
        }
    }
}
