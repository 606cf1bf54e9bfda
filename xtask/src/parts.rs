//! Gets the real servers and clients that the end-to-end tests run against. Each is pinned by a file in
//! `tests/parts` and installed once: a stamp tells whether what is there still is what the file asks for.

use crate::cargo::root;
use crate::steps::Steps;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use thv_e2e::{Failure, Part, Result, ensure};

/// Installs `part` into `folder` unless it is there, and returns the folder of its programs.
pub(crate) fn get(steps: &mut Steps, part: Part, folder: &Path) -> Result<PathBuf> {
    match part {
        Part::Python | Part::PythonV1 => python(steps, part.name(), folder),
        Part::Node => node(steps, folder),
    }
}

fn python(steps: &mut Steps, part: &str, folder: &Path) -> Result<PathBuf> {
    let requirements = root().join("tests/parts").join(part).join("requirements.txt");
    let version = python_version()?;
    let programs = folder.join("bin");
    // The interpreter and the folder belong to it: scripts in a virtual environment hold their full path.
    let stamp = Stamp::new(
        folder,
        format!("{version} {}\n{}", folder.display(), std::fs::read_to_string(&requirements)?),
    );
    if stamp.holds() {
        return Ok(programs);
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    let mut environment = Command::new("python3");
    steps.run(&format!("part {part}: environment"), environment.args(["-m", "venv"]).arg(folder))?;
    let pip = |args: &[&str]| {
        let mut pip = Command::new(programs.join("pip"));
        pip.args(args).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        pip
    };
    // Without resolving: the file names every package, and `check` proves that it does.
    let mut install = pip(&["install", "--quiet", "--no-input", "--no-deps", "--requirement"]);
    steps.run(&format!("part {part}: packages"), install.arg(&requirements))?;
    steps.run(&format!("part {part}: check"), &mut pip(&["check"]))?;
    stamp.set()?;
    Ok(programs)
}

/// The version of an interpreter that can make virtual environments.
fn python_version() -> Result<String> {
    let advice = "apt-get install --no-install-recommends python3 python3-venv";
    let probe =
        "import sys, ensurepip, venv; print(sys.version.split()[0]); sys.exit(sys.version_info < (3, 10))";
    let output =
        Command::new("python3").args(["-c", probe]).stdin(Stdio::null()).output().map_err(|error| {
            Failure::new(format!("python3 cannot be started ({error}); get it: {advice}"))
        })?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(
        !version.is_empty(),
        "python3 cannot make virtual environments: {}; get that: {advice}",
        String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default()
    );
    ensure!(output.status.success(), "python3 is {version}; the packages need 3.10 or newer");
    Ok(version)
}

fn node(steps: &mut Steps, folder: &Path) -> Result<PathBuf> {
    let pins = root().join("tests/parts/node");
    let version = node_version()?;
    let programs = folder.join("node_modules/.bin");
    let lock = std::fs::read_to_string(pins.join("package-lock.json"))?;
    let stamp = Stamp::new(folder, format!("{version} {}\n{lock}", folder.display()));
    if stamp.holds() {
        return Ok(programs);
    }
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir(folder)?;
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(pins.join(file), folder.join(file))?;
    }
    // `ci` takes what the lock file names, with its hashes, and nothing else.
    let flags = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    steps.run("part node: packages", Command::new("npm").args(flags).current_dir(folder))?;
    stamp.set()?;
    Ok(programs)
}

/// The version of the Node.js that runs the packages, provided that it is new enough and comes with npm.
fn node_version() -> Result<String> {
    let advice = "apt-get install --no-install-recommends nodejs npm, or one from nodejs.org";
    let output = Command::new("node")
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("node cannot be started ({error}); get it: {advice}")))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let major = version.strip_prefix('v').and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    // Some packages need 22. Where npm has a Node.js of that age, the pins bring it.
    let needed = if cfg!(all(target_os = "linux", target_arch = "x86_64")) { 20 } else { 22 };
    ensure!(
        major.is_some_and(|major| major >= needed),
        "node is {version:?}; the packages need {needed} or newer"
    );
    let npm = Command::new("npm").arg("--version").stdin(Stdio::null()).output();
    ensure!(npm.is_ok_and(|output| output.status.success()), "npm cannot be started; get it: {advice}");
    Ok(version)
}

/// A file that says what was installed, written when all of it was.
struct Stamp {
    path: PathBuf,
    content: String,
}

impl Stamp {
    fn new(folder: &Path, content: String) -> Self {
        Self { path: folder.join(".installed"), content }
    }

    fn holds(&self) -> bool {
        std::fs::read(&self.path).is_ok_and(|found| found == self.content.as_bytes())
    }

    fn set(&self) -> Result {
        Ok(File::create(&self.path)?.write_all(self.content.as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_for_its_own_content_alone() {
        // Cargo makes no folder for the scratch files of unit tests; the system's own will do.
        let folder = std::env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let stamp = Stamp::new(&folder, "3.11 mcp==1".into());
        let before = stamp.holds();
        stamp.set().unwrap();
        let after = (stamp.holds(), Stamp::new(&folder, "3.11 mcp==2".into()).holds());
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!((before, after), (false, (true, false)));
    }

    #[test]
    fn every_pin_is_exact() {
        let read = |path: &str| std::fs::read_to_string(root().join("tests/parts").join(path)).unwrap();
        for (part, packages) in [
            ("python", &["fastmcp", "mcp", "mcp-server-git", "mcp-server-time", "uv"][..]),
            ("python-v1", &["mcp"]),
        ] {
            let pins = read(&format!("{part}/requirements.txt"));
            for pin in pins.lines() {
                assert_eq!(pin.split("==").count(), 2, "{part}: {pin}");
            }
            for package in packages {
                assert!(pins.contains(&format!("\n{package}==")), "{part}: {package}");
            }
        }
        assert!(read("python-v1/requirements.txt").contains("\nmcp==1."), "the previous major version");
        let pins = read("node/package.json");
        let pin = "\"@modelcontextprotocol/server-everything\": \"2";
        assert!(pins.contains(pin) && !pins.contains(['^', '~', '*']), "{pins}");
    }

    #[test]
    fn the_lock_file_of_node_names_hashes_and_no_addresses() {
        let lock = std::fs::read_to_string(root().join("tests/parts/node/package-lock.json")).unwrap();
        assert!(!lock.contains("\"resolved\""), "install with `--omit-lockfile-registry-resolved`");
        let packages = lock.matches("\n    \"node_modules/").count();
        assert!(packages > 100 && lock.matches("\"integrity\": \"sha512-").count() == packages, "{packages}");
    }
}
