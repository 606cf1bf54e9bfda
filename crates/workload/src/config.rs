//! The run config: what a user asked for, as written to `runconfig.json`.
//!
//! Names are those of ToolHive's `RunConfig` where it has them, ours stand beside them. Fields that we do not know
//! survive being read and written; settings that we know and cannot enforce are refused by name, since a lock that
//! silently ignores an order is worse than none.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thv_keygen::Name;

use crate::span;

/// The version that this crate writes.
pub const SCHEMA_VERSION: &str = "v0.1.0";

/// Settings of other programs that would have to be enforced, and are not.
const NOT_ENFORCED: [&str; 24] = [
    "additional_middleware_configs",
    "audit_config",
    "audit_config_path",
    "authz_config",
    "authz_config_path",
    "aws_sts_config",
    "embedded_auth_server_config",
    "ignore_config",
    "isolate_network",
    "middleware_configs",
    "mutating_webhooks",
    "network",
    "oidc_config",
    "permission_profile",
    "permission_profile_name_or_path",
    "rate_limit_config",
    "remote_auth_config",
    "strict_protocol_validation",
    "token_exchange_config",
    "tools_filter",
    "tools_override",
    "upstream_swap_config",
    "validating_webhooks",
    "volumes",
];

/// How a server speaks MCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Newline-delimited JSON on standard input and output.
    #[default]
    Stdio,
    /// The streamable HTTP transport of 2025-03-26 and later.
    StreamableHttp,
    /// The HTTP+SSE transport of 2024-11-05.
    Sse,
}

impl Transport {
    /// The name as written on the command line and in files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::StreamableHttp => "streamable-http",
            Self::Sse => "sse",
        }
    }

    /// The path of the endpoint that clients call.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Stdio | Self::StreamableHttp => "/mcp",
            Self::Sse => "/sse",
        }
    }
}

/// Whether requests need the workload's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedKeyAuth {
    /// Whether there is a lock at all.
    pub enabled: bool,
    /// Days after which the key is to be replaced; 0 is never.
    #[serde(default)]
    pub key_rotation_days: i64,
    /// Whether the server is given a key of its own to check the proxy with.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub upstream_key: bool,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands in a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

/// Fields of the header that are added to each request for an endpoint that runs elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderForward {
    /// Values by the name of the field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add_plaintext_headers: BTreeMap<String, String>,
    /// Names of secrets, whose values are sent, by the name of the field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub add_headers_from_secret: BTreeMap<String, String>,
}

impl HeaderForward {
    fn is_empty(&self) -> bool {
        self.add_plaintext_headers.is_empty() && self.add_headers_from_secret.is_empty()
    }
}

/// A workload as it was asked for. It never holds a key or the value of a secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunConfig {
    /// The version of this format.
    #[serde(default)]
    pub schema_version: String,
    /// The workload's name, as the user spelled it.
    #[serde(default)]
    pub name: String,
    /// Where the server came from when it is not a plain command: `npx://PKG`, `uvx://PKG`, an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The endpoint, when the server runs elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_url: Option<String>,
    /// The program, as an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<PathBuf>,
    /// Its arguments.
    #[serde(default)]
    pub cmd_args: Vec<String>,
    /// The folder in which it is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// How the server speaks.
    #[serde(default)]
    pub transport: Transport,
    /// The address that the proxy listens on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The port that the proxy listens on; 0 until one was picked.
    #[serde(default)]
    pub port: u16,
    /// Whether the user named that port.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub port_is_explicit: bool,
    /// The port that an HTTP server listens on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub target_port: u16,
    /// Variables that the user gave to the server.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env_vars: BTreeMap<String, String>,
    /// The user's own environment at the time of `run`: the few variables that every server gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub base_env: BTreeMap<String, String>,
    /// Secrets for the server, as `NAME,target=VARIABLE`: names, never values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Fields that are added to each request for an endpoint that runs elsewhere.
    #[serde(default, skip_serializing_if = "HeaderForward::is_empty")]
    pub header_forward: HeaderForward,
    /// Whether the endpoint may be spoken to beyond this machine without encryption.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_insecure_remote: bool,
    /// The user's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub container_labels: BTreeMap<String, String>,
    /// Origins whose pages may call the proxy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<String>,
    /// Hosts that the proxy answers to besides its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// How long an idle session is kept; in the file a duration of Go, such as `30m0s`.
    #[serde(default, with = "span", skip_serializing_if = "Option::is_none")]
    pub session_ttl: Option<Duration>,
    /// How many sessions there may be at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<usize>,
    /// The largest message, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<usize>,
    /// The lock.
    #[serde(rename = "sharedKeyAuth", default, skip_serializing_if = "Option::is_none")]
    pub shared_key_auth: Option<SharedKeyAuth>,
    /// When the workload was created (RFC 3339).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub created_at: String,
    /// What we do not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if hands in a reference")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

