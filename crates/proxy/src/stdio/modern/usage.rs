//! Who uses a server, and whose its nameless messages are: those that say nothing of the request they belong to.

use std::collections::BTreeSet;

/// So many cancelled calls are remembered until the server answers them.
const MAX_GHOSTS: usize = 64;

/// How a request wants its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Way {
    /// For itself: it asked for log messages, which are nameless.
    Alone,
    /// With others.
    Shared,
    /// With whomever: whatever is said for a subscription names it.
    Listening,
}

/// The calls of one server, subscriptions aside. Nameless messages go to a call that has had the server to itself
/// from its beginning, and to no other.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Calls that are about to be sent and take others beside them.
    coming: usize,
    /// One is about to be sent that wants the server for itself.
    promised: bool,
    /// Calls that wait for their answers.
    calls: usize,
    /// The call that has the server to itself, and whether it asked for log messages.
    alone: Option<(u64, bool)>,
    /// Cancelled calls, at which the server may still be working.
    ghosts: BTreeSet<u64>,
    /// No call has it to itself any more.
    distrusted: bool,
    /// There was a call since the server was settled last.
    used: bool,
}

impl Usage {
    /// Promises the server to a call, and tells whether it did. `politely` spares those who want it for themselves.
    pub(super) fn promise(&mut self, way: Way, politely: bool) -> bool {
        match way {
            Way::Alone if self.is_empty() && !self.is_haunted() => self.promised = true,
            Way::Alone => return false,
            Way::Shared if politely && self.is_private() => return false,
            Way::Shared => self.coming += 1,
            Way::Listening => {}
        }
        true
    }

    /// What was promised is not needed any more.
    pub(super) fn release(&mut self, way: Way) {
        match way {
            Way::Alone => self.promised = false,
            Way::Shared => self.coming -= 1,
            Way::Listening => {}
        }
    }

    /// A call is sent.
    pub(super) fn begin(&mut self, number: u64, way: Way, logs: bool) {
        // Without the promise the server may still say something for a call that is over.
        let quiet = way == Way::Alone || !logs;
        let alone = quiet && self.calls == 0 && !self.is_haunted();
        self.alone = alone.then_some((number, logs));
        self.calls += 1;
        self.used = true;
    }

    /// A call has its answer.
    pub(super) fn answered(&mut self, number: u64) {
        self.calls -= 1;
        self.alone.take_if(|(alone, _)| *alone == number);
    }

    /// Nobody waits for a call any more, and the server was told so. That it has stopped is known when it answers.
    pub(super) fn cancelled(&mut self, number: u64) {
        self.answered(number);
        if self.ghosts.len() < MAX_GHOSTS {
            self.ghosts.insert(number);
        } else {
            self.distrusted = true;
        }
    }

    /// Nobody waits for this answer. Tells whether somebody did once.
    pub(super) fn late_answer(&mut self, number: u64) -> bool {
        self.ghosts.remove(&number)
    }

    /// Whose a nameless message is.
    pub(super) fn alone(&self) -> Option<u64> {
        self.alone.map(|(number, _)| number)
    }

    /// Whether something said for an earlier call could still be under way.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    /// The server has answered a question that it was asked after the last call was over.
    pub(super) fn settled(&mut self) {
        self.used = false;
    }

    /// The server did not answer that.
    pub(super) fn distrust(&mut self) {
        self.distrusted = true;
    }

    /// Whether nobody uses it, nor is about to.
    pub(super) fn is_empty(&self) -> bool {
        self.coming == 0 && !self.promised && self.calls == 0
    }

    /// Whether what it says may be for a call that nobody waits for.
    pub(super) fn is_haunted(&self) -> bool {
        self.distrusted || !self.ghosts.is_empty()
    }

    /// Whether a call would lose its log messages if it had to share the server.
    fn is_private(&self) -> bool {
        self.promised || self.alone.is_some_and(|(_, logs)| logs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_call_that_wants_it_alone_waits_for_all_others() {
        let mut usage = Usage::default();
        assert!(usage.promise(Way::Shared, true) && !usage.promise(Way::Alone, true));
        usage.begin(1, Way::Shared, false);
        usage.release(Way::Shared);
        assert!(!usage.promise(Way::Alone, true));
        usage.answered(1);
        assert!(usage.promise(Way::Alone, true) && !usage.promise(Way::Alone, true));
        assert!(!usage.promise(Way::Shared, true) && usage.promise(Way::Listening, true));
        usage.begin(2, Way::Alone, true);
        usage.release(Way::Alone);
        assert!(usage.alone() == Some(2) && !usage.promise(Way::Shared, true));
        // Whoever must be served all the same takes the other's messages away, and gets none of them.
        assert!(usage.promise(Way::Shared, false));
        usage.begin(3, Way::Shared, true);
        assert_eq!(usage.alone(), None);
    }

    #[test]
    fn a_cancelled_call_haunts_until_its_answer() {
        let mut usage = Usage::default();
        usage.begin(1, Way::Shared, false);
        usage.cancelled(1);
        assert!(usage.is_empty() && !usage.promise(Way::Alone, true));
        usage.begin(2, Way::Shared, false);
        assert_eq!(usage.alone(), None);
        usage.answered(2);
        assert!(usage.late_answer(1) && !usage.late_answer(1));
        assert!(usage.promise(Way::Alone, true) && usage.is_used());
    }

    #[test]
    fn cancelled_calls_are_not_remembered_without_bound() {
        let mut usage = Usage::default();
        for number in 0..10_000 {
            usage.begin(number, Way::Shared, false);
            usage.cancelled(number);
        }
        assert_eq!(usage.ghosts.len(), MAX_GHOSTS);
        for number in 0..10_000 {
            usage.late_answer(number);
        }
        assert!(!usage.promise(Way::Alone, true));
    }

    proptest! {
        /// What is nameless is given to a call only if no other can have caused it.
        #[test]
        fn nameless_messages_have_one_possible_cause(steps in prop::collection::vec((0_u8..4, any::<bool>(), 0_usize..8), 0..80)) {
            let mut usage = Usage::default();
            // Calls that the server may be working on, with whether somebody waits.
            let mut working: Vec<(u64, bool)> = Vec::new();
            for (number, (step, flag, which)) in (0..).zip(steps) {
                let at = if working.is_empty() { 0 } else { which % working.len() };
                match step {
                    0 => {
                        let way = if flag && usage.promise(Way::Alone, true) { Way::Alone } else { Way::Shared };
                        if way == Way::Shared {
                            usage.promise(Way::Shared, false);
                        }
                        usage.begin(number, way, flag);
                        usage.release(way);
                        working.push((number, true));
                    }
                    1 if !working.is_empty() => match working.remove(at) {
                        (number, true) => usage.answered(number),
                        (number, false) => assert!(usage.late_answer(number)),
                    },
                    2 if working.get(at).is_some_and(|(_, waits)| *waits) => {
                        usage.cancelled(working[at].0);
                        working[at].1 = false;
                    }
                    _ => {}
                }
                if let Some(alone) = usage.alone() {
                    prop_assert_eq!(&working, &[(alone, true)]);
                }
            }
        }
    }
}
