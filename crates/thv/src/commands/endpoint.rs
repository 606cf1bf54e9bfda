//! What `run` takes for a server that speaks HTTP: its transport, its port, or the URL of one that runs elsewhere.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, header};
use thv_keychain::Entry;
use thv_workload::config::{HeaderForward, RunConfig, Transport};

use crate::args;
use crate::failure::{Exit, Failure, Outcome};
use crate::remote::Remote;

/// Whether a SERVER is the URL of one.
pub fn is_url(server: &str) -> bool {
    ["http://", "https://"]
        .iter()
        .any(|scheme| server.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
}

/// The transport that the arguments ask for.
pub fn transport(wanted: Option<args::Transport>, remote: bool) -> Outcome<Transport> {
    match (wanted, remote) {
        (None, true) | (Some(args::Transport::StreamableHttp), _) => Ok(Transport::StreamableHttp),
        (None | Some(args::Transport::Stdio), false) => Ok(Transport::Stdio),
        (Some(args::Transport::Sse), _) => Ok(Transport::Sse),
        (Some(args::Transport::Stdio), true) => {
            Err(Failure::new(Exit::Usage, "a URL cannot be spoken to on standard input and output")
                .hint("leave --transport out, or say which kind of HTTP it is: streamable-http or sse"))
        }
    }
}

/// The fields that are added to each request for the URL.
pub fn headers(plain: &[String], secret: &[String]) -> Outcome<HeaderForward> {
    Ok(HeaderForward {
        add_plaintext_headers: pairs(plain, "--remote-header")?,
        add_headers_from_secret: pairs(secret, "--remote-header-secret")?,
    })
}

fn pairs(given: &[String], option: &str) -> Outcome<BTreeMap<String, String>> {
    let mut fields = BTreeMap::new();
    for text in given {
        let (name, value) = text.split_once('=').ok_or_else(|| {
            // Not repeated: it may be a credential.
            Failure::new(Exit::Usage, format!("{option} takes a name, '=' and a value"))
        })?;
        if fields.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(Failure::new(Exit::Usage, format!("{option} names {name} twice")));
        }
    }
    Ok(fields)
}

/// Refuses what cannot be served as it was asked for. Wherever a run config comes from, it passes here.
pub fn check(config: &RunConfig) -> Outcome {
    let usage = |what: &str, hint: &str| Err(Failure::new(Exit::Usage, what).hint(hint));
    let HeaderForward { add_plaintext_headers: plain, add_headers_from_secret: secret } =
        &config.header_forward;
    match &config.remote_url {
        Some(url) => {
            Remote::parse(url, config.allow_insecure_remote)?;
            if config.command.is_some() {
                return usage("there are two servers, a command and a URL", "a workload has one");
            }
            if config.transport == Transport::Stdio {
                return usage(
                    "a URL cannot be spoken to on standard input and output",
                    "the transport of a URL is streamable-http or sse",
                );
            }
            if !config.cmd_args.is_empty() {
                return usage("a server that runs elsewhere takes no arguments", "leave them out");
            }
            if config.target_port != 0 {
                return usage(
                    "--target-port is for servers that are started here",
                    "put the port into the URL",
                );
            }
            if !config.env_vars.is_empty() || !config.secrets.is_empty() {
                return usage(
                    "a server that runs elsewhere has no variables of ours",
                    "leave -e, --env-file and --secret out; --remote-header-secret adds a credential to requests",
                );
            }
        }
        None if !plain.is_empty() || !secret.is_empty() || config.allow_insecure_remote => {
            return usage(
                "--remote-header, --remote-header-secret and --allow-insecure-remote are for URLs",
                "a server that is started here gets what it needs by -e or --secret",
            );
        }
        None if config.target_port != 0 && config.transport == Transport::Stdio => {
            return usage(
                "a server on standard input and output has no port",
                "leave --target-port out, or add --transport streamable-http or sse",
            );
        }
        None => {}
    }
    if config.remote_url.is_some() || config.transport != Transport::Stdio {
        for (given, option) in [
            (config.max_sessions.is_some(), "--max-sessions (max_sessions)"),
            (config.session_ttl.is_some(), "--session-ttl (session_ttl)"),
        ] {
            if given {
                return usage(
                    &format!("{option} is for servers on standard input and output"),
                    "a server that speaks HTTP keeps its sessions itself; set their number and time there",
                );
            }
        }
    }
    for (name, value) in plain {
        field(name)?;
        HeaderValue::from_str(value).map_err(|_| {
            Failure::new(Exit::Usage, format!("the value of the field {name} cannot be sent"))
        })?;
        if secret.keys().any(|other| other.eq_ignore_ascii_case(name)) {
            return usage(&format!("the field {name} would have two values"), "name it once");
        }
    }
    for (name, secret) in secret {
        field(name)?;
        Entry::secret(secret)
            .map_err(|error| Failure::new(Exit::Usage, format!("the field {name}")).because(&error))?;
    }
    Ok(())
}

