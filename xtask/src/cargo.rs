//! Starting cargo, and finding what it built.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::Outcome;

/// Compiling takes this much memory at worst; more jobs than fit would swap.
const BYTES_PER_JOB: u64 = 1_500_000_000;

fn command(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments);
    if std::env::var_os("CARGO_BUILD_JOBS").is_none()
        && let Some(jobs) = jobs_that_fit()
    {
        command.env("CARGO_BUILD_JOBS", jobs.to_string());
    }
    command
}

/// Runs cargo to its end.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Outcome {
    eprintln!("+ cargo {}", arguments.join(" "));
    let status = command(arguments)
        .envs(environment.iter().copied())
        .status()
        .map_err(|error| format!("start cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cargo {} failed", arguments[0])) }
}

/// Becomes cargo, so that Ctrl-C and the exit code are the program's own. Returns only on failure.
pub(crate) fn replace_self(arguments: &[&str]) -> Outcome {
    let error = command(arguments).exec();
    Err(format!("start cargo: {error}"))
}

/// Where cargo builds, as cargo itself says.
pub(crate) fn target_folder() -> Result<PathBuf, String> {
    let output = command(&["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .map_err(|error| format!("start cargo metadata: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // The one string wanted of a large document: a JSON parser would be this crate's only dependency.
    let marker = "\"target_directory\":\"";
    let start = text.find(marker).ok_or("cargo metadata names no target folder")? + marker.len();
    let end = text[start..].find('"').ok_or("cargo metadata ends early")?;
    Ok(PathBuf::from(&text[start..start + end]))
}

/// The folder with the newest compiled RocksDB, if the dev build made one.
pub(crate) fn rocksdb_library() -> Result<Option<String>, String> {
    let build = target_folder()?.join("debug").join("build");
    let Ok(folders) = std::fs::read_dir(build) else { return Ok(None) };
    let newest = folders
        .flatten()
        .map(|folder| folder.path().join("out"))
        .filter(|out| out.join("librocksdb.a").is_file())
        .max_by_key(|out| out.metadata().and_then(|data| data.modified()).ok());
    Ok(newest.and_then(|out| out.to_str().map(str::to_owned)))
}

/// Says how long the first build takes, before it starts.
pub(crate) fn announce_first_build() {
    let built = rocksdb_library().ok().flatten().is_some();
    if !built {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        eprintln!(
            "First build: RocksDB is compiled once, about {} minutes on {cores} cores; later builds take seconds.",
            (28 / cores).max(2)
        );
    }
}

/// How many compilers fit into memory, when that is fewer than the cores.
fn jobs_that_fit() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    let cores = std::thread::available_parallelism().ok()?.get() as u64;
    let fitting = (kib * 1024 / BYTES_PER_JOB).max(1);
    (fitting < cores).then_some(fitting)
}
