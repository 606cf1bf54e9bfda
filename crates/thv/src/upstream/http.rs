//! A server that speaks HTTP: one that we keep running on a port of its own, or one that runs elsewhere.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::http::{HeaderMap, HeaderName, HeaderValue};
use thv_keychain::Secrets;
use thv_keygen::Name;
use thv_proxy::forward::{
    self, Forward, OnReport, Options, Outcome as Ending, Paths, TcpConnect, secret_value,
};
use thv_workload::config::{HeaderForward, Transport};
use thv_workload::http::{Current, HttpServer, TargetPort};
use thv_workload::server::ServerSpec;
use tokio::sync::watch;

use super::dial::{Dial, Own};
use super::health::attend;
use super::spec::{on_port, specify};
use super::{log_length, not_started, owner};
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::KeyVault;
use crate::remote::Remote;
use crate::secrets;
use crate::supervise::Order;
use crate::trial::TrialError;
use crate::trial::http::trial;

/// The path that clients of the 2024-11-05 transport open.
const SSE: &str = "/sse";

/// A proxy to a server, and the server if it is ours.
pub struct HttpUpstream {
    forward: Forward<Dial>,
    server: Mutex<Option<HttpServer<Option<HeaderValue>>>>,
    trouble: Option<watch::Receiver<Option<String>>>,
}

impl HttpUpstream {
    /// Starts the workload's server and waits until it answers.
    pub async fn of_process(order: &Order<'_>, cancel: impl Future<Output = ()>) -> Outcome<Self> {
        let specified = specify(order)?;
        let spec = specified.spec.clone();
        let transport = order.config.transport;
        let port = match order.config.target_port {
            0 => TargetPort::Free,
            port => TargetPort::Exactly(port),
        };
        let stays = port != TargetPort::Free;
        let before = log_length(&spec);
        let make = move |port| {
            if stays {
                owner::vacant(port)?;
            }
            // Each process has a key of its own, so that what the last one was given is worth nothing.
            let (spec, key) = specified.start()?;
            let key = key.map(|key| secret_value(key.expose_text())).transpose().map_err(io::Error::other)?;
            Ok((on_port(&spec, transport, port), key))
        };
        let server = HttpServer::start(port, make).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => taken(order, &error),
            _ => not_started(order, &spec, before, &TrialError::Spawn(error)),
        })?;
        let current = server.current();
        let addr = current.borrow().addr;
        let (trouble, _) = watch::channel(None);
        let own = Own { current: current.clone(), stays, owner: Arc::default(), trouble };
        let dial = Dial::Own(own.clone());
        let on_trial = Arc::new(AtomicBool::new(true));
        let made = upstream(&format!("http://{addr}/"), order).and_then(|upstream| {
            let paths = Paths::one_to_one();
            forward(order, dial, upstream, paths, HeaderMap::new(), &on_trial)
        });
        let tried = match made {
            Ok(forward) => {
                let ended = ended(current, cancel);
                match trial(forward.clone(), transport, true, order.ready_timeout, ended).await {
                    Ok(()) => Ok(forward),
                    Err(error) => Err(Refusal::Trial(spec, error)),
                }
            }
            Err(failure) => Err(Refusal::Failure(failure)),
        };
        match tried {
            Ok(forward) => {
                on_trial.store(false, Ordering::Relaxed);
                let trouble = Some(own.trouble.subscribe());
                tokio::spawn(attend(own, forward.clone()));
                Ok(Self { forward, server: Mutex::new(Some(server)), trouble })
            }
            Err(refusal) => {
                server.stop().await;
                Err(match refusal {
                    Refusal::Trial(spec, error) => not_started(order, &spec, before, &error),
                    Refusal::Failure(failure) => failure,
                })
            }
        }
    }

    /// Asks the server at a URL whether it answers.
    pub async fn of_url(order: &Order<'_>, url: &str, cancel: impl Future<Output = ()>) -> Outcome<Self> {
        let remote = Remote::parse(url, order.config.allow_insecure_remote)?;
        let transport = order.config.transport;
        let unusable = |error: &dyn std::error::Error| {
            Failure::new(Exit::Usage, format!("the URL of {} cannot be used", order.name)).because(error)
        };
        let upstream = upstream(&remote.url(), order)?;
        let paths = match transport {
            Transport::Sse => Paths::map(SSE, upstream.path()).map(Paths::and_others),
            Transport::Stdio | Transport::StreamableHttp => Paths::map(transport.path(), upstream.path()),
        };
        let paths = paths.map_err(|error| unusable(&error))?;
        let dial = dial(&remote, order)?;
        let on_trial = Arc::new(AtomicBool::new(true));
        let forward = forward(order, dial, upstream, paths, headers(order)?, &on_trial)?;
        let cancelled = async {
            cancel.await;
            TrialError::Cancelled
        };
        trial(forward.clone(), transport, false, order.ready_timeout, cancelled).await.map_err(|error| {
            Failure::new(Exit::Failed, format!("the server at {} does not answer", remote.shown()))
                .because(&error)
                .hint("see whether it runs, and whether the URL is that of its MCP endpoint")
        })?;
        on_trial.store(false, Ordering::Relaxed);
        Ok(Self { forward, server: Mutex::new(None), trouble: None })
    }

    /// The proxy.
    pub fn service(&self) -> Forward<Dial> {
        self.forward.clone()
    }

    /// What is wrong with a server of ours.
    pub fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        self.trouble.clone()
    }

    /// Ends the server, if it is ours, and the streams of any.
    pub async fn shutdown(&self) {
        self.forward.end_streams();
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            server.stop().await;
        }
    }
}

