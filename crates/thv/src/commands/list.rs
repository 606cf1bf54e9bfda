//! `thv list`: what there is and what of it runs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use thv_workload::config::{RunConfig, Transport};
use thv_workload::control::{self, Request};
use thv_workload::home::Home;
use thv_workload::registry::{self, Workload};
use thv_workload::status::State;
use tokio::task::JoinSet;

use super::damaged;
use crate::args::{List, ListFormat};
use crate::commands::mcpservers;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::remote::Remote;
use crate::say;

/// How long supervisors may take to say how many sessions they have, all of them together.
const PATIENCE: Duration = Duration::from_millis(200);

/// One row of `--format json`. Fields are added, never renamed or removed.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    status: &'a str,
    desired: &'a str,
    url: String,
    port: u16,
    transport_type: &'a str,
    proxy_mode: &'a str,
    package: String,
    runtime: &'a str,
    remote: bool,
    pid: Option<u32>,
    created_at: &'a str,
    started_at: Option<&'a str>,
    status_context: &'a str,
    sessions: Option<usize>,
    labels: &'a std::collections::BTreeMap<String, String>,
    shared_key_auth: Option<KeyRow<'a>>,
}

#[derive(Serialize)]
struct KeyRow<'a> {
    enabled: bool,
    key_id: Option<&'a str>,
    rotated_at: Option<&'a str>,
    key_rotation_days: i64,
}

/// Lists workloads. A damaged one is reported and does not hide the others.
pub fn list(environment: &Environment, args: &List) -> Outcome {
    let home = environment.checked_home()?;
    let labels: Vec<(&str, &str)> = args
        .labels
        .iter()
        .map(|label| {
            label.split_once('=').ok_or_else(|| {
                Failure::new(Exit::Usage, format!("{label} is not a label")).hint("write it as NAME=VALUE")
            })
        })
        .collect::<Outcome<_>>()?;

    let names = registry::names(home)
        .map_err(|error| Failure::new(Exit::Failed, "cannot list the workloads").because(&error))?;
    let mut outcome = Ok(());
    let mut found = Vec::new();
    for name in &names {
        // What is being created at this moment is for this list alone.
        match registry::load(home, name).map(|workload| workload.or_else(|| registry::coming(home, name))) {
            Ok(Some(workload)) if shown(&workload, args.all, &labels) => found.push(workload),
            Ok(_) => {}
            Err(error) => outcome = outcome.and(Err(damaged(name, &error))),
        }
    }
    match args.format {
        ListFormat::Json => say::data(&json(&found, &sessions(home, &found))?),
        ListFormat::Mcpservers => say::data(&mcpservers::text(environment, &found)?),
        ListFormat::Text if found.is_empty() => say::talk(match names.is_empty() {
            true => "there are no workloads yet; thv run starts one",
            false => "no workload runs; thv list --all shows the others",
        }),
        ListFormat::Text => say::data(&text(&found)),
    }
    outcome
}

fn shown(workload: &Workload, all: bool, labels: &[(&str, &str)]) -> bool {
    let up = !matches!(workload.status.status, State::Stopped | State::Error);
    let has =
        |(key, value): &(&str, &str)| workload.config.container_labels.get(*key).is_some_and(|v| v == value);
    (all || up) && labels.iter().all(has)
}

