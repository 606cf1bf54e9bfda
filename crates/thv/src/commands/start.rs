//! `thv start`: a workload that is there already runs again, with the key it has.

use std::time::Duration;

use thv_keygen::Name;
use thv_workload::creation;
use thv_workload::groups;
use thv_workload::home::Home;
use thv_workload::lock::WorkloadLock;
use thv_workload::status::State;

use super::stop::gone_within;
use super::{Selection, existing, lock, one_by_one};
use crate::args::Start;
use crate::detach;
use crate::environment::{self, Environment};
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::KeyVault;
use crate::say;
use crate::secrets;
use crate::supervise::{self, Order};

/// How long a supervisor that is on its way down may take.
const ENDING: Duration = Duration::from_secs(20);

/// Starts workloads; one that runs is left as it is.
pub fn start(environment: &Environment, args: &Start, debug: bool) -> Outcome {
    let home = environment.prepared_home()?;
    let names = Selection { names: &args.names, all: args.all }.resolve(home)?;
    if args.foreground && names.len() != 1 {
        return Err(Failure::new(Exit::Usage, "one workload at a time can run in the foreground"));
    }
    one_by_one(&names, |name| {
        let lock = lock(home, name)?;
        if !args.foreground {
            say::data(&start_under(home, &lock, args.ready_timeout, debug)?);
            return Ok(());
        }
        match order(home, &lock, args.ready_timeout, debug)? {
            Startable::Running(line) => say::data(&line),
            Startable::Stopped(order) => {
                let (runtime, interrupt) = supervise::runtime()?;
                supervise::foreground(&runtime, interrupt, *order, lock, drop)?;
            }
        }
        Ok(())
    })
}

/// Starts a workload under its lock and returns its ready line, also when it runs already.
pub fn start_under(
    home: &Home,
    lock: &WorkloadLock,
    ready_timeout: Duration,
    debug: bool,
) -> Outcome<String> {
    let mut order = match order(home, lock, ready_timeout, debug)? {
        Startable::Running(line) => return Ok(line),
        Startable::Stopped(order) => order,
    };
    let (runtime, interrupt) = supervise::runtime()?;
    runtime.block_on(detach::launch(&mut order, lock, interrupt))
}

/// What there is to start.
pub enum Startable<'a> {
    /// Nothing: it runs, as this line says.
    Running(String),
    /// This.
    Stopped(Box<Order<'a>>),
}

/// Prepares the start of a workload: what an earlier command or a crash left behind is cleared away first.
pub fn order<'a>(
    home: &'a Home,
    lock: &WorkloadLock,
    ready_timeout: Duration,
    debug: bool,
) -> Outcome<Startable<'a>> {
    let name: &Name = lock.name();
    let vault = KeyVault::to_change(home)?;
    creation::finish(home, lock, &vault).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot clear away what is left of {name}")).because(&error)
    })?;
    let mut workload = existing(home, name)?;
    if let Some(supervisor) = workload.status.supervisor
        && !matches!(workload.status.status, State::Running | State::Unhealthy)
        && gone_within(supervisor, ENDING)
    {
        workload = existing(home, name)?;
    }
    if workload.status.supervisor.is_some() {
        return Ok(Startable::Running(supervise::ready_line(name, &workload.config, &workload.status)));
    }
    groups::end_orphans(home, name);
    let (keys, key_info) = vault.of(name, &workload.config)?;
    let (name, config) = (workload.name, workload.config);
    let given = secrets::given(&secrets::wanted(&config)?, &environment::secrets());
    Ok(Startable::Stopped(Box::new(Order {
        home,
        name,
        config,
        keys,
        key_info,
        given,
        ready_timeout,
        debug,
    })))
}
