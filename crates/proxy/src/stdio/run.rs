//! The life of a server, from its start to its end.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::link::{End, Life, Peer};
use super::pump::{from_server, to_server};
use super::{Child, Spawn, Stop};

/// Starts a server, serves it, and stops it when its time is over.
pub(super) async fn run<P: Peer, S: Spawn>(peer: &Arc<P>, spawner: &S, inbox: mpsc::Receiver<Bytes>) {
    let mut clock = pin!(watch_clock(&**peer, peer.link().life.subscribe()));
    let spawned = tokio::select! {
        spawned = spawner.spawn() => spawned,
        () = &mut clock => return,
    };
    let stop = match spawned {
        Ok(Child { stdin, stdout, stop }) => {
            converse(&**peer, stdin, stdout, inbox, clock).await;
            stop
        }
        Err(error) => return peer.end(&End::NotStarted(error.to_string())),
    };
    stop.stop().await;
    tracing::debug!(server = peer.link().number, "server stopped");
}

/// Passes messages both ways until it has ended and the server has let go of its pipes, or has had
/// its time to do so. Its input is closed first.
async fn converse<P, I, O>(
    peer: &P,
    stdin: I,
    stdout: O,
    inbox: mpsc::Receiver<Bytes>,
    mut clock: std::pin::Pin<&mut impl Future<Output = ()>>,
) where
    P: Peer,
    I: tokio::io::AsyncWrite + Unpin,
    O: tokio::io::AsyncRead + Unpin,
{
    let link = peer.link();
    let grace = link.options.exit_grace;
    let mut from = pin!(from_server(peer, stdout));
    let mut to = pin!(to_server(stdin, inbox, link.life.subscribe()));
    let (mut from_done, mut to_done) = (false, false);
    tokio::select! {
        () = &mut from => from_done = true,
        result = &mut to => {
            to_done = true;
            if let Err(error) = result {
                tracing::debug!(server = link.number, %error, "the server takes no more input");
                // What it has said before may still be on its way.
                from_done = timeout(grace, &mut from).await.is_ok();
            }
        }
        () = &mut clock => {}
    }
    peer.end(&End::Exited);
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
        tracing::debug!(server = link.number, "the server did not end when its input was closed");
    }
}

/// Ends what does not begin in time, or what nobody uses. Returns when it has ended, for
/// whatever reason.
async fn watch_clock<P: Peer>(peer: &P, mut life: watch::Receiver<Life>) {
    loop {
        let now = *life.borrow_and_update();
        if now == Life::Ended {
            return;
        }
        let deadline = peer.deadline(now);
        if deadline <= tokio::time::Instant::now() {
            peer.end(if now == Life::Starting { &End::Silent } else { &End::Expired });
            continue;
        }
        tokio::select! {
            () = sleep_until(deadline) => {}
            _ = life.changed() => {}
        }
    }
}
