//! Long lives: random operations, breaks, answers, restarts and time, with the invariants checked at every write.

use std::time::Duration;

use proptest::prelude::*;
use thv_keychain::vault::Nobody;
use thv_keychain::{Entry, Store as _, Vault, VaultError};

use crate::world::{Answer, Breaking, Fault, Supervisor, World, name};

#[derive(Clone, Debug)]
enum Step {
    Rotate { grace: u64 },
    Issue { label: u8 },
    Revoke { label: u8 },
    Recover,
    Restart,
    Stop,
    Pass { seconds: u64 },
}

#[derive(Clone, Debug)]
struct Scene {
    step: Step,
    /// At which write the store breaks, and how; beyond the last write it does not.
    at: usize,
    fault: Fault,
    answers: Vec<Answer>,
}

fn scene() -> impl Strategy<Value = Scene> {
    let step = prop_oneof![
        4 => prop_oneof![Just(0u64), 1..100u64].prop_map(|grace| Step::Rotate { grace }),
        3 => (0..4u8).prop_map(|label| Step::Issue { label }),
        2 => (0..4u8).prop_map(|label| Step::Revoke { label }),
        1 => Just(Step::Recover),
        1 => Just(Step::Restart),
        1 => Just(Step::Stop),
        2 => (1..60u64).prop_map(|seconds| Step::Pass { seconds }),
    ];
    let fault = prop_oneof![
        Just(Fault::Refused),
        Just(Fault::Unreported),
        Just(Fault::DiesBefore),
        Just(Fault::DiesAfter)
    ];
    let answer = prop_oneof![
        5 => Just(Answer::Confirms),
        1 => Just(Answer::NotReached),
        1 => Just(Answer::Lost),
        1 => Just(Answer::OtherKey),
    ];
    (step, 0..12usize, fault, proptest::collection::vec(answer, 0..4))
        .prop_map(|(step, at, fault, answers)| Scene { step, at, fault, answers })
}

fn run(world: &World, scene: &Scene) -> Result<(), VaultError> {
    let store = Breaking::new(world, scene.at, scene.fault);
    let (vault, supervisor) = (Vault::new(&store), &mut Supervisor::new(world, &scene.answers));
    let label = |n: u8| name(&format!("client{n}"));
    match scene.step {
        Step::Rotate { grace } => {
            vault.rotate(&world.name, Duration::from_secs(grace), world.now(), supervisor).map(drop)
        }
        Step::Issue { label: n } => vault.issue(&world.name, &label(n), world.now(), supervisor).map(drop),
        Step::Revoke { label: n } => vault.revoke(&world.name, &label(n), world.now(), supervisor),
        Step::Recover => vault.recover(&world.name, world.now(), supervisor).map(drop),
        Step::Restart => {
            world.start_supervisor();
            Ok(())
        }
        Step::Stop => {
            world.stop_supervisor();
            Ok(())
        }
        Step::Pass { seconds } => {
            world.pass(Duration::from_secs(seconds));
            Ok(())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_reads_a_key_can_use_it_through_any_life(scenes in proptest::collection::vec(scene(), 1..40)) {
        let world = World::new();
        world.vault().create(&world.name, world.now()).unwrap();
        world.start_supervisor();
        for scene in &scenes {
            let issued_before = world.vault().clients(&world.name).unwrap();
            let result = run(&world, scene);
            world.check();

            let set = world.store.get(&Entry::key_set(&world.name)).unwrap().unwrap();
            prop_assert!(set.expose().len() <= 2_000);
            // Nothing but a revocation takes a client's key away.
            if !matches!(scene.step, Step::Revoke { .. }) {
                let now = world.vault().clients(&world.name).unwrap();
                for client in issued_before {
                    prop_assert!(now.iter().any(|other| other.key_id == client.key_id));
                }
            }
            if let (Step::Revoke { label }, Ok(())) = (&scene.step, &result) {
                let label = name(&format!("client{label}"));
                prop_assert!(world.vault().client(&world.name, &label).unwrap().is_none());
            }
        }

        world.vault().recover(&world.name, world.now(), &mut Supervisor::new(&world, &[])).unwrap();
        world.check();
        if let Some(enforced) = world.enforced_ids() {
            prop_assert!(enforced.is_superset(&world.loaded_ids()));
        }
        // One good rotation later nothing of all that is left but what the store says.
        world.pass(Duration::from_secs(1_000));
        let _ = world.vault().rotate(&world.name, Duration::ZERO, world.now(), &mut Supervisor::new(&world, &[])).unwrap();
        prop_assert!(world.enforced_ids().is_none_or(|enforced| enforced == world.loaded_ids()));
        prop_assert_eq!(world.loaded_ids().len(), 1 + world.vault().clients(&world.name).unwrap().len());

        world.stop_supervisor();
        world.vault().remove(&world.name).unwrap();
        prop_assert!(world.store.names().is_empty());
        prop_assert!(world.vault().recover(&world.name, world.now(), &mut Nobody).is_err());
    }
}
