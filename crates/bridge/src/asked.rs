//! What the server has asked the client. A client's answer belongs to the session in which it was asked: a server that
//! was restarted numbers its questions anew, and would take an old answer for one to another question.

use std::sync::{Mutex, MutexGuard, PoisonError};

use thv_wire::message::Id;

/// How many questions are remembered. Beyond that the oldest is forgotten, and its answer passed on as it comes.
const MAX: usize = 1024;

/// The life of what is said outside of any session, where no server may ask: an answer to that belongs to no session.
pub(crate) const NO_SESSION: u64 = u64::MAX;

/// The questions that the client has not answered yet.
///
/// A session has a number, its life, which is drawn before it is begun anew: what still comes from the one before can
/// be told from what the new one says before it is the current one.
#[derive(Default)]
pub(crate) struct Asked(Mutex<Questions>);

#[derive(Default)]
struct Questions {
    /// Oldest first, each with the life of its session.
    open: Vec<(Id, u64)>,
    life: u64,
}

impl Asked {
    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of the session that is, or that is being begun.
    pub(crate) fn life(&self) -> u64 {
        self.questions().life
    }

    /// The session is lost; the life of the next one.
    pub(crate) fn lose(&self) -> u64 {
        let mut questions = self.questions();
        questions.life += 1;
        questions.life
    }

    /// A server asks, in a session of that life.
    pub(crate) fn note(&self, id: Id, life: u64) {
        let mut questions = self.questions();
        if questions.open.len() == MAX {
            questions.open.remove(0);
        }
        questions.open.push((id, life));
    }

    /// The client answers: the life of the session that asked, if that is known.
    pub(crate) fn take(&self, id: &Id) -> Option<u64> {
        let mut questions = self.questions();
        let at = questions.open.iter().position(|(known, _)| known == id)?;
        Some(questions.open.remove(at).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_belongs_to_the_oldest_question_of_its_id() {
        let asked = Asked::default();
        let id = Id::number(0);
        asked.note(id.clone(), asked.life());
        let next = asked.lose();
        asked.note(id.clone(), next);
        assert_eq!((asked.take(&id), asked.take(&id), asked.take(&id)), (Some(0), Some(1), None));
        assert_eq!(asked.life(), next);
    }

    #[test]
    fn is_bounded() {
        let asked = Asked::default();
        asked.note(Id::string("oldest"), 0);
        for n in 0..MAX as u64 {
            asked.note(Id::number(n), 0);
        }
        assert_eq!(asked.take(&Id::string("oldest")), None);
        assert_eq!(asked.take(&Id::number(0)), Some(0));
        assert_eq!(asked.questions().open.len(), MAX - 1);
    }
}
