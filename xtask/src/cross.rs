//! Checks that the workspace compiles for systems that this machine is not, with a compiler and a standard library
//! that Debian packages. Nothing is installed: the packages are unpacked below the target folder.
//!
//! `cargo check` types and borrow-checks everything and links nothing. That proves that the code is whole for Windows
//! and macOS, not that it works there.

use std::path::{Path, PathBuf};
use std::process::Command;

use thv_e2e::{Failure, Result, ensure};

use crate::cargo::{cargo, root};
use crate::steps::Steps;

const TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];

/// The packages that make a compiler with the sources of its standard library.
const PACKAGES: [&str; 4] = ["rustc-web", "rust-web-src", "libstd-rust-web-dev", "libllvm22"];

/// The package whose name holds the compiler's version.
const STD: &str = "libstd-rust-web-";

/// Unix programs: what they test and do is not for other systems.
const LEFT_OUT: [&str; 2] = ["xtask", "thv-e2e"];

pub(crate) fn run(steps: &mut Steps) -> Result {
    let folder = root().join("target/cross");
    let compiler = steps.step("compiler for other systems", "cargo xtask cross", || compiler(&folder))?;
    for target in TARGETS {
        let mut check = cargo([
            "check",
            "--quiet",
            "--workspace",
            "--target",
            target,
            "-Zbuild-std=std,panic_unwind",
            "--no-default-features",
        ]);
        for package in LEFT_OUT {
            check.args(["--exclude", package]);
        }
        check
            .env("RUSTC", compiler.join("bin/rustc"))
            .env("LD_LIBRARY_PATH", compiler.join("lib/x86_64-linux-gnu"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-D warnings")
            .env("CARGO_TARGET_DIR", folder.join("check"));
        steps.run(&format!("check for {target}"), &mut check)?;
    }
    Ok(())
}

/// The folder of the compiler, unpacked if it is not there.
fn compiler(folder: &Path) -> Result<PathBuf> {
    let unpacked = folder.join("root");
    let stamp = folder.join("unpacked");
    let usr = unpacked.join("usr");
    if stamp.is_file() {
        return Ok(usr);
    }
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "this chore works on Debian for x86-64 only"
    );
    have_dlltool()?;
    std::fs::create_dir_all(&unpacked)?;
    let std_package = std_package()?;
    let mut download = Command::new("apt-get");
    download.args(["download", "-qq"]).args(PACKAGES).arg(&std_package).current_dir(folder);
    succeed(&mut download, "apt-get update, then again")?;
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "deb") {
            succeed(
                Command::new("dpkg").arg("-x").arg(&path).arg(&unpacked),
                "remove target/cross, then again",
            )?;
            std::fs::remove_file(&path)?;
            count += 1;
        }
    }
    ensure!(
        count == PACKAGES.len() + 1,
        "{count} packages were downloaded instead of {}",
        PACKAGES.len() + 1
    );
    std::fs::File::create(&stamp)?;
    Ok(usr)
}

/// Windows' import libraries are made with a tool that no Rust toolchain ships.
fn have_dlltool() -> Result {
    let tool = Command::new("x86_64-w64-mingw32-dlltool").arg("--version").output();
    ensure!(
        tool.is_ok_and(|output| output.status.success()),
        "dlltool is missing; get it: apt-get install --no-install-recommends binutils-mingw-w64-x86-64"
    );
    Ok(())
}

/// The newest package of the compiled standard library, on which the compiler depends.
fn std_package() -> Result<String> {
    let output = Command::new("apt-cache").args(["depends", "libstd-rust-web-dev"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let name = text.split_ascii_whitespace().find(|word| is_std_package(word));
    name.map(str::to_owned).ok_or_else(|| {
        Failure::new("the package libstd-rust-web-dev is not known here; apt-get update, then again")
    })
}

fn is_std_package(word: &str) -> bool {
    word.strip_prefix(STD).is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
}

fn succeed(command: &mut Command, advice: &str) -> Result {
    let status = command.stdin(std::process::Stdio::null()).status()?;
    ensure!(status.success(), "{}: {status}; {advice}", crate::steps::command_line(command));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_library_is_told_from_its_neighbours() {
        assert!(is_std_package("libstd-rust-web-1.96"));
        for other in ["libstd-rust-web-dev", "libstd-rust-1.63", "libstd-rust-web-"] {
            assert!(!is_std_package(other), "{other}");
        }
    }
}
