//! A full disk: told of, and survived.

use super::SmallDisk;
use crate::DEMO_SERVER;
use crate::fixture::call_text;
use serde_json::{Value, json};
use thv_e2e::{Exit, Home, Proc, Result, STOP_BOUND, ensure, need_part, parts};

#[test]
fn a_full_disk_is_told_of_and_breaks_nothing() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let Some(disk) = SmallDisk::mount(home.user().join("disk"))? else {
            let test = parts::test_name(file!(), line!());
            return parts::missing("mount", "run the tests as root, in a container", &test)
                .map(Into::into)?;
        };
        let full = disk.0.join("thv");
        let thv = |args: &[&str]| home.thv(args).env("THV_HOME", &full);
        let entries = || -> Result<usize> {
            let path = full.to_string_lossy().into_owned();
            let entries = crate::fixture::scenario(home, &python, "store_entries.py", &path)?;
            Ok(entries.as_object().map_or(0, serde_json::Map::len))
        };
        let run = |name| ["run", "--name", name, "--shared-key-auth", "--", DEMO_SERVER];
        thv(&run("demo")).output()?.expect(0)?;
        let before = entries()?;
        let reach = || -> Result {
            let mut session = thv(&["proxy", "stdio", "demo"]).bridge()?;
            session.initialize()?;
            assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
            Ok(())
        };
        let filler = disk.fill()?;
        reach()?;
        let output = thv(&run("new")).output()?.expect(1)?;
        ensure!(output.stderr.contains("space"), "{output:?}");
        assert_eq!(thv(&["list", "--format", "json"]).output()?.expect(0)?.json()?[0]["name"], "demo");
        // It ends, though that cannot be written down.
        let output = thv(&["stop", "demo"]).output()?;
        ensure!(output.exit == Exit::Code(0) || output.stderr.contains("space"), "{output:?}");
        assert_eq!(home.processes(), []);
        let output = thv(&["start", "demo"]).output()?.expect(1)?;
        ensure!(output.stderr.contains("space"), "{output:?}");
        assert_eq!(home.processes(), []);

        std::fs::remove_file(&filler)?;
        assert_eq!(entries()?, before);
        thv(&["start", "demo"]).output()?.expect(0)?;
        reach()?;
        thv(&run("new")).output()?.expect(0)?;
        thv(&["rm", "--all"]).output()?.expect(0)?;
        assert_eq!(entries()?, 0);
        assert_eq!(full.join("state/workloads").read_dir()?.count(), 0);
        Ok(())
    })
}

#[test]
fn removal_locking_and_the_start_by_a_bridge_fail_on_a_full_disk_and_work_after_it() -> Result {
    let python = need_part!(Python);
    Home::with(|home| {
        let Some(disk) = SmallDisk::mount(home.user().join("disk"))? else {
            let test = parts::test_name(file!(), line!());
            return parts::missing("mount", "run the tests as root, in a container", &test)
                .map(Into::into)?;
        };
        let full = disk.0.join("thv");
        let thv = |args: &[&str]| home.thv(args).env("THV_HOME", &full);
        let entries = || -> Result<Value> {
            crate::fixture::scenario(home, &python, "store_entries.py", &full.to_string_lossy())
        };
        let rows =
            || -> Result<Value> { thv(&["list", "--all", "--format", "json"]).output()?.expect(0)?.json() };
        let supervisors = || -> Vec<Proc> {
            let all = home.processes().into_iter();
            all.filter(|process| process.command.starts_with("thv __supervise")).collect()
        };
        thv(&["run", "--name", "locked", "--shared-key-auth", "--", DEMO_SERVER]).output()?.expect(0)?;
        thv(&["run", "--name", "open", "--", DEMO_SERVER]).output()?.expect(0)?;
        let (before, listed) = (entries()?, rows()?);
        let mut sessions = Vec::new();
        for name in ["locked", "open"] {
            let mut session = thv(&["proxy", "stdio", name]).bridge()?;
            session.initialize()?;
            sessions.push(session);
        }
        let filler = disk.fill()?;

        for command in [&["key", "enable", "open"][..], &["rm", "locked"]] {
            let output = thv(command).output()?;
            ensure!(
                matches!(output.exit, Exit::Code(1 | 5)) && output.stderr.contains("space"),
                "{output:?}"
            );
        }
        // Whatever was ended for that, a bridge starts again: as soon as there is room, and not before.
        for supervisor in supervisors() {
            supervisor.kill();
            crate::fixture::wait_until("it is dead", STOP_BOUND, || Ok(!supervisor.is_alive()))?;
        }
        for session in &mut sessions {
            let answer = session.request("tools/list", &json!({}))?;
            assert_eq!(answer["error"]["data"]["reason"], "not_running", "{answer}");
            ensure!(answer.to_string().contains("space"), "{answer}");
        }
        assert_eq!(supervisors(), []);

        std::fs::remove_file(&filler)?;
        assert_eq!(entries()?, before);
        for mut session in sessions {
            assert_eq!(call_text(&mut session, "add", &json!({ "a": 19, "b": 23 }))?, "42");
            assert_eq!(session.finish()?, (Exit::Code(0), Vec::new()));
        }
        let now = rows()?;
        for (row, old) in now.as_array().into_iter().flatten().zip(listed.as_array().into_iter().flatten()) {
            for field in ["name", "port", "shared_key_auth", "status", "desired"] {
                assert_eq!(row[field], old[field], "{field}");
            }
        }
        thv(&["key", "enable", "open"]).output()?.expect(0)?;
        thv(&["rm", "--all"]).output()?.expect(0)?;
        assert_eq!(entries()?, json!({}));
        Ok(())
    })
}
