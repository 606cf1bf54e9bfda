//! The route to the workload: asked for once, shared by all, asked for anew by one for all.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Uri};
use thv_keygen::{Name, SharedKey};
use thv_wire::code::Reason;
use tokio::sync::Mutex;

use crate::pool::Effort;
use crate::target::{Locate, LocateError, Target, Transport, Why};

/// A target in the form in which connections need it.
pub(crate) struct Route {
    /// Counts answers of [`Locate`]; a connection on an older route is used for nothing new.
    pub(crate) generation: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) name: Name,
    pub(crate) key: Option<SharedKey>,
    pub(crate) host: HeaderValue,
    pub(crate) uri: Uri,
    pub(crate) transport: Transport,
    /// The key's text form, marked sensitive; its memory is zeroized with the last copy.
    pub(crate) auth: Option<HeaderValue>,
}

impl Route {
    fn new(target: Target, generation: u64) -> Result<Self, LocateError> {
        let Target { addr, path, transport, name, key } = target;
        let unusable =
            || LocateError::new(Reason::NotRunning, format!("\"{name}\" has no usable endpoint path"));
        if !path.starts_with('/') {
            return Err(unusable());
        }
        let uri = Uri::try_from(path).map_err(|_| unusable())?;
        let host = HeaderValue::try_from(addr.to_string()).map_err(|_| unusable())?;
        let auth = match &key {
            Some(key) => {
                let text = Bytes::from_owner(key.expose_text());
                let mut value = HeaderValue::from_maybe_shared(text).map_err(|_| unusable())?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Self { generation, addr, name, key, host, uri, transport, auth })
    }

    /// Whether the target is where this leads.
    fn leads_to(&self, target: &Target) -> bool {
        let same_key = match (&self.key, &target.key) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => ours.ct_eq(theirs),
            _ => false,
        };
        same_key
            && self.addr == target.addr
            && self.uri == *target.path
            && self.transport == target.transport
            && self.name == target.name
    }
}

/// [`Locate`] behind a pointer, so that nothing else here is generic over it.
trait Ask: Send + Sync {
    fn ask(&self, why: Why) -> Pin<Box<dyn Future<Output = Result<Target, LocateError>> + Send + '_>>;
}

impl<L: Locate> Ask for L {
    fn ask(&self, why: Why) -> Pin<Box<dyn Future<Output = Result<Target, LocateError>> + Send + '_>> {
        Box::pin(self.locate(why))
    }
}

/// The one place that asks [`Locate`].
pub(crate) struct Finder {
    locate: Box<dyn Ask>,
    /// How often an answer came, errors included. Written under the lock, read without it.
    answers: AtomicU64,
    /// Whether there ever was a route, and whether the last one speaks the transport of 2024-11-05. Written under the
    /// lock, read without it.
    is_known: AtomicBool,
    sse: AtomicBool,
    /// How often it was asked whether a route still holds, and which of these questions was answered last.
    looks: AtomicU64,
    confirmed: AtomicU64,
    latest: Mutex<Option<Result<Arc<Route>, LocateError>>>,
}

impl Finder {
    pub(crate) fn new(locate: impl Locate) -> Self {
        Self {
            locate: Box::new(locate),
            answers: AtomicU64::new(0),
            is_known: AtomicBool::new(false),
            sse: AtomicBool::new(false),
            looks: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            latest: Mutex::new(None),
        }
    }

    /// Counts the answers so far. A route of another generation is out of date.
    pub(crate) fn generation(&self) -> u64 {
        self.answers.load(Ordering::Acquire)
    }

    /// How the workload is spoken to; asks only if nobody did yet.
    pub(crate) async fn transport(&self, effort: Effort) -> Result<Transport, LocateError> {
        if !self.is_known.load(Ordering::Acquire) && effort == Effort::Follow {
            self.route().await?;
        }
        Ok(self.known_transport())
    }

    /// How the workload is spoken to; streamable HTTP while nobody has asked.
    pub(crate) fn known_transport(&self) -> Transport {
        if self.sse.load(Ordering::Acquire) { Transport::Sse } else { Transport::Streamable }
    }

