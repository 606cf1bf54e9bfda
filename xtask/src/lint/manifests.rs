//! Rules for manifests and lock files.

use super::Finding;
use super::tree::Tree;
use toml::{Table, Value};

/// A `Cargo.toml`.
pub(super) struct Manifest<'a> {
    pub(super) path: &'a str,
    pub(super) table: Table,
}

impl Manifest<'_> {
    pub(super) fn is_package(&self) -> bool {
        self.table.contains_key("package")
    }
}

/// All manifests of the tree; one that is not TOML is a finding.
pub(super) fn manifests(tree: &Tree) -> (Vec<Manifest<'_>>, Vec<Finding>) {
    let mut manifests = Vec::new();
    let mut findings = Vec::new();
    for file in tree.files().filter(|file| file.path == "Cargo.toml" || file.path.ends_with("/Cargo.toml")) {
        match file.text.parse() {
            Ok(table) => manifests.push(Manifest { path: &file.path, table }),
            Err(error) => findings.push(Finding::new(&file.path, 0, format!("this is not TOML: {error}"))),
        }
    }
    (manifests, findings)
}

/// Lints are set once, for all: `[lints] workspace = true` in every package.
pub(super) fn workspace_lints(tree: &Tree) -> Vec<Finding> {
    let inherits = |manifest: &Manifest<'_>| {
        manifest.table.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool)
            == Some(true)
    };
    manifests(tree)
        .0
        .iter()
        .filter(|manifest| manifest.is_package() && !inherits(manifest))
        .map(|manifest| Finding::new(manifest.path, 0, "`[lints] workspace = true` is missing"))
        .collect()
}

/// Every locked crate comes from the public registry, whatever the machine that locked it was set up to use.
pub(super) fn public_registry_alone(tree: &Tree) -> Vec<Finding> {
    const PUBLIC: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let Some(lock) = tree.get("Cargo.lock") else {
        return vec![Finding::new("Cargo.lock", 0, "this file is missing")];
    };
    lock.lines()
        .filter_map(|(line, text)| Some((line, text.strip_prefix("source = ")?.trim_matches('"'))))
        .filter(|(_, source)| *source != PUBLIC)
        .map(|(line, source)| Finding::new(&lock.path, line, format!("a crate from elsewhere: {source}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn packages_inherit_their_lints() {
        let missing = "crates/x/Cargo.toml: `[lints] workspace = true` is missing";
        let package = |rest: &str| format!("[package]\nname = \"x\"\n{rest}");
        for (text, expect) in [
            (package("[lints]\nworkspace = true\n"), &[][..]),
            (package("lints.workspace = true\n"), &[missing][..]),
            (package("[lints]\nworkspace = false\n"), &[missing]),
            (package("[lints.clippy]\nall = \"allow\"\n"), &[missing]),
            (package(""), &[missing]),
            ("[workspace]\nmembers = []\n".into(), &[]),
        ] {
            check(workspace_lints, &[("crates/x/Cargo.toml", &text)], expect);
        }
    }

    #[test]
    fn a_manifest_that_is_no_toml_is_found() {
        let tree = Tree::new(&[("Cargo.toml", "[package")]);
        assert!(manifests(&tree).1[0].text.starts_with("this is not TOML"));
    }

    #[test]
    fn locked_crates_come_from_the_public_registry() {
        let public =
            "[[package]]\nname = \"x\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        check(public_registry_alone, &[("Cargo.lock", public)], &[]);
        let git = "[[package]]\nname = \"x\"\nsource = \"git+https://example.org/x\"\n";
        let expect = "Cargo.lock:3: a crate from elsewhere: git+https://example.org/x";
        check(public_registry_alone, &[("Cargo.lock", git)], &[expect]);
        check(public_registry_alone, &[], &["Cargo.lock: this file is missing"]);
    }
}
