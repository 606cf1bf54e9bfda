//! Options of ToolHive's `thv` that this one does not have: refused by name, with the reason.

use clap::error::{ContextKind, ContextValue};

/// Beginnings of options, and why there is no such option here.
const REASONS: [(&[&str], &str); 8] = [
    (
        &["--oidc-", "--jwks-", "--thv-ca-bundle", "--resource-url", "--introspection-", "--token-exchange-"],
        "note: this thv locks servers with a shared key and does no OIDC; use --shared-key-auth",
    ),
    (
        &["--proxy-mode", "--stateless", "--trust-proxy-headers", "--endpoint-prefix"],
        "note: the proxy of this thv speaks streamable HTTP on /mcp, and nothing stands in front of it",
    ),
    (
        &[
            "--permission-profile",
            "--isolate-network",
            "--network",
            "--volume",
            "--image-",
            "--ca-cert",
            "--ignore-globally",
            "--print-resolved-overlays",
            "--publish",
        ],
        "note: this thv runs servers as processes; options for containers would enforce nothing",
    ),
    (&["--group"], "note: this thv has no groups; label workloads with -l NAME=VALUE"),
    (&["--otel-", "--enable-prometheus"], "note: this thv sends no telemetry"),
    (
        &["--enable-audit", "--audit-config"],
        "note: every authentication attempt is in the proxy's log: thv logs --proxy NAME",
    ),
    (&["--authz-config", "--tools"], "note: this thv does not filter tools"),
    (
        &["--target-host", "--remote-auth", "--remote-forward"],
        "note: this thv speaks to servers of its own on 127.0.0.1, and adds credentials by --remote-header-secret",
    ),
];

/// The reason why an option that the parser does not know is not there.
pub fn reason(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    let known = |(starts, _): &&(&[&str], &str)| starts.iter().any(|start| option.starts_with(start));
    REASONS.iter().find(known).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser as _;

    #[test]
    fn options_of_toolhive_are_refused_with_a_reason_and_others_without() {
        let of = |option: &str| {
            let error = Cli::try_parse_from(["thv", "run", option, "x", "--", "y"]).err()?;
            reason(&error)
        };
        for (starts, expected) in REASONS {
            for start in starts {
                assert_eq!(of(start), Some(expected), "{start}");
            }
        }
        assert_eq!(of("--no-such-option"), None);
        assert_eq!(of("--name"), None);
    }
}
