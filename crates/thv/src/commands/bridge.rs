//! `thv proxy stdio`: the relay that an AI client launches.

use thv_bridge::Options;
use thv_workload::registry;

use super::not_found;
use crate::args::Stdio;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::locate::HomeLocator;
use crate::logs;
use crate::supervise;

/// Relays until standard input ends or a signal comes.
pub fn stdio(environment: &Environment, args: &Stdio, debug: bool) -> Outcome {
    logs::to_stderr(debug);
    let home = environment.checked_home()?;
    // Whether there is such a workload is said at once; whether it runs is said to each request.
    let limit = match registry::load(home, &args.name) {
        Ok(Some(workload)) => workload.config.max_message_bytes,
        Ok(None) => return Err(not_found(home, &args.name)),
        // Files that cannot be used are the answer to each request, too.
        Err(_) => None,
    };
    let mut options = Options { drain: args.drain, ..Options::default() };
    if let Some(limit) = limit {
        options.max_message_bytes = limit;
    }
    let locator = HomeLocator::new(home.clone(), args.name.clone(), !args.no_start, debug);
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, format!("the bridge to workload {} failed", args.name)).because(error)
    };
    let (runtime, shutdown) = supervise::runtime()?;
    let outcome = runtime.block_on(async {
        #[cfg(unix)]
        let (input, output) = (crate::pipes::stdin(), crate::pipes::stdout());
        #[cfg(not(unix))]
        let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
        thv_bridge::run(input, output, locator, options, shutdown).await
    });
    // A read of standard input that never returns must not keep the process.
    runtime.shutdown_background();
    outcome.map_err(|error| failed(&error))
}
