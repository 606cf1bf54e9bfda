//! Folders and files: are they ours, are they what they should be, can nobody else read or change them?

use thv_workload::home::Home;

use super::Finding;
use super::clock::Latest;

const WHY: &str = "keys and logs lie there, and whoever can write there can put a trap for the next command";

/// Looks at everything in the home, and at how late it was written.
pub(super) fn look(home: &Home, latest: &mut Latest) -> Vec<Finding<'static>> {
    let mut findings = platform::look(home, latest);
    if findings.is_empty() {
        findings.push(Finding::fine("folder", "folders and files are yours alone"));
    }
    findings
}

/// Whether what lies in the folders may be looked at: in one that others could write to it may be theirs.
pub(super) fn are_trusted(home: &Home) -> bool {
    home.folders().iter().all(|folder| thv_workload::home::check_dir(folder).is_ok())
}

#[cfg(unix)]
mod platform {
    use std::collections::HashSet;
    use std::fs::{Metadata, Permissions};
    use std::io;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};

    use thv_workload::home::Home;

    use super::super::{Finding, Latest, quoted};
    use super::WHY;
    use crate::failure::{Exit, Failure};

    /// What a walk has to know everywhere.
    struct Walk<'a> {
        us: u32,
        folders: Vec<PathBuf>,
        /// The files that users write by hand. There is no secret in them, so that others can read them is no danger.
        by_hand: [PathBuf; 2],
        seen: HashSet<PathBuf>,
        latest: &'a mut Latest,
        findings: Vec<Finding<'static>>,
    }

    pub(super) fn look(home: &Home, latest: &mut Latest) -> Vec<Finding<'static>> {
        let mut walk = Walk {
            us: rustix::process::geteuid().as_raw(),
            folders: home.folders(),
            by_hand: [home.config_toml(), home.servers_toml()],
            seen: HashSet::new(),
            latest,
            findings: Vec::new(),
        };
        for folder in home.folders() {
            walk.visit(&folder);
        }
        walk.findings
    }

    impl Walk<'_> {
        /// One path, and what is below it. A folder comes before what is in it, so it is also mended before.
        fn visit(&mut self, path: &Path) {
            if !self.seen.insert(path.to_owned()) {
                return;
            }
            let meta = match std::fs::symlink_metadata(path) {
                Ok(meta) => meta,
                // Others work here meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => return self.unseen(path, &error),
            };
            self.findings.extend(self.judge(path, &meta));
            if meta.file_type().is_symlink() || meta.uid() != self.us {
                return;
            }
            if let Ok(at) = meta.modified() {
                self.latest.see(at, || path.display().to_string());
            }
            if !meta.is_dir() {
                return;
            }
            match std::fs::read_dir(path) {
                Ok(entries) => {
                    let mut below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                    below.sort();
                    below.iter().for_each(|path| self.visit(path));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.unseen(path, &error),
            }
        }

        fn unseen(&mut self, path: &Path, error: &io::Error) {
            self.findings.push(
                Finding::problem("folder", format!("{} cannot be looked at: {error}", path.display()))
                    .why("nobody can say what is there")
                    .mend(format!("see who may enter it: ls -ld {}", quoted(path))),
            );
        }

        fn judge(&self, path: &Path, meta: &Metadata) -> Option<Finding<'static>> {
            let (kind, mode) = (meta.file_type(), meta.mode() & 0o7777);
            let place = path.display();
            let check = if kind.is_dir() || self.folders.iter().any(|folder| folder == path) {
                "folder"
            } else {
                "file"
            };
            if kind.is_symlink() {
                return Some(
                    Finding::problem(check, format!("{place} is a symbolic link, and none is followed"))
                        .why("what it leads to is in nobody's sight, and commands refuse it")
                        .mend(format!("put what it leads to in its place, or: rm {}", quoted(path))),
                );
            }
            if meta.uid() != self.us {
                let owner = meta.uid();
                let what = format!("{place} belongs to user {owner}, and you are user {}", self.us);
                return Some(Finding::problem(check, what).why(WHY).mend(format!(
                    "if it is yours, as root: chown {} {}",
                    self.us,
                    quoted(path)
                )));
            }
            if kind.is_dir() {
                return (mode != 0o700).then(|| folder(path, mode));
            }
            if self.folders.iter().any(|folder| folder == path) {
                let finding = Finding::problem(check, format!("{place} is not a folder"));
                return Some(finding.why("nothing can be kept there").mend(format!("rm {}", quoted(path))));
            }
            let extra = mode & !0o600;
            if kind.is_file() {
                return (extra != 0).then(|| self.file(path, mode, extra));
            }
            if kind.is_socket() {
                // Its folder lets nobody else in, and both ends look at the other's user. One that was made just now
                // is closed off in a moment.
                return (extra != 0).then(|| {
                    let what = format!("{place} could be spoken to by others (mode {mode:04o})");
                    let why = "its folder alone keeps other users out";
                    close_off(Finding::note("file", what).why(why), path, 0o600)
                });
            }
            Some(
                Finding::problem("file", format!("{place} is neither a file nor a folder"))
                    .why("whoever opens it may wait for ever")
                    .mend(format!("rm {}", quoted(path))),
            )
        }

        fn file(&self, path: &Path, mode: u32, extra: u32) -> Finding<'static> {
            let place = path.display();
            let finding = if extra & 0o022 != 0 {
                Finding::problem("file", format!("{place} can be changed by others (mode {mode:04o})"))
            } else if self.by_hand.iter().any(|file| file == path) {
                Finding::note("file", format!("{place} can be read by others (mode {mode:04o})"))
            } else if extra & 0o055 != 0 {
                Finding::problem("file", format!("{place} can be read by others (mode {mode:04o})"))
            } else {
                Finding::note("file", format!("{place} is marked as a program (mode {mode:04o})"))
            };
            close_off(finding.why(WHY), path, 0o600)
        }
    }

    fn folder(path: &Path, mode: u32) -> Finding<'static> {
        let place = path.display();
        let finding = if mode & 0o077 != 0 {
            Finding::problem("folder", format!("{place}: others may enter it (mode {mode:04o})")).why(WHY)
        } else if mode & 0o700 != 0o700 {
            Finding::problem("folder", format!("{place}: you may not use it yourself (mode {mode:04o})"))
                .why("nothing can be kept there")
        } else {
            Finding::note("folder", format!("{place} has special bits (mode {mode:04o})"))
                .why("what is made there may belong to another group")
        };
        close_off(finding, path, 0o700)
    }

    /// Adds the command, and the fix.
    fn close_off(finding: Finding<'static>, path: &Path, mode: u32) -> Finding<'static> {
        // GNU's chmod keeps the special bits of folders unless they are named.
        let bits = if mode == 0o700 { "u=rwx,go=,a-st" } else { "600" };
        let path = path.to_owned();
        finding.mend(format!("chmod {bits} {}", quoted(&path))).fix(move || {
            set_mode(&path, mode).map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot close off {}", path.display())).because(&error)
            })
        })
    }

    /// Folders are closed off before what is in them, so from then on nobody else can exchange it for a link.
    fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
        let meta = std::fs::symlink_metadata(path)?;
        if meta.file_type().is_symlink() || meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it has been exchanged for something else"));
        }
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    }
}

