//! `config.toml`: which store keeps the keys of this home, since when, and what was seen when it was chosen.

use std::path::PathBuf;

use thv_workload::files;
use thv_workload::home::Home;
use toml_edit::{DocumentMut, Item, Table, value};

use crate::failure::{Exit, Failure, Outcome};

const STORE: &str = "store";
const PROVIDER: &str = "provider";
const FILE: &str = "file";
const UNCLEAN: &str = "unclean";

/// The stores that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// Each key is an entry of the operating system's keychain
    Keychain,
    /// An encrypted file whose master key is an entry of the operating system's keychain
    FileKeychain,
    /// An encrypted file whose master key lies in a file beside it
    File,
    /// An encrypted file under a passphrase
    Passphrase,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Keychain, Self::FileKeychain, Self::File, Self::Passphrase];

    /// The word in files and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keychain => "keychain",
            Self::FileKeychain => "file-keychain",
            Self::File => "file",
            Self::Passphrase => "passphrase",
        }
    }

    /// Where keys rest then, for people.
    pub fn place(self) -> &'static str {
        match self {
            Self::Keychain => "the keychain of the operating system",
            Self::FileKeychain => {
                "an encrypted file whose master key is in the keychain of the operating system"
            }
            Self::File => "an encrypted file whose master key lies in a file beside it",
            Self::Passphrase => "an encrypted file under a passphrase",
        }
    }

    /// Whether it takes the operating system's keychain to read a key.
    pub fn needs_keychain(self) -> bool {
        matches!(self, Self::Keychain | Self::FileKeychain)
    }
}

/// A store that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub provider: Provider,
    /// The name of the encrypted file, when it is not the usual one: a file that takes another's place exists beside
    /// it for a moment.
    pub file: Option<String>,
    /// A store that may hold copies from a move that was cut off. Nothing in it counts.
    pub unclean: Option<Provider>,
    /// When (RFC 3339).
    pub chosen_at: String,
    /// What was seen then, for whoever wonders later.
    pub seen: String,
}

/// Reads what was chosen; `None` if nothing was yet.
pub fn read(home: &Home) -> Outcome<Option<Choice>> {
    let document = document(home)?;
    let Some(store) = document.get(STORE) else { return Ok(None) };
    let text = |key: &str| store.get(key).and_then(Item::as_str).unwrap_or_default().to_owned();
    let Some(word) = store.get(PROVIDER) else { return Ok(None) };
    let word = word.as_str().unwrap_or_default();
    let provider = Provider::ALL.into_iter().find(|provider| provider.as_str() == word).ok_or_else(|| {
        let known = Provider::ALL.map(Provider::as_str).join(", ");
        unusable(home, &format!("its provider {word:?} is none of {known}"))
    })?;
    let file = Some(text(FILE)).filter(|name| !name.is_empty());
    if file.as_ref().is_some_and(|name| !is_file_name(name)) {
        return Err(unusable(home, "its file is not the plain name of an .enc file"));
    }
    let unclean = text(UNCLEAN);
    let unclean = Provider::ALL.into_iter().find(|provider| provider.as_str() == unclean);
    Ok(Some(Choice { provider, file, unclean, chosen_at: text("chosen_at"), seen: text("seen") }))
}

/// Writes what was chosen; everything else in the file stays as it is.
pub fn record(home: &Home, choice: &Choice) -> Outcome {
    let mut document = document(home)?;
    let store = document.entry(STORE).or_insert(Item::Table(Table::new()));
    let table = store.as_table_like_mut().ok_or_else(|| unusable(home, "its [store] is not a table"))?;
    for (key, text) in
        [(PROVIDER, choice.provider.as_str()), ("chosen_at", &choice.chosen_at), ("seen", &choice.seen)]
    {
        table.insert(key, value(text));
    }
    match &choice.file {
        Some(name) => table.insert(FILE, value(name.as_str())),
        None => table.remove(FILE),
    };
    match choice.unclean {
        Some(provider) => table.insert(UNCLEAN, value(provider.as_str())),
        None => table.remove(UNCLEAN),
    };
    files::write_atomic(&home.config_toml(), document.to_string().as_bytes()).map_err(|error| {
        Failure::new(Exit::Failed, "the choice of a store cannot be recorded").because(&error)
    })
}

/// Whether this names a file in the folder for state, and nothing else there.
fn is_file_name(name: &str) -> bool {
    name.starts_with("secrets") && name.ends_with(".enc") && !name.contains(['/', '\\'])
}

fn document(home: &Home) -> Outcome<DocumentMut> {
    let path: PathBuf = home.config_toml();
    let bytes = files::read(&path)
        .map_err(|error| Failure::new(Exit::Failed, "the settings cannot be read").because(&error))?;
    let text =
        String::from_utf8(bytes.unwrap_or_default()).map_err(|_| unusable(home, "it is not UTF-8 text"))?;
    text.parse().map_err(|error: toml_edit::TomlError| unusable(home, error.to_string().trim_end()))
}

fn unusable(home: &Home, why: &str) -> Failure {
    let path = home.config_toml();
    Failure::new(Exit::Failed, format!("{} cannot be used", path.display()))
        .because(&std::io::Error::other(why.to_owned()))
        .hint("mend it by hand; nothing was changed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(text: &str) -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        files::write_atomic(&home.config_toml(), text.as_bytes()).unwrap();
        (dir, home)
    }

    #[test]
    fn a_choice_is_read_as_written_and_all_else_stays() {
        let (_dir, home) = home("# mine\n[defaults]\nhost = '127.0.0.1' # loopback\n");
        assert_eq!(read(&home).unwrap(), None);
        let choice = Choice {
            provider: Provider::FileKeychain,
            file: Some("secrets-2.enc".into()),
            unclean: Some(Provider::Keychain),
            chosen_at: "2026-01-01T00:00:00Z".into(),
            seen: "a \"quoted\" thing".into(),
        };
        record(&home, &choice).unwrap();
        assert_eq!(read(&home).unwrap().unwrap(), choice);
        let again = Choice { provider: Provider::File, file: None, unclean: None, ..choice };
        record(&home, &again).unwrap();
        assert_eq!(read(&home).unwrap().unwrap(), again);
        let text = String::from_utf8(files::read(&home.config_toml()).unwrap().unwrap()).unwrap();
        assert!(text.starts_with("# mine\n[defaults]\nhost = '127.0.0.1' # loopback\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_understood_is_named_and_left_alone() {
        for wrong in [
            "[store]\nprovider = 'vault'\n",
            "[store]\nprovider = 1\n",
            "store = [\n",
            "[store]\nprovider = 'file'\nfile = '../secrets.enc'\n",
        ] {
            let (_dir, home) = home(wrong);
            let failure = read(&home).unwrap_err();
            assert!(failure.summary().contains("config.toml cannot be used"), "{}", failure.summary());
            assert_eq!(files::read(&home.config_toml()).unwrap().unwrap(), wrong.as_bytes());
        }
        let (_dir, home) = home("store = 'x'\n");
        let choice = Choice {
            provider: Provider::File,
            file: None,
            unclean: None,
            chosen_at: String::new(),
            seen: String::new(),
        };
        assert!(record(&home, &choice).is_err());
    }

    #[test]
    fn every_word_leads_back_to_its_provider() {
        use clap::ValueEnum as _;
        for provider in Provider::ALL {
            assert_eq!(Provider::from_str(provider.as_str(), false), Ok(provider));
        }
    }
}
