//! The keychain of the operating system: does it answer, how quickly, and if not, what brings it back?

use thv_keychain::os::{Probe, ProbeState};
use thv_keychain::{Entry, OsStore, Store as _, StoreError};
use thv_workload::home::Home;

use super::{Finding, mending};
use crate::settings::Provider;
use crate::store;

/// Why a keychain matters in which keys rest.
const WHY: &str =
    "keys are read from it and from nowhere else: no locked workload starts, and no client gets in";

/// What was seen of the keychain, and whether it is of any use to ask it for keys.
pub(super) struct Seen {
    pub(super) findings: Vec<Finding<'static>>,
    pub(super) usable: bool,
}

/// Looks at the keychain as far as it matters to a home with this provider (`None`: none was chosen yet). Nothing is
/// written and no window opens.
pub(super) fn look(home: &Home, provider: Option<Provider>) -> Seen {
    let keychain = store::keychain(home);
    let probe = keychain.probe();
    // The probe tells that there is none; an attempt to read tells why.
    let reason = if probe.state == ProbeState::Unavailable { why_not(&keychain) } else { None };
    let needed = provider.is_some_and(Provider::needs_keychain);
    let reachable = probe.state == ProbeState::Reachable;
    let finding = match provider {
        _ if needed => Some(in_use(keychain.service(), &probe, reason)),
        None => Some(not_yet_chosen(&probe, reason)),
        Some(Provider::File) => unused(&probe),
        // Whoever chose a passphrase did not choose it for lack of a keychain.
        Some(_) => None,
    };
    let left = provider.filter(|_| reachable).and_then(|provider| {
        // What cannot be listed is not told of: there may be nothing.
        left_behind(keychain.service(), provider, &keychain.entries().ok().flatten()?)
    });
    Seen { findings: finding.into_iter().chain(left).collect(), usable: !needed || reachable }
}

/// Entries of this home in a keychain that is not its store, or is so for the master key alone.
fn left_behind(service: &str, provider: Provider, entries: &[Entry]) -> Option<Finding<'static>> {
    let used = |entry: &&Entry| match provider {
        Provider::Keychain => true,
        Provider::FileKeychain => **entry == Entry::master_key(),
        Provider::File | Provider::Passphrase => false,
    };
    let left = entries.len() - entries.iter().filter(used).count();
    let but = if provider == Provider::FileKeychain { ", but for master-key" } else { "" };
    (left > 0).then(|| {
        let what = match left {
            1 => "the keychain holds 1 entry of this home that is not used".to_owned(),
            many => format!("the keychain holds {many} entries of this home that are not used"),
        };
        Finding::note("unused-store", what)
            .why("copies of keys and secrets that nobody looks after, left by a move to another store")
            .mend(format!("delete the items of service {service} in the keychain's own program{but}"))
    })
}

fn why_not(keychain: &OsStore) -> Option<String> {
    match keychain.get(&Entry::master_key()) {
        Err(StoreError::Keychain(fault)) => Some(fault.to_string()),
        _ => None,
    }
}

fn took(probe: &Probe) -> String {
    format!("{:.1} ms", probe.latency.as_secs_f64() * 1000.0)
}

/// How the keychain is, without advice.
fn state(probe: &Probe, reason: Option<String>) -> String {
    match &probe.state {
        ProbeState::Reachable => format!("the keychain answered in {}", took(probe)),
        ProbeState::Locked => format!("the keychain is locked (it said so in {})", took(probe)),
        ProbeState::NoCollection => {
            format!("the keychain has no default collection (it said so in {})", took(probe))
        }
        ProbeState::Unavailable => reason.unwrap_or_else(|| "the keychain is not available".to_owned()),
        ProbeState::TimedOut => format!("the keychain gave no answer in {}", took(probe)),
        ProbeState::Failed(fault) => fault.to_string(),
        other => format!("the keychain is {}", other.as_str()),
    }
}

/// What a person can do about it.
fn advice(state: &ProbeState) -> String {
    let advice = match state {
        ProbeState::Reachable => "",
        ProbeState::Locked => "thv secret unlock, or log in to the desktop",
        ProbeState::NoCollection => "make a default keyring, for instance by logging in to the desktop once",
        ProbeState::Unavailable if cfg!(target_os = "linux") => {
            "log in to the desktop, or start the service that keeps its secrets on the session bus \
             (DBUS_SESSION_BUS_ADDRESS names that)"
        }
        ProbeState::Unavailable => "log in to the desktop as the user whose keys these are",
        ProbeState::TimedOut => {
            "see whether the keychain's service hangs, or an unlock window waits for an answer; end it, and it is \
             started again"
        }
        ProbeState::Failed(fault) => return mending::of_keychain(fault),
        _ => "log out and in again, then: thv doctor",
    };
    advice.to_owned()
}

/// A keychain in which the keys rest, or the key to them.
fn in_use(service: &str, probe: &Probe, reason: Option<String>) -> Finding<'static> {
    let what = state(probe, reason);
    match probe.state {
        ProbeState::Reachable => {
            Finding::fine("keychain", format!("{what}; entries stand there under the service {service}"))
        }
        _ => Finding::problem("keychain", what).why(WHY).mend(advice(&probe.state)),
    }
}

