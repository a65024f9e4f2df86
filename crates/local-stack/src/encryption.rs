//! Servers that speak TLS alone, to whoever has the password: throw-away certificates, made anew at each start.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::error::Error;
use crate::server::{create_folder, write_file};

/// Who our services are, to Kafka and Redis.
pub(crate) const USER: &str = "firstcome";
/// How they prove it to Kafka.
const MECHANISM: &str = "SCRAM-SHA-512";

/// A connection through TLS.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// What clients of encrypted servers need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    folder: PathBuf,
}

impl Encryption {
    /// Makes an authority, and a certificate for the one address that clients use, in a folder below this one.
    pub(crate) fn prepare(data: &Path, host: IpAddr, password: &str) -> Result<Self, Error> {
        let encryption = Self { folder: data.join("tls") };
        create_folder(&encryption.folder)?;
        let (authority, certificate, key) = certificates(host).map_err(unmade)?;
        write_file(&encryption.ca_file(), &authority)?;
        write_file(&encryption.certificate_file(), &certificate)?;
        write_secret(&encryption.key_file(), &key)?;
        write_secret(&encryption.kafka_store(), &format!("{key}{certificate}"))?;
        write_secret(&encryption.password_file(), password)?;
        write_secret(&encryption.kafka_client(), &encryption.kafka_client_settings(password))?;
        Ok(encryption)
    }

    /// That of a stack that is up, by the file of its authority.
    pub(crate) fn of_authority(ca_file: &Path) -> Option<Self> {
        ca_file.parent().map(|folder| Self { folder: folder.to_owned() })
    }

    /// The authority that has signed the servers' certificates, in PEM. Each is for the address in the server's URL, and for no other
    /// name.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The password of Kafka's one user.
    #[must_use]
    pub fn password_file(&self) -> PathBuf {
        self.folder.join("password")
    }

    /// Kafka's one user.
    #[must_use]
    pub fn kafka_user(&self) -> &'static str {
        USER
    }

    /// What programs are told, as variables after `FIRSTCOME__`: how to speak to Kafka, whom to trust.
    #[must_use]
    pub fn settings(&self) -> [(&'static str, String); 8] {
        let authority = || self.ca_file().display().to_string();
        [
            ("KAFKA__SECURITY_PROTOCOL", "sasl_ssl".to_owned()),
            ("KAFKA__SSL_CA_FILE", authority()),
            ("KAFKA__SASL_MECHANISM", MECHANISM.to_owned()),
            ("KAFKA__SASL_USERNAME", USER.to_owned()),
            ("KAFKA__SASL_PASSWORD_FILE", self.password_file().display().to_string()),
            ("POSTGRES__TLS__ENABLED", "true".to_owned()),
            ("POSTGRES__TLS__CA_FILE", authority()),
            ("REDIS__TLS__CA_FILE", authority()),
        ]
    }

    /// The servers' certificate. A client may show it as its own, to servers that are set to ask for one.
    #[must_use]
    pub fn certificate_file(&self) -> PathBuf {
        self.folder.join("server.pem")
    }

    /// Its key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("server.key")
    }

    /// Key and certificate in one file, as Kafka wants them.
    pub(crate) fn kafka_store(&self) -> PathBuf {
        self.folder.join("kafka.pem")
    }

    /// What Kafka's own tools are told.
    pub(crate) fn kafka_client(&self) -> PathBuf {
        self.folder.join("client.properties")
    }

    fn kafka_client_settings(&self, password: &str) -> String {
        format!(
            "security.protocol=SASL_SSL\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={}\n\
             sasl.mechanism={MECHANISM}\n\
             sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required \
             username=\"{USER}\" password=\"{password}\";\n",
            self.ca_file().display()
        )
    }

    /// The password of Kafka's one user, as it lies there.
    pub(crate) fn password(&self) -> Result<String, String> {
        fs::read_to_string(self.password_file()).map_err(|error| error.to_string())
    }

    /// Goes on through TLS, and verifies the server's certificate for this address.
    pub(crate) fn over(&self, connection: TcpStream, address: SocketAddr) -> Result<TlsStream, String> {
        let mut roots = RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(self.ca_file()).map_err(|error| error.to_string())?;
        roots.add(authority).map_err(|error| error.to_string())?;
        let own =
            CertificateDer::from_pem_file(self.certificate_file()).map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::from_pem_file(self.key_file()).map_err(|error| error.to_string())?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![own], key)
            .map_err(|error| error.to_string())?;
        let name = ServerName::IpAddress(address.ip().into());
        let client = ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
        Ok(StreamOwned::new(client, connection))
    }
}

/// Writes the certificate of an authority that has signed nothing: whoever trusts it alone must refuse every server.
///
/// # Errors
/// [`Error::Io`].
pub fn write_another_authority(file: &Path) -> Result<(), Error> {
    let (certificate, _) = authority().map_err(unmade)?;
    write_file(file, &certificate)
}

fn authority() -> Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "local-stack, to be thrown away");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok((certificate, Issuer::new(params, key)))
}

/// The authority's certificate, the server's, and the server's key.
fn certificates(host: IpAddr) -> Result<(String, String, String), rcgen::Error> {
    let (trusted, issuer) = authority()?;
    let mut params = CertificateParams::new([host.to_string()])?;
    params.distinguished_name.push(DnType::CommonName, "local-stack server");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    Ok((trusted, certificate, key.serialize_pem()))
}

fn unmade(error: rcgen::Error) -> Error {
    Error::io("make throw-away certificates")(std::io::Error::other(error))
}

/// Writes a file that only its owner may read, as servers want their keys to be.
pub(crate) fn write_secret(path: &Path, content: &str) -> Result<(), Error> {
    write_file(path, "")?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o600))
        .map_err(Error::io(format!("restrict {}", path.display())))?;
    write_file(path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_their_owners_and_every_start_makes_new_certificates() {
        let folder = tempfile::tempdir().unwrap();
        let host = "127.0.0.1".parse().unwrap();
        let encryption = Encryption::prepare(folder.path(), host, "hush").unwrap();
        for secret in [
            encryption.key_file(),
            encryption.kafka_store(),
            encryption.password_file(),
            encryption.kafka_client(),
        ] {
            assert_eq!(
                fs::metadata(&secret).unwrap().permissions().mode() & 0o777,
                0o600,
                "{}",
                secret.display()
            );
        }
        assert_eq!(encryption.password().unwrap(), "hush");
        assert_eq!(Encryption::of_authority(&encryption.ca_file()).unwrap(), encryption);
        let first = fs::read(encryption.ca_file()).unwrap();
        Encryption::prepare(folder.path(), host, "hush").unwrap();
        assert_ne!(fs::read(encryption.ca_file()).unwrap(), first);
    }
}
