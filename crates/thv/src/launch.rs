//! How this program starts itself again as a helper: the guardian of a server, and the last step before a server.

use std::ffi::OsString;
use std::process::ExitCode;

use thv_workload::guardian::Launcher;

const GUARD: &str = "__guard";
const EXEC: &str = "__exec";
/// The first argument that makes this program a supervisor.
pub const SUPERVISE: &str = "__supervise";
/// In a debug build, names the step after which the process kills itself, for tests of what is left then.
#[cfg(debug_assertions)]
pub const KILL_AFTER: &str = "THV_TEST_KILL_AFTER";

/// This program, so that it is found even after an upgrade has replaced the file on disk.
pub fn launcher() -> Launcher {
    #[cfg(target_os = "linux")]
    let program = "/proc/self/exe".into();
    #[cfg(not(target_os = "linux"))]
    let program = std::env::current_exe().unwrap_or_else(|_| "thv".into());
    Launcher { program, guard: GUARD, exec: EXEC }
}

/// Acts as a helper if that is what the arguments ask for.
#[cfg(unix)]
pub fn helper(args: &[OsString]) -> Option<ExitCode> {
    use thv_workload::guardian;

    let complain = |what: &str, error: &std::io::Error| {
        crate::say::talk(&format!("thv: {what}: {error}"));
        ExitCode::from(127)
    };
    let role = args.get(1)?.to_str()?;
    if matches!(role, GUARD | SUPERVISE) {
        thv_workload::process::show_as("thv");
    }
    match role {
        GUARD => Some(match guardian::guard(&launcher(), &args[2..]) {
            Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            Err(error) => complain("the guardian failed", &error),
        }),
        EXEC => Some(complain("the server was not started", &guardian::exec(&args[2..]))),
        SUPERVISE => Some(crate::detach::supervise(&args[2..])),
        _ => None,
    }
}

/// Servers are started without helpers here, supervisors are not.
#[cfg(not(unix))]
pub fn helper(args: &[OsString]) -> Option<ExitCode> {
    (args.get(1)?.to_str()? == SUPERVISE).then(|| crate::detach::supervise(&args[2..]))
}

/// Installs the seam by which tests end this process after a step.
#[cfg(debug_assertions)]
pub fn obey_tests() {
    if let Some(step) = std::env::var_os(KILL_AFTER) {
        let words = thv_workload::steps::Step::ALL.map(thv_workload::steps::Step::as_str);
        if !words.iter().any(|word| step.to_str() == Some(word)) {
            crate::say::talk(&format!("there is no such step; there are {}", words.join(" ")));
        }
        thv_workload::steps::observe(move |reached| {
            if step.to_str() == Some(reached.as_str())
                && let Some(us) = thv_workload::process::ProcessRef::of(std::process::id())
            {
                let _ = us.kill();
            }
        });
    }
}
