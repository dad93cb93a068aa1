//! Builds and validates the options of a share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifecycle_core::clock::{IdSource, RandomIds};
use lifecycle_core::{Error, Result};
use opendal::services::AzfileConfig;
use opendal::{Configurator as _, HttpTransporter, OperationContext, Operator};
use secrecy::{ExposeSecret as _, SecretString};
use url::{Host, Url};

use super::AzureFiles;
use super::error::{CredentialKind, ShareInfo};
use super::name;
use super::share::Share;
use super::transport::Transport;
use crate::trust;

/// The default timeout for one request. Long, because a request may transfer 2 MiB.
const TIMEOUT: Duration = Duration::from_mins(2);
/// The shortest allowed request timeout.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);
/// The shortest allowed retention. Bounded, because a publish must finish within half of the
/// retention.
const SHORTEST_KEEP: Duration = Duration::from_mins(10);
/// How long a superseded version is kept by default.
const KEEP: Duration = Duration::from_hours(24);

/// A credential for a share.
#[derive(Debug, Clone)]
pub enum FilesCredential {
    /// A key of the storage account in Base64, as Azure shows it.
    SharedKey(SecretString),
    /// A shared access signature, with or without the leading question mark. The required
    /// permissions on objects and containers are `rl` for reading and `rcwdl` for publishing.
    Sas(SecretString),
}

/// Builds an [`AzureFiles`].
#[derive(Debug, Clone)]
pub struct AzureFilesBuilder {
    account: String,
    share: String,
    credential: FilesCredential,
    endpoint: Option<String>,
    root: Option<String>,
    authority: Option<String>,
    timeout: Duration,
    keep: Duration,
    ids: Arc<dyn IdSource>,
}

impl AzureFilesBuilder {
    pub(super) fn new(account: &str, share: &str, credential: FilesCredential) -> Self {
        Self {
            account: account.to_owned(),
            share: share.to_owned(),
            credential,
            endpoint: None,
            root: None,
            authority: None,
            timeout: TIMEOUT,
            keep: KEEP,
            ids: Arc::new(RandomIds),
        }
    }

    /// Sets the URL of the service. The default is `https://<account>.file.core.windows.net`. Plain
    /// HTTP is accepted only for addresses of this machine.
    #[must_use]
    pub fn endpoint(mut self, url: &str) -> Self {
        self.endpoint = Some(url.to_owned());
        self
    }

    /// Sets the directory in the share that contains the code bases. The default is the root of the
    /// share.
    #[must_use]
    pub fn root(mut self, directory: &str) -> Self {
        self.root = Some(directory.to_owned());
        self
    }

    /// Sets the only trusted certificate authority, in PEM. This authority replaces Mozilla's.
    #[must_use]
    pub fn authority(mut self, pem: &str) -> Self {
        self.authority = Some(pem.to_owned());
        self
    }

    /// Sets the timeout for a request: at least 10 ms; two minutes by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets how long a superseded version stays readable: at least ten minutes; a day by default. A
    /// publish must finish within half of this time.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// Sets the source of new ids.
    #[must_use]
    pub fn ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// Validates the options without sending a request.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`], which names the invalid value but never contains a secret.
    pub fn build(self) -> Result<AzureFiles> {
        self.check_names()?;
        self.check_times()?;
        let endpoint = self.url()?;
        let (with, config) = self.credential()?;
        let config = AzfileConfig {
            endpoint: Some(endpoint.as_str().trim_end_matches('/').to_owned()),
            share_name: self.share.clone(),
            account_name: Some(self.account.clone()),
            ..config
        };
        let info = Arc::new(ShareInfo {
            account: self.account,
            share: self.share,
            endpoint: endpoint.to_string(),
            with,
            timeout: self.timeout,
        });
        let tls = trust::client_config(self.authority.as_deref())?;
        let transport = HttpTransporter::new(Transport::new(tls, self.timeout)?);
        let operator = Operator::new(config.into_builder())
            .map_err(|error| info.explain("", "setting up the client for Azure Files", &error))?
            .with_context(OperationContext::new().with_http_transport(transport));
        Ok(AzureFiles {
            share: Share::new(operator, info, self.root.as_deref().unwrap_or_default()),
            ids: self.ids,
            keep: self.keep,
            memory: Arc::new(Mutex::default()),
        })
    }

