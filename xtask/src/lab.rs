//! The course's labs: which there are, running one, and what a test is about.
//!
//! Names, numbers and words are read from the tests' own source in `tests/suites/labs/`: a test belongs
//! to the lab that the end of its name says, and what is written above it is what it is about.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::{Outcome, cargo, toolchain};

/// Where the tests are, in the repository.
const SUITES: &str = "tests/suites/labs";

/// A paragraph that names places in the code begins so.
const LOOK: &str = "Look:";

/// The labs in the course's order, with a line about each. Those without a test are not there yet.
const LABS: [(&str, &str); 10] = [
    ("1", "a key-value store over one engine, alone"),
    ("2a", "raft: election, replication, the raw node"),
    ("2b", "a store over one raft group: partitions, lost messages, losses of power"),
    ("2c", "logs that are cut, and snapshots for whoever lacks what was cut"),
    ("3a", "raft: members that come and go, leadership handed over"),
    ("3b", "the same in the store, and regions that split"),
    ("3c", "the scheduler: what it believes, and how it balances"),
    ("4a", "multi-version records"),
    ("4b", "transactions: get, prewrite, commit"),
    ("4c", "transactions: scan, status, rollback, resolve"),
];

/// A test as its source has it.
#[derive(Debug)]
struct Test {
    name: String,
    /// In the repository.
    file: String,
    line: usize,
    /// What is written above it, without the slashes.
    about: Vec<String>,
    /// Where to look, as the head of its file says, or of its folder.
    look: Vec<String>,
}

impl Test {
    /// The lab that the end of the name says: `2b` of `test_basic_2b`, `2a` of `test_proposal_2ab`.
    fn lab(&self) -> Option<&'static str> {
        let (_, end) = self.name.rsplit_once('_')?;
        let is_its = |lab: &&str| end == *lab || end.strip_suffix(['a', 'b', 'c']) == Some(*lab);
        LABS.iter().map(|(lab, _)| *lab).find(|lab| *lab != "1" && is_its(lab) || end == *lab)
    }
}

/// Whether there is such a lab.
pub(crate) fn is_known(name: &str) -> bool {
    LABS.iter().any(|(lab, _)| *lab == name)
}

/// Prints the labs, each with the number of its tests.
pub(crate) fn list() -> Outcome {
    let tests = tests(&root())?;
    for (lab, about) in LABS {
        let count = tests.iter().filter(|test| test.lab() == Some(lab)).count();
        if count > 0 {
            println!("{lab:<3} {count:>3} tests  {about}");
        }
    }
    Ok(())
}

/// Runs a lab. It fails when one of its tests does, and when it has none.
pub(crate) fn run(name: &str) -> Outcome {
    let tests = tests(&root())?;
    if !tests.iter().any(|test| test.lab() == Some(name)) {
        return Err(format!("lab {name} has no tests yet"));
    }
    toolchain::ensure()?;
    // Lab 2A has a module for each of its parts.
    let filter = if name == "2a" { "labs::lab2a".into() } else { format!("labs::lab{name}::") };
    cargo::run(&["test", "--workspace", "--test", "suites", "--", &filter], &[])
}

/// Prints what a test is about, and where it is. It may be called by the course's name or by ours.
pub(crate) fn why(name: &str) -> Outcome {
    println!("{}", told(&tests(&root())?, name)?);
    Ok(())
}

/// What there is to be told of a test.
fn told(tests: &[Test], name: &str) -> Result<String, String> {
    let wanted = plain(name);
    let test = tests
        .iter()
        .find(|test| plain(&test.name) == wanted)
        .ok_or_else(|| format!("no lab has a test {name}"))?;
    let mut text = format!("{}  {}:{}\n\n", test.name, test.file, test.line);
    let own = test.about.iter().any(|line| line.starts_with(LOOK));
    for part in [&test.about[..], if own { &[] } else { &test.look }] {
        part.iter().for_each(|line| text.extend([line, "\n"]));
        text.push_str(if part.is_empty() { "" } else { "\n" });
    }
    let _ =
        write!(text, "run it: cargo test --package tessera-tests --test suites -- {}", test.name);
    Ok(text)
}

/// A name without what differs between the course's spelling and ours: `TestReplicas13C` and
/// `test_replicas_1_3c`.
fn plain(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

/// The repository. Cargo says where it is; else where this was compiled.
fn root() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR");
    let own = own.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map(Path::to_owned).unwrap_or(own)
}

