//! Configures the certificate authorities that TLS clients trust: the one that the user configures,
//! or else Mozilla's. Mozilla's are compiled in, because the manager's image contains no
//! certificates.

use std::sync::Arc;

use lifecycle_core::{Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Returns the TLS configuration for a client. If `authority` is specified, in PEM, it is the only
/// trusted authority.
///
/// # Errors
/// Returns [`Error::Invalid`] if `authority` contains no certificate.
pub(crate) fn client_config(authority: Option<&str>) -> Result<ClientConfig> {
    let roots = match authority {
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
        Some(pem) => named(pem)?,
    };
    // Use a crypto provider that is independent of the process's default one.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::failed("setting up TLS", error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

fn named(pem: &str) -> Result<RootCertStore> {
    let invalid = |why: String| {
        Error::invalid(
            "the certificate authority for Azure",
            why,
            "specify a PEM file that contains `-----BEGIN CERTIFICATE-----`",
        )
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| invalid(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid("it contains no certificate".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusts_mozillas_authorities_by_default() {
        assert!(client_config(None).is_ok());
    }

    #[test]
    fn rejects_an_invalid_certificate() {
        for pem in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let error = client_config(Some(pem)).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        }
    }
}
