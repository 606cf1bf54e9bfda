//! `thv export`: a run config to take elsewhere.

use std::path::Path;

use thv_workload::config::RunConfig;
use thv_workload::files;

use super::existing;
use crate::args::Export;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::say;

/// Writes a workload's run config without what belongs to this machine and this moment.
pub fn export(environment: &Environment, args: &Export) -> Outcome {
    let home = environment.checked_home()?;
    let workload = existing(home, &args.name)?;
    let config = RunConfig {
        base_env: std::collections::BTreeMap::new(),
        port: if workload.config.port_is_explicit { workload.config.port } else { 0 },
        created_at: String::new(),
        ..workload.config
    };
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Exit::Failed, format!("cannot export {}", args.name)).because(error)
    };
    let json = config.to_json().map_err(|error| failed(&error))?;
    if args.file == Path::new("-") {
        say::raw(&json);
        return Ok(());
    }
    let file = environment.cwd()?.join(&args.file);
    if std::fs::metadata(&file).is_ok_and(|meta| !meta.is_file()) {
        return Err(Failure::new(Exit::Refused, format!("{} is not a regular file", file.display()))
            .hint("name a file, or - for standard output"));
    }
    files::write_atomic(&file, &json).map_err(|error| failed(&error))?;
    say::talk(&format!("wrote {}", file.display()));
    Ok(())
}
