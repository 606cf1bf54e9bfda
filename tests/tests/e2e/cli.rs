//! The command as such: its version, its exit codes, where it talks.

use thv_e2e::{Home, Result};

#[test]
fn version_is_data_and_says_one_line() -> Result {
    let home = Home::new()?;
    let output = home.thv(["version"]).output()?.expect(0)?;
    assert!(output.stdout.starts_with("thv ") && output.stdout.lines().count() == 1, "{output:?}");
    assert!(output.stdout.contains(env!("CARGO_PKG_VERSION")), "{output:?}");
    assert_eq!(output.stderr, "");
    home.close()
}

#[test]
fn usage_errors_exit_with_2_and_talk_on_stderr() -> Result {
    let home = Home::new()?;
    let wrong: &[&[&str]] = &[
        &["frobnicate"],
        &["list", "--format", "yaml"],
        &["run", "-f"],
        &["run", "-f", "--name", "../up", "--", "true"],
        &["run", "-f", "--name", "stdio", "--", "true"],
        &["proxy", "stdio"],
        &["key", "show"],
    ];
    for args in wrong {
        let output = home.thv(*args).output()?.expect(2)?;
        assert_eq!(output.stdout, "", "{args:?}");
        assert!(output.stderr.starts_with("error: "), "{output:?}");
    }
    home.close()
}

#[test]
fn an_unknown_workload_exits_with_3_and_is_named() -> Result {
    let home = Home::new()?;
    for args in [["proxy", "stdio", "nobody"], ["key", "show", "nobody"]] {
        let output = home.thv(args).output()?.expect(3)?;
        assert_eq!(output.stdout, "", "{args:?}");
        assert!(output.stderr.contains("nobody"), "{output:?}");
    }
    home.close()
}

#[test]
fn an_empty_home_lists_nothing() -> Result {
    let home = Home::new()?;
    let output = home.thv(["list", "--format", "json"]).output()?.expect(0)?;
    assert_eq!(output.json()?, serde_json::json!([]));
    home.close()
}
