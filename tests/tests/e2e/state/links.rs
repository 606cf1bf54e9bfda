//! Links in the home: whatever they lead to, nothing there is read, written or deleted.

use super::{Outside, demo};
use crate::DEMO_SERVER;
use crate::fixture::{answers, list};
use serde_json::Value;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use thv_e2e::{Exit, Failure, Home, Result, ensure};

/// Every command that has to do with a workload and its files.
const ALL: [&[&str]; 8] = [
    &["run", "--name", "demo", "--shared-key-auth", "--", DEMO_SERVER],
    &["list", "--all"],
    &["status", "demo"],
    &["logs", "demo"],
    &["start", "demo"],
    &["logs", "--prune"],
    &["stop", "demo"],
    &["rm", "demo"],
];

#[test]
fn links_in_the_home_lead_nowhere() -> Result {
    Home::with(|home| {
        let outside = Outside::new(home)?;
        let socket = |home: &Home| -> Result<PathBuf> {
            demo(home, "demo")?;
            let socket = home.path().join("run").read_dir()?.next();
            let socket = socket.ok_or_else(|| Failure::new("there is no socket"))??.path();
            home.thv(["rm", "demo"]).output()?.expect(0)?;
            Ok(socket)
        };
        let socket = socket(home)?;
        let workload = home.path().join("state/workloads/demo");

        // Before there is a workload: its folder, its lock, its socket.
        for (link, to, usable) in [
            (workload.clone(), &outside.folder, false),
            (home.path().join("state/locks/demo.lock"), &outside.file, false),
            (socket, &outside.file, true),
        ] {
            let check = || -> Result {
                if link.symlink_metadata().is_ok() {
                    std::fs::remove_file(&link)?;
                }
                symlink(to, &link)?;
                for command in ALL {
                    let output = home.thv(command).output()?;
                    ensure!(!output.stderr.contains("panicked"), "{output:?}");
                    let ran = command[0] == "run" && output.exit == Exit::Code(0);
                    ensure!(command[0] != "run" || ran == usable, "{output:?}");
                    outside.check().map_err(|failure| failure.during(&output.label))?;
                }
                if link.symlink_metadata().is_ok() {
                    std::fs::remove_file(&link)?;
                }
                assert_eq!(home.processes(), []);
                Ok(())
            };
            check().map_err(|failure| failure.during(link.display()))?;
        }

        // In the place of a file of a workload that is there.
        for name in ["status.json", "runconfig.json", "server.log", "proxy.log", "groups"] {
            let check = || -> Result {
                demo(home, "demo")?;
                home.thv(["stop", "demo"]).output()?.expect(0)?;
                let link = workload.join(name);
                let folder = link.is_dir();
                if folder {
                    std::fs::remove_dir_all(&link)?;
                } else {
                    std::fs::remove_file(&link)?;
                }
                symlink(if folder { &outside.folder } else { &outside.file }, &link)?;
                for command in ALL {
                    let output = home.thv(command).output()?;
                    ensure!(!output.stderr.contains("panicked"), "{output:?}");
                    outside.check().map_err(|failure| failure.during(&output.label))?;
                    ensure!(command[0] != "rm" || output.exit == Exit::Code(0), "{output:?}");
                }
                assert_eq!(home.processes(), []);
                Ok(())
            };
            check().map_err(|failure| failure.during(name))?;
        }
        assert_eq!(list(home)?, Vec::<Value>::new());
        Ok(())
    })
}

#[test]
fn a_folder_of_the_home_that_is_a_link_is_refused_wherever_it_leads() -> Result {
    Home::with(|home| {
        let outside = Outside::new(home)?;
        demo(home, "demo")?;
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        let aside = home.user().join("aside");
        for folder in ["config", "state", "run", "state/locks", "state/workloads"] {
            let link = home.path().join(folder);
            // The folder itself, moved elsewhere, is no better than a stranger's.
            for to in [&outside.folder, &aside] {
                let check = || -> Result {
                    std::fs::rename(&link, &aside)?;
                    symlink(to, &link)?;
                    let bridge: &[&str] = &["proxy", "stdio", "demo"];
                    for command in ALL.iter().chain([&bridge]) {
                        let output = home.thv(*command).output()?.expect(6)?;
                        let named = output.stderr.contains(&*link.to_string_lossy());
                        ensure!(named && output.stderr.contains("symbolic link"), "{output:?}");
                        outside.check().map_err(|failure| failure.during(&output.label))?;
                    }
                    std::fs::remove_file(&link)?;
                    std::fs::rename(&aside, &link)?;
                    Ok(())
                };
                check().map_err(|failure| failure.during(format!("{folder} to {}", to.display())))?;
            }
        }
        home.thv(["start", "demo"]).output()?.expect(0)?;
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}

#[test]
fn a_file_of_settings_or_keys_that_is_a_link_is_not_read_wherever_it_leads() -> Result {
    Home::with(|home| {
        let outside = Outside::new(home)?;
        demo(home, "demo")?;
        home.thv(["stop", "demo"]).output()?.expect(0)?;
        let new: &[&str] = &["run", "--name", "new", "--shared-key-auth", "--", DEMO_SERVER];
        let needs_keys: [&[&str]; 5] = [
            new,
            &["start", "demo"],
            &["restart", "demo"],
            &["key", "show", "demo", "--yes"],
            &["rm", "demo"],
        ];
        let aside = home.user().join("aside");
        for name in ["config/config.toml", "config/master.key", "state/secrets.enc", "config/servers.toml"] {
            let link = home.path().join(name);
            let catalog = name == "config/servers.toml";
            if catalog {
                std::fs::File::create(&link)?;
            }
            let whole = std::fs::read(&link)?;
            for to in [&outside.file, &aside] {
                let check = || -> Result {
                    std::fs::rename(&link, &aside)?;
                    symlink(to, &link)?;
                    let commands: &[&[&str]] = if catalog { &[&["run", "word"]] } else { &needs_keys };
                    for command in commands {
                        let output = home.thv(*command).shows_key().output()?;
                        let base = link.file_name().unwrap_or_default().to_string_lossy();
                        let refused = matches!(output.exit, Exit::Code(1 | 5 | 6));
                        ensure!(refused && output.stderr.contains(&*base), "{output:?}");
                        ensure!(!output.stderr.contains("panicked"), "{output:?}");
                        outside.check().map_err(|failure| failure.during(&output.label))?;
                        ensure!(std::fs::read(&aside)? == whole, "it was changed by {}", output.label);
                    }
                    ensure!(link.symlink_metadata()?.is_symlink(), "the link was replaced");
                    std::fs::rename(&aside, &link)?;
                    Ok(())
                };
                check().map_err(|failure| failure.during(format!("{name} to {}", to.display())))?;
            }
        }
        assert_eq!(list(home)?.len(), 1);
        home.thv(["start", "demo"]).output()?.expect(0)?;
        answers(home, "demo")?;
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}