    fn check_names(&self) -> Result<()> {
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !(3..=24).contains(&self.account.len()) || !self.account.bytes().all(lower) {
            return Err(Error::invalid(
                format!("storage account `{}`", self.account),
                "the name of a storage account consists of 3 to 24 lower-case letters and digits",
                "specify only the account's name, without `.file.core.windows.net`",
            ));
        }
        let share = self.share.as_str();
        let hyphens = share.starts_with('-') || share.ends_with('-') || share.contains("--");
        let fine = share.bytes().all(|b| lower(b) || b == b'-');
        if !fine || hyphens || !(3..=63).contains(&share.len()) {
            return Err(Error::invalid(
                format!("file share `{share}`"),
                "the name of a share consists of 3 to 63 lower-case letters, digits and hyphens; \
                 every hyphen is between two letters or digits",
                "specify only the share's name; to use a directory in the share, set \
                 `code.directory`",
            ));
        }
        let root = self.root.as_deref().unwrap_or_default().trim_matches('/');
        match root
            .split('/')
            .filter(|_| !root.is_empty())
            .find_map(name::fault)
        {
            None => Ok(()),
            Some(why) => Err(Error::invalid(
                format!("directory `{root}` of file share `{share}`"),
                why,
                "specify a path in the share, such as `code`",
            )),
        }
    }

    fn check_times(&self) -> Result<()> {
        for (what, time, least) in [
            (
                "the time limit for requests to Azure Files",
                self.timeout,
                SHORTEST_TIMEOUT,
            ),
            (
                "the retention time for versions in Azure Files",
                self.keep,
                SHORTEST_KEEP,
            ),
        ] {
            if time < least {
                return Err(Error::invalid(
                    format!("{what} ({} s)", time.as_secs_f64()),
                    format!("it is shorter than {} s", least.as_secs_f64()),
                    "increase the value, or remove it",
                ));
            }
        }
        Ok(())
    }

