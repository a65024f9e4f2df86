//! The PEM files behind a connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};

/// Characters of base64 in a line of PEM.
const PEM_LINE: usize = 64;

/// The files of the `tls` part of a dependency's section.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFiles {
    /// PEM file of the certificate authorities that may have signed the server's certificate. Unset: the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our own certificate, for servers that ask for one.
    pub certificate_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProblem {
    /// The key within the part: `ca_file`, `certificate_file` or `key_file`.
    pub key: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Who we are, to a server that asks: the files as they are.
#[derive(Clone)]
pub struct Identity {
    /// Our certificate and what leads from it to its authority, in PEM.
    pub certificate_pem: Vec<u8>,
    /// Its key, in PEM.
    pub key_pem: Vec<u8>,
}

/// What a client needs, read and found consistent.
pub struct ClientTls {
    config: ClientConfig,
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

impl ClientTls {
    /// For clients that speak TLS by rustls.
    #[must_use]
    pub fn config(&self) -> ClientConfig {
        self.config.clone()
    }

    /// The authorities that we trust, in PEM.
    #[must_use]
    pub fn authorities_pem(&self) -> Vec<u8> {
        let mut pem = String::new();
        for authority in &self.authorities {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            for line in BASE64.encode(authority).as_bytes().chunks(PEM_LINE) {
                pem.push_str(&String::from_utf8_lossy(line));
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        pem.into_bytes()
    }

    /// Who we are, where that is configured.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }
}

impl TlsFiles {
    /// The keys that are set.
    pub fn keys_set(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("ca_file", &self.ca_file),
            ("certificate_file", &self.certificate_file),
            ("key_file", &self.key_file),
        ];
        keys.into_iter().filter(|(_, file)| file.is_some()).map(|(key, _)| key)
    }

    /// Reads the files.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn load(&self) -> Result<ClientTls, Vec<TlsProblem>> {
        let mut problems = Vec::new();
        let mut wrong = |key, problem: String| problems.push(TlsProblem { key, problem });
        let authorities = match &self.ca_file {
            Some(file) => certificates(file).map(|(_, authorities)| authorities),
            None => systems_authorities(),
        };
        let authorities = authorities.map_err(|problem| wrong("ca_file", problem)).unwrap_or_default();
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            // The system's may hold what only other libraries read; in a file of ours everything is meant.
            if let (Err(error), Some(file)) = (roots.add(authority.clone()), &self.ca_file) {
                wrong("ca_file", format!("{} holds no usable authority: {error}", file.display()));
            }
        }
        let identity = match (&self.certificate_file, &self.key_file) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate).map_err(|problem| wrong("certificate_file", problem));
                let key = private_key(key).map_err(|problem| wrong("key_file", problem));
                chain.ok().zip(key.ok())
            }
            (Some(_), None) => {
                wrong("key_file", "must be set beside certificate_file".to_owned());
                None
            }
            (None, Some(_)) => {
                wrong("certificate_file", "must be set beside key_file".to_owned());
                None
            }
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        client(roots, authorities, identity).map_err(|problem| vec![problem])
    }
}

type Pem<T> = (Vec<u8>, T);

fn client(
    roots: RootCertStore,
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<(Pem<Vec<CertificateDer<'static>>>, Pem<PrivateKeyDer<'static>>)>,
) -> Result<ClientTls, TlsProblem> {
    let versions = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsProblem { key: "ca_file", problem: error.to_string() })?;
    let builder = versions.with_root_certificates(roots);
    let Some(((certificate_pem, chain), (key_pem, key))) = identity else {
        return Ok(ClientTls { config: builder.with_no_client_auth(), authorities, identity: None });
    };
    let config = builder.with_client_auth_cert(chain, key).map_err(|error| TlsProblem {
        key: "key_file",
        problem: format!("is not the key of certificate_file: {error}"),
    })?;
    Ok(ClientTls { config, authorities, identity: Some(Identity { certificate_pem, key_pem }) })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

