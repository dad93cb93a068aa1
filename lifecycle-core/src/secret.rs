//! Values that no log, error, event or process list may show, and the platform key
//! that seals them at rest and signs spec digests.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hmac::{Hmac, Mac};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::error::{Error, Result};

/// Text that may be a secret. `Debug` and `Display` show none of it.
///
/// It serialises in clear, since a declaration has to reach the manager: what holds one is
/// either sealed with the [`PlatformKey`] or travels inside TLS or SSH.
#[derive(Clone)]
pub struct Sensitive(SecretString);

impl Sensitive {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for Sensitive {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Sensitive {}

impl Serialize for Sensitive {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Sensitive {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::new)
    }
}

const NONCE_BYTES: usize = 12;
const KEY_BYTES: usize = 32;
const SEAL_VERSION: u8 = 1;

/// The key of one platform: 32 random bytes, made by the bootstrapper, kept in files that
/// only their owner reads. Seals what the registry must not hold in clear (ChaCha20-Poly1305,
/// RFC 8439) and signs spec digests (HMAC-SHA256, RFC 2104).
#[derive(Clone)]
pub struct PlatformKey(SecretSlice<u8>);

impl fmt::Debug for PlatformKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlatformKey([redacted])")
    }
}

impl PlatformKey {
    /// A new key from the operating system's random numbers.
    pub fn generate() -> Self {
        let bytes: [u8; KEY_BYTES] = rand::rng().random();
        Self(SecretSlice::from(bytes.to_vec()))
    }

    /// Reads a key as [`PlatformKey::to_hex`] wrote it.
    pub fn from_hex(text: &str) -> Result<Self> {
        match hex::decode(text.trim()) {
            Ok(bytes) if bytes.len() == KEY_BYTES => Ok(Self(SecretSlice::from(bytes))),
            _ => Err(Error::Invalid {
                what: "platform key".into(),
                why: "it is not 64 hexadecimal digits".into(),
                hint: "restore platform.key from a copy; a registry sealed with a lost key is \
                       rebuilt from the declaration and the labels"
                    .into(),
            }),
        }
    }

    /// The key as text, for the one file that keeps it.
    pub fn to_hex(&self) -> Sensitive {
        Sensitive::new(hex::encode(self.0.expose_secret()))
    }

    /// Seals `plain`; `purpose` must be given again to open it, so that a sealed value cannot
    /// be moved from one column to another.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>> {
        let nonce_bytes: [u8; NONCE_BYTES] = rand::rng().random();
        let sealed = self
            .cipher(purpose)
            .encrypt(&Nonce::from(nonce_bytes), plain)
            .map_err(|_| Error::Invalid {
                what: "value to seal".into(),
                why: "it is too long".into(),
                hint: "keep declarations below 256 GiB".into(),
            })?;
        let mut out = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        out.push(SEAL_VERSION);
        out.extend_from_slice(&nonce_bytes);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what [`PlatformKey::seal`] sealed for the same purpose.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let refused = || Error::Corrupt {
            what: format!("sealed {purpose}"),
            why: "it was not sealed with this platform's key, or was changed since".into(),
        };
        let (version, rest) = sealed.split_first().ok_or_else(refused)?;
        let (nonce, body) = rest.split_at_checked(NONCE_BYTES).ok_or_else(refused)?;
        if *version != SEAL_VERSION {
            return Err(refused());
        }
        let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).map_err(|_| refused())?;
        self.cipher(purpose)
            .decrypt(&Nonce::from(nonce), body)
            .map_err(|_| refused())
    }

    /// HMAC-SHA256 of `data` under a key derived for `purpose`, in hexadecimal.
    pub fn sign(&self, purpose: &str, data: &[u8]) -> String {
        hex::encode(mac(&self.derived(purpose), data))
    }

    /// A key of its own for each purpose, so that no two uses share one.
    fn derived(&self, purpose: &str) -> [u8; KEY_BYTES] {
        mac(self.0.expose_secret(), purpose.as_bytes())
    }

    fn cipher(&self, purpose: &str) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&Key::from(self.derived(&format!("seal {purpose}"))))
    }
}

#[expect(
    clippy::expect_used,
    reason = "HMAC takes a key of any length; RFC 2104"
)]
fn mac(key: &[u8], data: &[u8]) -> [u8; KEY_BYTES] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// SHA-256 in hexadecimal, for tokens that are kept as hashes only. Tokens have 256 random
/// bits, so a plain hash is enough: there is nothing to guess.
pub fn token_hash(token: &Sensitive) -> String {
    use sha2::Digest;
    hex::encode(Sha256::digest(token.expose().as_bytes()))
}

/// A new random token of 256 bits, in hexadecimal.
pub fn new_token() -> Sensitive {
    let bytes: [u8; KEY_BYTES] = rand::rng().random();
    Sensitive::new(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_values_open_with_the_same_key_and_purpose_only() {
        let key = PlatformKey::generate();
        let sealed = key.seal("declaration", b"hidden").unwrap();
        assert_eq!(key.open("declaration", &sealed).unwrap(), b"hidden");
        assert!(key.open("token", &sealed).is_err());
        assert!(
            PlatformKey::generate()
                .open("declaration", &sealed)
                .is_err()
        );
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(key.open("declaration", &changed).is_err());
        assert!(key.open("declaration", &[]).is_err());
        assert!(!sealed.windows(6).any(|w| w == b"hidden"));
    }

    #[test]
    fn nothing_sensitive_is_shown() {
        let value = Sensitive::new("hunter2");
        let key = PlatformKey::generate();
        assert!(!format!("{value:?} {key:?}").contains("hunter2"));
        assert!(!format!("{key:?}").contains(key.to_hex().expose()));
    }

    #[test]
    fn a_key_survives_its_file() {
        let key = PlatformKey::generate();
        let again = PlatformKey::from_hex(key.to_hex().expose()).unwrap();
        assert_eq!(key.sign("x", b"y"), again.sign("x", b"y"));
        assert!(PlatformKey::from_hex("abc").is_err());
    }
}
