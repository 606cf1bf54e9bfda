//! `thv stop` and `thv restart`, and what both share with `rm`: ending a supervisor for good.

use std::thread;
use std::time::{Duration, Instant};

use thv_keygen::Name;
use thv_workload::control::{self, ControlError, Request};
use thv_workload::groups;
use thv_workload::home::Home;
use thv_workload::lock::WorkloadLock;
use thv_workload::process::ProcessRef;
use thv_workload::registry;
use thv_workload::status::{Desired, State, Status};
use thv_workload::steps::{Step, reached};

use super::{Selection, existing, lock, one_by_one};
use crate::args::{Restart, Stop};
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::{KeyVault, failed};
use crate::say;

/// How often a stopping supervisor is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How long a supervisor may take to end after it was told to by a signal.
const AFTER_SIGNAL: Duration = Duration::from_secs(5);

/// Stops workloads.
pub fn stop(environment: &Environment, args: &Stop) -> Outcome {
    let home = environment.prepared_home()?;
    let names = Selection { names: &args.names, all: args.all }.resolve(home)?;
    one_by_one(&names, |name| {
        let lock = lock(home, name)?;
        existing(home, name)?;
        let ended = end(home, &lock, args.timeout, false)?;
        settle(home, name)?;
        say::talk(&if ended { format!("stopped {name}") } else { format!("{name} was not running") });
        Ok(())
    })
}

/// Stops a workload and starts it again.
pub fn restart(environment: &Environment, args: &Restart, debug: bool) -> Outcome {
    let home = environment.prepared_home()?;
    let names = Selection { names: &args.names, all: args.all }.resolve(home)?;
    one_by_one(&names, |name| {
        let lock = lock(home, name)?;
        let workload = existing(home, name)?;
        if workload.config.is_locked() {
            // A store that cannot be used must be known before the workload is ended: it would not come back.
            KeyVault::open(home)?
                .vault()
                .current(name)
                .map_err(|error| failed("cannot read the key", name, &error))?;
        }
        end(home, &lock, args.timeout, true)?;
        still_wanted(home, name)?;
        let line = super::start::start_under(home, &lock, args.ready_timeout, debug)?;
        say::data(&line);
        Ok(())
    })
}

/// Ends a workload's supervisor, its server and all that is left of them. Returns whether a supervisor was running.
/// `again` says that the workload is wanted afterwards; what the user wants is for the caller to record.
pub fn end(home: &Home, lock: &WorkloadLock, patience: Duration, again: bool) -> Outcome<bool> {
    let name = lock.name();
    let supervisor = match registry::status(home, name) {
        Ok(Some(status)) => status.supervisor,
        // A status file that is lost or damaged names no process; whoever answers on the control socket does.
        _ => match ask(home, name, &Request::Status) {
            Ok(answer) => Some(answer.supervisor),
            Err(Unanswered::Nobody) => None,
            Err(Unanswered::Stranger(failure)) => return Err(failure),
            Err(Unanswered::Silence) => {
                return Err(Failure::new(Exit::Refused, format!("a supervisor of {name} may still run"))
                    .because(&std::io::Error::other("its status file is damaged, and it does not answer"))
                    .hint("end its process by hand (thv __supervise), then try again"));
            }
        },
    };
    let supervisor = supervisor.filter(ProcessRef::is_alive);
    if let Some(supervisor) = supervisor {
        ask_to_stop(home, name, supervisor, again)?;
        if !gone_within(supervisor, patience) {
            say::talk(&format!("{name} does not end; it is told to by a signal"));
            let signalled = supervisor.terminate().and_then(|()| {
                if gone_within(supervisor, AFTER_SIGNAL) { Ok(()) } else { supervisor.kill() }
            });
            signalled.map_err(|error| {
                Failure::new(
                    Exit::Failed,
                    format!("the supervisor of {name} (pid {}) cannot be ended", supervisor.pid),
                )
                .because(&error)
            })?;
            if !gone_within(supervisor, AFTER_SIGNAL) {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("the supervisor of {name} (pid {}) does not end", supervisor.pid),
                ));
            }
        }
    }
    groups::end_orphans(home, name);
    reached(Step::Stopped);
    Ok(supervisor.is_some())
}

/// Over the control socket; by a signal when nobody answers there.
fn ask_to_stop(home: &Home, name: &Name, supervisor: ProcessRef, again: bool) -> Outcome {
    let asked = ask(home, name, &Request::Stop { again });
    match asked {
        Ok(_) => Ok(()),
        Err(Unanswered::Stranger(failure)) => Err(failure),
        Err(Unanswered::Silence | Unanswered::Nobody) => supervisor.terminate().map_err(|error| {
            Failure::new(
                Exit::Failed,
                format!("the supervisor of {name} (pid {}) cannot be ended", supervisor.pid),
            )
            .because(&error)
        }),
    }
}

/// Why a supervisor gave no answer.
pub enum Unanswered {
    /// Somebody else holds its socket.
    Stranger(Failure),
    /// Nobody does.
    Nobody,
    /// Somebody does, and says nothing in time.
    Silence,
}

/// Asks a supervisor over its control socket.
pub fn ask(home: &Home, name: &Name, request: &Request) -> Result<control::Answer, Unanswered> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Err(Unanswered::Silence) };
    runtime.block_on(control::ask(&home.socket(name), request)).map_err(|error| match error {
        ControlError::Stranger(_) => Unanswered::Stranger(
            Failure::new(Exit::Refused, format!("the control socket of {name} is not what it should be"))
                .because(&error),
        ),
        ControlError::Unreachable { .. } => Unanswered::Nobody,
        _ => Unanswered::Silence,
    })
}

pub fn gone_within(process: ProcessRef, patience: Duration) -> bool {
    let start = Instant::now();
    while process.is_alive() {
        if start.elapsed() >= patience {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

/// Records that a workload whose supervisor was ended is to stay so.
fn settle(home: &Home, name: &Name) -> Outcome {
    record(home, name, State::Stopped, Desired::Stopped, "")
}

/// Records that a workload whose supervisor was ended is to run again: should its start fail or be cut off, the next
/// client that wants it tries once more.
pub fn still_wanted(home: &Home, name: &Name) -> Outcome {
    record(home, name, State::Error, Desired::Running, "it was ended to be started again, and was not")
}

/// Writes the status of a workload whose supervisor was ended. The lock is held, so the status file is ours.
fn record(home: &Home, name: &Name, state: State, desired: Desired, context: &str) -> Outcome {
    let Ok(Some(old)) = registry::status(home, name) else { return Ok(()) };
    let status = Status {
        supervisor: None,
        status: state,
        desired,
        status_context: context.to_owned(),
        ..old.clone()
    };
    if status == old {
        return Ok(());
    }
    registry::save_status(home, name, &status).map_err(|error| {
        Failure::new(Exit::Failed, format!("{name} has stopped, but its status cannot be written"))
            .because(&error)
    })
}
