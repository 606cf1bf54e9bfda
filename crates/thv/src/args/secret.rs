//! `thv secret`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{Format, duration};

/// `thv secret`.
#[derive(Subcommand)]
pub enum Secret {
    /// Keep a secret; its value comes from standard input, or is typed unseen
    Set(SecretName),
    /// Show a secret on standard output
    Get(SecretGet),
    /// List the names of all secrets
    List(SecretList),
    /// Delete a secret
    Delete(SecretName),
    /// Unlock the store for all programs of yours that run thv
    Unlock(SecretUnlock),
    /// Take over the secrets of another program
    Import(SecretImport),
    /// Show in which store keys and secrets rest, or move all of them to another one
    Provider(SecretProvider),
}

/// `thv secret set` and `thv secret delete`.
#[derive(Args)]
pub struct SecretName {
    /// The secret
    pub name: String,
}

/// `thv secret get`.
#[derive(Args)]
pub struct SecretGet {
    /// The secret
    pub name: String,
    /// Show it without asking
    #[arg(long)]
    pub yes: bool,
}

/// `thv secret list`.
#[derive(Args)]
pub struct SecretList {
    /// How to show the names
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// `thv secret unlock`.
#[derive(Args)]
pub struct SecretUnlock {
    /// Read the passphrase from this descriptor instead of the terminal
    #[arg(long, value_name = "DESCRIPTOR")]
    pub passphrase_fd: Option<u32>,
    /// How long a store under a passphrase stays unlocked; 12h if it is not given
    #[arg(long = "for", value_parser = duration, value_name = "DURATION")]
    pub lifetime: Option<Duration>,
}

/// Programs whose secrets can be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImportSource {
    /// The encrypted store of ToolHive
    Toolhive,
}

/// `thv secret import`.
#[derive(Args)]
pub struct SecretImport {
    /// The program
    #[arg(value_enum)]
    pub source: ImportSource,
    /// Its file, if that is not where it usually is; it is read and never written
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Read its password from this descriptor instead of the keychain or the terminal
    #[arg(long, value_name = "DESCRIPTOR")]
    pub password_fd: Option<u32>,
    /// Replace secrets of the same name
    #[arg(long)]
    pub overwrite: bool,
}

/// `thv secret provider`.
#[derive(Args)]
pub struct SecretProvider {
    /// The store to move to; without it, the present one is shown
    #[arg(value_enum)]
    pub provider: Option<crate::settings::Provider>,
    /// Read the new passphrase from this descriptor instead of the terminal
    #[arg(long, value_name = "DESCRIPTOR")]
    pub passphrase_fd: Option<u32>,
    /// How to show the present one
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}
