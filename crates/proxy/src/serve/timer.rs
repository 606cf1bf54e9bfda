//! The deadline for a request's head, as hyper's header timeout measures it, but with patience for trusted
//! connections that are idle.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::conn::Conn;

/// hyper asks this timer for one thing only, a sleep until the header timeout, at the moment when it begins to
/// wait for a head. That may be long before the head's first byte, so the real deadline is found out on the way.
pub(super) struct HeadTimer {
    conn: Conn,
    header: Duration,
    idle: Duration,
}

impl HeadTimer {
    pub(super) fn new(conn: Conn, header: Duration, idle: Duration) -> Self {
        Self { conn, header, idle }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, length: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + length)
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeadSleep {
            sleep: tokio::time::sleep_until(deadline.into()),
            conn: self.conn.clone(),
            header: self.header,
            idle: self.idle,
            waiting_since: Instant::now(),
        })
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

pin_project! {
    struct HeadSleep {
        #[pin]
        sleep: tokio::time::Sleep,
        conn: Conn,
        header: Duration,
        idle: Duration,
        waiting_since: Instant,
    }
}

impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            let deadline = match this.conn.head_since() {
                // For a stranger the time runs from the start, or one byte would buy as much again.
                _ if !this.conn.is_trusted() => *this.waiting_since + *this.header,
                None => *this.waiting_since + *this.idle,
                // A head that was pipelined behind a long response has its time from now on.
                Some(since) => since.max(*this.waiting_since) + *this.header,
            };
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            if this.sleep.deadline() != deadline {
                this.sleep.as_mut().reset(deadline);
            }
            ready!(this.sleep.as_mut().poll(cx));
        }
    }
}
