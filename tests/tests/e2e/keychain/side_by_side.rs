//! Several homes on one keychain: none ever touches what another keeps there.

use super::{add, demo, end, entries, entries_of, service};
use serde_json::json;
use thv_e2e::{Desktop, Result, ensure, need_keyring};

#[test]
fn two_homes_on_one_keychain_do_not_touch_each_other() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|one| {
        desktop.with_home(|two| {
            assert_ne!(service(one), service(two));
            for home in [one, two] {
                demo(home, "demo")?;
                home.thv(["secret", "set", "token"]).stdin(service(home)).output()?.expect(0)?;
            }
            let keys = [one.key("demo")?, two.key("demo")?];
            assert_ne!(keys[0], keys[1]);
            for home in [one, two] {
                let token = home.thv(["secret", "get", "token", "--yes"]).output()?.expect(0)?.stdout;
                assert_eq!(token, format!("{}\n", service(home)));
            }
            let theirs = entries(two)?;

            // Whatever the one does: all that it can do to a key or a secret.
            one.thv(["key", "disable", "demo"]).output()?.expect(0)?;
            one.thv(["key", "enable", "demo"]).output()?.expect(0)?;
            one.thv(["secret", "delete", "token"]).output()?.expect(0)?;
            for provider in ["file-keychain", "file", "keychain"] {
                one.thv(["secret", "provider", provider]).output()?.expect(0)?;
                assert_eq!(entries(two)?, theirs, "{provider}");
            }
            one.thv(["rm", "--all"]).output()?.expect(0)?;
            assert_eq!(entries(one)?, json!({}));
            assert_eq!(entries(two)?, theirs);
            assert_eq!(two.key("demo")?, keys[1]);
            let mut bridge = two.bridge("demo")?;
            bridge.initialize()?;
            add(&mut bridge)?;
            end(bridge)?;
            two.thv(["secret", "delete", "token"]).output()?.expect(0)?;
            two.thv(["rm", "--all"]).output()?.expect(0)?;
            assert_eq!(entries(two)?, json!({}));
            Ok(())
        })
    })
}

/// The home that is used when none is named keeps its entries under the plain name.
#[test]
fn the_default_home_and_a_named_one_share_no_entry() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        let default = |args: &[&str]| home.thv(args).env_remove("THV_HOME");
        default(&["secret", "set", "token"]).stdin("default").output()?.expect(0)?;
        home.thv(["secret", "set", "token"]).stdin("named").output()?.expect(0)?;
        let names = |service: &str| -> Result<Vec<String>> {
            let entries = entries_of(home.bus(), service)?;
            Ok(entries.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect())
        };
        ensure!(names("thv")?.contains(&"secret:token".to_owned()), "{:?}", names("thv")?);
        assert_eq!(names("thv")?, names(&service(home))?);
        let get = ["secret", "get", "token", "--yes"];
        assert_eq!(default(&get).output()?.expect(0)?.stdout, "default\n");
        default(&["secret", "delete", "token"]).output()?.expect(0)?;
        assert_eq!(home.thv(get).output()?.expect(0)?.stdout, "named\n");
        home.thv(["secret", "delete", "token"]).output()?.expect(0)?;
        assert_eq!((names("thv")?, names(&service(home))?), (vec![], vec![]));
        Ok(())
    })
}

/// Another program of the user's with the same habits in naming is not in the way.
#[test]
fn items_of_others_are_left_alone() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        let foreign = [
            ["service", "other", "username", "workload:demo:shared-key"],
            ["service", "thv", "username", "workload:demo:shared-key"],
            ["service", "thv:0123456789abcdef", "username", "workload:demo:shared-key"],
        ];
        for attributes in foreign {
            desktop.secret_tool(&[&["store", "--label", "x"], &attributes[..]].concat(), "foreign")?;
        }
        let first = demo(home, "demo")?;
        assert_eq!(entries(home)?["workload:demo:shared-key"], json!(first.key_id));
        home.thv(["rm", "--all"]).output()?.expect(0)?;
        for attributes in foreign {
            assert_eq!(desktop.secret_tool(&[&["lookup"], &attributes[..]].concat(), "")?, "foreign");
        }
        Ok(())
    })
}

/// Written as a path may be written; it is the same home for all that.
#[test]
fn a_home_is_known_however_its_path_is_written() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        demo(home, "demo")?;
        let key = home.key("demo")?;
        let path = home.path().to_string_lossy().into_owned();
        let parent = path.trim_end_matches("/thv");
        for written in [format!("{path}/"), format!("{parent}//thv"), format!("{parent}/./thv")] {
            let output = home.thv(["key", "show", "demo", "--yes"]).env("THV_HOME", &written);
            assert_eq!(output.shows_key().output()?.expect(0)?.stdout.trim(), key, "{written}");
        }
        home.thv(["rm", "demo"]).output()?.expect(0).map(drop)
    })
}