fn certificates(file: &Path) -> Result<Pem<Vec<CertificateDer<'static>>>, String> {
    let pem = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Err(error) => Err(format!("{} is no PEM: {error}", file.display())),
        Ok(found) if found.is_empty() => {
            Err(format!("{} holds no certificate (-----BEGIN CERTIFICATE-----)", file.display()))
        }
        Ok(found) => Ok((pem, found)),
    }
}

fn private_key(file: &Path) -> Result<Pem<PrivateKeyDer<'static>>, String> {
    let pem = read(file)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => Ok((pem, key)),
        Err(error) => Err(format!("{} holds no private key without a pass phrase: {error}", file.display())),
    }
}

fn systems_authorities() -> Result<Vec<CertificateDer<'static>>, String> {
    let found = rustls_native_certs::load_native_certs();
    if !found.certs.is_empty() {
        return Ok(found.certs);
    }
    let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    let reason = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
    Err(format!("must be set: this system has no certificate authorities of its own{reason}"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn write(&self, name: &str, text: &str) -> Option<PathBuf> {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            Some(path)
        }
    }

    fn made() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["db".to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn problems(files: &TlsFiles) -> Vec<TlsProblem> {
        files.load().err().unwrap()
    }

    #[test]
    fn a_bundle_is_read_whole_and_comes_out_as_it_went_in() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let (one, key) = made();
        let (other, _) = made();
        let files = TlsFiles {
            ca_file: folder.write("ca.pem", &format!("# two\n{one}{other}")),
            certificate_file: folder.write("own.pem", &one),
            key_file: folder.write("own.key", &key),
        };
        let tls = files.load().ok().unwrap();
        assert_eq!(tls.authorities.len(), 2);
        let pem = tls.authorities_pem();
        let again: Vec<_> = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().unwrap();
        assert_eq!(again, tls.authorities);
        assert!(tls.config().client_auth_cert_resolver.has_certs());
        assert_eq!(tls.identity().unwrap().key_pem, key.as_bytes());
    }

    #[test]
    fn everything_that_is_wrong_is_named_at_once() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let (certificate, _) = made();
        let found = problems(&TlsFiles {
            ca_file: Some("/nowhere/ca.pem".into()),
            certificate_file: folder.write("empty.pem", "nothing here\n"),
            key_file: folder.write("no.key", &certificate),
        });
        let keys: Vec<_> = found.iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["ca_file", "certificate_file", "key_file"]);
        assert!(found[0].problem.contains("/nowhere/ca.pem cannot be read"), "{found:?}");
        assert!(found[1].problem.contains("empty.pem holds no certificate"), "{found:?}");
        assert!(found[2].problem.contains("no.key holds no private key"), "{found:?}");
    }

    #[test]
    fn certificate_and_key_go_together() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let ((certificate, key), (_, another)) = (made(), made());
        let files = TlsFiles {
            ca_file: folder.write("ca.pem", &certificate),
            certificate_file: folder.write("own.pem", &certificate),
            key_file: folder.write("another.key", &another),
        };
        let found = problems(&files);
        assert_eq!(found[0].key, "key_file");
        assert!(found[0].problem.contains("is not the key of certificate_file"), "{found:?}");
        assert_eq!(problems(&TlsFiles { key_file: None, ..files.clone() })[0].key, "key_file");
        let alone =
            TlsFiles { certificate_file: None, key_file: folder.write("own.key", &key), ..files.clone() };
        assert_eq!(problems(&alone)[0].key, "certificate_file");
        assert_eq!(files.keys_set().collect::<Vec<_>>(), ["ca_file", "certificate_file", "key_file"]);
        assert_eq!(TlsFiles::default().keys_set().count(), 0);
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused_by_name() {
        let folder = Folder(tempfile::tempdir().unwrap());
        let text = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
        let found = problems(&TlsFiles { ca_file: folder.write("ca.pem", text), ..TlsFiles::default() });
        assert_eq!(found[0].key, "ca_file");
        assert!(found[0].problem.contains("ca.pem holds no usable authority"), "{found:?}");
    }
}
