//! The store: can it be read, how quickly, and does every locked workload have its key?

use std::time::{Instant, SystemTime};

use thv_workload::home::Home;
use thv_workload::registry;

use super::Finding;
use crate::keys::KeyVault;

pub(super) fn look(home: &Home) -> Vec<Finding<'static>> {
    let names: Vec<_> = registry::names(home).unwrap_or_default();
    let vault = match KeyVault::open(home) {
        Ok(vault) => vault,
        Err(failure) => {
            return vec![
                Finding::problem("store", failure.summary())
                    .why("no workload can be started, and no client can reach one"),
            ];
        }
    };
    let start = Instant::now();
    let described = vault.vault().describe(&names);
    let took = start.elapsed();
    let all = match described {
        Ok(all) => all,
        Err(error) => {
            return vec![
                Finding::problem("store", format!("the keys cannot be read: {error}"))
                    .why("no workload can be started, and no client can reach one"),
            ];
        }
    };
    let mut findings = vec![Finding::fine(
        "store",
        format!("keys rest in {} and were read in {:.1} ms", vault.place(), took.as_secs_f64() * 1000.0),
    )];
    for (name, facts) in names.iter().zip(all) {
        let locked = registry::config(home, name).is_ok_and(|config| config.is_locked());
        match facts {
            Err(error) => findings.push(
                Finding::problem("key", format!("the key of {name} is damaged: {error}"))
                    .why("its clients are refused")
                    .mend(format!("thv rm {name}, then run it anew")),
            ),
            Ok(None) if locked => findings.push(
                Finding::problem("key", format!("{name} is locked and has no key"))
                    .why("nobody can get in")
                    .mend(format!("thv key disable {name}, then thv key enable {name}")),
            ),
            Ok(Some(facts)) if facts.rotated_at.is_some_and(|at| at > SystemTime::now()) => findings.push(
                Finding::problem("clock", format!("the key of {name} was made in the future"))
                    .why("the clock was set back: keys that are to end will end late"),
            ),
            Ok(_) => {}
        }
    }
    findings
}
