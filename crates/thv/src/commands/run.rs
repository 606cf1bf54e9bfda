//! `thv run`: a new workload.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use thv_keychain::VaultError;
use thv_keygen::Name;
use thv_workload::config::{HeaderForward, RunConfig, SCHEMA_VERSION, SharedKeyAuth, Transport};
use thv_workload::creation::{Creation, CreationError};
use thv_workload::server::may_pass;
use thv_workload::status::timestamp;

use super::endpoint;
use super::lock;
use super::source::{self, Source};
use crate::args::Run;
use crate::ask;
use crate::detach;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::{self, KeyVault};
use crate::say;
use crate::secrets;
use crate::supervise::{self, Order};

/// Creates a workload and lets it run, all or nothing.
pub fn run(environment: &Environment, args: &Run, debug: bool) -> Outcome {
    let config = match &args.from_config {
        Some(path) => from_file(environment, args, path)?,
        None => from_args(environment, args)?,
    };
    let name =
        &config.name().map_err(|error| Failure::new(Exit::Usage, "this cannot be run").because(&error))?;
    let wanted = secrets::wanted(&config)?;
    let home = environment.prepared_home()?;
    let given = secrets::given(&wanted, &environment.secrets());
    // What is missing shows before anything is made.
    secrets::resolve(home, &config, &given)?;
    // The store before the workload's lock: choosing one waits for those who use it, and they for workloads.
    let vault = if config.is_locked() { KeyVault::to_fill(home)? } else { KeyVault::to_change(home)? };
    let lock = lock(home, name)?;
    if config.is_locked() {
        // A store that does not answer must be known before anything is made that would have to be undone in it.
        vault.vault().current(name).map_err(|error| keys::failed("cannot make the key", name, &error))?;
    }
    let (runtime, interrupt) = supervise::runtime()?;
    let creation = Creation::begin(home, lock, &vault, &config).map_err(|error| created(name, error))?;
    let (keys, key_info) = vault.of(name, &config)?;
    let mut order = Order {
        home,
        name: name.clone(),
        config,
        keys,
        key_info,
        given,
        ready_timeout: args.ready_timeout,
        debug,
    };
    let own_port = own_port(&order.config);
    if args.foreground {
        let up = |creation: Creation<'_, _>| {
            creation.commit();
            vault.release();
            own_port.into_iter().for_each(say::talk);
        };
        return supervise::foreground(&runtime, interrupt, order, creation, up);
    }
    let line = runtime.block_on(detach::launch(&mut order, creation.as_ref(), interrupt))?;
    creation.commit();
    own_port.into_iter().for_each(say::talk);
    say::data(&line);
    Ok(())
}

/// What the user should hear of a server that keeps a port beside the proxy.
fn own_port(config: &RunConfig) -> Option<&'static str> {
    if config.remote_url.is_some() || config.transport == Transport::Stdio {
        return None;
    }
    Some(match &config.shared_key_auth {
        Some(auth) if auth.enabled && auth.upstream_key => {
            "note: the server keeps its own port beside the proxy; only a check of TOOLHIVE_SHARED_KEY in the server locks that one"
        }
        _ => {
            "note: the server keeps its own port beside the proxy, which any program on this machine can call"
        }
    })
}

/// A workload could not be made.
pub fn created(name: &Name, error: CreationError<VaultError>) -> Failure {
    match error {
        CreationError::Exists(_) => Failure::new(Exit::Exists, error.to_string())
            .hint(format!("thv start {name} starts it again; thv rm {name} removes it")),
        CreationError::Keys(error) => keys::failed("cannot make the key", name, &error),
        error => Failure::new(Exit::Failed, format!("cannot create workload {name}")).because(&error),
    }
}

