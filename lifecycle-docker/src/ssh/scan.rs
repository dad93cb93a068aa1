//! Reads the host key that an SSH server offers, without logging in.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use lifecycle_core::Result;
use lifecycle_core::model::NodeName;
use russh::client;
use russh::keys::PublicKeyOrCertificate;
use tokio::time::timeout;

use super::SshTimings;
use crate::error::SshError;

/// Records the offered key and ends the connection.
struct Scan {
    offered: Arc<Mutex<Option<String>>>,
}

impl client::Handler for Scan {
    type Error = SshError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, SshError> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else {
            return Err(SshError::HostCertificate);
        };
        let line = key.to_openssh();
        let line = line.map_err(|error| SshError::PinUnreadable(error.to_string()))?;
        *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        Ok(false)
    }
}

/// Returns the public key that the SSH server at `address` offers, in OpenSSH format. The caller
/// trusts the key on first use: nothing proves that the server is the intended host.
///
/// # Errors
/// [`lifecycle_core::Error::Unreachable`] or [`lifecycle_core::Error::TimedOut`] if no SSH server
/// answers.
pub async fn offered_host_key(
    node: &NodeName,
    address: IpAddr,
    port: u16,
    timings: SshTimings,
) -> Result<String> {
    let address = SocketAddr::new(address, port);
    let offered = Arc::new(Mutex::new(None));
    let scan = Scan {
        offered: Arc::clone(&offered),
    };
    let config = Arc::new(client::Config::default());
    let connected = timeout(timings.connect, client::connect(config, address, scan)).await;
    let offered = offered
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    if let Some(key) = offered {
        return Ok(key);
    }
    let error = match connected {
        Ok(Err(error)) => error,
        Ok(Ok(_)) => SshError::EndedEarly,
        Err(_) => SshError::TimedOut(timings.connect),
    };
    Err(error.for_host(&format!("node {node} ({address})")))
}