/// Why a run config cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or a field of the wrong type.
    #[error("it is not a run config")]
    Json(#[from] serde_json::Error),
    /// Written by a version that may mean something else by the same words.
    #[error("its schema_version is {0:?}; this program reads {SCHEMA_VERSION}")]
    Version(String),
    /// The name breaks the grammar.
    #[error("its name {name:?} cannot be used: {source}")]
    Name {
        /// The name in the file.
        name: String,
        /// The rule.
        source: thv_keygen::NameError,
    },
    /// A number of days below zero.
    #[error("sharedKeyAuth.keyRotationDays is {0}; it is a number of days, or 0 for never")]
    RotationDays(i64),
    /// A key that would have to be replaced in time.
    #[error(
        "sharedKeyAuth.keyRotationDays is {0}, and this program does not replace keys by itself yet; set it to 0"
    )]
    NoRotation(i64),
    /// A setting that we cannot enforce.
    #[error("it asks for {0}, which this program does not enforce; remove the field to go on without it")]
    NotEnforced(&'static str),
    /// Nothing to run.
    #[error("it names no server: one of command, image and remote_url is needed")]
    NoServer,
    /// A path that means another place in every folder.
    #[error("its {0} must be an absolute path")]
    Relative(&'static str),
}

impl RunConfig {
    /// Reads and checks a run config.
    ///
    /// # Errors
    /// Every [`ConfigError`].
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Every [`ConfigError`] but [`ConfigError::Json`].
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !matches!(self.schema_version.as_str(), "" | SCHEMA_VERSION) {
            return Err(ConfigError::Version(self.schema_version.clone()));
        }
        self.name()?;
        match self.shared_key_auth.as_ref().map_or(0, |auth| auth.key_rotation_days) {
            0 => {}
            days @ ..0 => return Err(ConfigError::RotationDays(days)),
            // A key that outlives its days would be a promise that nobody keeps.
            days => return Err(ConfigError::NoRotation(days)),
        }
        for field in NOT_ENFORCED {
            if self.other.get(field).is_some_and(asks_for_something) {
                return Err(ConfigError::NotEnforced(field));
            }
        }
        if self.command.is_none() && self.image.is_none() && self.remote_url.is_none() {
            return Err(ConfigError::NoServer);
        }
        if self.command.as_ref().is_some_and(|path| path.is_relative()) {
            return Err(ConfigError::Relative("command"));
        }
        if self.cwd.as_ref().is_some_and(|path| path.is_relative()) {
            return Err(ConfigError::Relative("cwd"));
        }
        Ok(())
    }

    /// The workload's name.
    ///
    /// # Errors
    /// The name in the file breaks the grammar.
    pub fn name(&self) -> Result<Name, ConfigError> {
        Name::parse(&self.name).map_err(|source| ConfigError::Name { name: self.name.clone(), source })
    }

    /// Whether requests need the workload's key.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.shared_key_auth.as_ref().is_some_and(|auth| auth.enabled)
    }

    /// The text to write: indented, with a newline at its end.
    ///
    /// # Errors
    /// A field that cannot be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, ConfigError> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// What the server is, for people: the image, the endpoint or the command's file name.
    #[must_use]
    pub fn package(&self) -> String {
        let command = || {
            let name = self.command.as_ref()?.file_name()?;
            Some(name.to_string_lossy().into_owned())
        };
        self.image.clone().or_else(|| self.remote_url.clone()).or_else(command).unwrap_or_default()
    }
}

fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        RunConfig::parse(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn unknown_fields_survive() {
        let json = br#"{"schema_version":"v0.1.0","name":"time","command":"/bin/cat","group":"default","x":{"y":[1]}}"#;
        let config = RunConfig::parse(json).unwrap();
        let again: Value = serde_json::from_slice(&config.to_json().unwrap()).unwrap();
        assert_eq!(again["group"], "default");
        assert_eq!(again["x"]["y"][0], 1);
        assert_eq!(RunConfig::parse(&config.to_json().unwrap()).unwrap(), config);
    }

    /// As ToolHive writes them.
    #[test]
    fn settings_that_are_not_enforced_are_refused_by_name() {
        for (field, asks, harmless) in [
            ("additional_middleware_configs", r#"[{"type":"obo"}]"#, "[]"),
            ("audit_config", r#"{"component":"x"}"#, "null"),
            ("audit_config_path", r#""/etc/audit.json""#, r#""""#),
            ("authz_config", r#"{"type":"cedarv1"}"#, "null"),
            ("authz_config_path", r#""/etc/authz.json""#, r#""""#),
            ("aws_sts_config", r#"{"region":"eu-north-1"}"#, "null"),
            ("embedded_auth_server_config", r#"{"issuer":"https://example.org"}"#, "null"),
            ("ignore_config", r#"{"load_global":true}"#, "null"),
            ("isolate_network", "true", "false"),
            ("middleware_configs", r#"[{"type":"auth"}]"#, "[]"),
            ("mutating_webhooks", r#"[{"name":"x"}]"#, "[]"),
            ("network", r#"{"mode":"none"}"#, "null"),
            ("oidc_config", r#"{"issuer":"https://example.org"}"#, "null"),
            ("permission_profile", r#"{"network":{"outbound":{}}}"#, "null"),
            ("permission_profile_name_or_path", r#""none""#, r#""""#),
            ("rate_limit_config", r#"{"shared":{}}"#, "null"),
            ("remote_auth_config", r#"{"client_id":"x"}"#, "null"),
            ("strict_protocol_validation", "true", "false"),
            ("token_exchange_config", r#"{"audience":"x"}"#, "null"),
            ("tools_filter", r#"["read"]"#, "[]"),
            ("tools_override", r#"{"read":{"name":"look"}}"#, "{}"),
            ("upstream_swap_config", r#"{"header_strategy":"replace"}"#, "null"),
            ("validating_webhooks", r#"[{"name":"x"}]"#, "[]"),
            ("volumes", r#"["/a:/b:ro"]"#, "[]"),
        ] {
            let json = |value: &str| {
                format!(r#"{{"name":"a","command":"/bin/cat","{field}":{value}}}"#).into_bytes()
            };
            match RunConfig::parse(&json(asks)) {
                Err(ConfigError::NotEnforced(named)) => assert_eq!(named, field),
                other => panic!("{field}: {other:?}"),
            }
            assert!(RunConfig::parse(&json(harmless)).is_ok(), "{field}");
        }
    }

    /// What `thv export` of ToolHive writes for `thv run --session-ttl 90m https://…`, but for the middleware.
    #[test]
    fn an_exported_file_of_toolhive_means_what_it_says() {
        let exported = br#"{"schema_version":"v0.1.0","image":"","remote_url":"https://example.org/mcp",
            "name":"far","base_name":"far","transport":"streamable-http","host":"127.0.0.1","port":41873,
            "permission_profile":null,"env_vars":{"MCP_TRANSPORT":"streamable-http"},
            "container_labels":{"toolhive":"true"},"session_ttl":"1h30m0s","proxy_mode":"streamable-http",
            "group":"default"}"#;
        let config = RunConfig::parse(exported).unwrap();
        assert_eq!(config.session_ttl, Some(Duration::from_secs(90 * 60)));
        let again: Value = serde_json::from_slice(&config.to_json().unwrap()).unwrap();
        assert_eq!((&again["session_ttl"], &again["group"]), (&"1h30m0s".into(), &"default".into()));
        let none = RunConfig::parse(br#"{"name":"a","command":"/bin/cat","session_ttl":""}"#).unwrap();
        assert_eq!(none.session_ttl, None);
    }

    #[test]
    fn bad_values_are_named() {
        let cases = [
            ("{", "not a run config"),
            (r#"{"name":"../x","command":"/bin/cat"}"#, "../x"),
            (r#"{"name":"a"}"#, "names no server"),
            (r#"{"name":"a","command":"cat"}"#, "absolute"),
            (r#"{"name":"a","command":"/bin/cat","cwd":"."}"#, "cwd"),
            (r#"{"name":"a","command":"/bin/cat","schema_version":"v9"}"#, "v9"),
            (r#"{"name":"a","command":"/bin/cat","port":70000}"#, "not a run config"),
            (
                r#"{"name":"a","command":"/bin/cat","sharedKeyAuth":{"enabled":true,"keyRotationDays":-1}}"#,
                "keyRotationDays is -1",
            ),
            (
                r#"{"name":"a","command":"/bin/cat","sharedKeyAuth":{"enabled":true,"keyRotationDays":30}}"#,
                "keyRotationDays is 30, and this program does not replace keys",
            ),
            (r#"{"name":"a","command":"/bin/cat","session_ttl":1800}"#, "not a run config"),
        ];
        for (json, word) in cases {
            assert!(error(json).contains(word), "{json}: {}", error(json));
        }
    }
}
