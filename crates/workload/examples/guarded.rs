//! Runs a command under a guardian, says hello to it through its pipes, and ends it with all that it started:
//! `cargo run -p thv-workload --example guarded -- /bin/sh -c 'sleep 1000 & cat'`.
#![allow(clippy::print_stdout)]

#[cfg(unix)]
fn main() -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    use std::ffi::OsString;
    use std::process::ExitCode;
    use thv_workload::guardian::{self, Launcher};

    let launcher = Launcher { program: std::env::current_exe()?, guard: "__guard", exec: "__exec" };
    let args: Vec<OsString> = std::env::args_os().collect();
    // This program is its own guardian, as every program is that uses the crate.
    match args.get(1).and_then(|word| word.to_str()) {
        Some("__guard") => Ok(ExitCode::from(u8::try_from(guardian::guard(&launcher, &args[2..])?)?)),
        Some("__exec") => Err(guardian::exec(&args[2..]).into()),
        Some(program) => converse(launcher, program, &args[2..]),
        None => Err("name a command: an absolute path and its arguments".into()),
    }
}

#[cfg(unix)]
#[tokio::main(flavor = "current_thread")]
async fn converse(
    launcher: thv_workload::guardian::Launcher,
    program: &str,
    args: &[std::ffi::OsString],
) -> Result<std::process::ExitCode, Box<dyn std::error::Error>> {
    use thv_workload::guardian::StopTimes;
    use thv_workload::server::{Server, ServerSpec};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let spec = ServerSpec {
        program: program.into(),
        args: args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect(),
        cwd: std::env::current_dir()?,
        env: [("PATH".to_owned(), std::env::var("PATH")?)].into(),
        log: std::env::temp_dir().join("thv-workload-example.log"),
        groups: std::env::temp_dir().join("thv-workload-example"),
        launcher,
        stop: StopTimes::default(),
    };
    let Server { mut stdin, mut stdout, handle } = spec.spawn()?;
    stdin.write_all(b"hello\n").await?;
    let mut answer = [0; 64];
    let read = stdout.read(&mut answer).await?;
    println!("it says: {}", String::from_utf8_lossy(&answer[..read]).trim_end());
    drop(stdin);
    handle.stop().await;
    println!("it is gone, with all that it started");
    Ok(std::process::ExitCode::SUCCESS)
}

#[cfg(not(unix))]
fn main() {}
