//! A message leaves as it came: a corpus goes to a server and back directly and by every path through `thv`, and the
//! bytes are compared at both ends.
//!
//! The host of stdio servers gives requests of 2026-07-28 ids of its own on their way to a server that callers share.
//! That is the one thing which may differ, and only there.

mod corpus;
mod ways;

use corpus::Exchange;
use thv_e2e::{Home, Result, ensure, need_part};
use ways::{Era, Server, Way, Wire};

/// Sends the corpus by a way, and checks what either end has heard.
fn passes(wire: Wire, era: Era, connect: impl Fn(&Server<'_>) -> Result<Way>) -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let corpus = corpus::of(era);
        let server = Server::new(home, &python, wire, &corpus)?;
        let mut way = connect(&server)?;
        for exchange in &corpus {
            let heard = way.exchange(exchange)?;
            let mut expected = exchange.answers.clone();
            if way.keeps_news_apart() {
                // Nobody listens to what belongs to no request.
                expected = expected.split_off(expected.len() - 1);
            }
            expected.sort_unstable();
            ensure!(
                heard == expected,
                "to {}\nthe client was to hear {expected:#?}\nand heard       {heard:#?}",
                exchange.request
            );
        }
        way.end()?;
        let renumbered = wire == Wire::Stdio && era == Era::Modern && !matches!(way, Way::Direct(_));
        let mut heard = server.heard()?;
        let mut sent: Vec<_> = corpus.iter().flat_map(Exchange::sent).collect();
        if !renumbered {
            // A notification and the request after it travel side by side over HTTP.
            heard.sort_unstable();
            sent.sort_unstable_by_key(|sent| sent.line().to_owned());
        }
        ensure!(heard.len() == sent.len(), "{} lines were sent and {} heard", sent.len(), heard.len());
        for (sent, heard) in sent.iter().zip(heard) {
            let same = if renumbered { sent.is_but_for_its_id(&heard) } else { sent.line() == heard };
            ensure!(same, "the client said {}\nand the server heard {heard}", sent.line());
        }
        Ok(())
    })
}

/// Makes a test of each way.
macro_rules! ways {
    ($($test:ident: $wire:ident, $era:ident, $connect:ident;)+) => {
        $(#[test]
        fn $test() -> Result {
            passes(Wire::$wire, Era::$era, |server| server.$connect())
        })+
    };
}

ways! {
    directly_with_sessions: Stdio, Legacy, directly;
    directly_without_sessions: Stdio, Modern, directly;
    over_the_bridge_to_a_hosted_server_with_sessions: Stdio, Legacy, bridge;
    over_the_bridge_to_a_hosted_server_without_sessions: Stdio, Modern, bridge;
    over_the_bridge_to_an_http_server_with_sessions: Http, Legacy, bridge;
    over_the_bridge_to_an_http_server_without_sessions: Http, Modern, bridge;
    over_the_bridge_to_a_server_of_the_oldest_transport: Sse, Legacy, bridge;
    at_the_port_of_a_hosted_server_with_sessions: Stdio, Legacy, port;
    at_the_port_of_a_hosted_server_without_sessions: Stdio, Modern, port;
    at_the_port_of_an_http_server_with_sessions: Http, Legacy, port;
    at_the_port_of_an_http_server_without_sessions: Http, Modern, port;
}