/// The run config that the arguments ask for.
fn from_args(environment: &Environment, args: &Run) -> Outcome<RunConfig> {
    let words = args.command.iter().map(|word| {
        word.to_str().map(str::to_owned).ok_or_else(|| {
            Failure::new(Exit::Usage, "the server's command has an argument that is not UTF-8 text")
                .hint("run configs are JSON and can hold text only")
        })
    });
    let words = words.collect::<Outcome<Vec<_>>>()?;
    let url = args.server.clone().filter(|server| endpoint::is_url(server));
    let Source { program, args: server_args, image, env, name } = match &url {
        Some(_) if !words.is_empty() => {
            return Err(Failure::new(Exit::Usage, "a server that runs elsewhere takes no arguments"));
        }
        Some(_) if args.no_upstream_key => {
            return Err(Failure::new(Exit::Usage, "--no-upstream-key is for servers that are started here")
                .hint("leave it out: a server that runs elsewhere is given no key of ours"));
        }
        Some(_) => Source::default(),
        None => source::resolve(environment, args.server.as_deref(), words)?,
    };
    let name = args.name.as_ref().map(|name| name.as_str().to_owned()).or(name).ok_or_else(|| {
        Failure::new(Exit::Usage, "the workload has no name").hint("thv run --name NAME -- COMMAND")
    })?;
    let mut env_vars = BTreeMap::new();
    for (name, value) in env {
        insert(&mut env_vars, &name, &value)?;
    }
    env_vars.extend(variables(environment, args)?);
    let config = RunConfig {
        schema_version: SCHEMA_VERSION.to_owned(),
        name,
        image,
        command: url.is_none().then_some(program),
        cmd_args: server_args,
        cwd: if url.is_none() { Some(environment.cwd()?.to_owned()) } else { None },
        transport: endpoint::transport(args.transport, url.is_some())?,
        remote_url: url,
        target_port: args.target_port.unwrap_or(0),
        header_forward: endpoint::headers(&args.remote_headers, &args.remote_header_secrets)?,
        allow_insecure_remote: args.allow_insecure_remote,
        host: listen_on(args.host, args.allow_remote)?,
        port: args.proxy_port.unwrap_or(0),
        port_is_explicit: args.proxy_port.is_some(),
        env_vars,
        secrets: args.secrets.clone(),
        base_env: environment.base(),
        container_labels: pairs(&args.labels, "label")?,
        allowed_origins: args.allowed_origins.clone(),
        allowed_hosts: args.allowed_hosts.clone(),
        session_ttl: args.session_ttl,
        max_sessions: args.max_sessions,
        max_message_bytes: args.max_message_bytes,
        shared_key_auth: args.shared_key_auth.then_some(SharedKeyAuth {
            enabled: true,
            key_rotation_days: 0,
            upstream_key: !args.no_upstream_key,
        }),
        created_at: timestamp(SystemTime::now()),
        ..RunConfig::default()
    };
    config.validate().map_err(|error| Failure::new(Exit::Usage, "this cannot be run").because(&error))?;
    for (name, value) in &config.header_forward.add_plaintext_headers {
        if looks_like_a_secret(name, value) || name.eq_ignore_ascii_case("authorization") {
            say::talk(&format!(
                "warning: {name} looks like a credential, and is kept in plain text in the run config; --remote-header-secret keeps it in the store"
            ));
        }
    }
    endpoint::check(&config)?;
    Ok(config)
}

