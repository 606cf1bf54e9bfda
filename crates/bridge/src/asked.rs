//! What the server has asked the client. A client's answer belongs to the session in which it was asked: a server that
//! was restarted numbers its questions anew, and would take an old answer for one to another question.

use std::sync::{Mutex, MutexGuard, PoisonError};

use thv_wire::message::Id;

/// How many questions are remembered. Beyond that the oldest is forgotten, and its answer passed on as it comes.
const MAX: usize = 1024;

/// The questions that the client has not answered yet.
#[derive(Default)]
pub(crate) struct Asked(Mutex<Questions>);

#[derive(Default)]
struct Questions {
    /// Oldest first, each with the number of sessions that were lost before it.
    open: Vec<(Id, u64)>,
    lost: u64,
}

impl Asked {
    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server asks.
    pub(crate) fn note(&self, id: Id) {
        let mut questions = self.questions();
        if questions.open.len() == MAX {
            questions.open.remove(0);
        }
        let lost = questions.lost;
        questions.open.push((id, lost));
    }

    /// The session is lost, and with it whoever waits for an answer.
    pub(crate) fn lose(&self) {
        self.questions().lost += 1;
    }

    /// The client answers. Whether the one who asked is known to be gone.
    pub(crate) fn take_is_lost(&self, id: &Id) -> bool {
        let mut questions = self.questions();
        let Some(at) = questions.open.iter().position(|(known, _)| known == id) else { return false };
        questions.open.remove(at).1 != questions.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_belongs_to_the_oldest_question_of_its_id() {
        let asked = Asked::default();
        let id = Id::number(0);
        asked.note(id.clone());
        asked.lose();
        asked.note(id.clone());
        assert!(asked.take_is_lost(&id));
        assert!(!asked.take_is_lost(&id));
        // What is not known is not held back.
        assert!(!asked.take_is_lost(&id));
    }

    #[test]
    fn is_bounded() {
        let asked = Asked::default();
        asked.note(Id::string("oldest"));
        for n in 0..MAX as u64 {
            asked.note(Id::number(n));
        }
        asked.lose();
        assert!(!asked.take_is_lost(&Id::string("oldest")));
        assert!(asked.take_is_lost(&Id::number(0)));
        assert_eq!(asked.questions().open.len(), MAX - 1);
    }
}
