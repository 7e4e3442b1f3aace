//! Writes the descriptor set of our wire protocol to the file named on the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(file) = std::env::args().nth(1) else {
        eprintln!("usage: descriptor FILE");
        return ExitCode::from(2);
    };
    match std::fs::write(&file, proto::DESCRIPTOR_SET) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("write {file}: {error}");
            ExitCode::FAILURE
        }
    }
}
