//! A search for a key in every shape in which it could have leaked.
//!
//! It looks for the key itself, not for fragments of it, and not for transformations that someone would have to
//! make on purpose (encryption, compression).

use crate::{Failure, Result};
use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD, PAD};
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::Path;

/// One place where a key was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Leak {
    /// The file, process or output.
    pub place: String,
    /// The shape it had there.
    pub form: &'static str,
}

/// The shapes of one key: raw, base64 in both alphabets and at every alignment, base64 of base64, hex, decimal
/// lists, percent-encoding, JSON escapes, UTF-16.
pub struct SecretForms {
    forms: Vec<(&'static str, Vec<u8>)>,
    starts: Box<[bool; 256]>,
}

impl SecretForms {
    /// The shapes of the key with this canonical text (padded standard base64).
    ///
    /// # Errors
    /// The text is not the canonical text of 32 bytes.
    pub fn of(key_text: &str) -> Result<Self> {
        let raw = GeneralPurpose::new(&STANDARD, PAD)
            .decode(key_text)
            .ok()
            .filter(|raw| raw.len() == 32)
            .ok_or_else(|| Failure::new("this is not the text of a key"))?;
        Ok(Self::of_bytes(&raw))
    }

    fn of_bytes(raw: &[u8]) -> Self {
        let standard = GeneralPurpose::new(&STANDARD, NO_PAD).encode(raw);
        let url_safe = GeneralPurpose::new(&URL_SAFE, NO_PAD).encode(raw);
        let hex = raw.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let decimals: Vec<_> = raw.iter().map(u8::to_string).collect();
        let percent = standard.replace('+', "%2B").replace('/', "%2F");
        let utf16: Vec<u8> = standard.encode_utf16().flat_map(u16::to_le_bytes).collect();

        let mut forms = vec![
            ("raw bytes", raw.to_vec()),
            ("hex", hex.to_uppercase().into_bytes()),
            ("list of numbers", decimals.join(", ").into_bytes()),
            ("list of numbers", decimals.join(",").into_bytes()),
            ("percent-encoding", percent.replace("%2B", "%2b").replace("%2F", "%2f").into_bytes()),
            ("percent-encoding", percent.into_bytes()),
            ("JSON escapes", standard.replace('/', "\\/").into_bytes()),
            ("UTF-16", utf16),
        ];
        forms.extend(base64_at_any_offset(raw).map(|form| ("base64", form)));
        for text in [standard.as_bytes(), url_safe.as_bytes(), hex.as_bytes()] {
            forms.extend(base64_at_any_offset(text).map(|form| ("base64 of its text", form)));
        }
        forms.push(("hex", hex.into_bytes()));

        let mut starts = Box::new([false; 256]);
        for (_, form) in &forms {
            starts[usize::from(form[0])] = true;
        }
        Self { forms, starts }
    }

    /// The shape in which the key stands in `bytes`, if it does.
    pub fn find_in(&self, bytes: &[u8]) -> Option<&'static str> {
        (0..bytes.len()).filter(|at| self.starts[usize::from(bytes[*at])]).find_map(|at| {
            self.forms.iter().find(|(_, form)| bytes[at..].starts_with(form)).map(|(name, _)| *name)
        })
    }

    /// Adds a leak to `leaks` if the key stands in `bytes`.
    pub fn search(&self, place: impl Into<String>, bytes: &[u8], leaks: &mut Vec<Leak>) {
        if let Some(form) = self.find_in(bytes) {
            leaks.push(Leak { place: place.into(), form });
        }
    }

    /// Searches the names and the content of all regular files below `dir`, links not followed.
    ///
    /// # Errors
    /// Something below `dir` cannot be read, so that the search would be incomplete.
    pub fn search_dir(&self, dir: &Path, leaks: &mut Vec<Leak>) -> Result {
        let unreadable = |error| Failure::from(error).during(dir.display());
        for entry in std::fs::read_dir(dir).map_err(unreadable)? {
            let entry = entry?;
            let path = entry.path();
            self.search(format!("name of {}", path.display()), entry.file_name().as_encoded_bytes(), leaks);
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                Err(gone) if gone.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(unreadable(error)),
            };
            if kind.is_dir() {
                self.search_dir(&path, leaks)?;
            } else if kind.is_file() {
                match std::fs::read(&path) {
                    Ok(bytes) => self.search(path.display().to_string(), &bytes, leaks),
                    // A temporary file that was renamed in the meantime; its new name is searched as well.
                    Err(gone) if gone.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(Failure::from(error).during(path.display())),
                }
            }
        }
        Ok(())
    }

    /// Searches the command line and the environment of a process; one that has ended is no leak.
    ///
    /// # Errors
    /// The command line cannot be read.
    pub fn search_process(&self, pid: u32, leaks: &mut Vec<Leak>) -> Result {
        for file in ["cmdline", "environ"] {
            let place = format!("/proc/{pid}/{file}");
            match std::fs::read(&place) {
                Ok(bytes) => self.search(place, &bytes, leaks),
                Err(gone) if gone.kind() == ErrorKind::NotFound => {}
                // ESRCH: it ended between the opening and the reading, or is a zombie.
                Err(gone) if gone.raw_os_error() == Some(3) => {}
                // A process that is not dumpable shows its environment to root alone.
                Err(denied) if denied.kind() == ErrorKind::PermissionDenied && file == "environ" => {}
                Err(error) => return Err(Failure::from(error).during(place)),
            }
        }
        Ok(())
    }
}

