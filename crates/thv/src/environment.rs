//! The environment of this process, read in one place and handed on as values.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use thv_keychain::{EnvironmentStore, Secret};
use thv_workload::home::{Home, HomeError};
use thv_workload::server::BASE_ENV;

use crate::failure::{Exit, Failure, Outcome};

/// The variable that puts everything below one folder.
pub const HOME_VARIABLE: &str = "THV_HOME";

/// What the commands know of the world outside their arguments.
pub struct Environment {
    home: Home,
    cwd: Option<PathBuf>,
    variables: BTreeMap<OsString, OsString>,
}

impl Environment {
    /// Reads the environment; nothing is made or checked on disk yet.
    pub fn read() -> Outcome<Self> {
        let variables: BTreeMap<OsString, OsString> = env::vars_os().collect();
        let named_home =
            variables.get(&OsString::from(HOME_VARIABLE)).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = match &named_home {
            Some(dir) => Home::below(dir),
            None => platform_home(&variables)?,
        };
        Ok(Self { home, cwd: env::current_dir().ok(), variables })
    }

    /// The home, unseen.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The home, made if it is missing and found fit to hold keys.
    pub fn prepared_home(&self) -> Outcome<&Home> {
        self.home.prepare().map_err(|error| refuse_home(&error))?;
        Ok(&self.home)
    }

    /// The home as it is: nothing is made, but one that others may enter is refused.
    pub fn checked_home(&self) -> Outcome<&Home> {
        self.home.check().map_err(|error| refuse_home(&error))?;
        Ok(&self.home)
    }

    /// One variable, if it is set to text.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(&OsString::from(name)).and_then(|value| value.to_str())
    }

    /// The secrets that stand in the environment, to be read only.
    pub fn secrets(&self) -> EnvironmentStore {
        secrets()
    }

    /// The current folder.
    pub fn cwd(&self) -> Outcome<&Path> {
        self.cwd.as_deref().ok_or_else(|| {
            Failure::new(Exit::Failed, "the current folder cannot be read").hint("go to a folder that exists")
        })
    }

    /// The few variables that every server gets, as they are now.
    pub fn base(&self) -> BTreeMap<String, String> {
        BASE_ENV.iter().filter_map(|&name| Some((name.to_owned(), self.variable(name)?.to_owned()))).collect()
    }

    /// Finds a program as a shell would and returns its absolute path.
    pub fn find_program(&self, program: &str) -> Outcome<PathBuf> {
        let cwd = self.cwd()?;
        if program.contains('/') || Path::new(program).is_absolute() {
            let path = cwd.join(program);
            return if is_program(&path) {
                Ok(path)
            } else {
                Err(Failure::new(
                    Exit::Failed,
                    format!("{} is not a program that can be run", path.display()),
                )
                .hint("name an existing file that you may execute"))
            };
        }
        let search = self.variable("PATH").unwrap_or_default();
        let candidates = env::split_paths(search).flat_map(|dir| {
            let path = cwd.join(dir).join(program);
            // Where programs have an ending, it is left out when they are called.
            let full = (!env::consts::EXE_SUFFIX.is_empty())
                .then(|| PathBuf::from(format!("{}{}", path.display(), env::consts::EXE_SUFFIX)));
            [Some(path), full].into_iter().flatten()
        });
        candidates.into_iter().find(|path| is_program(path)).ok_or_else(|| {
            Failure::new(Exit::Failed, format!("there is no program named {program} on PATH"))
                .hint(format!("install it, or name its path: thv run … -- /path/to/{program}"))
        })
    }
}

/// The secrets that stand in the environment of this process.
pub fn secrets() -> EnvironmentStore {
    let texts = env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    EnvironmentStore::new(texts.map(|(name, value)| (name, Secret::new(value.into_encoded_bytes()))))
}

fn refuse_home(error: &HomeError) -> Failure {
    let exit = if matches!(error, HomeError::File(_)) { Exit::Failed } else { Exit::Refused };
    Failure::new(exit, "the folder for keys and state cannot be used").because(error).hint(format!(
        "make it yours alone (chmod 700), or set {HOME_VARIABLE} to an absolute path of a folder that is"
    ))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}

/// The platform's own folders, each with our folder in it.
///
/// Worked out from `HOME` alone, without `XDG_*`: AI clients start a bridge with little more than `HOME`, and it must
/// find what `run` found in a terminal.
#[cfg(all(unix, not(target_os = "macos")))]
fn platform_home(variables: &BTreeMap<OsString, OsString>) -> Outcome<Home> {
    let home = variables.get(&OsString::from("HOME")).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = home.ok_or_else(no_home)?;
    let state = home.join(".local/state/thv");
    let run = state.join("run");
    Ok(Home::at(home.join(".config/thv"), state, run))
}

#[cfg(target_os = "macos")]
fn platform_home(variables: &BTreeMap<OsString, OsString>) -> Outcome<Home> {
    let home = variables.get(&OsString::from("HOME")).map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(Home::below(&home.ok_or_else(no_home)?.join("Library/Application Support/thv")).by_default())
}

#[cfg(windows)]
fn platform_home(variables: &BTreeMap<OsString, OsString>) -> Outcome<Home> {
    let local =
        variables.get(&OsString::from("LOCALAPPDATA")).map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(Home::below(&local.ok_or_else(no_home)?.join("thv")).by_default())
}

fn no_home() -> Failure {
    Failure::new(Exit::Failed, "there is no home folder: the variable HOME is not set to an absolute path")
        .hint(format!("set HOME, or set {HOME_VARIABLE} to an absolute path"))
}
