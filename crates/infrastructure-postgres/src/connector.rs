//! How connections to PostgreSQL are opened: with our probes, through TLS where the section says so, and with a remedy where the server
//! or its certificate is refused, or we are.

use std::pin::Pin;
use std::time::Duration;

use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::PostgresSection;
use crate::connection::PostgresError;

/// After so much silence TCP asks whether the server is still there. The system's two hours would let a writer wait that long for a
/// machine that has lost its power.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// So much later it asks again.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// After so many questions without an answer the connection is broken.
const KEEPALIVE_RETRIES: u32 = 3;
/// So long may data that we sent stay unacknowledged.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Runs a connection until it ends.
pub(crate) type Driver = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
}

impl Connector {
    /// Reads the URL, and the files of the `tls` part.
    pub(crate) fn new(section: &PostgresSection) -> Result<Self, PostgresError> {
        let url = section.url.as_deref().unwrap_or_default();
        let mut config: tokio_postgres::Config =
            url.parse().map_err(|error| PostgresError::Unreachable(causes(&error)))?;
        set_probes(&mut config);
        if !section.tls.enabled {
            return Ok(Self { config, tls: None });
        }
        // Nothing else: `prefer` would go on in the open where somebody on the way says that the server has no TLS.
        config.ssl_mode(SslMode::Require);
        let files = section.tls.files().load().map_err(|problems| {
            let texts: Vec<String> = problems
                .iter()
                .map(|problem| format!("postgres.tls.{}: {}", problem.key, problem.problem))
                .collect();
            PostgresError::Unreachable(texts.join("; "))
        })?;
        Ok(Self { config, tls: Some(MakeRustlsConnect::new(files.config())) })
    }

    /// A connection for diesel.
    pub(crate) async fn diesel(&self) -> Result<AsyncPgConnection, ConnectionError> {
        match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(|e| self.refused(&e))?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
            Some(tls) => {
                let connecting = self.config.connect(tls.clone());
                let (client, connection) = connecting.await.map_err(|e| self.refused(&e))?;
                AsyncPgConnection::try_from_client_and_connection(client, connection).await
            }
        }
    }

    /// A client without diesel, and what has to run for it.
    pub(crate) async fn client(&self) -> Result<(Client, Driver), ConnectionError> {
        match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await.map_err(|e| self.refused(&e))?;
                Ok((client, Box::pin(connection)))
            }
            Some(tls) => {
                let connecting = self.config.connect(tls.clone());
                let (client, connection) = connecting.await.map_err(|e| self.refused(&e))?;
                Ok((client, Box::pin(connection)))
            }
        }
    }

    fn refused(&self, error: &tokio_postgres::Error) -> ConnectionError {
        let text = causes(error);
        let remedy = infrastructure_tls::remedy(error, "postgres").or_else(|| self.remedy(error, &text));
        ConnectionError::BadConnection(
            remedy.map_or_else(|| text.clone(), |remedy| format!("{text}: {remedy}")),
        )
    }

    fn remedy(&self, error: &tokio_postgres::Error, text: &str) -> Option<String> {
        let code = error.code();
        if code == Some(&SqlState::INVALID_PASSWORD) || text.contains("password missing") {
            return Some(
                "postgres.url (or url_file) must have the user and password that the server knows".to_owned(),
            );
        }
        if code == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) && self.tls.is_none() {
            return Some("where the server insists on TLS, set postgres.tls.enabled".to_owned());
        }
        if text.contains("server does not support TLS") {
            return Some(
                "postgres.tls.enabled is true: turn TLS on at the server, too (ssl = on)".to_owned(),
            );
        }
        None
    }
}

/// Our probes in place of the system's; a URL that sets its own keeps them.
fn set_probes(config: &mut tokio_postgres::Config) {
    let unset = tokio_postgres::Config::new();
    if config.get_keepalives_idle() == unset.get_keepalives_idle() {
        config.keepalives_idle(KEEPALIVE_IDLE);
    }
    if config.get_keepalives_interval() == unset.get_keepalives_interval() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if config.get_keepalives_retries() == unset.get_keepalives_retries() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    if config.get_tcp_user_timeout() == unset.get_tcp_user_timeout() {
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX);
    }
}

/// The error and what lies behind it: its own text says no more than "error connecting to server".
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