/// All tests of all labs, by file and line.
fn tests(root: &Path) -> Result<Vec<Test>, String> {
    let mut files = Vec::new();
    let mut folders = vec![root.join(SUITES)];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .map_err(|error| format!("read {}: {error}", folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("read {}: {error}", path.display()))?;
        let mut look = look_in(&text);
        if look.is_empty() && path.parent() != Some(&root.join(SUITES)) {
            let folder = std::fs::read_to_string(path.with_file_name("mod.rs"));
            look = look_in(&folder.unwrap_or_default());
        }
        let file = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let tests = tests_in(&text, &file);
        all.extend(tests.into_iter().map(|test| Test { look: look.clone(), ..test }));
    }
    Ok(all)
}

/// The paragraph of a file's head that says where to look.
fn look_in(text: &str) -> Vec<String> {
    let head = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph = head.skip_while(|line| !line.starts_with(LOOK));
    paragraph.take_while(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The tests of one source file.
fn tests_in(text: &str, file: &str) -> Vec<Test> {
    let mut found = Vec::new();
    let mut about = Vec::new();
    let mut is_test = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(words) = line.strip_prefix("///") {
            about.push(words.strip_prefix(' ').unwrap_or(words).to_owned());
            continue;
        }
        if line.starts_with("#[") {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            continue;
        }
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        let name = function.and_then(|rest| rest.split_once('(')).map(|(name, _)| name);
        let about = std::mem::take(&mut about);
        if let Some(name) = name.filter(|_| is_test) {
            let (name, file) = (name.to_owned(), file.to_owned());
            found.push(Test { name, file, line: number + 1, about, look: Vec::new() });
        }
        is_test = false;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
//! A lab.

/// Not about a test.
fn key() {}

/// It is so.
///
/// Hint: look.
#[test]
fn test_basic_2b() {
    /// Inside.
    #[allow(unused)]
    fn inner() {}
}

#[tokio::test]
async fn test_replicas_1_3c() {}
";

    #[test]
    fn a_test_is_found_with_what_is_written_above_it() {
        let tests = tests_in(SOURCE, "lab2b.rs");
        let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["test_basic_2b", "test_replicas_1_3c"]);
        assert_eq!(tests[0].about, ["It is so.", "", "Hint: look."]);
        assert_eq!(tests[0].line, 10);
        assert_eq!(tests[1].about, Vec::<String>::new());
        let labs: Vec<_> = tests.iter().map(Test::lab).collect();
        assert_eq!(labs, [Some("2b"), Some("3c")]);
    }

    #[test]
    fn where_to_look_stands_in_the_head() {
        let text = "//! A lab.\n//!\n//! Look: `a.rs`,\n//! `b.rs`.\n//!\n//! More.\n\nuse x;\n";
        assert_eq!(look_in(text), ["Look: `a.rs`,", "`b.rs`."]);
        assert!(look_in("//! A lab.\n\n// Look: not there\n").is_empty());
    }

    #[test]
    fn the_courses_name_and_ours_mean_the_same_test() {
        let tests = tests_in(SOURCE, "lab2b.rs");
        let told_of = |name| told(&tests, name);
        assert!(told_of("TestBasic2B").unwrap().contains("Hint: look."));
        assert_eq!(told_of("TestBasic2B"), told_of("test_basic_2b"));
        assert!(told_of("TestReplicas13C").unwrap().contains("lab2b.rs:17"));
        assert_eq!(told_of("TestBasic9Z").unwrap_err(), "no lab has a test TestBasic9Z");
    }

    /// The numbers are the course's.
    #[test]
    fn no_test_of_the_course_is_missing() {
        let tests = tests(&root()).unwrap();
        let count = |lab| tests.iter().filter(|test| test.lab() == Some(lab)).count();
        let counts = ["1", "2a", "2b", "2c", "3a", "3b", "3c", "4a", "4b", "4c"].map(count);
        assert_eq!(counts, [10, 52, 11, 13, 16, 16, 22, 15, 24, 22]);
    }

    #[test]
    fn every_test_says_what_it_is_about() {
        let tests = tests(&root()).unwrap();
        let silent: Vec<&str> = tests
            .iter()
            .filter(|test| test.about.is_empty() && test.lab().is_some())
            .map(|test| test.name.as_str())
            .collect();
        assert_eq!(silent, Vec::<&str>::new());
    }

    #[test]
    fn every_place_to_look_exists() {
        let root = root();
        let tests = tests(&root).unwrap();
        let lines = tests.iter().flat_map(|test| test.about.iter().chain(&test.look));
        let places = lines.flat_map(|line| line.split('`').skip(1).step_by(2));
        let gone: Vec<&str> = places
            .filter(|place| place.contains('/') && !place.contains(' '))
            .filter(|place| !root.join(place).exists())
            .collect();
        assert_eq!(gone, Vec::<&str>::new());
    }
}
