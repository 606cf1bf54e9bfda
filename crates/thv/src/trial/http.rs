//! The trial of a server that speaks HTTP: it must answer `initialize`, through the very service that clients will use.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use thv_proxy::body::ResponseBody;
use thv_wire::header::{PROTOCOL_VERSION, SESSION_ID};
use thv_wire::sse::EventDecoder;
use thv_workload::config::Transport;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tower_service::Service;

use super::{Answer, DISCOVER, INITIALIZE, LINE, TrialError, answered};

/// How often a server that is not up yet is asked again.
const POLL: Duration = Duration::from_millis(50);

/// How long the end of the trial's own session may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Asks until the server answers, at most for `patience`, and tells why it did not in the end. One that is `starting` may
/// not know its own endpoint yet; any other that does not know it is at another place. `cancel` ends the wait: the user
/// thought better of it, or the server has exited.
pub async fn trial<S>(
    service: S,
    transport: Transport,
    starting: bool,
    patience: Duration,
    cancel: impl Future<Output = TrialError>,
) -> Result<(), TrialError>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let mut last = None;
    let asking = async {
        loop {
            match ask(service.clone(), transport).await {
                Ok(()) => return Ok(()),
                Err(error @ TrialError::NotThere(_)) if !starting => return Err(error),
                Err(error) => last = Some(error),
            }
            sleep(POLL).await;
        }
    };
    tokio::select! {
        biased;
        why = cancel => Err(why),
        up = timeout(patience, asking) => match (up, last) {
            (Ok(outcome), _) => outcome,
            (Err(_), Some(last)) => Err(last),
            (Err(_), None) => Err(TrialError::Late(patience)),
        },
    }
}

async fn ask<S>(service: S, transport: Transport) -> Result<(), TrialError>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    match transport {
        Transport::Sse => ask_by_stream(&service).await,
        Transport::Stdio | Transport::StreamableHttp => ask_by_post(&service, transport.path()).await,
    }
}

/// A connection to the service that no socket leads to.
struct Line {
    sender: SendRequest<Full<Bytes>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Line {
    async fn open<S>(service: S) -> Result<Self, TrialError>
    where
        S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let call = hyper::service::service_fn(move |request| service.clone().call(request));
        let server = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), call);
        let server = tokio::spawn(async move { drop(server.await) });
        let (sender, client) =
            hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.map_err(|_| broken())?;
        let client = tokio::spawn(async move { drop(client.await) });
        Ok(Self { sender, tasks: [server.abort_handle(), client.abort_handle()] })
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: &'static [u8],
    ) -> Result<Response<Incoming>, TrialError> {
        let mut request = Request::new(Full::new(Bytes::from_static(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| TrialError::Refused(format!("{path:?} is no path")))?;
        *request.headers_mut() = headers;
        let host = HeaderValue::from_static("127.0.0.1");
        request.headers_mut().insert(header::HOST, host);
        self.sender.send_request(request).await.map_err(|_| broken())
    }
}

fn broken() -> TrialError {
    TrialError::Http("the connection broke off".to_owned())
}

fn fields(accept: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}

const EITHER: &str = "application/json, text/event-stream";

async fn ask_by_post<S>(service: &S, path: &str) -> Result<(), TrialError>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let mut line = Line::open(service.clone()).await?;
    let response = line.send(Method::POST, path, fields(EITHER), INITIALIZE).await?;
    let session = response.headers().get(SESSION_ID).cloned();
    match read(response).await {
        Ok(Answer::Result) => {
            if let Some(session) = session {
                end(service, path, session).await;
            }
            Ok(())
        }
        // A server of the newest era knows no `initialize`.
        Ok(Answer::Error(why)) => {
            let mut headers = fields(EITHER);
            headers.insert(PROTOCOL_VERSION, HeaderValue::from_static("2026-07-28"));
            headers.insert(thv_wire::header::METHOD, HeaderValue::from_static("server/discover"));
            let mut line = Line::open(service.clone()).await?;
            let response = line.send(Method::POST, path, headers, DISCOVER).await?;
            if matches!(read(response).await, Ok(Answer::Result)) {
                return Ok(());
            }
            Err(TrialError::Refused(why))
        }
        Err(error) => Err(error),
    }
}

/// Ends the trial's session, so that it does not count among those of clients. The server may refuse.
async fn end<S>(service: &S, path: &str, session: HeaderValue)
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let mut headers = fields(EITHER);
    headers.insert(SESSION_ID, session);
    headers.insert(PROTOCOL_VERSION, HeaderValue::from_static("2025-11-25"));
    let _ = timeout(FAREWELL, async {
        let mut line = Line::open(service.clone()).await?;
        line.send(Method::DELETE, path, headers, b"").await
    })
    .await;
}