    /// The current route; asks if there is none.
    pub(crate) async fn route(&self) -> Result<Arc<Route>, LocateError> {
        let seen = self.generation();
        match &*self.latest.lock().await {
            Some(Ok(route)) => return Ok(route.clone()),
            Some(Err(error)) if self.generation() != seen => return Err(error.clone()),
            _ => {}
        }
        self.ask(Why::Start, seen).await
    }

    /// The current route without asking for one.
    pub(crate) async fn known(&self) -> Option<Arc<Route>> {
        self.latest.lock().await.as_ref()?.as_ref().ok().cloned()
    }

    /// Asks anew, unless somebody did since generation `seen`; then that answer counts, errors included, so
    /// that sixty waiting requests do not ask a locked keychain sixty times.
    ///
    /// That a mere look found nothing is no answer to anybody else: whoever has a request to send may have the
    /// workload started.
    pub(crate) async fn ask(&self, why: Why, seen: u64) -> Result<Arc<Route>, LocateError> {
        let mut latest = self.latest.lock().await;
        if self.generation() != seen
            && let Some(answer) = &*latest
        {
            return answer.clone();
        }
        let found = self.locate.ask(why).await;
        if let (Why::Look, Err(error)) = (why, &found) {
            tracing::debug!(reason = error.reason.as_str(), "looked for in vain");
            return Err(error.clone());
        }
        self.settle(&mut latest, why, found)
    }

    /// The route as somebody says it is who was asked after this was called. The same route stays the same: those who
    /// are connected by it stay so. Nobody is asked to start the workload.
    pub(crate) async fn confirm(&self) -> Result<Arc<Route>, LocateError> {
        let before = self.looks.load(Ordering::Acquire);
        let mut latest = self.latest.lock().await;
        if self.confirmed.load(Ordering::Acquire) > before
            && let Some(Ok(route)) = &*latest
        {
            return Ok(route.clone());
        }
        let number = self.looks.fetch_add(1, Ordering::AcqRel) + 1;
        let target = self.locate.ask(Why::Look).await?;
        self.confirmed.store(number, Ordering::Release);
        match &*latest {
            Some(Ok(route)) if route.leads_to(&target) => Ok(route.clone()),
            _ => self.settle(&mut latest, Why::Look, Ok(target)),
        }
    }

