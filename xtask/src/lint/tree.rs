//! The text files of the repository, as git sees them.

use std::path::Path;
use std::process::Command;
use thv_e2e::{Result, ensure};

/// One text file.
pub(super) struct Source {
    /// Relative to the root, with slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    /// Its lines with their numbers, counted from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    pub(super) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }
}

/// All text files that are tracked, or would be with the next `git add`.
pub(super) struct Tree(Vec<Source>);

impl Tree {
    pub(super) fn of_repository(root: &Path) -> Result<Self> {
        let output = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .map_err(|error| thv_e2e::Failure::from(error).during("git"))?;
        ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
        let paths = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut paths: Vec<_> = paths.split_terminator('\0').collect();
        paths.sort_unstable();
        paths.dedup();
        // What cannot be read as text is binary, or was deleted and is still in the index.
        let read = |path: &&str| {
            Some(Source { text: std::fs::read_to_string(root.join(path)).ok()?, path: (*path).into() })
        };
        Ok(Self(paths.iter().filter_map(read).collect()))
    }

    #[cfg(test)]
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| Source { path: (*path).into(), text: (*text).into() }).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }

    pub(super) fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files().filter(|file| file.is_rust())
    }

    pub(super) fn get(&self, path: &str) -> Option<&Source> {
        self.files().find(|file| file.path == path)
    }
}
