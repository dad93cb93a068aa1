//! Creates the simulator's certificate authority, which is needed because clients connect to Azure
//! only over HTTPS.

use std::net::IpAddr;
use std::sync::Arc;

use lifecycle_core::{Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority for a single simulator.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// The certificate and key of an HTTPS listener.
pub struct ServerIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl std::fmt::Debug for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerIdentity").finish_non_exhaustive()
    }
}

fn failed(error: &rcgen::Error) -> Error {
    Error::failed("creating the simulator's certificate", error.to_string())
}

impl Authority {
    /// Creates an authority.
    ///
    /// # Errors
    /// Returns an error if the operating system provides no randomness.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate().map_err(|e| failed(&e))?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "Azure simulator");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(parameters, key).map_err(|e| failed(&e))?;
        Ok(Self { issuer })
    }

    /// Returns the authority's certificate, in PEM. Clients must trust this certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a certificate for `localhost`, the loopback addresses, `address`, and the names in
    /// `known_as`.
    ///
    /// # Errors
    /// Returns an error if `known_as` contains an invalid name, or if the operating system provides
    /// no randomness.
    pub fn issue(&self, address: IpAddr, known_as: &[String]) -> Result<ServerIdentity> {
        let key = KeyPair::generate().map_err(|e| failed(&e))?;
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".into(), "::1".into()];
        if !address.is_loopback() && !address.is_unspecified() {
            names.push(address.to_string());
        }
        names.extend_from_slice(known_as);
        let mut parameters = CertificateParams::new(names).map_err(|e| failed(&e))?;
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "Azure simulator's server");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .map_err(|e| failed(&e))?;
        Ok(ServerIdentity {
            chain: vec![certificate.der().clone(), self.issuer.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()),
        })
    }
}

impl ServerIdentity {
    /// Returns the TLS configuration for a listener. The configuration has its own crypto provider,
    /// because the process may have no default provider.
    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let failed = |error: rustls::Error| {
            Error::failed("using the simulator's certificate", error.to_string())
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_single_cert(
                self.chain.clone(),
                PrivateKeyDer::Pkcs8(self.key.clone_key()),
            )
            .map_err(failed)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
