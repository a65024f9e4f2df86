//! A stand-in for one of our services, for this crate's own tests: it answers probes and ends on SIGTERM.
//!
//! `STAND_IN` says how it behaves: empty, `ready after 3` (three refusals first), `exit 3`, `never ready`, `deaf` (ignores SIGTERM).
//! It prints every `FIRSTCOME__` variable that it got.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::exit;

#[expect(clippy::disallowed_methods, reason = "a program of its own, configured like a service")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let behaviour = std::env::var("STAND_IN").unwrap_or_default();
    let mut variables: Vec<String> = std::env::vars()
        .filter(|(name, _)| name.starts_with("FIRSTCOME__"))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    variables.sort();
    std::io::stdout().write_all(variables.concat().as_bytes())?;
    if behaviour == "exit 3" {
        std::io::stderr().write_all(b"the configuration makes no sense\n")?;
        exit(3);
    }

    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    let is_deaf = behaviour == "deaf";
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if !is_deaf {
                exit(0);
            }
        }
    });

    let mut refusals_left = match behaviour.as_str() {
        "ready after 3" => 3,
        "never ready" => u32::MAX,
        _ => 0,
    };
    let listener = TcpListener::bind(std::env::var("FIRSTCOME__OPS__LISTEN")?)?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        let mut request = String::new();
        BufReader::new(&connection).read_line(&mut request)?;
        let is_refused = request.starts_with("GET /readyz") && refusals_left > 0;
        let (status, body) =
            if is_refused { ("503 Service Unavailable", "replaying") } else { ("200 OK", "fine") };
        refusals_left -= u32::from(is_refused);
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        // Whoever hung up while we were suspended does not want it.
        let _ = connection.write_all(answer.as_bytes());
    }
    Ok(())
}
