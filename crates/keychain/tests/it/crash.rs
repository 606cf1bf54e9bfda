//! Every operation, broken at every write in every way, with every answer of the supervisor.

use std::time::Duration;

use thv_keychain::vault::{ErrorKind, Nobody, Recovery};
use thv_keychain::{Vault, VaultError};
use thv_keygen::SharedKey;

use crate::world::{Answer, Breaking, FAULTS, Fault, HOUR, Supervisor, World, name};

/// The answers to the first two publications of an operation; no operation has more.
const ANSWERS: [[Answer; 2]; 7] = [
    [Answer::Confirms, Answer::Confirms],
    [Answer::NotReached, Answer::Confirms],
    [Answer::Lost, Answer::Confirms],
    [Answer::OtherKey, Answer::Confirms],
    [Answer::Confirms, Answer::NotReached],
    [Answer::Confirms, Answer::Lost],
    [Answer::Confirms, Answer::OtherKey],
];

/// A workload in use: one key in its grace period, the current one, two clients.
struct Used {
    world: World,
    previous: SharedKey,
    current: SharedKey,
    clients: [SharedKey; 2],
}

fn used() -> Used {
    let world = World::new();
    let (vault, time) = (world.vault(), &world.name);
    vault.create(time, world.now()).unwrap();
    let previous = vault.current(time).unwrap().unwrap();
    let _ = vault.rotate(time, HOUR, world.now(), &mut Nobody).unwrap();
    let current = vault.current(time).unwrap().unwrap();
    let clients = ["claude", "cursor"].map(|label| {
        vault.issue(time, &name(label), world.now(), &mut Nobody).unwrap();
        vault.client(time, &name(label)).unwrap().unwrap()
    });
    world.start_supervisor();
    world.check();
    Used { world, previous, current, clients }
}

/// Runs `scene` with a store that breaks at the first write, the second, and so on until it no longer reaches the
/// chosen one.
fn at_every_write(mut scene: impl FnMut(usize, Fault, &[Answer]) -> bool) {
    for answers in &ANSWERS {
        for fault in FAULTS {
            let writes = (0..100).take_while(|at| scene(*at, fault, answers)).count();
            assert!((1..50).contains(&writes), "{fault:?} {answers:?} broke {writes} writes");
        }
    }
}

fn recover_and_compare(used: &Used, context: &str) -> Recovery {
    let world = &used.world;
    world.check();
    let recovery = world.vault().recover(&world.name, world.now(), &mut Supervisor::new(world, &[])).unwrap();
    world.check();
    let (enforced, loaded) = (world.enforced_ids().unwrap(), world.loaded_ids());
    assert!(enforced.is_superset(&loaded), "{context}: the supervisor lacks a key");
    if recovery != Recovery::Clean {
        assert_eq!(enforced, loaded, "{context}: recovery left the supervisor behind");
    }
    let again = world.vault().recover(&world.name, world.now(), &mut Supervisor::new(world, &[])).unwrap();
    assert_eq!(again, Recovery::Clean, "{context}");
    recovery
}

