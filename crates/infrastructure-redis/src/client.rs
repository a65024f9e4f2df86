//! Where Redis is, through TLS where its URL begins with `rediss://`, and what its refusals mean.

use redis::{Client, ClientTlsConfig, ConnectionAddr, ErrorKind, TlsCertificates};

use crate::config::RedisSection;
use crate::connection::RedisError;

/// A client of the section's server; nothing connects yet.
pub(crate) fn client(section: &RedisSection) -> Result<Client, RedisError> {
    let url = section.url.as_deref().unwrap_or_default();
    let open = Client::open(url).map_err(unavailable)?;
    if !is_encrypted(open.get_connection_info().addr()) {
        return Ok(open);
    }
    let tls = section.tls.load().map_err(|problems| {
        let texts: Vec<String> = problems
            .iter()
            .map(|problem| format!("redis.tls.{}: {}", problem.key, problem.problem))
            .collect();
        RedisError::Unavailable(texts.join("; "))
    })?;
    let client_tls = tls.identity().map(|identity| ClientTlsConfig {
        client_cert: identity.certificate_pem.clone(),
        client_key: identity.key_pem.clone(),
    });
    let certificates = TlsCertificates { client_tls, root_cert: Some(tls.authorities_pem()) };
    Client::build_with_tls(url, certificates).map_err(unavailable)
}

/// True where bytes travel encrypted.
pub(crate) fn is_encrypted(address: &ConnectionAddr) -> bool {
    matches!(address, ConnectionAddr::TcpTls { .. })
}

/// An error on a connection that stands.
pub(crate) fn unavailable(error: redis::RedisError) -> RedisError {
    RedisError::Unavailable(error.to_string())
}

/// An error that may come from connecting, with what to do about it where the server, its certificate or we are refused.
pub(crate) fn refused(error: &redis::RedisError, encrypted: bool) -> RedisError {
    let remedy = infrastructure_tls::remedy(error, "redis").or_else(|| remedy(error, encrypted));
    RedisError::Unavailable(remedy.map_or_else(|| error.to_string(), |remedy| format!("{error}: {remedy}")))
}

fn remedy(error: &redis::RedisError, encrypted: bool) -> Option<String> {
    if error.kind() == ErrorKind::AuthenticationFailed || matches!(error.code(), Some("WRONGPASS" | "NOAUTH"))
    {
        return Some(
            "redis.url (or url_file) must have the user and password that the server knows".to_owned(),
        );
    }
    // A TLS port hangs up on whoever does not begin with a handshake.
    if !encrypted && error.is_connection_dropped() && !error.is_connection_refusal() {
        return Some("where the server wants TLS, redis.url must begin with rediss://".to_owned());
    }
    None
}
