//! The credentials of clients: a token, and the authorities whose certificates the client accepts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_rustls::TlsConnector;

use crate::error::{Error, Result};
use crate::secret::Sensitive;

/// Returns a connector that accepts only certificates that `authority` (PEM, one or several
/// certificates) signed.
pub(super) fn connector(authority: &str) -> Result<TlsConnector> {
    let invalid = |why: String| Error::Invalid {
        what: "the platform's CA certificate".into(),
        why,
        hint:
            "restore ca.pem from the platform's directory on the manager's node, or from a backup"
                .into(),
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        let certificate = certificate.map_err(|e| invalid(e.to_string()))?;
        roots.add(certificate).map_err(|e| invalid(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(invalid("it contains no certificate".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| invalid(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The files with the credential of a service. The platform may replace them at any time.
#[derive(Debug, Clone)]
pub(in crate::api) struct CredentialFiles {
    pub(in crate::api) token: PathBuf,
    pub(in crate::api) authority: PathBuf,
}

impl CredentialFiles {
    /// Reads the token.
    async fn token(&self) -> Result<Sensitive> {
        let text = Self::read(&self.token).await?;
        Ok(Sensitive::new(text.trim_end()))
    }

    async fn tls(&self) -> Result<TlsConnector> {
        connector(&Self::read(&self.authority).await?)
    }

    async fn read(path: &Path) -> Result<String> {
        let text = tokio::fs::read_to_string(path).await;
        text.map_err(|error| Error::io(format!("reading {}", path.display()), error))
    }
}

/// The credential of a client.
#[derive(Clone)]
pub(super) enum Credential {
    Fixed {
        tls: TlsConnector,
        token: Sensitive,
    },
    /// The files are read again for each connection and each request.
    Files(CredentialFiles),
}

impl Credential {
    pub(super) async fn token(&self) -> Result<Sensitive> {
        match self {
            Self::Fixed { token, .. } => Ok(token.clone()),
            Self::Files(files) => files.token().await,
        }
    }

    pub(super) async fn tls(&self) -> Result<TlsConnector> {
        match self {
            Self::Fixed { tls, .. } => Ok(tls.clone()),
            Self::Files(files) => files.tls().await,
        }
    }
}

/// The hint if the manager's certificate is not trusted.
pub(super) const OUTDATED_AUTHORITY: &str = "if the platform's authority was replaced (`bootstrapper rotate`), \
                                  read its certificate again: in a container from \
                                  /run/lifecycle/ca.pem, otherwise from the platform's directory on \
                                  the machine that replaced it";

/// Returns whether a connection failed because the server's certificate is not trusted.
pub(super) fn is_untrusted(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}