/// The transport of 2024-11-05: the answer comes on the stream, and the stream says where to send the question.
async fn ask_by_stream<S>(service: &S) -> Result<(), TrialError>
where
    S: Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let mut line = Line::open(service.clone()).await?;
    let response = line.send(Method::GET, Transport::Sse.path(), fields("text/event-stream"), b"").await?;
    if response.status() != StatusCode::OK {
        return Err(status_of(response).await);
    }
    let mut body = response.into_body();
    let mut events = EventDecoder::new(LINE);
    let endpoint = next(&mut body, &mut events, |event| {
        let data = event.data.as_ref().filter(|_| event.event.as_deref() == Some("endpoint"))?;
        Some(String::from_utf8_lossy(data).into_owned())
    })
    .await?;
    let path = match endpoint.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
        None => endpoint,
    };
    let mut post = Line::open(service.clone()).await?;
    let posted = post.send(Method::POST, path.trim(), fields(EITHER), INITIALIZE).await?;
    if !posted.status().is_success() {
        return Err(status_of(posted).await);
    }
    match next(&mut body, &mut events, |event| answered(event.data.as_ref()?)).await? {
        Answer::Result => Ok(()),
        Answer::Error(why) => Err(TrialError::Refused(why)),
    }
}

/// The answer to the request, in whichever form it comes.
async fn read(response: Response<Incoming>) -> Result<Answer, TrialError> {
    let media = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let streamed =
        media.is_some_and(|media| media.trim().to_ascii_lowercase().starts_with("text/event-stream"));
    if !response.status().is_success() && !streamed {
        let (parts, body) = response.into_parts();
        let bytes = whole(body).await?;
        return answered(&bytes).ok_or_else(|| described(parts.status, &bytes));
    }
    let mut body = response.into_body();
    if streamed {
        let mut events = EventDecoder::new(LINE);
        return next(&mut body, &mut events, |event| answered(event.data.as_ref()?)).await;
    }
    answered(&whole(body).await?).ok_or_else(|| TrialError::Http("what came back is no answer".to_owned()))
}

async fn whole(mut body: Incoming) -> Result<Vec<u8>, TrialError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| broken())?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > LINE {
            break;
        }
    }
    Ok(bytes)
}

async fn status_of(response: Response<Incoming>) -> TrialError {
    let (parts, body) = response.into_parts();
    described(parts.status, &whole(body).await.unwrap_or_default())
}

/// A status, and what the body says about it in words, if it does. Where our own proxy explains why it could not forward,
/// the words alone count: the status is its own, and the log that it points to is gone with a workload that was not made.
fn described(status: StatusCode, body: &[u8]) -> TrialError {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let why = body.pointer("/error/message").and_then(serde_json::Value::as_str);
    let is_ours = status.is_server_error() && body.pointer("/error/data/reason").is_some();
    let text = match why {
        Some(why) if is_ours => why.split(". See thv logs ").next().unwrap_or(why).to_owned(),
        Some(why) => format!("HTTP status {status}: {why}"),
        None => format!("HTTP status {status}"),
    };
    if status.is_client_error() { TrialError::NotThere(text) } else { TrialError::Http(text) }
}

/// The first event that `pick` takes.
async fn next<T>(
    body: &mut Incoming,
    events: &mut EventDecoder,
    pick: impl Fn(&thv_wire::sse::Event) -> Option<T>,
) -> Result<T, TrialError> {
    loop {
        while let Some(event) = events.next_event() {
            if let Some(picked) = event.ok().as_ref().and_then(&pick) {
                return Ok(picked);
            }
        }
        let frame = body.frame().await.ok_or_else(broken)?.map_err(|_| broken())?;
        if let Ok(data) = frame.into_data() {
            events.push(&data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_is_said_in_words() {
        let ours = br#"{"error":{"message":"the server cannot be reached: refused. See thv logs x.","data":{"reason":"not_running"}}}"#;
        let theirs = br#"{"error":{"message":"busy"}}"#;
        for (status, body, expected) in [
            (StatusCode::BAD_GATEWAY, &ours[..], "initialize failed: the server cannot be reached: refused"),
            (StatusCode::BAD_GATEWAY, theirs, "initialize failed: HTTP status 502 Bad Gateway: busy"),
            (StatusCode::NOT_FOUND, b"<html>", "initialize was refused: HTTP status 404 Not Found"),
        ] {
            assert_eq!(described(status, body).to_string(), expected);
        }
    }
}