/// A run config from a file, shown to the user before anything of it runs.
fn from_file(environment: &Environment, args: &Run, path: &Path) -> Outcome<RunConfig> {
    let unusable = |error: &dyn std::error::Error| {
        Failure::new(Exit::Refused, format!("{} cannot be run", path.display())).because(error)
    };
    let json = std::fs::read(path).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot read {}", path.display())).because(&error)
    })?;
    let mut config = RunConfig::parse(&json).map_err(|error| unusable(&error))?;
    if let Some(name) = &args.name {
        name.as_str().clone_into(&mut config.name);
    }
    if config.remote_url.is_some() && config.transport == Transport::Stdio {
        // Written by a program for which that goes without saying.
        config.transport = Transport::StreamableHttp;
    }
    endpoint::check(&config).map_err(|failure| failure.with_exit(Exit::Refused))?;
    if config.command.is_none() && config.remote_url.is_none() {
        let image = config.image.clone().unwrap_or_default();
        if !image.starts_with("npx://") && !image.starts_with("uvx://") {
            return Err(Failure::new(
                Exit::Refused,
                format!("{} asks for the container image {image}", path.display()),
            )
            .hint("this version runs servers as processes"));
        }
        let source = source::resolve(environment, Some(&image), config.cmd_args)?;
        config.command = Some(source.program);
        config.cmd_args = source.args;
    }
    if let Some(variable) = config.env_vars.keys().find(|variable| !may_pass(variable)) {
        return Err(Failure::new(Exit::Refused, format!("{} sets {variable}", path.display()))
            .hint("variables that begin with THV_, TOOLHIVE_ or DBUS_ lead to keys"));
    }
    config.host = match config.host.as_str() {
        "" | "localhost" => "127.0.0.1".to_owned(),
        given => listen_on(
            given.parse().map_err(|error: std::net::AddrParseError| unusable(&error))?,
            args.allow_remote,
        )?,
    };
    SCHEMA_VERSION.clone_into(&mut config.schema_version);
    if config.remote_url.is_none() {
        config.cwd = Some(config.cwd.map_or_else(|| environment.cwd().map(Path::to_owned), Ok)?);
    }
    config.base_env = environment.base();
    config.created_at = timestamp(SystemTime::now());
    if !config.port_is_explicit && config.port != 0 {
        // A port in a file was somebody's choice, or was somebody's before.
        config.port_is_explicit = true;
    }
    if args.shared_key_auth && !config.is_locked() {
        config.shared_key_auth =
            Some(SharedKeyAuth { enabled: true, key_rotation_days: 0, upstream_key: !args.no_upstream_key });
    }
    confirm(&config, args.yes)?;
    Ok(config)
}

/// A word as it is, if it is plain; otherwise quoted, with everything escaped that a terminal would act on.
fn shown(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("{word:?}") }
}

/// Shows what a run config would run, and asks.
fn confirm(config: &RunConfig, yes: bool) -> Outcome {
    // As text that a terminal shows and does not obey: the file may come from anywhere.
    let program = config.command.iter().map(|path| path.display().to_string());
    let words = program.chain(config.cmd_args.iter().cloned());
    let command: Vec<String> = words.map(|word| shown(&word)).collect();
    if let Some(url) = &config.remote_url {
        say::talk(&format!("url      {}", shown(url)));
        let HeaderForward { add_plaintext_headers: plain, add_headers_from_secret: secret } =
            &config.header_forward;
        for name in plain.keys() {
            say::talk(&format!("field    {}", shown(name)));
        }
        for (name, secret) in secret {
            say::talk(&format!("field    {} from the secret {}", shown(name), shown(secret)));
        }
    } else {
        say::talk(&format!("command  {}", command.join(" ")));
        let folder = config.cwd.as_deref().unwrap_or(Path::new("/")).display().to_string();
        say::talk(&format!("folder   {}", shown(&folder)));
    }
    for (name, value) in &config.env_vars {
        let value = if looks_like_a_secret(name, value) { "(not shown)".to_owned() } else { shown(value) };
        say::talk(&format!("env      {}={value}", shown(name)));
    }
    for secret in &config.secrets {
        say::talk(&format!("secret   {}", shown(secret)));
    }
    say::talk(&format!("lock     {}", if config.is_locked() { "shared key" } else { "open" }));
    if yes {
        return Ok(());
    }
    ask::whether("Run it?", "nothing was run", "add --yes if this is what you want")
}

/// The address to listen on, which only a word of the user puts within reach of other machines.
pub fn listen_on(host: IpAddr, allow_remote: bool) -> Outcome<String> {
    if !host.is_loopback() {
        if !allow_remote {
            return Err(Failure::new(Exit::Refused, format!("{host} can be reached from other machines"))
                .hint("leave --host out, or add --allow-remote if that is what you want"));
        }
        say::talk(&format!(
            "warning: {host} can be reached from other machines, and nothing there is encrypted"
        ));
    }
    Ok(host.to_string())
}

