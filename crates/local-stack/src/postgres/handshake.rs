//! Asking PostgreSQL whether it lets clients in, by the beginning of a login.
//!
//! A server that starts, recovers or shuts down answers the startup message with an error, one that works with a request
//! to authenticate (or with "no need to"). So this needs no password.

use std::io::{Read, Write};
use std::net::SocketAddr;

use super::{MAINTENANCE_DATABASE, SUPERUSER};
use crate::encryption::Encryption;
use crate::server::{connect, exchange};

const PROTOCOL_3_0: i32 = 3 << 16;
/// Size, and the number that stands for "TLS, please".
const TLS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const TLS_GRANTED: u8 = b'S';
const AUTHENTICATION: u8 = b'R';
/// "Terminate", so that the server's log has no entry about a lost client.
const GOODBYE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// Content if the server goes on with the login.
pub(crate) fn ask(address: SocketAddr, encryption: Option<&Encryption>) -> Result<(), String> {
    let mut connection = connect(address)?;
    let Some(encryption) = encryption else { return begin(&mut connection) };
    match exchange(&mut connection, &TLS_REQUEST)? {
        [TLS_GRANTED] => begin(&mut encryption.over(connection, address)?),
        _ => Err("it speaks no TLS yet".to_owned()),
    }
}

fn begin(connection: &mut (impl Read + Write)) -> Result<(), String> {
    let [kind] = exchange(connection, &startup_message()?)?;
    // The check has its answer; a server that hangs up first is not our concern.
    let _ = connection.write_all(&GOODBYE);
    match kind {
        AUTHENTICATION => Ok(()),
        b'E' => Err("it takes no clients yet".to_owned()),
        other => Err(format!("not PostgreSQL (answer {other})")),
    }
}

/// Size (itself included), protocol, pairs of zero-terminated texts, and a last zero.
fn startup_message() -> Result<Vec<u8>, String> {
    let pairs = format!("user\0{SUPERUSER}\0database\0{MAINTENANCE_DATABASE}\0\0");
    let size = i32::try_from(pairs.len() + 8).map_err(|error| error.to_string())?;
    Ok([&size.to_be_bytes()[..], &PROTOCOL_3_0.to_be_bytes(), pairs.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_startup_message_is_framed_as_the_protocol_says() {
        let expected = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        assert_eq!(startup_message().unwrap(), expected);
    }
}
