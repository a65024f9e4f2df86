//! The operator's command line.

fn main() -> std::process::ExitCode {
    couponctl::main()
}