/// A keychain that is there although the master key lies in a file.
fn unused(probe: &Probe) -> Option<Finding<'static>> {
    (probe.state == ProbeState::Reachable).then(|| {
        Finding::note("keychain", format!("{}, and keys do not rest there", state(probe, None)))
            .why("the master key lies in a file, which every program of yours and every backup can read")
            .mend("thv secret provider keychain")
    })
}

/// What the first key would meet.
fn not_yet_chosen(probe: &Probe, reason: Option<String>) -> Finding<'static> {
    let what = format!("no store was chosen yet; {}", state(probe, reason));
    match probe.state {
        ProbeState::Reachable => Finding::fine("keychain", format!("{what}, and the first key will rest there")),
        ProbeState::Unavailable | ProbeState::NoCollection => {
            Finding::note("keychain", what)
                .why("the first key will rest in an encrypted file whose master key lies beside it")
                .mend(advice(&probe.state))
        }
        _ => Finding::note("keychain", what)
            .why("the first key would be refused, since a keychain that is there is never passed over in silence")
            .mend(format!("{}; or: thv secret provider file", advice(&probe.state))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::Weight;
    use std::time::Duration;
    use thv_keychain::{KeychainFault, StoreKind};

    fn probe(state: ProbeState) -> Probe {
        Probe { kind: StoreKind::OsKeychain, state, latency: Duration::from_micros(7_250) }
    }

    fn ambiguous() -> ProbeState {
        ProbeState::Failed(KeychainFault::Ambiguous { service: "thv".into(), name: "x".into(), count: 2 })
    }

    #[test]
    fn each_state_of_a_keychain_in_use_has_its_words_and_its_way_out() {
        let fine = in_use("thv:12", &probe(ProbeState::Reachable), None).row;
        assert_eq!(fine.weight, Weight::Fine);
        assert_eq!(
            fine.what,
            "the keychain answered in 7.2 ms; entries stand there under the service thv:12"
        );
        for (state, reason, what, mend) in [
            (ProbeState::Locked, None, "is locked", "thv secret unlock"),
            (ProbeState::NoCollection, None, "no default collection", "make a default keyring"),
            (ProbeState::Unavailable, None, "is not available", "log in"),
            (ProbeState::Unavailable, Some("there is no session bus"), "there is no session bus", "log in"),
            (ProbeState::TimedOut, None, "gave no answer in 7.2 ms", "hangs"),
            (ambiguous(), None, "2 items", "all but one"),
        ] {
            let row = in_use("thv", &probe(state), reason.map(str::to_owned)).row;
            assert_eq!((row.check, row.weight), ("keychain", Weight::Problem));
            assert!(row.what.contains(what) && row.mend.contains(mend), "{}: {}", row.what, row.mend);
            assert!(!row.why.is_empty());
        }
    }

    #[test]
    fn a_keychain_that_is_not_used_is_mentioned_only_if_it_could_be() {
        let row = unused(&probe(ProbeState::Reachable)).unwrap().row;
        assert_eq!((row.weight, row.mend.as_str()), (Weight::Note, "thv secret provider keychain"));
        for state in [ProbeState::Locked, ProbeState::Unavailable, ProbeState::TimedOut, ambiguous()] {
            assert!(unused(&probe(state)).is_none());
        }
    }

    #[test]
    fn entries_that_a_move_left_are_told_of() {
        let entries = [Entry::master_key(), Entry::secret("a").unwrap(), Entry::secret_list(0)];
        for (provider, what) in [
            (Provider::Keychain, None),
            (Provider::FileKeychain, Some("2 entries")),
            (Provider::File, Some("3 entries")),
            (Provider::Passphrase, Some("3 entries")),
        ] {
            let row = left_behind("thv:12", provider, &entries).map(|finding| finding.row);
            let told = row.as_ref().is_some_and(|row| row.what.contains(what.unwrap_or_default()));
            assert_eq!(told, what.is_some(), "{provider:?}");
            let spared = row.is_some_and(|row| row.mend.ends_with("but for master-key"));
            assert_eq!(spared, provider == Provider::FileKeychain);
            assert!(left_behind("thv", provider, &entries[..1]).is_none() || !provider.needs_keychain());
        }
    }

    #[test]
    fn before_a_store_was_chosen_nothing_is_a_problem_and_the_first_key_is_foretold() {
        for (state, weight, word) in [
            (ProbeState::Reachable, Weight::Fine, "will rest there"),
            (ProbeState::Unavailable, Weight::Note, "encrypted file"),
            (ProbeState::NoCollection, Weight::Note, "encrypted file"),
            (ProbeState::Locked, Weight::Note, "refused"),
            (ProbeState::TimedOut, Weight::Note, "refused"),
            (ambiguous(), Weight::Note, "refused"),
        ] {
            let row = not_yet_chosen(&probe(state), None).row;
            assert_eq!(row.weight, weight, "{}", row.what);
            assert!(format!("{} {}", row.what, row.why).contains(word), "{} {}", row.what, row.why);
        }
    }
}