/// A field that a user may add: none that frames the message, or that the proxy sets itself.
fn field(name: &str) -> Outcome {
    let parsed: HeaderName = name
        .parse()
        .map_err(|_| Failure::new(Exit::Usage, format!("{name:?} cannot be the name of a field")))?;
    let ours = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        HeaderName::from_static("x-toolhive-auth"),
    ];
    if ours.contains(&parsed) || parsed.as_str().starts_with("mcp-") {
        return Err(Failure::new(Exit::Refused, format!("the field {name} is not for users to set"))
            .hint("fields like Authorization or X-Api-Key are what --remote-header is for"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn remote(url: &str) -> RunConfig {
        RunConfig {
            remote_url: Some(url.to_owned()),
            transport: Transport::StreamableHttp,
            ..RunConfig::default()
        }
    }

    #[test]
    fn a_url_is_told_from_a_package_and_a_name() {
        assert!(is_url("http://127.0.0.1:3000/mcp") && is_url("HTTPS://example.com"));
        assert!(!is_url("npx://x") && !is_url("http") && !is_url("httpx://x"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        check(&remote("https://example.com/mcp")).unwrap();
        let with = |change: &dyn Fn(&mut RunConfig)| {
            let mut config = remote("https://example.com/mcp");
            change(&mut config);
            check(&config).map_err(|failure| failure.exit())
        };
        assert_eq!(with(&|config| config.transport = Transport::Stdio), Err(Exit::Usage));
        assert_eq!(with(&|config| config.target_port = 1), Err(Exit::Usage));
        assert_eq!(with(&|config| config.secrets = vec!["a,target=A".into()]), Err(Exit::Usage));
        assert_eq!(with(&|config| config.cmd_args = vec!["-v".into()]), Err(Exit::Usage));
        assert_eq!(with(&|config| config.remote_url = None), Ok(()));
        for process in [false, true] {
            let of = |config: &mut RunConfig| {
                if process {
                    config.remote_url = None;
                }
            };
            let sessions = with(&|config| (of(config), config.max_sessions = Some(1)).1);
            let ttl = with(&|config| (of(config), config.session_ttl = Some(Duration::from_secs(60))).1);
            assert_eq!((sessions, ttl), (Err(Exit::Usage), Err(Exit::Usage)));
        }
        let stdio = RunConfig {
            max_sessions: Some(1),
            session_ttl: Some(Duration::from_secs(60)),
            ..RunConfig::default()
        };
        check(&stdio).unwrap();
        let headers = |name: &str, value: &str| {
            let fields = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let header_forward = HeaderForward { add_plaintext_headers: fields, ..HeaderForward::default() };
            check(&RunConfig { header_forward, ..remote("https://example.com/") })
                .map_err(|failure| failure.exit())
        };
        assert_eq!(headers("X-Api-Key", "1"), Ok(()));
        for (name, exit) in [
            ("Host", Exit::Refused),
            ("X-ToolHive-Auth", Exit::Refused),
            ("Mcp-Session-Id", Exit::Refused),
            ("transfer-encoding", Exit::Refused),
            ("a b", Exit::Usage),
            ("", Exit::Usage),
        ] {
            assert_eq!(headers(name, "1"), Err(exit), "{name}");
        }
        assert_eq!(headers("X-A", "1\n"), Err(Exit::Usage));
        let local = RunConfig { target_port: 1, ..RunConfig::default() };
        assert!(check(&local).is_err());
        assert!(check(&RunConfig { transport: Transport::Sse, ..local }).is_ok());
    }
}
