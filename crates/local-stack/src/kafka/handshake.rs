//! Asking a broker whether it works, in its own protocol: ApiVersions, then Metadata.
//!
//! ApiVersions alone is answered by a broker that the controller has not let in yet, on which no topic can be created.
//! Metadata lists only brokers that take part, so it must list one.

use std::io::{Read, Write};
use std::net::SocketAddr;

use crate::encryption::{Encryption, USER};
use crate::server::{connect, exchange};

const API_VERSIONS: i16 = 18;
const METADATA: i16 = 3;
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
const CORRELATION_ID: i32 = 1;
/// Longer answers are not what we asked for.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Content if the broker answers and the cluster has at least one broker that takes part.
pub(crate) fn ask(address: SocketAddr, encryption: Option<&Encryption>) -> Result<(), String> {
    let mut connection = connect(address)?;
    let Some(encryption) = encryption else {
        greet(&mut connection)?;
        return look_around(&mut connection);
    };
    let mut connection = encryption.over(connection, address)?;
    greet(&mut connection)?;
    log_in(&mut connection, &encryption.password()?)?;
    look_around(&mut connection)
}

/// ApiVersions v0 has no body; every broker must answer it, whatever else it speaks, and before anybody has logged in.
fn greet(connection: &mut (impl Read + Write)) -> Result<(), String> {
    expect_no_error("ApiVersions", &request(connection, API_VERSIONS, 0, &[])?)
}

/// By PLAIN, which is one message: the handshake names the mechanism, the next request carries it.
fn log_in(connection: &mut (impl Read + Write), password: &str) -> Result<(), String> {
    const MECHANISM: &[u8] = b"PLAIN";
    let length = i16::try_from(MECHANISM.len()).map_err(|error| error.to_string())?;
    let mechanism = [&length.to_be_bytes()[..], MECHANISM].concat();
    expect_no_error("SaslHandshake", &request(connection, SASL_HANDSHAKE, 1, &mechanism)?)?;
    let login = format!("\0{USER}\0{password}");
    let length = i32::try_from(login.len()).map_err(|error| error.to_string())?;
    let login = [&length.to_be_bytes()[..], login.as_bytes()].concat();
    expect_no_error("SaslAuthenticate", &request(connection, SASL_AUTHENTICATE, 0, &login)?)
}

/// All three answers begin with an error code.
fn expect_no_error(what: &str, answer: &[u8]) -> Result<(), String> {
    let error = answer.get(..2).and_then(|bytes| bytes.try_into().ok()).map(i16::from_be_bytes);
    if error == Some(0) { Ok(()) } else { Err(format!("{what} answered {error:?}")) }
}

fn look_around(connection: &mut (impl Read + Write)) -> Result<(), String> {
    // Metadata v1 with an empty array asks for no topic. The answer begins with the array of brokers.
    let answer = request(connection, METADATA, 1, &0_i32.to_be_bytes())?;
    let brokers = answer.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    match brokers {
        Some(count) if count > 0 => Ok(()),
        Some(_) => Err("the controller has not admitted the broker yet".to_owned()),
        None => Err("Metadata was cut off".to_owned()),
    }
}

/// Sends one request and returns the answer after its header.
fn request(
    connection: &mut (impl Read + Write),
    api: i16,
    version: i16,
    body: &[u8],
) -> Result<Vec<u8>, String> {
    let message = frame(api, version, body)?;
    let size = i32::from_be_bytes(exchange(connection, &message)?);
    let size = usize::try_from(size).ok().filter(|size| (4..=ANSWER_BYTES_MAX).contains(size));
    let mut answer = vec![0; size.ok_or("not a Kafka broker")?];
    connection.read_exact(&mut answer).map_err(|error| error.to_string())?;
    if answer.starts_with(&CORRELATION_ID.to_be_bytes()) {
        Ok(answer.split_off(4))
    } else {
        Err("answer to another request".to_owned())
    }
}

/// Size, then request header v1: api key, version, correlation id, client id.
fn frame(api: i16, version: i16, body: &[u8]) -> Result<Vec<u8>, String> {
    const CLIENT: &[u8] = b"local-stack";
    let mut message = Vec::new();
    message.extend(api.to_be_bytes());
    message.extend(version.to_be_bytes());
    message.extend(CORRELATION_ID.to_be_bytes());
    message.extend(i16::try_from(CLIENT.len()).map_err(|error| error.to_string())?.to_be_bytes());
    message.extend(CLIENT);
    message.extend(body);
    let size = i32::try_from(message.len()).map_err(|error| error.to_string())?;
    Ok([&size.to_be_bytes(), message.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_framed_as_the_protocol_says() {
        let expected = [
            &[0, 0, 0, 21][..], // size of what follows
            &[0, 18, 0, 0],     // ApiVersions, version 0
            &[0, 0, 0, 1],      // correlation id
            &[0, 11],
            b"local-stack",
        ]
        .concat();
        assert_eq!(frame(API_VERSIONS, 0, &[]).unwrap(), expected);
    }
}
