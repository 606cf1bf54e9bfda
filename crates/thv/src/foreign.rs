//! Options of ToolHive's `thv` that this one does not have: refused by name, with the reason.

use clap::error::{ContextKind, ContextValue};

/// Options, and why there are none of that name here. One stands for all that go on with a dash after it.
const REASONS: [(&[&str], &str); 13] = [
    (
        &["--oidc", "--jwks", "--thv-ca-bundle", "--resource-url", "--introspection", "--token-exchange"],
        "note: this thv locks servers with a shared key and does no OIDC; use --shared-key-auth",
    ),
    (
        &["--proxy-mode", "--stateless", "--trust-proxy-headers", "--endpoint-prefix"],
        "note: the proxy of this thv speaks streamable HTTP on /mcp, and nothing stands in front of it",
    ),
    (
        &[
            "--allow-docker-gateway",
            "--ignore-globally",
            "--image",
            "--isolate-network",
            "--network",
            "--permission-profile",
            "--print-resolved-overlays",
            "--publish",
            "-p",
            "--volume",
            "-v",
        ],
        "note: this thv runs servers as processes; options for containers would enforce nothing",
    ),
    (
        &["--build-with", "--ca-cert", "--runtime-add-package", "--runtime-image"],
        "note: this thv builds no images; npx and uvx run packages as they are",
    ),
    (&["--group", "-g"], "note: this thv has no groups; label workloads with -l NAME=VALUE"),
    (&["--otel", "--enable-prometheus"], "note: this thv sends no telemetry"),
    (
        &["--enable-audit", "--audit-config"],
        "note: every authentication attempt is in the proxy's log: thv logs --proxy NAME",
    ),
    (
        &["--authz-config", "--tools", "--webhook-config"],
        "note: this thv does not filter tools, and asks nobody else about a request",
    ),
    (
        &["--strict-protocol-validation"],
        "note: this thv leaves it to the server which revisions of MCP it accepts",
    ),
    (
        &["--target-host", "--remote-auth", "--remote-forward"],
        "note: this thv speaks to servers of its own on 127.0.0.1, and adds credentials by --remote-header-secret",
    ),
    (&["--env-file-dir"], "note: this thv reads variables from one file: --env-file FILE"),
    (&["--check-upgrades"], "note: this thv knows no registry of servers"),
    (
        &["--server", "--args-file"],
        "note: this thv takes the workload as an argument, and its JSON by --args",
    ),
];

/// The reason why an option that the parser does not know is not there.
pub fn reason(error: &clap::Error) -> Option<&'static str> {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else { return None };
    let stands_for = |start: &&str| {
        option
            .strip_prefix(start)
            .is_some_and(|rest| rest.is_empty() || start.len() > 2 && rest.starts_with('-'))
    };
    let known = |(starts, _): &&(&[&str], &str)| starts.iter().any(stands_for);
    REASONS.iter().find(known).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::{CommandFactory as _, Parser as _};

    /// The options of ToolHive's commands, from its reference (August 2026).
    const TOOLHIVE: [(&str, &str); 7] = [
        (
            "run",
            "--allow-docker-gateway --allowed-origins --audit-config --authz-config --build-with --ca-cert \
             --enable-audit --endpoint-prefix -e --env --env-file --env-file-dir -f --foreground --from-config \
             --group --host --ignore-globally --image-verification --isolate-network --jwks-allow-private-ip \
             --jwks-auth-token-file -l --label --name --network --oidc-audience --oidc-client-id \
             --oidc-client-secret --oidc-insecure-allow-http --oidc-introspection-url --oidc-issuer \
             --oidc-jwks-url --oidc-scopes --otel-custom-attributes --otel-enable-prometheus-metrics-path \
             --otel-endpoint --otel-env-vars --otel-headers --otel-insecure --otel-metrics-enabled \
             --otel-sampling-rate --otel-service-name --otel-tracing-enabled --otel-use-legacy-attributes \
             --permission-profile --print-resolved-overlays --proxy-mode --proxy-port -p --publish --remote-auth \
             --remote-auth-authorize-url --remote-auth-bearer-token --remote-auth-bearer-token-file \
             --remote-auth-callback-port --remote-auth-client-id --remote-auth-client-secret \
             --remote-auth-client-secret-file --remote-auth-issuer --remote-auth-resource \
             --remote-auth-scope-param-name --remote-auth-scopes --remote-auth-skip-browser \
             --remote-auth-timeout --remote-auth-token-url --remote-forward-headers \
             --remote-forward-headers-secret --resource-url --runtime-add-package --runtime-image --secret \
             --session-ttl --stateless --strict-protocol-validation --target-host --target-port --thv-ca-bundle \
             --token-exchange-audience --token-exchange-client-id --token-exchange-client-secret \
             --token-exchange-client-secret-file --token-exchange-header-name --token-exchange-scopes \
             --token-exchange-subject-token-type --token-exchange-url --tools --tools-override --transport \
             --trust-proxy-headers -v --volume --webhook-config",
        ),
        (
            "proxy",
            "--allowed-origins --host --oidc-audience --oidc-client-id --oidc-client-secret \
             --oidc-introspection-url --oidc-issuer --oidc-jwks-url --oidc-scopes --port --remote-auth \
             --remote-auth-authorize-url --remote-auth-bearer-token --remote-auth-bearer-token-file \
             --remote-auth-callback-port --remote-auth-client-id --remote-auth-client-secret \
             --remote-auth-client-secret-file --remote-auth-issuer --remote-auth-resource \
             --remote-auth-scope-param-name --remote-auth-scopes --remote-auth-skip-browser \
             --remote-auth-timeout --remote-auth-token-url --remote-forward-headers \
             --remote-forward-headers-secret --resource-url --target-uri --token-exchange-audience \
             --token-exchange-client-id --token-exchange-client-secret --token-exchange-client-secret-file \
             --token-exchange-header-name --token-exchange-scopes --token-exchange-subject-token-type \
             --token-exchange-url",
        ),
        ("list", "-a --all --check-upgrades --format --group -l --label"),
        ("rm", "--all -g --group"),
        ("stop", "--all -g --group --timeout"),
        ("start", "--all -f --foreground -g --group"),
        ("logs", "-f --follow --proxy"),
    ];

    #[test]
    fn every_option_of_toolhive_is_ours_or_refused_with_a_reason() {
        let mut ours = Cli::command();
        ours.build();
        for (command, options) in TOOLHIVE {
            let known = ours.find_subcommand(command).unwrap();
            for option in options.split_whitespace() {
                let is_ours = known.get_arguments().any(|argument| match option.strip_prefix("--") {
                    Some(long) => argument.get_long() == Some(long),
                    None => argument.get_short() == option.chars().nth(1),
                });
                let error = Cli::try_parse_from(["thv", command, option, "x"]).err();
                let given = error.as_ref().and_then(reason);
                assert_eq!(given.is_some(), !is_ours, "thv {command} {option}: {given:?}");
            }
        }
    }

    #[test]
    fn options_that_nobody_has_are_refused_without_a_reason() {
        let of = |option: &str| {
            let error = Cli::try_parse_from(["thv", "run", option, "x", "--", "y"]).err()?;
            reason(&error)
        };
        for (starts, expected) in REASONS {
            for start in starts {
                assert_eq!(of(start), Some(expected), "{start}");
            }
        }
        for option in ["--no-such-option", "--name", "--servers", "--group-x-y=", "--volumes", "-q", "-x-"] {
            assert_eq!(of(option).is_some(), option == "--group-x-y=", "{option}");
        }
    }
}
