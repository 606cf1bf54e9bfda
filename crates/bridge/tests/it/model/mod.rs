//! The relay against a server at its worst: random histories of what a client says and what befalls the server, and what
//! must hold after each of them, whatever happened when.
//!
//! Time is virtual: it moves on when nothing else can. What must hold does not depend on it.

mod history;
mod run;
mod world;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use thv_bridge::Transport;

use history::{Op, Trouble, Wrong};

/// How many histories are tried where `PROPTEST_CASES` does not say.
const HISTORIES: u32 = 2_000;

fn check(transport: Transport, history: &[Op]) {
    if let Err(broken) = run::run(transport, history) {
        panic!("{broken}\nin {transport:?}: {history:#?}");
    }
}

fn explore(transport: Transport) {
    let mut config =
        ProptestConfig { failure_persistence: None, max_shrink_time: 60_000, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = HISTORIES;
    }
    let outcome = TestRunner::new(config)
        .run(&history::any(), |history| run::run(transport, &history).map_err(TestCaseError::fail));
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

#[test]
fn histories_over_streamable_http() {
    explore(Transport::Streamable);
}

#[test]
fn histories_over_http_with_sse() {
    explore(Transport::Sse);
}

/// The model itself: what is not troubled succeeds, and each trouble is one.
#[test]
fn the_quiet_history_and_each_trouble_alone() {
    for transport in [Transport::Streamable, Transport::Sse] {
        for wrong in Wrong::ALL {
            check(
                transport,
                &[Op::Request(wrong), Op::Request(Wrong::Nothing), Op::Notify(wrong), Op::Wait(300)],
            );
            check(transport, &[Op::Request(wrong), Op::Cancel(0), Op::Wait(0), Op::Request(wrong)]);
            check(
                transport,
                &[Op::Alone(wrong), Op::Request(wrong), Op::Wait(30), Op::Alone(wrong), Op::Cancel(0)],
            );
            check(transport, &[Op::Batch(wrong), Op::Cancel(1), Op::Wait(30), Op::Batch(wrong), Op::Answer]);
            check(transport, &[Op::Request(wrong), Op::Batch(wrong), Op::Notify(wrong), Op::End]);
        }
        for trouble in Trouble::ALL {
            let mut history =
                vec![Op::Request(Wrong::Nothing), Op::Befalls(trouble), Op::Notify(Wrong::Nothing)];
            check(transport, &history);
            history.extend([
                Op::Request(Wrong::Slow),
                Op::Wait(20),
                Op::Befalls(trouble),
                Op::Request(Wrong::Slow),
            ]);
            check(transport, &history);
        }
    }
}

/// A request was sent again because the server refused it while its session broke: it may have run all the same.
#[test]
fn regression_a_refusal_in_a_session_that_breaks_is_no_proof_that_nothing_ran() {
    let history = [
        Op::Request(Wrong::Unavailable),
        Op::Befalls(Trouble::CutStream),
        Op::Request(Wrong::Nothing),
        Op::Request(Wrong::NotFound),
        Op::Request(Wrong::BadRequest),
        Op::Befalls(Trouble::Forget),
    ];
    check(Transport::Sse, &history);
}

/// An `unsubscribe` that the old session had confirmed was told to the new one after the client had subscribed there.
#[test]
fn regression_what_is_confirmed_late_does_not_undo_what_came_after_it() {
    let history = [
        Op::Request(Wrong::Ask),
        Op::Request(Wrong::Nothing),
        Op::Batch(Wrong::NotFound),
        Op::Request(Wrong::Nothing),
        Op::Unsubscribe(1),
        Op::Notify(Wrong::Nothing),
        Op::Unsubscribe(2),
        Op::Batch(Wrong::Nothing),
        Op::Subscribe(2),
        Op::Befalls(Trouble::Rekey),
        Op::Request(Wrong::HalfBody),
        Op::Batch(Wrong::Nothing),
    ];
    for _ in 0..100 {
        check(Transport::Streamable, &history);
    }
}

/// What the server had asked in the old session was heard while the new one was begun, and its answer sent there.
#[test]
fn regression_a_question_heard_late_belongs_to_the_session_that_asked() {
    let history = [
        Op::Request(Wrong::Ask),
        Op::Request(Wrong::NotFound),
        Op::Notify(Wrong::Unavailable),
        Op::Notify(Wrong::Nothing),
        Op::Request(Wrong::Unauthorized),
        Op::Subscribe(0),
        Op::Request(Wrong::Nothing),
        Op::Unsubscribe(1),
        Op::Request(Wrong::HalfHead),
        Op::Wait(2000),
        Op::Request(Wrong::Twice),
    ];
    for _ in 0..20 {
        check(Transport::Streamable, &history);
    }
}
