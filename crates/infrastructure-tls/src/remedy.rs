//! What a refusal means for whoever configures the connection.

use std::error::Error;
use std::io;
use std::sync::Arc;

use rustls::CertificateError as Certificate;

/// What to do about an error of TLS on a connection that `section` configures; none where TLS is not the trouble.
#[must_use]
pub fn remedy(error: &(dyn Error + 'static), section: &str) -> Option<String> {
    let remedy = match find(error)? {
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => format!("the host in {section}.url must be a name that the server's certificate has"),
        rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => "the server needs a new certificate, or this machine another time".to_owned(),
        rustls::Error::InvalidCertificate(_) => {
            format!("{section}.tls.ca_file must hold the authority that has signed the server's certificate")
        }
        rustls::Error::AlertReceived(_) => {
            format!("the server may want a certificate of ours that it knows: {section}.tls.certificate_file")
        }
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => {
            format!("no TLS is spoken there: the port in {section}.url must be the server's TLS port")
        }
        _ => return None,
    };
    Some(remedy)
}

/// Errors hide their causes in three ways: as source, within an I/O error (whose source is its cause's), and behind a shared pointer.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return find(inner);
    }
    if let Some(inner) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
        return find(&**inner);
    }
    find(error.source()?)
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, InvalidMessage};

    use super::*;

    #[test]
    fn a_remedy_names_the_key_however_deep_the_error_lies() {
        let said = |error: rustls::Error| {
            let wrapped: Arc<dyn Error + Send + Sync> = Arc::new(io::Error::other(error));
            remedy(&wrapped, "redis").unwrap()
        };
        let of = |certificate| said(rustls::Error::InvalidCertificate(certificate));
        assert!(of(Certificate::UnknownIssuer).contains("redis.tls.ca_file"));
        assert!(of(Certificate::NotValidForName).contains("the host in redis.url"));
        assert!(of(Certificate::Expired).contains("new certificate"));
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
        assert!(said(alert).contains("redis.tls.certificate_file"));
        let garbage = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert!(said(garbage).contains("no TLS is spoken there"));
    }

    #[test]
    fn other_troubles_have_none() {
        assert_eq!(remedy(&io::Error::from(io::ErrorKind::ConnectionRefused), "redis"), None);
        assert_eq!(remedy(&io::Error::other("away"), "redis"), None);
    }
}