    /// This is the latest answer.
    fn settle(
        &self,
        latest: &mut Option<Result<Arc<Route>, LocateError>>,
        why: Why,
        found: Result<Target, LocateError>,
    ) -> Result<Arc<Route>, LocateError> {
        let generation = self.generation() + 1;
        let answer = found.and_then(|target| Route::new(target, generation)).map(Arc::new);
        match &answer {
            Ok(route) => {
                self.sse.store(route.transport == Transport::Sse, Ordering::Release);
                self.is_known.store(true, Ordering::Release);
                tracing::debug!(?why, addr = %route.addr, key_id = ?route.key.as_ref().map(SharedKey::id), "located");
            }
            Err(error) => tracing::debug!(?why, reason = error.reason.as_str(), "not located"),
        }
        *latest = Some(answer.clone());
        self.answers.store(generation, Ordering::Release);
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Plain;

    use super::*;

    /// Answers with the next of its list, after a moment, and counts.
    struct Script {
        answers: Plain<Vec<Result<Target, LocateError>>>,
        asked: Arc<Plain<Vec<Why>>>,
    }

    impl Locate for Script {
        async fn locate(&self, why: Why) -> Result<Target, LocateError> {
            self.asked.lock().unwrap().push(why);
            tokio::task::yield_now().await;
            self.answers.lock().unwrap().remove(0)
        }
    }

    fn target(port: u16) -> Target {
        Target {
            addr: ([127, 0, 0, 1], port).into(),
            path: "/mcp".into(),
            transport: Transport::Streamable,
            name: Name::parse("time").unwrap(),
            key: Some(SharedKey::from_bytes([1; 32])),
        }
    }

    fn finder(answers: Vec<Result<Target, LocateError>>) -> (Finder, Arc<Plain<Vec<Why>>>) {
        let asked = Arc::default();
        (Finder::new(Script { answers: Plain::new(answers), asked: Arc::clone(&asked) }), asked)
    }

    fn locked() -> LocateError {
        LocateError::new(Reason::KeychainLocked, "locked")
    }

    #[tokio::test]
    async fn those_who_ask_at_once_share_an_answer() {
        let (finder, asked) = finder(vec![Ok(target(1)), Ok(target(2))]);
        let (a, b) = tokio::join!(finder.route(), finder.route());
        assert_eq!(a.unwrap().generation, b.unwrap().generation);
        let seen = finder.generation();
        let (a, b) = tokio::join!(finder.ask(Why::Refused, seen), finder.ask(Why::Refused, seen));
        assert_eq!((a.unwrap().addr.port(), b.unwrap().addr.port()), (2, 2));
        assert_eq!(*asked.lock().unwrap(), [Why::Start, Why::Refused]);
    }

    #[tokio::test]
    async fn a_failure_is_shared_by_those_who_waited_and_not_kept_for_later_ones() {
        let (finder, asked) = finder(vec![Err(locked()), Ok(target(1))]);
        let (a, b) = tokio::join!(finder.route(), finder.route());
        assert_eq!((a.err(), b.err()), (Some(locked()), Some(locked())));
        assert!(finder.known().await.is_none());
        assert!(finder.route().await.is_ok());
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn an_old_question_gets_the_newer_answer() {
        let (finder, asked) = finder(vec![Ok(target(1)), Ok(target(2))]);
        let first = finder.route().await.unwrap();
        finder.ask(Why::Unreachable, first.generation).await.unwrap();
        let again = finder.ask(Why::Unreachable, first.generation).await.unwrap();
        assert_eq!(again.addr.port(), 2);
        assert_eq!(asked.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_look_in_vain_is_no_answer_to_others() {
        let (finder, asked) = finder(vec![Ok(target(1)), Err(locked()), Ok(target(2)), Ok(target(3))]);
        let first = finder.route().await.unwrap();
        let seen = first.generation;
        assert!(finder.ask(Why::Look, seen).await.is_err());
        assert_eq!(finder.known().await.unwrap().addr.port(), 1);
        assert_eq!(finder.ask(Why::Unreachable, seen).await.unwrap().addr.port(), 2);
        // One that found something is.
        let seen = finder.generation();
        finder.ask(Why::Look, seen).await.unwrap();
        assert_eq!(finder.ask(Why::Unreachable, seen).await.unwrap().addr.port(), 3);
        assert_eq!(*asked.lock().unwrap(), [Why::Start, Why::Look, Why::Unreachable, Why::Look]);
    }

    #[tokio::test]
    async fn a_route_that_holds_stays_the_same_and_is_confirmed_once_for_those_who_wait() {
        let answers = [1, 1, 1, 2].map(|port| Ok(Target { key: None, ..target(port) }));
        let (finder, asked) = finder(answers.into());
        let first = finder.route().await.unwrap();
        // The first question was put before the second and third came: those share another one.
        let (a, b, c) = tokio::join!(finder.confirm(), finder.confirm(), finder.confirm());
        for route in [a, b, c] {
            assert!(Arc::ptr_eq(&route.unwrap(), &first));
        }
        assert_eq!(*asked.lock().unwrap(), [Why::Start, Why::Look, Why::Look]);
        let moved = finder.confirm().await.unwrap();
        assert_eq!((moved.addr.port(), moved.generation), (2, finder.generation()));
        assert!(moved.generation > first.generation);
    }

    #[tokio::test]
    async fn a_path_that_is_none_is_refused() {
        for path in ["", "mcp", "/a b", "http://elsewhere/mcp"] {
            let (finder, _) = finder(vec![Ok(Target { path: path.into(), ..target(1) })]);
            assert!(finder.route().await.is_err(), "{path:?}");
        }
    }

    #[tokio::test]
    async fn the_key_is_sensitive() {
        let (finder, _) = finder(vec![Ok(target(1))]);
        let route = finder.route().await.unwrap();
        let auth = route.auth.clone().unwrap();
        assert!(auth.is_sensitive());
        assert_eq!(auth.as_bytes(), SharedKey::from_bytes([1; 32]).expose_text().as_bytes());
        assert_eq!(format!("{auth:?}"), "Sensitive");
    }
}
