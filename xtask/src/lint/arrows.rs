//! Which crate may know which: libraries stay usable alone, and tests know the command from outside only.

use super::Finding;
use super::manifests::{Manifest, manifests};
use super::tree::Tree;
use toml::{Table, Value};

/// Each crate's folder with the crates it may depend on, dev- and build-dependencies included. A crate that is not
/// here is a finding: its place in the picture is a decision.
const ARROWS: &[(&str, &[&str])] = &[
    ("keygen", &[]),
    ("wire", &[]),
    ("audit", &[]),
    ("clients", &[]),
    ("keychain", &["keygen"]),
    ("auth", &["keygen"]),
    ("workload", &["keygen"]),
    ("proxy", &["wire"]),
    ("authz", &["wire"]),
    ("bridge", &["wire", "keygen"]),
    (
        "thv",
        &["keygen", "wire", "audit", "clients", "keychain", "auth", "workload", "proxy", "authz", "bridge"],
    ),
    ("tests", &[]),
    ("xtask", &["tests"]),
];

pub(super) fn only_allowed_dependencies(tree: &Tree) -> Vec<Finding> {
    let (manifests, mut findings) = manifests(tree);
    let empty = Table::new();
    let shared = manifests
        .iter()
        .find_map(|manifest| manifest.table.get("workspace")?.get("dependencies")?.as_table())
        .unwrap_or(&empty);
    for manifest in manifests.iter().filter(|manifest| manifest.is_package()) {
        let Some((_, allowed)) = ARROWS.iter().find(|(folder, _)| *folder == manifest.folder()) else {
            findings.push(Finding::new(manifest.path, 0, "this crate has no place in the table of arrows"));
            continue;
        };
        for (kind, name, value) in dependencies(&manifest.table) {
            let to = crate_folder(name, value, shared);
            if let Some(to) = to.filter(|to| !allowed.contains(to)) {
                let from = manifest.folder();
                findings.push(Finding::new(manifest.path, 0, format!("{kind}: {from} must not know {to}")));
            }
        }
    }
    findings
}

/// All dependencies of a manifest or of one of its targets, with the table that they stand in.
fn dependencies(table: &Table) -> Vec<(&'static str, &str, &Value)> {
    const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let targets = table.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = targets.filter_map(Value::as_table).chain([table]);
    tables
        .flat_map(|table| KINDS.map(|kind| (kind, table.get(kind).and_then(Value::as_table))))
        .flat_map(|(kind, found)| {
            found.into_iter().flatten().map(move |(name, value)| (kind, name.as_str(), value))
        })
        .collect()
}

/// The folder of the crate of ours that a dependency means, under whatever name; `None` for crates of others.
fn crate_folder<'a>(name: &str, value: &'a Value, shared: &'a Table) -> Option<&'a str> {
    let inherited = value.get("workspace").is_some_and(|workspace| workspace.as_bool() == Some(true));
    let value = if inherited { shared.get(name)? } else { value };
    value.get("path")?.as_str()?.trim_end_matches('/').rsplit('/').next()
}

impl Manifest<'_> {
    /// The last folder of its path, which names the crate.
    fn folder(&self) -> &str {
        self.path.rsplit('/').nth(1).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: (&str, &str) = (
        "Cargo.toml",
        "[workspace.dependencies]\n\
         thv-keygen = { path = \"crates/keygen\" }\n\
         thv-wire = { path = \"crates/wire/\" }\n\
         keys = { path = \"crates/keygen\", package = \"thv-keygen\" }\n\
         bytes = \"1\"\n",
    );

    fn check(path: &str, manifest: &str, expect: &[&str]) {
        let manifest = format!("[package]\nname = \"x\"\n{manifest}");
        super::super::check(only_allowed_dependencies, &[WORKSPACE, (path, &manifest)], expect);
    }

    #[test]
    fn arrows_of_the_table_and_crates_of_others_are_allowed() {
        check("crates/keygen/Cargo.toml", "[dependencies]\nbytes.workspace = true\n", &[]);
        check("crates/auth/Cargo.toml", "[dependencies]\nthv-keygen.workspace = true\naxum = \"0.8\"\n", &[]);
        check("crates/thv/Cargo.toml", "[dependencies]\nthv-wire.workspace = true\n", &[]);
        check("xtask/Cargo.toml", "[dependencies]\nthv-e2e = { path = \"../tests\" }\n", &[]);
    }

    #[test]
    fn any_other_arrow_is_found_in_any_table_and_under_any_name() {
        let cases = [
            ("[dependencies]\nthv-keygen.workspace = true\n", "dependencies: wire must not know keygen"),
            (
                "[dev-dependencies]\nthv-keygen = { workspace = true }\n",
                "dev-dependencies: wire must not know keygen",
            ),
            (
                "[build-dependencies]\nkeys.workspace = true\n",
                "build-dependencies: wire must not know keygen",
            ),
            ("[dependencies]\nx = { path = \"../proxy\" }\n", "dependencies: wire must not know proxy"),
            (
                "[target.'cfg(unix)'.dependencies]\nkeys.workspace = true\n",
                "dependencies: wire must not know keygen",
            ),
            (
                "[dependencies]\nself = { path = \".\" , package = \"y\" }\n",
                "dependencies: wire must not know .",
            ),
        ];
        for (manifest, expect) in cases {
            check("crates/wire/Cargo.toml", manifest, &[&format!("crates/wire/Cargo.toml: {expect}")]);
        }
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        let expect = "crates/util/Cargo.toml: this crate has no place in the table of arrows";
        check("crates/util/Cargo.toml", "", &[expect]);
    }

    #[test]
    fn the_table_is_acyclic_and_knows_its_own_crates() {
        // Each crate depends on crates that stand above it only.
        for (at, (folder, allowed)) in ARROWS.iter().enumerate() {
            for to in *allowed {
                assert!(ARROWS[..at].iter().any(|(above, _)| above == to), "{folder} → {to}");
            }
        }
    }
}
