//! What people see.

#[expect(clippy::print_stdout, reason = "what a command line is for")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// What goes on, and what went wrong.
#[expect(clippy::print_stderr, reason = "standard output is for the table")]
pub(crate) fn tell(text: &str) {
    eprintln!("{text}");
}
