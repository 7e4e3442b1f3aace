//! Is the text tidy? Which module may know which, and a few habits that no compiler checks.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which modules of raftstore may write `use crate::…` of which. `lib` is the map and knows all;
/// the vocabulary may be used by everybody.
const RAFTSTORE: &[(&str, &[&str])] = &[
    // It runs the machines and performs their effects.
    (
        "driver",
        &["store", "applier", "operation", "transport", "read_view", "storage", "clock_trust"],
    ),
    // It adds to the machines what they can do.
    ("operation", &["store", "peer", "applier", "storage", "group", "read_view"]),
    ("store", &["peer", "operation", "storage", "group", "read_view", "applier"]),
    // A peer keeps what each operation has under way, as fields of the operations' own types.
    ("peer", &["operation", "storage", "group", "read_view"]),
    ("applier", &["storage", "group"]),
    ("group", &["storage"]),
    ("storage", &[]),
    ("clock_trust", &[]),
    ("engine", &[]),
    ("transport", &[]),
    ("read_view", &[]),
];

/// What every module of raftstore may use.
const VOCABULARY: &[&str] =
    &["msg", "effects", "command", "config", "error", "lanes", "plant", "wire", "engine"];

/// Which crate may depend on which of ours; nobody else knows anybody.
const CRATES: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("raftstore", &["proto"]),
    ("kv", &["proto", "raftstore"]),
    ("scheduler", &["proto", "raftstore"]),
    ("client", &["proto"]),
    ("xtask", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file below the folder whose name ends so, sorted.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Tests of a module that stand beside it: they may use anything, and its head speaks for them.
fn is_test_beside(file: &Path) -> bool {
    let inside = file.strip_prefix(root()).unwrap();
    let below_src = inside.components().skip_while(|part| part.as_os_str() != "src");
    inside.ends_with("tests.rs") || below_src.skip(1).any(|part| part.as_os_str() == "tests")
}

/// The module that a file below `src` belongs to: its first folder, or its own name.
fn module_of(file: &Path, source: &Path) -> String {
    let inside = file.strip_prefix(source).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// S0.50: that messages travel at all only the driver knows: no machine uses the trait `Transport`.
#[test]
fn arrows_between_modules_of_raftstore_point_one_way() {
    let source = root().join("raftstore/src");
    let allowed: BTreeMap<&str, &[&str]> = RAFTSTORE.iter().copied().collect();
    let mut wrong = Vec::new();
    for file in files(&source, ".rs") {
        let module = module_of(&file, &source);
        let Some(targets) = allowed.get(module.as_str()) else { continue };
        if is_test_beside(&file) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        // Tests beside a module may use anything.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            let Some(rest) = line.trim_start().strip_prefix("use crate::") else { continue };
            let target: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let free = target == module || VOCABULARY.contains(&target.as_str());
            if !target.is_empty() && !free && !targets.contains(&target.as_str()) {
                let place = file.strip_prefix(&source).unwrap().display().to_string();
                wrong.push(format!("{place}:{}: {module} -> {target}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that are not in the table:\n{}", wrong.join("\n"));
}

#[test]
fn arrows_between_crates_point_one_way() {
    let ours: Vec<&str> = CRATES.iter().map(|(name, _)| *name).chain(["tessera"]).collect();
    for (name, allowed) in CRATES {
        let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let dependencies = text.split("[dependencies]").nth(1).unwrap_or("");
        let dependencies = dependencies.split("\n[").next().unwrap();
        for line in dependencies.lines() {
            let dependency = line.split(['.', ' ', '=']).next().unwrap();
            if ours.contains(&dependency) {
                assert!(allowed.contains(&dependency), "{name} must not depend on {dependency}");
            }
        }
    }
}

/// What each package of the lock file depends on.
fn locked() -> BTreeMap<String, Vec<String>> {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut dependencies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let name = package.split("name = \"").nth(1).unwrap().split('"').next().unwrap();
        let list = package.split("dependencies = [").nth(1).and_then(|rest| rest.split(']').next());
        let names = list.unwrap_or("").split('"').filter(|item| item.trim().len() > 1);
        let names = names.filter(|item| !item.trim().starts_with(','));
        let names = names.map(|item| item.split(' ').next().unwrap().to_owned());
        dependencies.entry(name.to_owned()).or_default().extend(names);
    }
    dependencies
}

/// Everything that these packages pull in, with themselves.
fn reached_from(mut reached: Vec<String>) -> Vec<String> {
    let dependencies = locked();
    let mut next = 0;
    while next < reached.len() {
        for name in dependencies.get(&reached[next]).cloned().unwrap_or_default() {
            // Build-time tools of the protocol crate run on the builder's machine only.
            if !reached.contains(&name) {
                reached.push(name);
            }
        }
        next += 1;
    }
    reached
}

#[test]
fn the_client_pulls_in_no_engine_and_no_consensus() {
    let reached = reached_from(vec!["tessera-client".to_owned()]);
    for banned in ["rocksdb", "librocksdb-sys", "raft", "protobuf", "cc", "bindgen"] {
        assert!(!reached.iter().any(|name| name == banned), "the client pulls in {banned}");
    }
}

/// What a crate's manifest says of each of its dependencies, by their names.
fn dependencies_of(name: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let section = text.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let lines = section.lines().map(str::trim).filter(|line| line.contains('='));
    let named =
        lines.map(|line| (line.split(['.', ' ', '=']).next().unwrap().to_owned(), line.to_owned()));
    named.collect()
}

/// S0.49, S0.50: the network is a layer over the trait `Transport`. The crate of the replicas builds without
/// gRPC, HTTP and an asynchronous runtime: it takes no part of the wire's crate that brings them, and nothing
/// else brings them.
#[test]
fn replicas_are_built_without_a_network() {
    let optional_in_proto = ["tonic", "tonic-prost"];
    let mut begin = Vec::new();
    for (name, line) in dependencies_of("raftstore") {
        if name == "proto" {
            assert!(!line.contains("features"), "replicas need the words only: {line}");
        } else {
            begin.push(name);
        }
    }
    for (name, line) in dependencies_of("proto") {
        if optional_in_proto.contains(&name.as_str()) {
            assert!(line.contains("optional = true"), "{line}");
        } else {
            begin.push(name);
        }
    }
    let proto = std::fs::read_to_string(root().join("proto/Cargo.toml")).unwrap();
    assert!(!proto.contains("default ="), "the feature is asked for by who needs it");
    assert!(begin.len() > 10, "the manifests are read");
    let reached = reached_from(begin);
    for banned in ["tonic", "tonic-prost", "hyper", "h2", "http", "axum", "tower", "tokio"] {
        assert!(!reached.iter().any(|name| name == banned), "raftstore pulls in {banned}");
    }
    for file in files(&root().join("raftstore/src"), ".rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        for banned in ["tonic::", "tokio::", "std::net"] {
            assert!(!text.contains(banned), "{} uses {banned}", file.display());
        }
    }
}

#[test]
fn source_files_name_no_path_of_a_machine() {
    for ending in [".rs", ".toml", ".md", ".proto"] {
        for file in files(&root(), ending) {
            let text = std::fs::read_to_string(&file).unwrap();
            for path in [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("/ho", "me/")] {
                assert!(!text.contains(path), "{} holds {path}", file.display());
            }
        }
    }
}

#[test]
fn every_source_file_says_at_its_head_what_it_is_about() {
    let mut silent = Vec::new();
    for file in files(&root(), ".rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        let head = text.lines().next().unwrap_or("");
        let told = head.starts_with("//!") || head.starts_with("#![doc");
        if !told
            && !is_test_beside(&file)
            && !file.components().any(|part| part.as_os_str() == "compat")
        {
            silent.push(file.strip_prefix(root()).unwrap().display().to_string());
        }
    }
    assert!(silent.is_empty(), "no `//!` at the head of: {}", silent.join(", "));
}

/// What in a text looks like the path of a file, or of a folder when a `/` ends it.
fn paths_in(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.split(move |c: char| !is_part(c)).map(|word| word.trim_start_matches('/')).filter(|word| {
        let names_a_file = [".rs", ".md", ".proto"].iter().any(|ending| word.ends_with(ending));
        word.contains('/')
            && (names_a_file
                || CRATES.iter().any(|(name, _)| {
                    word.strip_prefix(name)
                        .is_some_and(|rest| rest.starts_with('/') && rest.ends_with('/'))
                }))
    })
}

#[test]
fn documents_name_files_that_exist() {
    let mut missing = Vec::new();
    for document in files(&root(), ".md") {
        let folder = document.parent().unwrap();
        // A README names files from its crate, or from the sources of it.
        let bases = [root(), folder.to_owned(), folder.join("src")];
        let text = std::fs::read_to_string(&document).unwrap();
        for path in paths_in(&text) {
            if !bases.iter().any(|base| base.join(path).exists()) {
                let document = document.strip_prefix(root()).unwrap().display();
                missing.push(format!("{document}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "documents name what is not there:\n{}", missing.join("\n"));
}

/// The claims of each article, numbered from 1: the last number of each.
const CLAIMS: &[(&str, u32)] = &[("S0", 50), ("S1", 15), ("S3", 12), ("S4", 22)];

/// Whether the text holds this claim's number, and not as a part of a longer one.
fn names_claim(text: &str, claim: &str) -> bool {
    text.match_indices(claim).any(|(at, _)| {
        let is_word = |c: char| c.is_ascii_alphanumeric();
        !text[..at].ends_with(is_word) && !text[at + claim.len()..].starts_with(is_word)
    })
}

/// What stands above this function, and is a comment or an attribute.
fn comment_above(text: &str, function: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let head = format!("fn {function}(");
    let at = lines.iter().position(|line| line.contains(&head))?;
    let above = lines[..at].iter().rev();
    let is_above = |line: &&&str| line.starts_with("//") || line.starts_with('#');
    Some(above.take_while(is_above).copied().collect::<Vec<_>>().join("\n"))
}

/// The table of claims in the README: the tests and scripts that it names exist, and name the claim themselves.
#[test]
fn claims_are_named_where_the_readme_says() {
    let readme = std::fs::read_to_string(root().join("tests/README.md")).unwrap();
    let claims: Vec<String> = CLAIMS
        .iter()
        .flat_map(|(article, last)| (1..=*last).map(move |number| format!("{article}.{number}")))
        .collect();
    let scripts: Vec<PathBuf> = files(&root(), "")
        .into_iter()
        .filter(|file| file.parent().is_some_and(|folder| folder.ends_with("testscripts")))
        .collect();
    let sources: Vec<String> =
        files(&root(), ".rs").iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let mut wrong = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for line in readme.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &["", claim, _, tests, ""] = &cells[..] else { continue };
        if !claims.iter().any(|known| known == claim) {
            continue;
        }
        if seen.contains(&claim) {
            wrong.push(format!("{claim} stands there twice"));
        }
        seen.push(claim);
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("{claim}: no test"));
        }
        for name in names {
            let script = scripts.iter().find(|file| file.ends_with(name));
            let is_named = match script {
                Some(file) => names_claim(&std::fs::read_to_string(file).unwrap(), claim),
                None => sources.iter().any(|text| {
                    comment_above(text, name).is_some_and(|above| names_claim(&above, claim))
                }),
            };
            if !is_named {
                wrong.push(format!("{claim}: {name} is not there, or does not name it"));
            }
        }
    }
    for claim in claims.iter().filter(|claim| !seen.contains(&claim.as_str())) {
        wrong.push(format!("{claim} is missing"));
    }
    assert!(wrong.is_empty(), "the table of claims is wrong:\n{}", wrong.join("\n"));
}

#[test]
fn every_crate_has_a_readme() {
    for (name, _) in CRATES {
        assert!(root().join(name).join("README.md").exists(), "{name} has no README.md");
    }
}

/// Printed, not judged: where the next split of a file may be due.
#[test]
fn the_largest_files_are_told() {
    let mut sizes: Vec<(usize, String)> = files(&root(), ".rs")
        .iter()
        .map(|file| {
            let lines = std::fs::read_to_string(file).unwrap().lines().count();
            (lines, file.strip_prefix(root()).unwrap().display().to_string())
        })
        .collect();
    sizes.sort_by(|a, b| b.cmp(a));
    for (lines, file) in sizes.iter().take(10) {
        println!("{lines:5} {file}");
    }
}