/// The variables of `--env-file` and `-e`, the latter winning.
fn variables(environment: &Environment, args: &Run) -> Outcome<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    if let Some(path) = &args.env_file {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot read {}", path.display())).because(&error)
        })?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once('=').ok_or_else(|| {
                Failure::new(Exit::Usage, format!("{} has a line without '='", path.display()))
                    .hint("write NAME=VALUE on each line; lines that begin with # are skipped")
            })?;
            insert(&mut variables, name.trim(), value)?;
        }
    }
    for given in &args.env {
        let (name, value) = match given.split_once('=') {
            Some((name, value)) => (name, value),
            None => (
                given.as_str(),
                environment.variable(given).ok_or_else(|| {
                    Failure::new(Exit::Usage, format!("-e {given}: there is no such variable here"))
                        .hint(format!("give it a value: -e {given}=…"))
                })?,
            ),
        };
        insert(&mut variables, name, value)?;
    }
    Ok(variables)
}

fn insert(variables: &mut BTreeMap<String, String>, name: &str, value: &str) -> Outcome {
    if name.is_empty() || name.contains('\0') || value.contains('\0') {
        return Err(Failure::new(Exit::Usage, "a variable for the server has no name, or holds a zero byte"));
    }
    if !may_pass(name) {
        return Err(Failure::new(Exit::Refused, format!("{name} is not handed to servers"))
            .hint("variables that begin with THV_, TOOLHIVE_ or DBUS_ lead to keys"));
    }
    if looks_like_a_secret(name, value) {
        say::talk(&format!(
            "warning: {name} looks like a secret, and is kept in plain text in the run config"
        ));
    }
    variables.insert(name.to_owned(), value.to_owned());
    Ok(())
}

/// A guess from the name and from prefixes that issuers use. It errs on the side of warning.
fn looks_like_a_secret(name: &str, value: &str) -> bool {
    const WORDS: [&str; 6] = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "API_KEY"];
    const PREFIXES: [&str; 7] = ["ghp_", "github_pat_", "sk-", "xoxb-", "xoxp-", "AKIA", "glpat-"];
    let upper = name.to_ascii_uppercase();
    !value.is_empty()
        && (WORDS.iter().any(|word| upper.contains(word))
            || upper.ends_with("_KEY")
            || PREFIXES.iter().any(|prefix| value.starts_with(prefix)))
}

fn pairs(given: &[String], what: &str) -> Outcome<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Failure::new(Exit::Usage, format!("{text} is not a {what}")).hint("write it as NAME=VALUE")),
    };
    given.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_guessed_from_name_or_value() {
        for (name, value) in
            [("GITHUB_TOKEN", "x"), ("db_password", "x"), ("OPENAI_API_KEY", "x"), ("X", "ghp_abc")]
        {
            assert!(looks_like_a_secret(name, value), "{name}");
        }
        for (name, value) in [("PATH", "/bin"), ("KEYBOARD", "de"), ("GITHUB_TOKEN", "")] {
            assert!(!looks_like_a_secret(name, value), "{name}");
        }
    }

    #[test]
    fn a_terminal_shows_a_word_and_does_not_obey_it() {
        assert_eq!(shown("/usr/bin/python3"), "/usr/bin/python3");
        assert_eq!(shown("a b"), "\"a b\"");
        assert_eq!(shown("\r\u{1b}[2K"), "\"\\r\\u{1b}[2K\"");
        assert_eq!(shown(""), "\"\"");
    }

    #[test]
    fn variables_that_lead_to_keys_are_refused() {
        let mut variables = BTreeMap::new();
        assert_eq!(insert(&mut variables, "THV_HOME", "/x").unwrap_err().exit(), Exit::Refused);
        assert_eq!(insert(&mut variables, "", "/x").unwrap_err().exit(), Exit::Usage);
        insert(&mut variables, "TZ", "UTC").unwrap();
        assert_eq!(variables.len(), 1);
    }

    #[test]
    fn an_address_beyond_this_machine_needs_a_word() {
        assert_eq!(listen_on("0.0.0.0".parse().unwrap(), false).unwrap_err().exit(), Exit::Refused);
        assert_eq!(listen_on("::1".parse().unwrap(), false).unwrap(), "::1");
    }
}