    fn url(&self) -> Result<Url> {
        let Some(text) = &self.endpoint else {
            let host = format!("https://{}.file.core.windows.net", self.account);
            return Url::parse(&host)
                .map_err(|error| Error::failed("composing the URL", error.to_string()));
        };
        let invalid = |why: &str| {
            // Omit the query, which may contain a signature.
            let shown = text.split(['?', '#', '@']).next().unwrap_or_default();
            let hint = format!(
                "use `https://{}.file.core.windows.net`, or remove the endpoint",
                self.account
            );
            Error::invalid(format!("endpoint `{shown}` of Azure Files"), why, hint)
        };
        let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
        let here = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err(invalid("it has no host name")),
        };
        match url.scheme() {
            "https" => {}
            "http" if here => {}
            "http" => {
                return Err(invalid(
                    "data that is sent over plain HTTP can be read by others",
                ));
            }
            _ => return Err(invalid("it is not an https address")),
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid(
                "it has a query; configure the signature separately",
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("it contains a user name"));
        }
        if url.path() != "/" {
            return Err(invalid("it has a path; configure the share separately"));
        }
        Ok(url)
    }

    fn credential(&self) -> Result<(CredentialKind, AzfileConfig)> {
        match &self.credential {
            FilesCredential::SharedKey(key) => {
                let key = key.expose_secret().trim();
                if key.is_empty() || STANDARD.decode(key).is_err() {
                    return Err(Error::invalid(
                        format!("the key of storage account `{}`", self.account),
                        "it is not Base64",
                        "copy the complete `key1` or `key2` of the account's access keys",
                    ));
                }
                let config = AzfileConfig {
                    account_key: Some(key.to_owned()),
                    ..AzfileConfig::default()
                };
                Ok((CredentialKind::Key, config))
            }
            FilesCredential::Sas(token) => {
                let token = token.expose_secret().trim().trim_start_matches('?');
                let get = |expected: &str| {
                    let mut pairs = url::form_urlencoded::parse(token.as_bytes());
                    pairs
                        .find(|(name, _)| name == expected)
                        .map(|(_, value)| value.into_owned())
                };
                let is_url = token.contains("://");
                if is_url || get("sig").is_none_or(|sig| sig.is_empty()) || get("sv").is_none() {
                    return Err(Error::invalid(
                        format!(
                            "the shared access signature for storage account `{}`",
                            self.account
                        ),
                        if is_url {
                            "it is a URL"
                        } else {
                            "`sv` or `sig` is missing"
                        }
                        .to_owned(),
                        "specify the part of the URL after the question mark, from `sv=` to the \
                         end of `sig=…`",
                    ));
                }
                let expires = get("se");
                let config = AzfileConfig {
                    sas_token: Some(token.to_owned()),
                    ..AzfileConfig::default()
                };
                Ok((CredentialKind::Sas { expires }, config))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "c2VjcmV0IGtleSBvZiBhIHRlc3Q=";
    const SAS: &str = "?sv=2022-11-02&ss=f&srt=co&sp=rl&se=2030-01-01T00:00:00Z&sig=c2lnbmF0dXJl";

    fn with_key() -> AzureFilesBuilder {
        let key = FilesCredential::SharedKey(SecretString::from(KEY));
        AzureFiles::builder("account", "code", key)
    }

    fn refused(builder: AzureFilesBuilder, value: &str) {
        let error = builder.build().unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(matches!(error, Error::Invalid { .. }), "{shown}");
        assert!(shown.contains(value), "{shown}");
        assert!(
            !shown.contains("c2VjcmV0") && !shown.contains("c2lnbmF0"),
            "{shown}"
        );
    }

    #[test]
    fn accepts_valid_options_without_showing_a_secret() {
        let sas = FilesCredential::Sas(SecretString::from(SAS));
        let stores = [
            with_key()
                .root("/code/bases/")
                .endpoint("http://127.0.0.1:1/")
                .build()
                .unwrap(),
            with_key()
                .endpoint("https://account.file.core.chinacloudapi.cn")
                .build()
                .unwrap(),
            AzureFiles::builder("account", "code", sas).build().unwrap(),
        ];
        let shown = format!("{stores:?} {:?}", with_key());
        assert!(
            !shown.contains("c2VjcmV0") && !shown.contains("c2lnbmF0"),
            "{shown}"
        );
    }

    #[test]
    fn names_each_invalid_option() {
        let key = || FilesCredential::SharedKey(SecretString::from(KEY));
        refused(AzureFiles::builder("Account", "code", key()), "`Account`");
        refused(
            AzureFiles::builder("account.file", "code", key()),
            "`account.file`",
        );
        refused(AzureFiles::builder("account", "co", key()), "`co`");
        refused(AzureFiles::builder("account", "code/x", key()), "`code/x`");
        refused(with_key().root("a/../b"), "`a/../b`");
        refused(with_key().root("a/.lifecycle"), ".lifecycle");
        refused(
            with_key().endpoint("http://account.example"),
            "`http://account.example`",
        );
        refused(with_key().endpoint("ftp://account.example"), "not an https");
        refused(
            with_key().endpoint("https://a.example/?sig=c2lnbmF0"),
            "query",
        );
        refused(with_key().endpoint("nonsense"), "`nonsense`");
        refused(with_key().authority("nonsense"), "no certificate");
        refused(with_key().timeout(Duration::ZERO), "time limit");
        refused(with_key().keep(Duration::from_mins(1)), "retention time");
        for bad in ["c2VjcmV0IGtleQ", "", "c2VjcmV0!"] {
            let key = FilesCredential::SharedKey(SecretString::from(bad));
            refused(AzureFiles::builder("account", "code", key), "the key");
        }
        for bad in [
            "sig=c2lnbmF0dXJl",
            "sv=2022-11-02",
            "https://x/?sv=1&sig=c2lnbmF0dXJl",
        ] {
            let sas = FilesCredential::Sas(SecretString::from(bad));
            refused(
                AzureFiles::builder("account", "code", sas),
                "shared access signature",
            );
        }
    }
}
