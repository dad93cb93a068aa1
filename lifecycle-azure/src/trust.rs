//! Whom clients believe that they speak to Azure: Mozilla's authorities, which are compiled in
//! since the manager's image has no certificates, or one that the user names.

use std::sync::Arc;

use lifecycle_core::{Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// TLS for a client. `authority` is in PEM and, if given, the only one that is trusted.
///
/// # Errors
/// [`Error::Invalid`] if it holds no certificate.
pub(crate) fn client_config(authority: Option<&str>) -> Result<ClientConfig> {
    let roots = match authority {
        None => webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect(),
        Some(pem) => named(pem)?,
    };
    // A provider of its own, so that it matters to nobody whether the process chose one.
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
            "give a file in PEM, with `-----BEGIN CERTIFICATE-----`",
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
        return Err(invalid("it holds no certificate".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_mozillas_authorities_are_trusted() {
        assert!(client_config(None).is_ok());
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
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
