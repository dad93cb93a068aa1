//! Secret values, which must not appear in logs, errors, events or process lists. The platform key
//! encrypts them at rest and signs the spec digests.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hmac::{Hmac, Mac};
use rand::RngExt;
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;

use crate::error::{Error, Result};

/// Text that may be a secret. `Debug` does not show it, and there is no `Display`.
///
/// Serialization does not encrypt the text. Encrypt the serialized data with the [`PlatformKey`],
/// or send it only over TLS or SSH.
#[derive(Clone)]
pub struct Sensitive(SecretString);

impl Sensitive {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// Returns the secret value.
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

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Sensitive {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sensitive".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "password",
            "description": "Text that may be a secret.",
        })
    }
}

const NONCE_BYTES: usize = 12;
const KEY_BYTES: usize = 32;
const SEAL_VERSION: u8 = 1;

/// The key of one platform: 32 random bytes. It encrypts secrets in the registry
/// (ChaCha20-Poly1305, RFC 8439) and signs spec digests (HMAC-SHA256, RFC 2104).
#[derive(Clone)]
pub struct PlatformKey(SecretSlice<u8>);

impl fmt::Debug for PlatformKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlatformKey([redacted])")
    }
}

impl PlatformKey {
    /// Creates a key with the operating system's random number generator.
    pub fn generate() -> Self {
        let bytes: [u8; KEY_BYTES] = rand::rng().random();
        Self(SecretSlice::from(bytes.to_vec()))
    }

    /// Parses a key that [`PlatformKey::to_hex`] wrote.
    pub fn from_hex(text: &str) -> Result<Self> {
        match hex::decode(text.trim()) {
            Ok(bytes) if bytes.len() == KEY_BYTES => Ok(Self(SecretSlice::from(bytes))),
            _ => Err(Error::Invalid {
                what: "platform key".into(),
                why: "it is not 64 hexadecimal digits".into(),
                hint: "restore platform.key from a backup; if the key is lost, the registry is \
                       rebuilt from the declaration and the labels of the containers"
                    .into(),
            }),
        }
    }

    /// Returns the key as text, for the file that stores it.
    pub fn to_hex(&self) -> Sensitive {
        Sensitive::new(hex::encode(self.0.expose_secret()))
    }

    /// Encrypts `plain`. Decryption needs the same `purpose`, so a value that was moved to another
    /// column cannot be decrypted.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>> {
        let nonce_bytes: [u8; NONCE_BYTES] = rand::rng().random();
        let sealed = self
            .cipher(purpose)
            .encrypt(&Nonce::from(nonce_bytes), plain)
            .map_err(|_| Error::Invalid {
                what: "the value to encrypt".into(),
                why: "it is too long".into(),
                hint: "use a declaration smaller than 256 GiB".into(),
            })?;
        let mut out = Vec::with_capacity(1 + NONCE_BYTES + sealed.len());
        out.push(SEAL_VERSION);
        out.extend_from_slice(&nonce_bytes);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Decrypts a value that [`PlatformKey::seal`] encrypted for the same purpose.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let corrupt = || Error::Corrupt {
            what: format!("the encrypted {purpose}"),
            why: "it was not encrypted with this platform's key, or it was modified".into(),
        };
        let (version, rest) = sealed.split_first().ok_or_else(corrupt)?;
        let (nonce, body) = rest.split_at_checked(NONCE_BYTES).ok_or_else(corrupt)?;
        if *version != SEAL_VERSION {
            return Err(corrupt());
        }
        let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).map_err(|_| corrupt())?;
        self.cipher(purpose)
            .decrypt(&Nonce::from(nonce), body)
            .map_err(|_| corrupt())
    }

    /// Returns the HMAC-SHA256 of `data`, in hexadecimal, with a key derived for `purpose`.
    pub fn sign(&self, purpose: &str, data: &[u8]) -> String {
        hex::encode(mac(&self.derived(purpose), data))
    }

    /// Derives a separate key for each purpose.
    fn derived(&self, purpose: &str) -> [u8; KEY_BYTES] {
        mac(self.0.expose_secret(), purpose.as_bytes())
    }

    fn cipher(&self, purpose: &str) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&Key::from(self.derived(&format!("seal {purpose}"))))
    }
}

