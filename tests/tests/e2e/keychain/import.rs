//! Secrets taken over from ToolHive's encrypted store, whose file is read and never written.

use super::bus::Bus;
use super::prompts::imports_with_a_typed_password;
use super::{entries, refused_soon};
use crate::fixture::{refused, scenario};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use thv_e2e::{
    ANSWER_BOUND, BINARY_VARIABLE, Desktop, Exit, Failure, Home, Result, Thv, ensure, need_keyring, need_part,
};

/// Made by another implementation: two secrets under this password.
const VECTOR: &str = "AAECAwQFBgcICQoLdOWPBWg2BlWa1jnJXQF6xflMo/tyyE7/HgRhGJjDoM8nQItr4jar938LMnL9EuU3mem7F2KU/5cyLo2NYGTcmw78J3A=";
const PASSWORD: &str = "correct horse";
const KEPT: [(&str, &str); 2] = [("api", "größe \"x\""), ("github", "ghp_1")];

/// A file, and all of it that must stay.
struct Store {
    path: PathBuf,
    bytes: Vec<u8>,
    changed: (i64, i64, u64),
}

impl Store {
    fn at(path: PathBuf) -> Result<Self> {
        let (bytes, meta) = (std::fs::read(&path)?, std::fs::metadata(&path)?);
        Ok(Self { path, bytes, changed: (meta.mtime(), meta.mtime_nsec(), meta.ino()) })
    }

    fn vector(home: &Home, name: &str) -> Result<Self> {
        let bytes = STANDARD.decode(VECTOR).map_err(|error| Failure::new(error.to_string()))?;
        Self::at(home.file(name, bytes)?)
    }

    fn is_as_it_was(&self) -> Result {
        let now = Self::at(self.path.clone())?;
        ensure!(now.bytes == self.bytes && now.changed == self.changed, "the file of ToolHive was changed");
        // Nor is anything put beside it.
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for entry in std::fs::read_dir(self.path.parent().unwrap_or(Path::new("/")))? {
            let other = entry?.file_name().to_string_lossy().into_owned();
            ensure!(other == name || !other.starts_with(&name), "{other} was made");
        }
        Ok(())
    }

    fn import<'home>(&self, home: &'home Home) -> Thv<'home> {
        home.thv(["secret", "import", "toolhive", "--file"]).arg(&self.path)
    }

    fn with_password<'home>(&self, home: &'home Home, password: &str) -> Thv<'home> {
        self.import(home).args(["--password-fd", "0"]).stdin(password)
    }
}

fn get(home: &Home, name: &str) -> Result<String> {
    let output = home.thv(["secret", "get", name, "--yes"]).output()?.expect(0)?;
    Ok(output.stdout.trim_end_matches('\n').to_owned())
}

fn names(home: &Home) -> Result<Vec<String>> {
    Ok(home.thv(["secret", "list"]).output()?.expect(0)?.stdout.lines().map(str::to_owned).collect())
}

fn imported(home: &Home) -> Result {
    assert_eq!(names(home)?, KEPT.map(|(name, _)| name));
    for (name, value) in KEPT {
        assert_eq!(get(home, name)?, value);
    }
    Ok(())
}

fn delete_all(home: &Home) -> Result {
    for name in names(home)? {
        home.thv(["secret", "delete", &name]).output()?.expect(0)?;
    }
    Ok(())
}

#[test]
fn all_secrets_are_taken_over_or_none() -> Result {
    Home::with(|home| {
        let store = Store::vector(home, "secrets_encrypted")?;
        let output = store.with_password(home, &format!("{PASSWORD}\n")).output()?.expect(0)?;
        ensure!(output.stderr.contains("imported 2 of 2"), "{output:?}");
        for (_, value) in KEPT {
            ensure!(!output.stderr.contains(value), "{output:?}");
        }
        imported(home)?;
        let output = store.with_password(home, PASSWORD).output()?.expect(0)?;
        ensure!(output.stderr.contains("imported 0 of 2"), "{output:?}");

        // What the user has is not overwritten unasked, and then nothing at all is taken over.
        home.thv(["secret", "set", "github"]).stdin("mine").output()?.expect(0)?;
        home.thv(["secret", "delete", "api"]).output()?.expect(0)?;
        refused(store.with_password(home, PASSWORD), 4, &["github", "--overwrite"])?;
        assert_eq!((names(home)?, get(home, "github")?), (vec!["github".to_owned()], "mine".to_owned()));
        store.with_password(home, PASSWORD).arg("--overwrite").output()?.expect(0)?;
        imported(home)?;
        store.is_as_it_was()?;
        delete_all(home)
    })
}

#[test]
fn a_store_that_does_not_open_is_refused() -> Result {
    Home::with(|home| {
        let store = Store::vector(home, "secrets_encrypted")?;
        for wrong in ["battery staple", "correct horse ", "Correct horse"] {
            let output = refused(store.with_password(home, wrong), 6, &["password", "not imported"])?;
            ensure!(!output.stderr.contains(wrong), "{output:?}");
        }
        refused(store.with_password(home, ""), 2, &["empty"])?;
        refused(store.import(home), 5, &["--password-fd"])?;
        store.is_as_it_was()?;
        for (name, bytes) in [("empty", &b""[..]), ("short", &[0; 20]), ("text", &[b'x'; 200])] {
            let other = Store::at(home.file(name, bytes)?)?;
            refused(other.with_password(home, PASSWORD), 6, &[name])?;
            other.is_as_it_was()?;
        }
        let cut = Store::at(home.file("cut", &store.bytes[..store.bytes.len() - 1])?)?;
        refused(cut.with_password(home, PASSWORD), 6, &["cut"])?;
        let missing =
            home.thv(["secret", "import", "toolhive", "--file", "/no/such/file", "--password-fd", "0"]);
        refused(missing.stdin(PASSWORD), 1, &["/no/such/file"])?;
        let usual = home.thv(["secret", "import", "toolhive", "--password-fd", "0"]).stdin(PASSWORD);
        refused(usual, 1, &[".local/share/toolhive/secrets_encrypted", "--file"])?;
        // Nothing was to be kept, so nothing was chosen.
        ensure!(!home.path().join("config/config.toml").exists(), "a store was chosen");
        assert_eq!(names(home)?, Vec::<String>::new());
        Ok(())
    })
}

