//! What may happen.

use proptest::prelude::*;

/// What goes wrong with one message of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    Nothing,
    /// Notifications come before the answer.
    Talk,
    /// The answer takes its time.
    Slow,
    /// It never comes.
    Never,
    /// Reset after the request was read.
    Reset,
    /// Half a head, half a body.
    HalfHead,
    HalfBody,
    /// The stream breaks off in the middle of the answer.
    HalfEvent,
    /// The stream ends before the answer and can be resumed; or cannot, though it said so.
    Resumable,
    NotResumable,
    /// The session is said to be lost, once.
    NotFound,
    Unauthorized,
    Unavailable,
    /// An error of the server's under no id.
    BadRequest,
    /// The answer comes twice.
    Twice,
    /// An answer to nobody comes first.
    ForNobody,
    /// Only an answer to nobody comes.
    OnlyForNobody,
    /// The server asks something before it answers.
    Ask,
    /// It asks, and takes that back.
    AskInVain,
}

impl Wrong {
    pub(crate) const ALL: [Self; 19] = [
        Self::Nothing,
        Self::Talk,
        Self::Slow,
        Self::Never,
        Self::Reset,
        Self::HalfHead,
        Self::HalfBody,
        Self::HalfEvent,
        Self::Resumable,
        Self::NotResumable,
        Self::NotFound,
        Self::Unauthorized,
        Self::Unavailable,
        Self::BadRequest,
        Self::Twice,
        Self::ForNobody,
        Self::OnlyForNobody,
        Self::Ask,
        Self::AskInVain,
    ];

    /// By its place in the list, which is how it travels in a message.
    pub(crate) fn number(self) -> usize {
        Self::ALL.iter().position(|other| *other == self).unwrap()
    }
}

/// What befalls the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// All connections are closed.
    HangUp,
    /// The session is forgotten.
    Forget,
    /// Both, as in a restart at the same place.
    Restart,
    /// It is at another port now, and a stranger at the old one; whoever asks hears of it late.
    Move,
    /// It is gone for a while, and back at another port.
    Vanish,
    /// It has another key.
    Rekey,
    /// It refuses the key that it proved to hold, once or twice.
    RefuseOnce,
    RefuseTwice,
    /// The next `initialize` fails: with an HTTP error, a JSON-RPC error, or the connection.
    NoBegin,
    BadBegin,
    CutBegin,
    /// The server's own stream breaks off.
    CutStream,
    /// The server says something on its own stream.
    Say,
    /// From now on it says 400 of a lost session, or 404 again.
    OtherRefusal,
}

impl Trouble {
    pub(crate) const ALL: [Self; 14] = [
        Self::HangUp,
        Self::Forget,
        Self::Restart,
        Self::Move,
        Self::Vanish,
        Self::Rekey,
        Self::RefuseOnce,
        Self::RefuseTwice,
        Self::NoBegin,
        Self::BadBegin,
        Self::CutBegin,
        Self::CutStream,
        Self::Say,
        Self::OtherRefusal,
    ];
}

/// A step of a history.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// The client sends a request.
    Request(Wrong),
    /// The client sends a request of the era without sessions.
    Alone(Wrong),
    /// The client sends two requests in a batch.
    Batch(Wrong),
    /// The client sends a notification.
    Notify(Wrong),
    /// The client subscribes to one of three resources, or ends that, and waits for the answer.
    Subscribe(usize),
    Unsubscribe(usize),
    /// The client cancels one of its requests, counted from the last.
    Cancel(usize),
    /// The client answers what the server has asked until now. It does so at the end in any case.
    Answer,
    /// So many milliseconds pass.
    Wait(u64),
    /// Something befalls the server.
    Befalls(Trouble),
    /// The client ends its input. Nothing comes after that.
    End,
}

fn wrong() -> impl Strategy<Value = Wrong> {
    prop_oneof![
        2 => Just(Wrong::Nothing),
        5 => prop::sample::select(&Wrong::ALL[..]),
    ]
}

/// Any history.
pub(crate) fn any() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => wrong().prop_map(Op::Request),
        3 => wrong().prop_map(Op::Alone),
        2 => wrong().prop_map(Op::Batch),
        2 => wrong().prop_map(Op::Notify),
        1 => (0_usize..4).prop_map(Op::Cancel),
        1 => (0_usize..3).prop_map(Op::Subscribe),
        1 => (0_usize..3).prop_map(Op::Unsubscribe),
        1 => Just(Op::Answer),
        2 => prop::sample::select(&[0_u64, 1, 30, 300, 2000][..]).prop_map(Op::Wait),
        4 => prop::sample::select(&Trouble::ALL[..]).prop_map(Op::Befalls),
    ];
    let ends = prop_oneof![5 => Just(None), 1 => Just(Some(Op::End))];
    (prop::collection::vec(op, 1..14), ends).prop_map(|(mut ops, end)| {
        ops.extend(end);
        ops
    })
}
