//! The crowd's command line.

fn main() -> std::process::ExitCode {
    loadgen::main()
}