/// The characters that `data` always has when it stands somewhere inside a base64 text, in both alphabets. The
/// first and the last characters also depend on the neighbours and are left out.
fn base64_at_any_offset(data: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    [&STANDARD, &URL_SAFE].into_iter().flat_map(move |alphabet| {
        (0..3).map(move |offset| {
            let text = GeneralPurpose::new(alphabet, NO_PAD).encode([&vec![0; offset], data].concat());
            let start = (offset * 8).div_ceil(6);
            let end = (offset + data.len()) * 8 / 6;
            text.as_bytes()[start..end].to_vec()
        })
    })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "`std::fs::write` is good enough to plant a key")]
mod tests {
    use super::*;
    use crate::{Captured, Running, STOP_BOUND};

    /// A key whose text has a plus, a slash and both cases.
    const TEXT: &str = "+/8BAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4=";

    fn forms() -> SecretForms {
        SecretForms::of(TEXT).unwrap()
    }

    #[test]
    fn every_shape_is_found_wherever_it_is_planted() {
        let raw = GeneralPurpose::new(&STANDARD, PAD).decode(TEXT).unwrap();
        let base64 = |bytes: &[u8]| GeneralPurpose::new(&STANDARD, PAD).encode(bytes);
        let debug = format!("{raw:?}");
        let planted: &[(&str, Vec<u8>)] = &[
            ("the text", TEXT.into()),
            ("unpadded", TEXT.trim_end_matches('=').into()),
            ("URL-safe", TEXT.replace('+', "-").replace('/', "_").into()),
            ("raw", raw.clone()),
            ("lowercase hex", raw.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()),
            ("uppercase hex", raw.iter().map(|byte| format!("{byte:02X}")).collect::<String>().into()),
            ("Debug of the bytes", debug.clone().into()),
            ("JSON of the bytes", debug.replace(' ', "").into()),
            ("in a query", TEXT.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D").into()),
            ("in a query, lowercase", TEXT.replace('+', "%2b").replace('/', "%2f").into()),
            ("PHP's JSON", TEXT.replace('/', "\\/").into()),
            ("Windows' strings", TEXT.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            ("base64 of base64", base64(TEXT.as_bytes()).into()),
            ("base64 of unpadded base64", base64(TEXT.trim_end_matches('=').as_bytes()).into()),
            ("basic credentials, one ahead", base64(format!(":{TEXT}").as_bytes()).into()),
            ("basic credentials, two ahead", base64(format!("x:{TEXT}").as_bytes()).into()),
            ("raw within raw", base64(&[b"seven b", &raw[..], b"tail"].concat()).into()),
        ];
        for (name, bytes) in planted {
            let around = [b"before ", &bytes[..], b" after"].concat();
            assert!(forms().find_in(&around).is_some(), "{name} was not found");
            let mut cut = around.clone();
            cut.truncate(around.len() / 2);
            assert_eq!(forms().find_in(&cut), None, "{name}: half of it is not the key");
        }
    }

    #[test]
    fn innocent_bytes_are_not_found() {
        let other = TEXT.replace('Q', "R");
        let texts = ["", "08b5d7d2ef52b8b6", other.as_str()];
        for text in texts {
            assert_eq!(forms().find_in(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn files_are_searched_below_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("state/workloads")).unwrap();
        std::fs::write(dir.path().join("state/workloads/proxy.log"), format!("key={TEXT}\n")).unwrap();
        std::fs::write(dir.path().join("state/status.json"), "{}").unwrap();
        std::fs::write(dir.path().join(TEXT.replace('+', "-").replace('/', "_")), "").unwrap();
        std::os::unix::fs::symlink("/proc/self", dir.path().join("link")).unwrap();
        let mut leaks = Vec::new();
        forms().search_dir(dir.path(), &mut leaks).unwrap();
        let mut places: Vec<_> = leaks.iter().map(|leak| leak.place.as_str()).collect();
        places.sort_unstable();
        assert_eq!(places.len(), 2, "{places:?}");
        assert!(places[0].ends_with("proxy.log"));
        assert!(places[1].starts_with("name of "));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn processes_are_searched() {
        for (argument, variable, file) in [(TEXT, "", "cmdline"), ("", TEXT, "environ")] {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", "echo up; read line", argument]).env("KEY", variable);
            let mut child = Running::start(command, "sh", &Captured::default(), false).unwrap();
            child.line(STOP_BOUND).unwrap();
            let mut leaks = Vec::new();
            let pid = child.pid();
            forms().search_process(pid, &mut leaks).unwrap();
            drop(child);
            assert_eq!(leaks, [Leak { place: format!("/proc/{pid}/{file}"), form: "base64" }]);
            leaks.clear();
            forms().search_process(pid, &mut leaks).unwrap();
            assert_eq!(leaks, []);
        }
    }
}
