//! What the server has asked the client. A client's answer belongs to the session in which it was asked: a server that
//! was restarted numbers its questions anew, and would take an old answer for one to another question.

use std::sync::{Mutex, MutexGuard, PoisonError};

use thv_wire::message::Id;

use crate::session::Session;

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
    /// Oldest first.
    open: Vec<Question>,
    life: u64,
    /// The session that the client begins, as far as the head of the reply tells, until its answer has come.
    beginning: Option<Session>,
}

struct Question {
    id: Id,
    /// Of its session.
    life: u64,
    /// The server has taken it back. The client may answer it all the same, if it has no other to answer.
    cancelled: bool,
}

impl Questions {
    /// The one of that id that the client answers next.
    fn find(&self, id: &Id) -> Option<usize> {
        let find = |cancelled| self.open.iter().position(|one| one.id == *id && one.cancelled == cancelled);
        find(false).or_else(|| find(true))
    }
}

/// The client begins a session until this is dropped.
pub(crate) struct Beginning<'a>(&'a Asked);

impl Drop for Beginning<'_> {
    fn drop(&mut self) {
        self.0.questions().beginning = None;
    }
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

    /// The client begins this session. A server may ask before it says that it has begun (MCP, `basic/lifecycle`: pings).
    pub(crate) fn begin(&self, session: Session) -> Beginning<'_> {
        self.questions().beginning = Some(session);
        Beginning(self)
    }

    /// The session that asked this, if it is only just being begun.
    pub(crate) fn early(&self, id: &Id) -> Option<Session> {
        let questions = self.questions();
        let life = questions.open[questions.find(id)?].life;
        questions.beginning.clone().filter(|session| session.life == life)
    }

    /// A server asks, in a session of that life.
    pub(crate) fn note(&self, id: Id, life: u64) {
        let mut questions = self.questions();
        if questions.open.len() == MAX {
            questions.open.remove(0);
        }
        questions.open.push(Question { id, life, cancelled: false });
    }

    /// A server takes a question back that it asked in a session of that life. Nobody need answer it.
    pub(crate) fn cancel(&self, id: &Id, life: u64) {
        let mut questions = self.questions();
        for one in questions.open.iter_mut().filter(|one| one.id == *id && one.life == life) {
            one.cancelled = true;
        }
    }

    /// The client answers: the life of the session that asked, if that is known.
    pub(crate) fn take(&self, id: &Id) -> Option<u64> {
        let mut questions = self.questions();
        let at = questions.find(id)?;
        Some(questions.open.remove(at).life)
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
    fn what_was_taken_back_is_answered_only_if_there_is_nothing_else_to_answer() {
        let asked = Asked::default();
        let id = Id::number(0);
        asked.note(id.clone(), 0);
        asked.note(id.clone(), 1);
        asked.cancel(&id, 2);
        asked.cancel(&id, 0);
        assert_eq!((asked.take(&id), asked.take(&id), asked.take(&id)), (Some(1), Some(0), None));
    }

    #[test]
    fn what_is_asked_in_a_session_that_is_being_begun_is_known_until_that_has_begun() {
        let asked = Asked::default();
        let (old, new) = (Id::number(0), Id::number(1));
        asked.note(old.clone(), 0);
        asked.note(new.clone(), 1);
        let session = Session { life: 1, ..Session::default() };
        let beginning = asked.begin(session.clone());
        assert_eq!((asked.early(&old), asked.early(&new)), (None, Some(session)));
        drop(beginning);
        assert_eq!(asked.early(&new), None);
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
