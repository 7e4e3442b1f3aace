//! What RocksDB needs of a machine: a C++ compiler, and libclang with its headers.
//!
//! Missing parts are installed with the system's package manager when this process may: as root, or
//! through sudo without a password. Otherwise the exact commands are printed and nothing is done.
//! The headers are looked for as well as the library: with the library alone, the build fails
//! minutes later on a missing `stdbool.h`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Outcome;

/// Debian's names; `libclang-dev` is the same on every release.
const DEBIAN_PACKAGES: [&str; 2] = ["g++", "libclang-dev"];

struct Found {
    compiler: Option<String>,
    libclang: Option<PathBuf>,
    headers: Option<PathBuf>,
}

/// Installs what is missing, or says how.
pub(crate) fn ensure() -> Outcome {
    let found = look();
    if found.complete() {
        return Ok(());
    }
    eprintln!("To build RocksDB this machine lacks {}.", found.missing().join(" and "));
    install()?;
    let found = look();
    if found.complete() {
        Ok(())
    } else {
        Err(format!("after the installation {} is still missing", found.missing().join(" and ")))
    }
}

/// Prints what is there and what is not.
pub(crate) fn report() -> Outcome {
    let found = look();
    let line = |name: &str, state: Option<String>| match state {
        Some(detail) => println!("✓ {name}: {detail}"),
        None => println!("✗ {name}: missing"),
    };
    line("C++ compiler", found.compiler.clone());
    line("libclang", found.libclang.as_ref().map(|path| path.display().to_string()));
    line("libclang's headers", found.headers.as_ref().map(|path| path.display().to_string()));
    if found.complete() {
        println!("Ready: `cargo xtask up` builds and runs the cluster.");
    } else {
        println!("`cargo xtask up` and `cargo xtask test` install what is missing: {}", advice());
    }
    Ok(())
}

impl Found {
    fn complete(&self) -> bool {
        self.compiler.is_some() && self.libclang.is_some() && self.headers.is_some()
    }

    fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.compiler.is_none() {
            missing.push("a C++ compiler");
        }
        if self.libclang.is_none() || self.headers.is_none() {
            missing.push("libclang with its headers");
        }
        missing
    }
}

fn look() -> Found {
    Found { compiler: compiler(), libclang: libclang(), headers: headers() }
}

fn compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    named.into_iter().chain(["c++", "g++", "clang++"].map(str::to_owned)).find(|name| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// Folders in which a libclang may stand.
fn library_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("LIBCLANG_PATH").map(PathBuf::from).into_iter().collect();
    for parent in ["/usr/lib", "/usr/local", "/opt/homebrew/opt"] {
        folders.extend(
            entries(Path::new(parent))
                .into_iter()
                .filter(|path| name(path).contains("llvm"))
                .map(|path| path.join("lib")),
        );
    }
    for folder in [
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
    ] {
        folders.push(folder.into());
    }
    folders
}

fn libclang() -> Option<PathBuf> {
    library_folders().iter().flat_map(|folder| entries(folder)).find(|path| {
        let name = name(path);
        name.starts_with("libclang.so")
            || name == "libclang.dylib"
            // Not the C++ interface, which clang's own programs bring along and bindgen cannot use.
            || (name.starts_with("libclang-")
                && !name.starts_with("libclang-cpp")
                && name.contains(".so"))
    })
}

/// Clang's own headers, or gcc's when bindgen is told of them.
fn headers() -> Option<PathBuf> {
    let told = std::env::var_os("BINDGEN_EXTRA_CLANG_ARGS").is_some();
    library_folders()
        .into_iter()
        .map(|folder| folder.join("clang"))
        .flat_map(|folder| entries(&folder))
        .map(|version| version.join("include"))
        .find(|include| include.join("stdbool.h").is_file())
        .or_else(|| told.then(|| PathBuf::from("BINDGEN_EXTRA_CLANG_ARGS")))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// What a person would type.
fn advice() -> String {
    if exists("apt-get") {
        format!("sudo apt-get install {}", DEBIAN_PACKAGES.join(" "))
    } else if exists("dnf") {
        "sudo dnf install gcc-c++ clang-devel".into()
    } else if exists("pacman") {
        "sudo pacman -S gcc clang".into()
    } else if exists("apk") {
        "sudo apk add g++ clang-dev".into()
    } else if exists("brew") {
        "brew install llvm".into()
    } else {
        "install a C++20 compiler, and libclang with its headers".into()
    }
}

/// Whether a program is on the PATH.
pub(crate) fn exists(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

fn install() -> Outcome {
    if !exists("apt-get") {
        return Err(format!("cannot install on this system; please run: {}", advice()));
    }
    let prefix: &[&str] = if is_root() {
        &[]
    } else if exists("sudo") && quiet(&["sudo", "-n", "true"]) {
        &["sudo", "-n"]
    } else {
        return Err(format!("not root, and sudo needs a password; please run: {}", advice()));
    };
    let update = || run(prefix, &["apt-get", "update", "-q"]);
    let install = || {
        let mut words = vec!["apt-get", "install", "-y", "-q", "--no-install-recommends"];
        words.extend(DEBIAN_PACKAGES);
        run(prefix, &words)
    };
    // Package lists may be absent or old; then the first try fails and the second has new ones.
    let lists = entries(Path::new("/var/lib/apt/lists")).len();
    if lists < 3 {
        update()?;
    }
    install().or_else(|_| update().and_then(|()| install()))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn quiet(words: &[&str]) -> bool {
    Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn run(prefix: &[&str], words: &[&str]) -> Outcome {
    let line: Vec<&str> = prefix.iter().chain(words).copied().collect();
    eprintln!("+ {}", line.join(" "));
    let status = Command::new(line[0])
        .args(&line[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .map_err(|error| format!("start {}: {error}", line[0]))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed", line.join(" "))) }
}