#[test]
fn rotate() {
    for grace in [HOUR, Duration::ZERO] {
        at_every_write(|at, fault, answers| {
            let context = format!("{fault:?} at {at}, {answers:?}, grace {grace:?}");
            let used = used();
            let (world, time) = (&used.world, &used.world.name);
            let store = Breaking::new(world, at, fault);
            let result =
                Vault::new(&store).rotate(time, grace, world.now(), &mut Supervisor::new(world, answers));
            let broke = store.broke();

            let recovery = recover_and_compare(&used, &context);
            let current = world.vault().current(time).unwrap().unwrap();
            let kept = current.ct_eq(&used.current);
            match &result {
                Ok(rotation) => {
                    assert_eq!(rotation.current, current.id(), "{context}");
                    assert_eq!(rotation.retired, used.current.id(), "{context}");
                    // A last write that was made and reported as failed leaves nothing to finish.
                    let made = matches!(fault, Fault::Unreported | Fault::DiesAfter);
                    let (unsettled, finished) =
                        (rotation.unsettled.is_some(), recovery == Recovery::Finished);
                    assert!(unsettled == finished || unsettled && made, "{context}");
                }
                Err(VaultError::NotPublished { .. }) => {
                    assert!(kept && answers[0] != Answer::Confirms, "{context}");
                }
                Err(error) => assert!(broke && error.kind() == ErrorKind::Keychain, "{context}: {error}"),
            }
            let loaded = world.loaded_ids();
            for key in [&used.previous, &used.clients[0], &used.clients[1]] {
                assert!(loaded.contains(&key.id()), "{context}: a key was lost");
            }
            let open = kept || !grace.is_zero();
            assert_eq!(loaded.contains(&used.current.id()), open, "{context}: the replaced key");

            let again =
                world.vault().rotate(time, HOUR, world.now(), &mut Supervisor::new(world, &[])).unwrap();
            assert!(again.unsettled.is_none(), "{context}");
            assert_eq!(world.enforced_ids().unwrap(), world.loaded_ids(), "{context}");
            broke
        });
    }
}

#[test]
fn recover() {
    // A rotation that stops short of E1, and one that stops short of its last write.
    for stop in [1, 2] {
        at_every_write(|at, fault, answers| {
            let context = format!("stopped at {stop}, {fault:?} at {at}, {answers:?}");
            let used = used();
            let (world, time) = (&used.world, &used.world.name);
            let store = Breaking::new(world, stop, Fault::DiesBefore);
            let _ = Vault::new(&store).rotate(time, HOUR, world.now(), &mut Supervisor::new(world, &[]));
            let current = world.vault().current(time).unwrap().unwrap();

            let store = Breaking::new(world, at, fault);
            let result = Vault::new(&store).recover(time, world.now(), &mut Supervisor::new(world, answers));
            let expected = if stop == 1 { Recovery::Dropped } else { Recovery::Finished };
            if let Ok(recovery) = result {
                assert_eq!(recovery, expected, "{context}");
            }
            recover_and_compare(&used, &context);
            assert!(world.vault().current(time).unwrap().unwrap().ct_eq(&current), "{context}: E1 changed");
            assert!(world.loaded_ids().contains(&used.current.id()), "{context}: a key was lost");
            // A supervisor that does not answer keeps the only write from being reached.
            at == 0 && (store.broke() || answers[0] != Answer::Confirms)
        });
    }
}

#[test]
fn a_rotation_finishes_the_one_before_it() {
    // The first stops before its last write, for want of an answer or of life.
    for (at, answers) in [(2, [Answer::Confirms; 2]), (99, [Answer::Confirms, Answer::NotReached])] {
        let used = used();
        let (world, time) = (&used.world, &used.world.name);
        let store = Breaking::new(world, at, Fault::DiesBefore);
        let first = Vault::new(&store).rotate(time, HOUR, world.now(), &mut Supervisor::new(world, &answers));
        assert!(first.unwrap().unsettled.is_some());
        let between = world.vault().current(time).unwrap().unwrap();

        let second = world.vault().rotate(time, HOUR, world.now(), &mut Supervisor::new(world, &[])).unwrap();
        assert_eq!(second.retired, between.id());
        let loaded = world.loaded_ids();
        assert_eq!(world.enforced_ids().unwrap(), loaded);
        for key in [&used.previous, &used.current, &between] {
            assert!(loaded.contains(&key.id()), "a key lost its grace period");
        }
    }
}

