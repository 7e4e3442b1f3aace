//! Runs the scripts in `testscripts/` in the world of the replica checker's.

test_each_file::test_each_path! {
    in "./scheduler/src/instructions/testscripts" => crate::checkers::replicas::script::run
}
