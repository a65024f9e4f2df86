//! `local-stack`: see the library's documentation and README.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    local_stack::cli::main()
}
