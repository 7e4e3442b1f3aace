//! Official clients, unmodified, against the program: one language after the other.
//!
//! A language whose tools are not on this machine is skipped, and the last lines say so; a language
//! that was named on the command line and cannot be had is a failure.

use std::path::PathBuf;
use std::process::Command;

use crate::{Outcome, cargo, toolchain};

struct Language {
    name: &'static str,
    client: &'static str,
    /// What must be on the PATH.
    tool: &'static str,
    run: fn(&str) -> Outcome,
}

const LANGUAGES: [Language; 4] = [
    Language { name: "rust", client: "tikv-client (crate)", tool: "cargo", run: rust },
    Language { name: "go", client: "client-go v2", tool: "go", run: go },
    Language { name: "java", client: "client-java", tool: "mvn", run: java },
    Language { name: "python", client: "tikv-client (PyPI)", tool: "python3", run: python },
];

/// Runs the suites of the languages named, or of all whose tools are here.
pub(crate) fn run(names: &[&str]) -> Outcome {
    let known = |name: &&str| LANGUAGES.iter().any(|language| language.name == *name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        return Err(format!(
            "compat: no such language: {unknown}; there are rust, go, java, python"
        ));
    }
    toolchain::ensure()?;
    cargo::announce_first_build();
    // The program as the tests have it, so that nothing is compiled twice.
    cargo::run(&["test", "--workspace", "--test", "end_to_end", "--no-run"], &[])?;
    let program = cargo::target_folder()?.join("debug").join("tessera");
    let program = program.to_str().ok_or("the target folder's path is not text")?;
    let mut lines = Vec::new();
    let mut failed = false;
    for language in &LANGUAGES {
        let is_named = names.contains(&language.name);
        if !names.is_empty() && !is_named {
            continue;
        }
        let title = format!("{:<7} {}", language.name, language.client);
        if !toolchain::exists(language.tool) {
            failed |= is_named;
            lines.push(format!("{title}: skipped, `{}` is not on the PATH", language.tool));
            continue;
        }
        match (language.run)(program) {
            Ok(()) => lines.push(format!("{title}: passed")),
            Err(problem) => {
                failed = true;
                lines.push(format!("{title}: FAILED, {problem}"));
            }
        }
    }
    for line in lines {
        println!("{line}");
    }
    if failed { Err("an official client does not work".into()) } else { Ok(()) }
}

fn rust(program: &str) -> Outcome {
    cargo::run(
        &[
            "run",
            "--quiet",
            "--manifest-path",
            "tests/compat/Cargo.toml",
            "--package",
            "compat-rust",
        ],
        &[("TESSERA", program)],
    )
}

fn go(program: &str) -> Outcome {
    tool("go", &["run", "."], "tests/compat/go", program)
}

/// Where what is built goes: never into the sources.
fn built(name: &str) -> Result<PathBuf, String> {
    let folder = cargo::target_folder()?.join("compat").join(name);
    std::fs::create_dir_all(&folder)
        .map_err(|error| format!("make {}: {error}", folder.display()))?;
    Ok(folder)
}

fn java(program: &str) -> Outcome {
    let folder = format!("-Dbuild.folder={}", built("java")?.display());
    tool("mvn", &["--quiet", &folder, "compile", "exec:java"], "tests/compat/java", program)
}

/// The client is installed into an environment of its own.
fn python(program: &str) -> Outcome {
    let folder = built("python")?;
    let python = folder.join("bin").join("python");
    let inside = python.to_str().ok_or("the target folder's path is not text")?;
    if !python.is_file() {
        let place = folder.to_str().ok_or("the target folder's path is not text")?;
        tool("python3", &["-m", "venv", place], ".", program)?;
    }
    let requirements = "requirements.txt";
    let install =
        ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements];
    tool(inside, &install, "tests/compat/python", program)?;
    tool(inside, &["main.py"], "tests/compat/python", program)
}

fn tool(name: &str, arguments: &[&str], folder: &str, program: &str) -> Outcome {
    eprintln!("+ {name} {}", arguments.join(" "));
    let status = Command::new(name)
        .args(arguments)
        .current_dir(folder)
        .env("TESSERA", program)
        .status()
        .map_err(|error| format!("start {name}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{name} ended with {status}")) }
}
