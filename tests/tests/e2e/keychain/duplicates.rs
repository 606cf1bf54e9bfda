//! Two items of one name: nobody can say which of them counts, so neither does.

use super::{add, demo, end, entries, no_key, refused_soon, service, settings};
use crate::DEMO_SERVER;
use serde_json::json;
use thv_e2e::{Desktop, Result, ensure, need_keyring};

/// A second item, told from the first by an attribute that no program of ours looks at.
fn duplicate(desktop: &Desktop, service: &str, name: &str) -> Result {
    let attributes = ["service", service, "username", name, "extra", "1"];
    desktop.secret_tool(&[&["store", "--label", "another"], &attributes[..]].concat(), "AAAA").map(drop)
}

fn unduplicate(desktop: &Desktop, service: &str, name: &str) -> Result {
    desktop.secret_tool(&["clear", "service", service, "username", name, "extra", "1"], "").map(drop)
}

#[test]
fn two_items_of_one_name_are_refused_with_the_way_out() -> Result {
    need_keyring!();
    let desktop = Desktop::unlocked()?;
    desktop.with_home(|home| {
        demo(home, "demo")?;
        home.thv(["secret", "set", "token"]).stdin("hush\n").output()?.expect(0)?;
        let (key, before, kept) = (home.key("demo")?, settings(home)?, entries(home)?);
        let service = service(home);
        let mut live = home.bridge("demo")?;
        live.initialize()?;

        let entry = "workload:demo:shared-key";
        duplicate(&desktop, &service, entry)?;
        let advice = format!("secret-tool search --all service '{service}' username '{entry}'");
        let words = ["2 items", advice.as_str(), "all but one"];
        for args in [&["key", "show", "demo", "--yes"][..], &["restart", "demo"], &["key", "disable", "demo"]]
        {
            refused_soon(home.thv(args), &words)?;
        }
        add(&mut live)?;
        let mut late = home.bridge("demo")?;
        let answer = no_key(&mut late, "keychain_unavailable")?;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        ensure!(words.iter().all(|word| message.contains(word)), "{message}");
        // The others are not concerned.
        home.thv(["run", "--name", "new", "--shared-key-auth", "--", DEMO_SERVER]).output()?.expect(0)?;
        home.thv(["rm", "new"]).output()?.expect(0)?;
        assert_eq!(home.thv(["secret", "get", "token", "--yes"]).output()?.expect(0)?.stdout, "hush\n");

        unduplicate(&desktop, &service, entry)?;
        late.initialize()?;
        add(&mut late)?;
        end(late)?;
        end(live)?;
        assert_eq!((home.key("demo")?, settings(home)?, entries(home)?), (key, before, kept));

        // A secret that is there twice is neither read, nor written, nor handed to a server.
        duplicate(&desktop, &service, "secret:token")?;
        refused_soon(home.thv(["secret", "get", "token", "--yes"]), &["2 items", "secret:token"])?;
        refused_soon(home.thv(["secret", "set", "token"]).stdin("new\n"), &["2 items", "secret:token"])?;
        let run = home.thv(["run", "--name", "new", "--secret", "token,target=TOKEN", "--", DEMO_SERVER]);
        refused_soon(run, &["2 items", "secret:token"])?;
        assert!(!home.path().join("state/workloads/new").exists());
        unduplicate(&desktop, &service, "secret:token")?;
        assert_eq!(home.thv(["secret", "get", "token", "--yes"]).output()?.expect(0)?.stdout, "hush\n");

        home.thv(["rm", "demo"]).output()?.expect(0)?;
        home.thv(["secret", "delete", "token"]).output()?.expect(0)?;
        assert_eq!(entries(home)?, json!({}));
        Ok(())
    })
}
