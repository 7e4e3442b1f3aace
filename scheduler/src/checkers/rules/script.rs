//! Runs the scripts in `testscripts/` in the world of the replica checker's, with placement rules.

test_each_file::test_each_path! {
    in "./scheduler/src/checkers/rules/testscripts"
        => crate::checkers::replicas::script::run_with_rules
}