/// Where ToolHive keeps its file, and its password.
#[test]
fn file_and_password_are_found_where_toolhive_keeps_them() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    let item = ["service", "toolhive", "username", "toolhive"];
    desktop.with_home(|home| {
        let folder = home.user().join(".local/share/toolhive");
        std::fs::create_dir_all(&folder)?;
        let store = Store::vector(home, ".local/share/toolhive/secrets_encrypted")?;
        let import = || home.thv(["secret", "import", "toolhive"]);
        // Not in the keychain: it must be handed in.
        refused(import(), 6, &["terminal", "--password-fd"])?;
        imports_with_a_typed_password(home, &store.path, PASSWORD)?;
        imported(home)?;
        delete_all(home)?;
        desktop.secret_tool(&[&["store", "--label", "toolhive"], &item[..]].concat(), "wrong")?;
        refused(import(), 6, &["password", "not imported"])?;
        desktop.secret_tool(&[&["store", "--label", "toolhive"], &item[..]].concat(), PASSWORD)?;
        import().output()?.expect(0)?;
        imported(home)?;
        assert_eq!(entries(home)?["secret:github"], json!(null));
        assert_eq!(desktop.secret_tool(&[&["lookup"], &item[..]].concat(), "")?, PASSWORD);
        store.is_as_it_was()?;
        delete_all(home)?;

        // Somewhere else for those who say where their data is.
        let elsewhere = home.user().join("data");
        std::fs::create_dir_all(elsewhere.join("toolhive"))?;
        std::fs::rename(&store.path, elsewhere.join("toolhive/secrets_encrypted"))?;
        refused(import(), 1, &["secrets_encrypted"])?;
        import().env("XDG_DATA_HOME", &elsewhere).output()?.expect(0)?;
        imported(home)?;
        delete_all(home)?;

        // A locked keychain hides the password, and takes nothing in either.
        Bus::open(home.bus())?.lock()?;
        let import = || import().env("XDG_DATA_HOME", &elsewhere);
        refused_soon(import(), &["locked", "--password-fd"])?;
        refused_soon(import().args(["--password-fd", "0"]).stdin(PASSWORD), &["locked"])?;
        Ok(())
    })
}

/// Many secrets, written by another program, from a descriptor that is not standard input.
#[test]
fn a_large_store_of_another_program_is_taken_over() -> Result {
    let python = need_part!(Python);
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        let path = home.user().join("secrets_encrypted");
        let secrets: serde_json::Map<_, _> = (0..30)
            .map(|number| {
                (
                    format!("name {number:02}"),
                    json!(format!("välue \u{1F511} {number}\n\"{}\"", "x".repeat(number * 50))),
                )
            })
            .collect();
        let order = json!({ "path": path, "password": "pässword", "secrets": secrets });
        scenario(home, &python, "toolhive_store.py", &order.to_string())?;
        let store = Store::at(path)?;
        let password = home.file("password", "pässword\n")?;
        let thv = std::env::var(BINARY_VARIABLE).map_err(|error| Failure::new(error.to_string()))?;
        let mut command = home.command("sh");
        let script = r#"exec "$1" secret import toolhive --file "$2" --password-fd 3 3<"$0""#;
        command.args(["-c", script]).arg(&password).arg(thv).arg(&store.path);
        let mut shell = home.start(command)?;
        assert_eq!(shell.wait(ANSWER_BOUND)?, Exit::Code(0), "{}", shell.stderr());
        ensure!(shell.stderr().contains("imported 30 of 30"), "{}", shell.stderr());
        assert_eq!(names(home)?, secrets.keys().cloned().collect::<Vec<_>>());
        for (name, value) in secrets.iter().step_by(7) {
            let output = home.thv(["secret", "get", name, "--yes"]).output()?.expect(0)?;
            assert_eq!(json!(output.stdout.strip_suffix('\n')), *value);
        }
        store.is_as_it_was()?;
        // A store without secrets, as Go writes it, is no mistake.
        let empty = json!({ "path": home.user().join("empty"), "password": "x", "secrets": null });
        scenario(home, &python, "toolhive_store.py", &empty.to_string())?;
        let empty = Store::at(home.user().join("empty"))?;
        let output = empty.with_password(home, "x").output()?.expect(0)?;
        ensure!(output.stderr.contains("imported 0 of 0"), "{output:?}");
        let mut spoilt = File::options().append(true).open(&empty.path)?;
        spoilt.write_all(b"x")?;
        refused(Store::at(empty.path)?.with_password(home, "x"), 6, &["not imported"])?;
        delete_all(home)?;
        assert_eq!(entries(home)?, json!({}));
        Ok(())
    })
}