#[cfg(not(unix))]
mod platform {
    use std::path::PathBuf;

    use thv_workload::home::{Home, HomeError, check_dir};

    use super::super::{Finding, Latest};
    use super::WHY;

    pub(super) fn look(home: &Home, _latest: &mut Latest) -> Vec<Finding<'static>> {
        let untrusted = |folder: PathBuf| match check_dir(&folder).err()? {
            HomeError::Untrusted { path, reason } => {
                Some(Finding::problem("folder", format!("{}: {reason}", path.display())))
            }
            error => Some(Finding::problem("folder", error.to_string())),
        };
        let folders = home.folders().into_iter().filter_map(untrusted);
        folders.map(|finding| finding.why(WHY).mend("put a folder of your own in its place")).collect()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::super::{Weight, mend};
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::{Path, PathBuf};
    use thv_workload::files;

    fn home() -> (tempfile::TempDir, Home, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("it's home");
        let home = Home::below(&root);
        home.prepare().unwrap();
        (dir, home, root)
    }

    fn set(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn found(home: &Home) -> Vec<(Weight, String)> {
        let rows = look(home, &mut Latest::default()).into_iter().map(|finding| finding.row);
        rows.filter(|row| row.weight != Weight::Fine).map(|row| (row.weight, row.what)).collect()
    }

    #[test]
    fn each_file_is_judged_by_what_it_is() {
        let (_dir, home, root) = home();
        assert!(found(&home).is_empty());
        let deep = root.join("state/workloads/x/groups");
        std::fs::create_dir_all(&deep).unwrap();
        set(&root.join("state/workloads/x"), 0o700);
        set(&deep, 0o700);
        let log = deep.join("log");
        files::write_atomic(&log, b"x").unwrap();
        for (path, bits, expected) in [
            (&log, 0o600, None),
            (&log, 0o400, None),
            (&log, 0o640, Some((Weight::Problem, "read by others"))),
            (&log, 0o622, Some((Weight::Problem, "changed by others"))),
            (&log, 0o700, Some((Weight::Note, "marked as a program"))),
            (&home.servers_toml(), 0o644, Some((Weight::Note, "read by others"))),
            (&home.config_toml(), 0o644, Some((Weight::Note, "read by others"))),
            (&home.config_toml(), 0o664, Some((Weight::Problem, "changed by others"))),
            (&home.master_key(), 0o604, Some((Weight::Problem, "read by others"))),
        ] {
            files::write_atomic(path, b"x").unwrap();
            set(path, bits);
            let found = found(&home);
            match expected {
                None => assert!(found.is_empty(), "{bits:o}: {found:?}"),
                Some((weight, words)) => {
                    assert_eq!(found.len(), 1, "{bits:o}: {found:?}");
                    assert!(found[0].0 == weight && found[0].1.contains(words), "{bits:o}: {found:?}");
                }
            }
            set(path, 0o600);
        }
    }

    #[test]
    fn what_is_open_is_closed_off_from_the_outside_in_and_links_are_not_touched() {
        let (dir, home, root) = home();
        let outside = dir.path().join("outside");
        files::write_atomic(&outside, b"x").unwrap();
        set(&outside, 0o644);
        let (log, link) = (root.join("state/log"), root.join("state/link"));
        files::write_atomic(&log, b"x").unwrap();
        symlink(&outside, &link).unwrap();
        set(&log, 0o666);
        set(&root.join("state"), 0o2755);
        set(&root.join("run"), 0o500);
        assert!(!are_trusted(&home));

        let mut findings = look(&home, &mut Latest::default());
        let told: Vec<_> = findings.iter().map(|finding| finding.row.what.clone()).collect();
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(findings.iter().all(|finding| finding.row.mend.contains(r"/it'\''s home/")), "{told:?}");
        mend(&mut findings, true);
        let fixed: Vec<_> = findings.iter().map(|finding| finding.row.fixed).collect();
        assert_eq!(fixed, [true, true, false, true], "{told:?}");
        assert_eq!((mode(&root.join("state")), mode(&root.join("run")), mode(&log)), (0o700, 0o700, 0o600));
        assert_eq!(mode(&outside), 0o644);
        assert!(are_trusted(&home));
        assert_eq!(found(&home).len(), 1, "the link");
    }

    #[test]
    fn pipes_are_named_and_sockets_are_closed_off() {
        let (_dir, home, root) = home();
        let socket = root.join("run/x.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        set(&socket, 0o755);
        let mut findings = look(&home, &mut Latest::default());
        mend(&mut findings, true);
        assert!(findings.len() == 1 && findings[0].row.fixed, "{}", findings[0].row.what);
        assert_eq!(mode(&socket), 0o600);
        std::process::Command::new("mkfifo").arg(root.join("state/pipe")).status().unwrap();
        assert!(found(&home)[0].1.contains("neither a file nor a folder"));
    }

    #[test]
    fn a_folder_that_is_a_link_or_a_file_cannot_be_trusted() {
        let (dir, home, root) = home();
        std::fs::remove_dir(root.join("config")).unwrap();
        symlink(dir.path(), root.join("config")).unwrap();
        assert!(!are_trusted(&home));
        assert!(found(&home)[0].1.contains("symbolic link"));
        std::fs::remove_file(root.join("config")).unwrap();
        files::write_atomic(&root.join("config"), b"x").unwrap();
        assert!(!are_trusted(&home));
        assert!(found(&home)[0].1.contains("not a folder"));
    }
}