#[expect(
    clippy::expect_used,
    reason = "HMAC accepts keys of any length (RFC 2104)"
)]
fn mac(key: &[u8], data: &[u8]) -> [u8; KEY_BYTES] {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC accepts any key");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

/// Returns the SHA-256 of a token in hexadecimal, for storage. A plain hash is sufficient, because
/// tokens have 256 random bits and cannot be guessed.
pub fn token_hash(token: &Sensitive) -> String {
    use sha2::Digest;
    hex::encode(Sha256::digest(token.expose().as_bytes()))
}

/// Creates a random token of 256 bits, in hexadecimal.
pub fn new_token() -> Sensitive {
    let bytes: [u8; KEY_BYTES] = rand::rng().random();
    Sensitive::new(hex::encode(bytes))
}

/// The start of each token of the manager's API, by which secret scanners can find leaked tokens.
const TOKEN_PREFIX: &str = "lcm_";

/// The number of hexadecimal digits of a token's id.
const TOKEN_ID_DIGITS: usize = 16;

/// The number of hexadecimal digits of a token's checksum.
const CHECKSUM_DIGITS: usize = 8;

/// Creates a random token for the manager's API: `lcm_<id>_<secret><checksum>`. The id consists of
/// 16 hexadecimal digits, the secret of 64. The checksum is the first 8 hexadecimal digits of the
/// SHA-256 of everything before it; secret scanners use it to recognize tokens.
pub fn new_api_token() -> Sensitive {
    let id: [u8; TOKEN_ID_DIGITS / 2] = rand::rng().random();
    api_token(&hex::encode(id), new_token().expose())
}

/// Derives the token of a service for the manager's API from the platform's key. `rotation` is the
/// number of times that the tokens of services were replaced. Every manager of the platform derives
/// the same token.
pub(crate) fn service_api_token(key: &PlatformKey, service: &str, rotation: u64) -> Sensitive {
    // Names of services contain no slash.
    let subject = match rotation {
        0 => service.to_owned(),
        rotation => format!("{service}/{rotation}"),
    };
    let mut id = key.sign("id of a service's token", subject.as_bytes());
    id.truncate(TOKEN_ID_DIGITS);
    api_token(&id, &key.sign("a service's token", subject.as_bytes()))
}

fn api_token(id: &str, secret: &str) -> Sensitive {
    use sha2::Digest;
    let mut text = format!("{TOKEN_PREFIX}{id}_{secret}");
    let mut checksum = hex::encode(Sha256::digest(text.as_bytes()));
    checksum.truncate(CHECKSUM_DIGITS);
    text.push_str(&checksum);
    Sensitive::new(text)
}

/// Returns the id of a token for the manager's API: 16 hexadecimal digits. A token without an id,
/// as previous versions created them, gets the first digits of its hash.
pub(crate) fn api_token_id(token: &Sensitive) -> String {
    let is_id = |id: &&str| {
        id.len() == TOKEN_ID_DIGITS && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts = token.expose().strip_prefix(TOKEN_PREFIX);
    let id = parts.and_then(|rest| rest.split('_').next()).filter(is_id);
    id.map_or_else(
        || token_hash(token).chars().take(TOKEN_ID_DIGITS).collect(),
        ToOwned::to_owned,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decryption_needs_the_same_key_and_purpose() {
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
    fn debug_output_shows_no_secrets() {
        let value = Sensitive::new("hunter2");
        let key = PlatformKey::generate();
        assert!(!format!("{value:?} {key:?}").contains("hunter2"));
        assert!(!format!("{key:?}").contains(key.to_hex().expose()));
    }

    #[test]
    fn a_token_contains_its_id_and_a_checksum() {
        use sha2::Digest;
        let token = new_api_token();
        let text = token.expose();
        let (body, checksum) = text.split_at(text.len() - CHECKSUM_DIGITS);
        assert!(hex::encode(Sha256::digest(body)).starts_with(checksum));
        let parts: Vec<&str> = body.split('_').collect();
        assert_eq!(parts, ["lcm", &*api_token_id(&token), parts[2]]);
        assert_eq!(parts[2].len(), 64);
        assert_ne!(new_api_token(), token);

        for other in [
            new_token(),
            Sensitive::new("lcm_short_x"),
            Sensitive::new(""),
        ] {
            assert_eq!(api_token_id(&other), token_hash(&other)[..16]);
        }
    }

    #[test]
    fn each_rotation_gives_a_service_another_token() {
        let key = PlatformKey::generate();
        let token = |service, rotation| service_api_token(&key, service, rotation);
        let tokens = [
            token("web", 0),
            token("web", 1),
            token("web", 2),
            token("db", 1),
        ];
        for (at, one) in tokens.iter().enumerate() {
            for other in &tokens[at + 1..] {
                assert_ne!(one, other);
                assert_ne!(api_token_id(one), api_token_id(other));
            }
        }
        assert_eq!(token("web", 1), tokens[1]);
    }

    #[test]
    fn a_key_can_be_stored_as_text() {
        let key = PlatformKey::generate();
        let again = PlatformKey::from_hex(key.to_hex().expose()).unwrap();
        assert_eq!(key.sign("x", b"y"), again.sign("x", b"y"));
        assert!(PlatformKey::from_hex("abc").is_err());
    }
}