enum Refusal {
    Trial(ServerSpec, TrialError),
    Failure(Failure),
}

/// Resolves when the wait for the first answer has become pointless.
async fn ended<T>(mut current: watch::Receiver<Current<T>>, cancel: impl Future<Output = ()>) -> TrialError {
    tokio::select! {
        biased;
        () = cancel => TrialError::Cancelled,
        _ = current.wait_for(|current| current.exits > 0) => TrialError::Ended,
    }
}

/// Somebody has the port that the server is to listen on.
fn taken(order: &Order<'_>, error: &io::Error) -> Failure {
    Failure::new(Exit::Refused, format!("the server of {} has no port to listen on", order.name))
        .because(error)
        .hint("end that program, or choose another port with --target-port")
}

fn upstream(url: &str, order: &Order<'_>) -> Outcome<forward::Upstream> {
    forward::Upstream::parse(url).map_err(|error| {
        Failure::new(Exit::Usage, format!("the URL of {} cannot be used", order.name)).because(&error)
    })
}

/// What becomes of requests goes to the log: from the trial, which asks again and again, each fault once.
fn told(name: Name, on_trial: Arc<AtomicBool>) -> OnReport {
    let last = Mutex::new(String::new());
    OnReport::new(move |report| {
        let Ending::Failed(fault) = report.outcome else { return };
        if on_trial.load(Ordering::Relaxed) {
            let fault = fault.to_string();
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if *last == fault {
                return;
            }
            *last = fault;
        }
        tracing::warn!(workload = %name, method = %report.method, path = report.path, %fault, "not forwarded in full");
    })
}

fn forward(
    order: &Order<'_>,
    dial: Dial,
    upstream: forward::Upstream,
    paths: Paths,
    headers: HeaderMap,
    on_trial: &Arc<AtomicBool>,
) -> Outcome<Forward<Dial>> {
    let name = order.name.clone();
    let mut options = Options {
        paths,
        headers,
        sse_path: (order.config.transport == Transport::Sse).then(|| SSE.to_owned()),
        advice: format!("See thv logs {name}."),
        on_report: told(name, Arc::clone(on_trial)),
        ..Options::default()
    };
    if let Some(bytes) = order.config.max_message_bytes {
        options.max_message_bytes = bytes;
    }
    Forward::new(dial, upstream, options).map_err(|error| {
        Failure::new(Exit::Usage, format!("workload {} cannot be served as it was asked for", order.name))
            .because(&error)
    })
}

/// The fields that the user wants added, credentials from the store among them.
fn headers(order: &Order<'_>) -> Outcome<HeaderMap> {
    let HeaderForward { add_plaintext_headers: plain, add_headers_from_secret: secret_names } =
        &order.config.header_forward;
    let mut headers = HeaderMap::new();
    let wrong = |name: &str| Failure::new(Exit::Usage, format!("the field {name} cannot be sent"));
    for (name, value) in plain {
        let field: HeaderName = name.parse().map_err(|_| wrong(name))?;
        headers.insert(field, HeaderValue::from_str(value).map_err(|_| wrong(name))?);
    }
    if secret_names.is_empty() {
        return Ok(headers);
    }
    let vault = KeyVault::open(order.home)?;
    let kept = Secrets::new(vault.vault().store());
    for (name, secret_name) in secret_names {
        let field: HeaderName = name.parse().map_err(|_| wrong(name))?;
        let value = kept.get(secret_name).map_err(|error| secrets::failed(&error))?;
        headers.insert(field, secret(order, Exposed(value))?);
    }
    Ok(headers)
}

struct Exposed(thv_keychain::Secret);

impl AsRef<[u8]> for Exposed {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

fn secret(order: &Order<'_>, value: impl AsRef<[u8]> + Send + 'static) -> Outcome<HeaderValue> {
    secret_value(value).map_err(|_| {
        Failure::new(Exit::Refused, format!("a secret of {} cannot stand in a header", order.name))
            .hint("a field holds text in one line")
    })
}

#[cfg(feature = "tls")]
fn dial(remote: &Remote, order: &Order<'_>) -> Outcome<Dial> {
    let connect = TcpConnect::to_host(remote.dialled(), remote.port);
    if !remote.https {
        return Ok(Dial::Plain(connect));
    }
    let tls = forward::TlsConnect::with_system_roots(connect, &remote.host);
    tls.map(Dial::Tls).map_err(|error| {
        Failure::new(Exit::Failed, format!("no encrypted connection for {}", order.name)).because(&error)
    })
}

#[cfg(not(feature = "tls"))]
fn dial(remote: &Remote, order: &Order<'_>) -> Outcome<Dial> {
    if remote.https {
        return Err(without_tls(&order.name));
    }
    Ok(Dial::Plain(TcpConnect::to_host(remote.dialled(), remote.port)))
}

/// What a build says that cannot speak TLS.
#[cfg(any(test, not(feature = "tls")))]
fn without_tls(name: &Name) -> Failure {
    Failure::new(Exit::Refused, format!("this thv was built without TLS, which the URL of {name} asks for"))
        .hint("build it with its feature tls, which is on by default")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_tls_refuses_and_says_what_it_lacks() {
        let failure = without_tls(&Name::parse("crm").unwrap());
        assert_eq!(failure.exit(), Exit::Refused);
        assert!(failure.render().contains("crm") && failure.render().contains("feature tls"));
    }
}
