//! The life of a session's server, from its start to its end.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::pump::{from_server, to_server};
use super::session::{End, Life, Session};
use super::{Child, Spawn, Stop};

/// Starts the server of a session, serves it, and stops it when the session has ended.
pub(super) async fn run<S: Spawn>(session: &Arc<Session>, spawner: &S, inbox: mpsc::Receiver<Bytes>) {
    let mut clock = pin!(watch_clock(session, session.life.subscribe()));
    let spawned = tokio::select! {
        spawned = spawner.spawn() => spawned,
        () = &mut clock => return,
    };
    let stop = match spawned {
        Ok(Child { stdin, stdout, stop }) => {
            converse(session, stdin, stdout, inbox, clock).await;
            stop
        }
        Err(error) => return session.end(&End::NotStarted(error.to_string())),
    };
    stop.stop().await;
    tracing::debug!(session = session.number, "server stopped");
}

/// Passes messages both ways until the session has ended and the server has let go of its pipes, or has had
/// its time to do so. Its input is closed first.
async fn converse<I, O>(
    session: &Arc<Session>,
    stdin: I,
    stdout: O,
    inbox: mpsc::Receiver<Bytes>,
    mut clock: std::pin::Pin<&mut impl Future<Output = ()>>,
) where
    I: tokio::io::AsyncWrite + Unpin,
    O: tokio::io::AsyncRead + Unpin,
{
    let grace = session.options.exit_grace;
    let mut from = pin!(from_server(session, stdout));
    let mut to = pin!(to_server(stdin, inbox, session.life.subscribe()));
    let (mut from_done, mut to_done) = (false, false);
    tokio::select! {
        () = &mut from => from_done = true,
        result = &mut to => {
            to_done = true;
            if let Err(error) = result {
                tracing::debug!(session = session.number, %error, "the server takes no more input");
                // What it has said before may still be on its way.
                from_done = timeout(grace, &mut from).await.is_ok();
            }
        }
        () = &mut clock => {}
    }
    session.end(&End::Exited);
    let rest = async {
        tokio::join!(
            async {
                if !from_done {
                    from.await;
                }
            },
            async {
                if !to_done {
                    let _ = to.await;
                }
            },
        );
    };
    if timeout(grace, rest).await.is_err() {
        tracing::debug!(session = session.number, "the server did not end when its input was closed");
    }
}

/// Ends a session that does not begin in time, or that nobody uses. Returns when the session has ended, for
/// whatever reason.
async fn watch_clock(session: &Session, mut life: watch::Receiver<Life>) {
    loop {
        let now = *life.borrow_and_update();
        if now == Life::Ended {
            return;
        }
        let deadline = session.deadline(now);
        if deadline <= tokio::time::Instant::now() {
            session.end(if now == Life::Starting { &End::Silent } else { &End::Expired });
            continue;
        }
        tokio::select! {
            () = sleep_until(deadline) => {}
            _ = life.changed() => {}
        }
    }
}
