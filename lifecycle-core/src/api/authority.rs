//! The platform's certificate authority. The bootstrapper creates the authority once and passes it
//! to the manager, which signs its own certificate. The manager's certificate contains two names:
//!
//! - a name with the platform's UUID, which [`super::ApiClient`] checks, so that the manager's
//!   address may change
//! - the manager's address, which other clients check, for example
//!   `curl --cacert ca.pem $LIFECYCLE_URL/…`

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::{Error, Result};
use crate::model::PlatformId;
use crate::secret::Sensitive;

/// How long the authority is valid.
const AUTHORITY_LIFE: TimeDelta = TimeDelta::days(3653);

/// How long a certificate of the manager is valid.
const CERTIFICATE_LIFE: TimeDelta = TimeDelta::days(90);

/// The tolerated difference between clocks: a certificate becomes valid this long before it is
/// created.
const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::days(1);

/// The certificate authority of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authority {
    /// The certificate, in PEM.
    pub certificate: String,
    /// The private key, in PEM.
    pub key: Sensitive,
}

/// The certificate and the private key of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerIdentity {
    /// The server's certificate, followed by the authority's certificate, in PEM.
    pub certificates: String,
    /// The private key, in PEM.
    pub key: Sensitive,
    pub expires_at: DateTime<Utc>,
}

/// Returns the name in the certificate of `platform`'s manager.
pub fn server_name(platform: PlatformId) -> String {
    format!("{platform}.lifecycle.internal")
}

fn failed(error: &rcgen::Error) -> Error {
    Error::failed("creating a certificate", error.to_string())
}

fn time_of(at: DateTime<Utc>) -> Result<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(at.timestamp())
        .map_err(|error| Error::failed("creating a certificate", error.to_string()))
}

fn parameters(
    names: Vec<String>,
    title: String,
    now: DateTime<Utc>,
    life: TimeDelta,
) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(names).map_err(|e| failed(&e))?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, title);
    parameters.not_before = time_of(now - CLOCK_DIFFERENCE)?;
    parameters.not_after = time_of(now + life)?;
    Ok(parameters)
}

impl Authority {
    /// Creates an authority for `platform`.
    pub fn generate(platform: PlatformId, now: DateTime<Utc>) -> Result<Self> {
        let key = KeyPair::generate().map_err(|e| failed(&e))?;
        let title = format!("lifecycle platform {platform}");
        let mut parameters = parameters(Vec::new(), title, now, AUTHORITY_LIFE)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key).map_err(|e| failed(&e))?;
        Ok(Self {
            certificate: certificate.pem(),
            key: Sensitive::new(key.serialize_pem()),
        })
    }

    /// Creates and signs a certificate for the manager of `platform`, whose API listens on
    /// `address`.
    pub fn issue(
        &self,
        platform: PlatformId,
        address: IpAddr,
        now: DateTime<Utc>,
    ) -> Result<ServerIdentity> {
        let authority_key = KeyPair::from_pem(self.key.expose()).map_err(|e| failed(&e))?;
        let issuer =
            Issuer::from_ca_cert_pem(&self.certificate, authority_key).map_err(|e| failed(&e))?;
        let key = KeyPair::generate().map_err(|e| failed(&e))?;
        let name = server_name(platform);
        let mut parameters = parameters(
            vec![name.clone(), address.to_string()],
            name,
            now,
            CERTIFICATE_LIFE,
        )?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters
            .signed_by(&key, &issuer)
            .map_err(|e| failed(&e))?;
        Ok(ServerIdentity {
            certificates: format!("{}{}", certificate.pem(), self.certificate),
            key: Sensitive::new(key.serialize_pem()),
            expires_at: now + CERTIFICATE_LIFE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, IdSource, RandomIds, SystemClock};

    #[test]
    fn a_certificate_is_signed_by_its_authority_for_its_platform() {
        let platform = PlatformId::new(RandomIds.uuid());
        let now = SystemClock.now();
        let authority = Authority::generate(platform, now).unwrap();
        let identity = authority
            .issue(platform, [10, 0, 0, 2].into(), now)
            .unwrap();
        assert!(identity.certificates.matches("BEGIN CERTIFICATE").count() == 2);
        assert!(identity.key.expose().contains("PRIVATE KEY"));
        assert!(identity.expires_at > now + TimeDelta::days(89));
        assert!(!format!("{authority:?} {identity:?}").contains("PRIVATE KEY"));
    }
}