#[test]
fn issue() {
    at_every_write(|at, fault, answers| {
        let context = format!("{fault:?} at {at}, {answers:?}");
        let used = used();
        let (world, time, label) = (&used.world, &used.world.name, name("vscode"));
        let before = world.loaded_ids();
        let store = Breaking::new(world, at, fault);
        let result =
            Vault::new(&store).issue(time, &label, world.now(), &mut Supervisor::new(world, answers));
        recover_and_compare(&used, &context);
        if let Ok(key) = &result {
            assert!(world.loaded_ids().contains(&key.id()), "{context}: a key that was handed out is dead");
        }
        assert!(world.loaded_ids().is_superset(&before), "{context}: a key was lost");

        match world.vault().issue(time, &label, world.now(), &mut Supervisor::new(world, &[])) {
            Ok(_) => assert!(result.is_err(), "{context}: the key was replaced"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{context}: {error}"),
        }
        let key = world.vault().client(time, &label).unwrap().unwrap();
        assert!(world.enforces(&key) && world.loaded_ids().contains(&key.id()), "{context}");
        store.broke()
    });
}

#[test]
fn revoke() {
    at_every_write(|at, fault, answers| {
        let context = format!("{fault:?} at {at}, {answers:?}");
        let used = used();
        let (world, time, label) = (&used.world, &used.world.name, name("claude"));
        let store = Breaking::new(world, at, fault);
        let result =
            Vault::new(&store).revoke(time, &label, world.now(), &mut Supervisor::new(world, answers));
        if result.is_ok() {
            assert!(!world.enforces(&used.clients[0]), "{context}: revoked, and still open");
        }
        recover_and_compare(&used, &context);

        match world.vault().revoke(time, &label, world.now(), &mut Supervisor::new(world, &[])) {
            Ok(()) => assert!(result.is_err(), "{context}: revoked twice"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{context}: {error}"),
        }
        assert!(!world.enforces(&used.clients[0]), "{context}: revoked, and still open");
        assert!(world.vault().client(time, &label).unwrap().is_none(), "{context}");
        for key in [&used.previous, &used.current, &used.clients[1]] {
            assert!(world.loaded_ids().contains(&key.id()), "{context}: a key was lost");
        }
        store.broke()
    });
}

#[test]
fn create() {
    for fault in FAULTS {
        for at in 0..100 {
            let context = format!("{fault:?} at {at}");
            let world = World::new();
            let store = Breaking::new(&world, at, fault);
            let result = Vault::new(&store).create(&world.name, world.now());
            world.check();
            match world.vault().create(&world.name, world.now()) {
                Ok(_) => assert!(result.is_err(), "{context}: the key was replaced"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{context}: {error}"),
            }
            assert_eq!(world.loaded_ids().len(), 1, "{context}");
            assert_eq!(world.store.names().len(), 2, "{context}");
            world.vault().remove(&world.name).unwrap();
            assert!(world.store.names().is_empty(), "{context}");
            if !store.broke() {
                break;
            }
            assert!(at < 50, "{context}: never done");
        }
    }
}

#[test]
fn remove() {
    for fault in FAULTS {
        for at in 0..100 {
            let context = format!("{fault:?} at {at}");
            let broken_off = || {
                let used = used();
                // More clients than one part of the list holds.
                for n in 0..30 {
                    let label = name(&format!("{}{n:02}", "x".repeat(61)));
                    used.world
                        .vault()
                        .issue(&used.world.name, &label, used.world.now(), &mut Nobody)
                        .unwrap();
                }
                used.world.stop_supervisor();
                let store = Breaking::new(&used.world, at, fault);
                let _ = Vault::new(&store).remove(&used.world.name);
                let broke = store.broke();
                (used, broke)
            };

            let (Used { world, .. }, broke) = broken_off();
            world.vault().remove(&world.name).unwrap();
            assert!(world.store.names().is_empty(), "{context}: {:?}", world.store.names());

            // Recreated instead: nothing of the earlier life opens the new door.
            let (Used { world, current, .. }, _) = broken_off();
            match world.vault().create(&world.name, world.now()) {
                Ok(set) => {
                    assert_eq!(set.len(), 1, "{context}");
                    assert_eq!(world.loaded_ids().len(), 1, "{context}: an old key came back");
                    assert_eq!(world.store.names().len(), 2, "{context}");
                    assert!(set.check(&current, world.now()).is_none(), "{context}");
                }
                Err(error) => {
                    assert!(at == 0 && error.kind() == ErrorKind::AlreadyExists, "{context}: {error}");
                }
            }
            if !broke {
                break;
            }
            assert!(at < 60, "{context}: never done");
        }
    }
}
