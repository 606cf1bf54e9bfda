//! Rules for text files of every kind.

use super::Finding;
use super::tree::Tree;

/// How many lines of the README are its first screen.
const FIRST_SCREEN: usize = 60;

/// Nothing that holds on one machine only: home folders, and the hosts that its packages came from. Put together
/// from pieces so that this file does not find itself.
const OF_ONE_MACHINE: [&str; 10] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/Us", "ers/"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("--index", "-url"),
];

pub(super) fn no_machine_paths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files() {
        for (line, text) in file.lines() {
            for needle in OF_ONE_MACHINE.iter().filter(|needle| text.contains(**needle)) {
                findings.push(Finding::new(
                    &file.path,
                    line,
                    format!("this belongs to one machine: {needle}"),
                ));
            }
        }
    }
    findings
}

/// Who sees the README for the first time sees the two commands that do all the set-up.
pub(super) fn readme_opens_with_commands(tree: &Tree) -> Vec<Finding> {
    const README: &str = "README.md";
    let Some(readme) = tree.get(README) else {
        return vec![Finding::new(README, 0, "this file is missing")];
    };
    ["cargo xtask demo", "cargo xtask test"]
        .iter()
        .filter(|command| !readme.lines().take(FIRST_SCREEN).any(|(_, line)| line.contains(**command)))
        .map(|command| {
            Finding::new(README, 0, format!("its first {FIRST_SCREEN} lines do not show `{command}`"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn machine_paths_and_registry_hosts_are_found_anywhere() {
        for needle in OF_ONE_MACHINE {
            let text = format!("fine\nsee {needle}x\n");
            let expect = format!("docs/a.md:2: this belongs to one machine: {needle}");
            check(no_machine_paths, &[("docs/a.md", &text)], &[&expect]);
        }
        check(
            no_machine_paths,
            &[("docs/a.md", "~/x, $HOME/x, /tmp/x, homework/, https://crates.io\n")],
            &[],
        );
    }

    #[test]
    fn the_readme_opens_with_both_commands() {
        let missing = |command: &str| format!("README.md: its first 60 lines do not show `{command}`");
        let (demo, test) = (missing("cargo xtask demo"), missing("cargo xtask test"));
        let late = format!("cargo xtask demo\n{}cargo xtask test\n", "\n".repeat(59));
        for (text, expect) in [
            ("# thv\n\n    cargo xtask demo\n    cargo xtask test\n", &[][..]),
            (late.as_str(), &[test.as_str()][..]),
            ("", &[demo.as_str(), test.as_str()]),
        ] {
            check(readme_opens_with_commands, &[("README.md", text)], expect);
        }
        check(readme_opens_with_commands, &[], &["README.md: this file is missing"]);
    }
}
