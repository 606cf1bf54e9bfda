//! How a server of ours is, as far as the proxy sees: what is said of it while it is being started again, and when that
//! is over.

use std::time::Duration;

use thv_proxy::forward::{Connect as _, Forward};
use thv_workload::http::{Current, Pause};
use tokio::time::sleep;

use super::dial::{Dial, Own};

/// How often a server that was started again is asked whether it is there.
const POLL: Duration = Duration::from_millis(200);

/// Says what is wrong with the server for as long as it is polled. Once somebody has reached it, which may be a client
/// or, where there is none, this, nothing is wrong any more.
pub async fn attend(own: Own, forward: Forward<Dial>) {
    let mut current = own.current.clone();
    let dial = Dial::Own(own.clone());
    loop {
        let now = current.borrow_and_update().clone();
        let turn = async {
            if now.guardian.is_none() {
                // What connections there are lead nowhere, and bear the key of the server that is gone.
                forward.close_idle();
                own.trouble.send_replace(Some(words(&now)));
            } else if own.trouble.borrow().is_some() {
                own.trouble.send_replace(Some(words(&now)));
                while dial.connect().await.is_err() {
                    sleep(POLL).await;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            changed = current.changed() => if changed.is_err() { return },
            () = turn => {}
        }
    }
}

fn words<T>(current: &Current<T>) -> String {
    let times = match current.exits {
        1 => "once".to_owned(),
        exits => format!("{exits} times"),
    };
    match &current.pause {
        None => format!("the server has exited {times}, and was started again; it does not answer yet"),
        Some(Pause { time, error: None }) => {
            format!("the server has exited {times}, again in {}", humantime::format_duration(*time))
        }
        Some(Pause { time, error: Some(error) }) => format!(
            "the server has exited {times}, and cannot be started: {error}; again in {}",
            humantime::format_duration(*time)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let mut current = Current {
            addr: ([127, 0, 0, 1], 1).into(),
            guardian: None,
            exits: 1,
            pause: Some(Pause { time: Duration::from_millis(250), error: None }),
            given: (),
        };
        assert_eq!(words(&current), "the server has exited once, again in 250ms");
        current.exits = 3;
        current.pause = Some(Pause { time: Duration::from_secs(2), error: Some("no port".to_owned()) });
        assert_eq!(
            words(&current),
            "the server has exited 3 times, and cannot be started: no port; again in 2s"
        );
        current.pause = None;
        assert!(words(&current).contains("3 times, and was started again"));
    }
}
