//! Set-up, run, test: the commands of this project, on nothing but the standard library.
//!
//! `cargo xtask` compiles in a second, before RocksDB is touched, so it can install what RocksDB
//! needs first. It knows no crate of the workspace: it starts cargo, and cargo does the rest.

#![allow(clippy::print_stdout, reason = "a command line tool talks to its terminal")]

mod cargo;
mod compat;
mod lab;
mod toolchain;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  up [FLAGS]         set up this machine, build, and run the three-store cluster
                     (FLAGS go to `tessera playground`)
  test [FILTER]      set up this machine, and pass all tests of the workspace
  check              formatting, lints, documentation: what a change must be silent on
  compat [LANGUAGE…]  official clients against a playground: rust, go, java, python; those whose
                     tools are missing are skipped and named
  lab NAME           one lab of the course, 1 to 4c; the exit code is the grade
  lab list           all labs, and how many tests each has
  lab why TEST       what a test is about, and where to look: TestBasic2B or test_basic_2b
  sim [--seeds N] [--from SEED] [--minutes M]
                     the cluster under simulation; a failing seed prints how to replay it, what it
                     needs and its last events (200 seeds unless told; with minutes alone, as many
                     as there is time for)
  sim --planted [NAME]
                     looks for every bug planted on purpose, or for one, which is then told step by
                     step; prints how many seeds it took
  sim --scheduling [CASE] [--seeds N]
                     scheduling alone, with thousands of stores and regions that are only heartbeats:
                     does it come to rest, after how many moves beside the least, and does it stay?
  sim --group [--seeds N] [--from SEED]
                     the scheduler group under simulation: members killed, cut off, paused, their
                     clocks set; and the bugs planted in its shell
  replay SEED [--only N,N,…]
                     one seed again, with its trace; with some of its mischiefs only
  chaos [--minutes M] [--seed S]
                     real processes killed, paused and cut apart under load, then judged
                     (one minute unless told; partitions need root, `ip` and `nft`)
  bench [FLAGS]      a release build of `tessera bench` (RocksDB is not compiled again)
  bench round|engines [FILTER]
                     criterion's benchmarks of the replication and of the engines, likewise
  descriptor FILE    write the wire protocol's descriptor set
  doctor             what this machine has and lacks; installs nothing
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["up", flags @ ..] => up(flags),
        ["test", filter @ ..] => test(filter),
        ["check"] => check(),
        ["compat", languages @ ..] => compat::run(languages),
        ["lab", "list"] => lab::list(),
        ["lab", "why", test] => match lab::why(test) {
            Ok(()) => Ok(()),
            Err(mistake) => return misused(&mistake),
        },
        ["lab", name] if lab::is_known(name) => lab::run(name),
        ["lab", name] => return misused(&format!("no lab is called {name}; see `lab list`")),
        ["sim", "--planted"] => planted(&[]),
        ["sim", "--planted", name] => planted(&[("TESSERA_PLANT", *name)]),
        ["sim", "--scheduling", flags @ ..] => scheduling(flags),
        ["sim", "--group", flags @ ..] => group(flags),
        ["sim", flags @ ..] => sim(flags),
        ["replay", seed, flags @ ..] => replay(seed, flags),
        ["chaos", flags @ ..] => chaos(flags),
        ["bench", flags @ ..] => bench(flags),
        ["descriptor", file] => descriptor(file),
        ["doctor"] => toolchain::report(),
        [] | ["-h" | "--help" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("cargo xtask: no such command: {}\n\n{USAGE}", arguments.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("cargo xtask: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// A mistake of the caller's, in one line.
fn misused(mistake: &str) -> ExitCode {
    eprintln!("cargo xtask: {mistake}");
    ExitCode::from(2)
}

/// What a person reads when a command fails; the exit code is 1.
type Outcome = Result<(), String>;

fn up(flags: &[&str]) -> Outcome {
    toolchain::ensure()?;
    let mut arguments = vec!["run", "--quiet", "--package", "tessera", "--", "playground"];
    arguments.extend_from_slice(flags);
    cargo::announce_first_build();
    cargo::replace_self(&arguments)
}

fn test(filter: &[&str]) -> Outcome {
    toolchain::ensure()?;
    cargo::announce_first_build();
    let mut arguments = vec!["test", "--workspace", "--all-targets"];
    if !filter.is_empty() {
        arguments.push("--");
        arguments.extend_from_slice(filter);
    }
    cargo::run(&arguments, &[])
}

fn check() -> Outcome {
    toolchain::ensure()?;
    cargo::run(&["fmt", "--all", "--check"], &[])?;
    cargo::run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    // Heads of modules name private items too: those links serve whoever reads the source.
    let flags = "-D warnings -A rustdoc::private_intra_doc_links";
    cargo::run(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", flags)])
}

fn sim(flags: &[&str]) -> Outcome {
    toolchain::ensure()?;
    let known = [
        ("--seeds", "TESSERA_SIM_SEEDS"),
        ("--from", "TESSERA_SIM_FROM"),
        ("--minutes", "TESSERA_SIM_MINUTES"),
    ];
    cargo::run(&simulation("simulation::seeds"), &variables("sim", flags, &known)?)
}

/// Built anew with the bugs in it, beside the usual build: RocksDB is not compiled again.
fn planted(environment: &[(&str, &str)]) -> Outcome {
    toolchain::ensure()?;
    let mut arguments = simulation("planted::").to_vec();
    let before = arguments.iter().position(|word| *word == "--test").unwrap_or(0);
    arguments.splice(before..before, ["--features", "tessera-tests/plant"]);
    cargo::run(&arguments, environment)
}

/// Scheduling simulated: one case when it is named, all of them otherwise.
fn scheduling(flags: &[&str]) -> Outcome {
    toolchain::ensure()?;
    let (case, flags) = match flags {
        [case, flags @ ..] if !case.starts_with("--") => (Some(*case), flags),
        flags => (None, flags),
    };
    let mut environment = variables("sim", flags, &[("--seeds", "TESSERA_SIM_SEEDS")])?;
    environment.extend(case.map(|case| ("TESSERA_SCHEDULING", case)));
    cargo::run(&simulation("placement::every_case"), &environment)
}

/// The scheduler group simulated.
fn group(flags: &[&str]) -> Outcome {
    toolchain::ensure()?;
    let known = [("--seeds", "TESSERA_SIM_SEEDS"), ("--from", "TESSERA_SIM_FROM")];
    cargo::run(&simulation("group::"), &variables("sim", flags, &known)?)
}

/// Flags with a value each, as the environment variables that the tests read.
fn variables<'a>(
    command: &str,
    flags: &[&'a str],
    known: &[(&str, &'a str)],
) -> Result<Vec<(&'a str, &'a str)>, String> {
    let mut environment = Vec::new();
    for pair in flags.chunks(2) {
        let variable = known.iter().find(|(flag, _)| *flag == pair[0]);
        let (_, variable) =
            variable.ok_or_else(|| format!("{command}: no such flag: {}", pair[0]))?;
        let value = pair.get(1).ok_or_else(|| format!("{command}: {} needs a value", pair[0]))?;
        environment.push((*variable, *value));
    }
    Ok(environment)
}

/// A test of the program itself, told by its environment to take its time.
fn chaos(flags: &[&str]) -> Outcome {
    toolchain::ensure()?;
    cargo::announce_first_build();
    let known = [("--minutes", "TESSERA_CHAOS_MINUTES"), ("--seed", "TESSERA_CHAOS_SEED")];
    let mut environment = variables("chaos", flags, &known)?;
    if !flags.contains(&"--minutes") {
        environment.push(("TESSERA_CHAOS_MINUTES", "1"));
    }
    let filter = "chaos::the_cluster_holds";
    cargo::run(
        &["test", "--workspace", "--test", "end_to_end", "--", filter, "--nocapture"],
        &environment,
    )
}

fn replay(seed: &str, flags: &[&str]) -> Outcome {
    toolchain::ensure()?;
    let mut environment = variables("replay", flags, &[("--only", "TESSERA_ONLY")])?;
    environment.push(("TESSERA_SEED", seed));
    cargo::run(&simulation("simulation::replay"), &environment)
}

/// Of the whole workspace, as `test` builds it: with one package alone some dependencies would have other
/// features, and be compiled again.
fn simulation(filter: &str) -> [&str; 7] {
    ["test", "--workspace", "--test", "suites", "--", filter, "--nocapture"]
}

/// RocksDB is compiled with the same optimisation in both profiles, so the release build links the
/// library that the dev build made.
fn bench(flags: &[&str]) -> Outcome {
    toolchain::ensure()?;
    cargo::announce_first_build();
    cargo::run(&["build", "--package", "tessera"], &[])?;
    let library = cargo::rocksdb_library()?;
    let mut environment = Vec::new();
    if let Some(folder) = &library {
        environment.push(("ROCKSDB_LIB_DIR", folder.as_str()));
        environment.push(("ROCKSDB_STATIC", "1"));
    }
    let mut arguments = match flags {
        // Criterion's own: one cargo target each.
        ["round" | "engines", ..] => vec!["bench", "--workspace", "--bench", flags[0], "--"],
        _ => vec!["run", "--release", "--quiet", "--package", "tessera", "--", "bench"],
    };
    arguments.extend_from_slice(if arguments[0] == "bench" { &flags[1..] } else { flags });
    cargo::run(&arguments, &environment)
}

fn descriptor(file: &str) -> Outcome {
    cargo::run(
        &["run", "--quiet", "--package", "tessera-proto", "--example", "descriptor", "--", file],
        &[],
    )
}
