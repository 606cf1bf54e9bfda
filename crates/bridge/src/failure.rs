//! Why a request was not answered by the server, and what its sender is told instead.

use std::net::SocketAddr;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;
use thv_keygen::Name;
use thv_wire::code::Reason;
use thv_wire::message::Id;
use thv_wire::message::error_response;

use crate::target::LocateError;

/// One row of the error table.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no target to send to.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// Our own 401, a second time, after the key was read again.
    #[error(
        "the supervisor of \"{0}\" refused the key, even after it was read again; \
         `thv restart {0}` makes it load its keys anew"
    )]
    KeyRefused(Name),
    /// Whoever listens there does not hold the key.
    #[error(
        "the program that listens at {addr} could not prove that it is \"{name}\" ({why}), so nothing was sent \
         to it; `thv restart {name}` starts the real one"
    )]
    Stranger { name: Name, addr: SocketAddr, why: &'static str },
    /// Nobody accepts connections there.
    #[error("\"{name}\" does not accept connections at {addr} ({cause}); `thv logs {name}` may tell why")]
    Unreachable { name: Name, addr: SocketAddr, cause: String },
    /// A session that was lost could not be begun anew, or none could be opened at all.
    #[error(
        "no session could be begun with the server: {0}; the request was not sent, and `thv logs` may tell why"
    )]
    NoSession(&'static str),
    /// The workload is spoken to over the other transport now. Nothing was sent.
    #[error("the server changed its transport while the request was on its way; the request was not sent")]
    Elsewhere,
    /// The connection broke after bytes of the request were sent.
    #[error("the connection was lost before the answer came; the request may or may not have run")]
    Lost,
    /// An HTTP error without a JSON-RPC body, or an answer that is not one.
    #[error("the server answered HTTP {status}{}", note(.what))]
    Http { status: StatusCode, what: &'static str },
    /// A message over the limit, with its size if that is known.
    #[error("the {what} is over the limit of {limit} bytes")]
    TooLarge { what: &'static str, size: Option<u64>, limit: usize },
    /// The end came first.
    #[error("the relay is shutting down; the request may or may not have run")]
    ShuttingDown,
    /// The client withdrew the request before any byte of it was sent. Nobody is told.
    #[error("withdrawn")]
    Withdrawn,
}

fn note(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(": {what}") }
}

impl Failure {
    fn reason(&self) -> Reason {
        match self {
            Self::Locate(error) => error.reason,
            Self::KeyRefused(_) => Reason::KeyRefused,
            Self::Stranger { .. } => Reason::Stranger,
            Self::Unreachable { .. } | Self::NoSession(_) | Self::Elsewhere => Reason::NotRunning,
            Self::Lost => Reason::ConnectionLost,
            Self::Http { .. } => Reason::UpstreamHttp,
            Self::TooLarge { .. } => Reason::TooLarge,
            Self::ShuttingDown | Self::Withdrawn => Reason::ShuttingDown,
        }
    }

    /// The same of another kind of message over the limit.
    pub(crate) fn of(&self, what: &'static str) -> Self {
        match self {
            Self::TooLarge { size, limit, .. } => Self::TooLarge { what, size: *size, limit: *limit },
            other => other.clone(),
        }
    }

    /// The JSON-RPC error that answers a request; without an id where the request's could not be read.
    pub(crate) fn answer(&self, id: Option<&Id>) -> Bytes {
        let reason = self.reason();
        let mut data = json!({ "reason": reason.as_str() });
        match self {
            Self::Http { status, .. } => data["httpStatus"] = status.as_u16().into(),
            Self::TooLarge { size, limit, .. } => {
                data["limit"] = (*limit).into();
                if let Some(size) = size {
                    data["size"] = (*size).into();
                }
            }
            _ => {}
        }
        error_response(id, reason.code(), &self.to_string(), Some(&data)).into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn shown(failure: &Failure) -> Value {
        serde_json::from_slice(&failure.answer(Some(&Id::number(7)))).unwrap()
    }

    #[test]
    fn each_row_of_the_table() {
        let name = Name::parse("time").unwrap();
        let addr = ([127, 0, 0, 1], 41873).into();
        let status = StatusCode::BAD_GATEWAY;
        let locked = LocateError::new(Reason::KeychainLocked, "locked; unlock it");
        let rows = [
            (Failure::Locate(locked), -33001, "keychain_locked"),
            (Failure::KeyRefused(name.clone()), -33001, "key_refused"),
            (Failure::Lost, -33002, "connection_lost"),
            (Failure::Stranger { name: name.clone(), addr, why: "no proof" }, -33003, "stranger"),
            (Failure::Unreachable { name, addr, cause: "refused".into() }, -33004, "not_running"),
            (Failure::NoSession("it takes too long"), -33004, "not_running"),
            (Failure::Elsewhere, -33004, "not_running"),
            (Failure::Http { status, what: "" }, -33005, "upstream_http"),
            (Failure::TooLarge { what: "message", size: Some(9), limit: 8 }, -33006, "too_large"),
            (Failure::ShuttingDown, -33007, "shutting_down"),
        ];
        for (failure, code, reason) in rows {
            let answer = shown(&failure);
            assert_eq!(answer["id"], 7);
            assert_eq!(answer["error"]["code"], code, "{failure}");
            assert_eq!(answer["error"]["data"]["reason"], reason, "{failure}");
        }
    }

    #[test]
    fn data_tells_status_size_and_limit() {
        let http = shown(&Failure::Http { status: StatusCode::IM_A_TEAPOT, what: "not JSON" });
        assert_eq!(http["error"]["data"]["httpStatus"], 418);
        assert_eq!(http["error"]["message"], "the server answered HTTP 418 I'm a teapot: not JSON");
        let large = shown(&Failure::TooLarge { what: "message", size: Some(9), limit: 8 });
        assert_eq!(large["error"]["data"]["size"], 9);
        assert_eq!(large["error"]["data"]["limit"], 8);
    }

    #[test]
    fn key_and_running_trouble_names_the_command_that_mends_it() {
        let name = Name::parse("time").unwrap();
        let addr = ([127, 0, 0, 1], 1).into();
        assert!(Failure::KeyRefused(name.clone()).to_string().contains("`thv restart time`"));
        let gone = Failure::Unreachable { name: name.clone(), addr, cause: "refused".into() };
        assert!(gone.to_string().contains("`thv logs time`"));
        let stranger = Failure::Stranger { name, addr, why: "wrong proof" };
        assert!(stranger.to_string().contains("`thv restart time`"));
    }
}