/// How many sessions each workload has; `None` where nothing runs, or what runs does not say in time.
fn sessions(home: &Home, workloads: &[Workload]) -> Vec<Option<usize>> {
    let mut counts = vec![None; workloads.len()];
    let supervised = |workload: &Workload| Some((home.socket(&workload.name), workload.status.supervisor?));
    let running: Vec<_> =
        workloads.iter().map(supervised).enumerate().filter_map(|(at, who)| Some((at, who?))).collect();
    if running.is_empty() {
        return counts;
    }
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return counts;
    };
    runtime.block_on(async {
        let mut asked = JoinSet::new();
        for (at, (socket, supervisor)) in running {
            let answer = control::ask(&socket, &Request::Status);
            asked.spawn(async move {
                let answer = answer.await.ok().filter(|answer| answer.supervisor == supervisor)?;
                Some((at, answer.sessions))
            });
        }
        let told = async {
            while let Some(told) = asked.join_next().await {
                if let Ok(Some((at, sessions))) = told {
                    counts[at] = Some(sessions);
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, told).await;
    });
    counts
}

fn json(workloads: &[Workload], sessions: &[Option<usize>]) -> Outcome<String> {
    let rows: Vec<Row<'_>> = workloads.iter().zip(sessions).map(|(one, count)| row(one, *count)).collect();
    let mut text = serde_json::to_string_pretty(&rows)
        .map_err(|error| Failure::new(Exit::Failed, "cannot write the list as JSON").because(&error))?;
    text.push('\n');
    Ok(text)
}

fn row(workload: &Workload, sessions: Option<usize>) -> Row<'_> {
    let Workload { name, config, status } = workload;
    let key = status.key.as_ref();
    Row {
        name: name.as_str(),
        status: status.status.as_str(),
        desired: status.desired.as_str(),
        url: url(workload),
        port: status.port,
        transport_type: config.transport.as_str(),
        proxy_mode: match config.transport {
            Transport::Sse => "sse",
            Transport::Stdio | Transport::StreamableHttp => "streamable-http",
        },
        package: package(config),
        runtime: if config.remote_url.is_some() { "remote" } else { "process" },
        remote: config.remote_url.is_some(),
        pid: status.supervisor.map(|process| process.pid),
        created_at: &config.created_at,
        started_at: status.started_at.as_deref(),
        status_context: &status.status_context,
        sessions,
        labels: &config.container_labels,
        shared_key_auth: config.shared_key_auth.as_ref().map(|auth| KeyRow {
            enabled: auth.enabled,
            key_id: key.map(|key| key.id.as_str()),
            rotated_at: key.map(|key| key.rotated_at.as_str()),
            key_rotation_days: auth.key_rotation_days,
        }),
    }
}

/// What the server is, without the query of a URL, which may hold a credential.
fn package(config: &RunConfig) -> String {
    match &config.remote_url {
        Some(url) => Remote::parse(url, true).map_or_else(|_| String::new(), |url| url.shown()),
        None => config.package(),
    }
}

/// Where clients find the workload.
pub fn url(workload: &Workload) -> String {
    endpoint(&workload.config, workload.status.port)
}

/// The URL of an endpoint, with the brackets that an IPv6 address needs.
pub fn endpoint(config: &RunConfig, port: u16) -> String {
    let (host, path) = (&config.host, config.transport.path());
    if host.contains(':') {
        format!("http://[{host}]:{port}{path}")
    } else {
        format!("http://{host}:{port}{path}")
    }
}

fn text(workloads: &[Workload]) -> String {
    let rows: Vec<[String; 4]> = workloads.iter().map(cells).collect();
    let heads = ["NAME", "STATUS", "URL", "LOCK"].map(str::to_owned);
    let width =
        |column: usize| rows.iter().chain([&heads]).map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let mut out = String::new();
    for row in [&heads].into_iter().chain(&rows) {
        let _ = writeln!(
            out,
            "{:<a$}  {:<b$}  {:<c$}  {}",
            row[0],
            row[1],
            row[2],
            row[3],
            a = widths[0],
            b = widths[1],
            c = widths[2]
        );
    }
    out
}

fn cells(workload: &Workload) -> [String; 4] {
    [
        workload.name.to_string(),
        workload.status.status.as_str().to_owned(),
        url(workload),
        lock_state(workload.config.is_locked(), workload.status.key.as_ref().map(|key| key.id.as_str())),
    ]
}

/// `key <id>` for a locked workload, `open` for one without a lock.
pub fn lock_state(locked: bool, key: Option<&str>) -> String {
    match (locked, key) {
        (false, _) => "open".to_owned(),
        (true, Some(id)) => format!("key {id}"),
        (true, None) => "locked".to_owned(),
    }
}
