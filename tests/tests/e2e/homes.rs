//! The folder that all is kept in: refused where others may enter it, and private in every part.

use crate::DEMO_SERVER;
use crate::fixture::refused;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use thv_e2e::{Exit, Home, Result, STOP_BOUND};

#[test]
fn a_home_that_others_may_enter_is_refused_and_left_alone() -> Result {
    let home = Home::new()?;
    let wide = home.user().join("wide");
    let real = home.user().join("real");
    let link = home.user().join("link");
    let file = home.file("file", "")?;
    std::fs::create_dir(&wide)?;
    std::fs::create_dir(&real)?;
    std::fs::set_permissions(&wide, std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::symlink(&real, &link)?;
    let cases =
        [(Path::new("relative/home"), "absolute"), (&wide, "0755"), (&link, "link"), (&file, "folder")];
    let commands: [&[&str]; 5] = [
        &["list"],
        &["run", "-f", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER],
        &["key", "show", "demo", "--yes"],
        &["proxy", "stdio", "demo"],
        &["rm", "demo"],
    ];
    for (path, word) in cases {
        for command in commands {
            let thv = home.thv(command).env("THV_HOME", path);
            refused(thv, 6, &[word]).map_err(|failure| failure.during(path.display()))?;
        }
    }
    for folder in [&wide, &real] {
        assert!(folder.read_dir()?.next().is_none(), "something was made in {}", folder.display());
    }
    assert_eq!(wide.metadata()?.permissions().mode() & 0o777, 0o755);
    assert!(!home.user().join("relative").exists());
    home.close()
}

#[test]
fn everything_on_disk_is_private() -> Result {
    fn check(dir: &Path) -> Result {
        assert_eq!(dir.metadata()?.permissions().mode() & 0o7777, 0o700, "{}", dir.display());
        for entry in dir.read_dir()? {
            let path = entry?.path();
            if path.is_dir() {
                check(&path)?;
            } else {
                assert_eq!(path.metadata()?.permissions().mode() & 0o7777, 0o600, "{}", path.display());
            }
        }
        Ok(())
    }
    let home = Home::new()?;
    // The widest umask there is.
    let mut command = home.command("sh");
    command.args(["-c", r#"umask 0; exec "$0" "$@""#]);
    command.arg(std::env::var_os(thv_e2e::BINARY_VARIABLE).unwrap_or_default());
    command.args(["run", "-f", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER]);
    let new = home.path().join("made/by/thv");
    command.env("THV_HOME", &new);
    let mut demo = home.start(command)?;
    let ready = demo.line(STOP_BOUND)?.unwrap_or_default();
    assert!(ready.starts_with(b"demo  running  "), "{}", demo.stderr());
    let mut session = home.thv(["proxy", "stdio", "demo"]).env("THV_HOME", &new).bridge()?;
    session.initialize()?;
    session.finish()?;
    check(&new)?;
    assert_eq!(demo.stop()?, Exit::Code(0));
    check(&new)?;
    home.close()
}
