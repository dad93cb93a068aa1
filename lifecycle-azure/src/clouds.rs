//! Determines which addresses may receive credentials: those of Azure's clouds, and those that the
//! operator trusts. A declaration cannot add an address, because its author may be another person.

use lifecycle_core::platform::{AzureFilesSpec, AzureSpec};
use lifecycle_core::{Error, Result};
use url::Url;

/// The hosts of Resource Manager, and the suffixes of its regional hosts.
const MANAGEMENT: [&str; 3] = [
    "management.azure.com",
    "management.usgovcloudapi.net",
    "management.chinacloudapi.cn",
];
/// The hosts of Entra.
const ENTRA: [&str; 4] = [
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.chinacloudapi.cn",
    "login.partner.microsoftonline.cn",
];
/// The suffixes of the hosts of Azure Files, after the name of the storage account.
const FILES: [&str; 4] = [
    "file.core.windows.net",
    "file.core.usgovcloudapi.net",
    "file.core.chinacloudapi.cn",
    "file.storage.azure.net",
];

/// The addresses that may receive credentials although they do not belong to Azure's clouds, for
/// example those of a simulator.
///
/// The operator must name them, for example on the command line. The addresses in a declaration are
/// only compared with them.
#[derive(Debug, Clone, Default)]
pub struct TrustedAddresses {
    trusted: Vec<Trusted>,
}

#[derive(Debug, Clone)]
struct Trusted {
    address: Url,
    /// The certificate authority, in PEM, without which the address is not trusted.
    authority: Option<String>,
}

impl TrustedAddresses {
    /// Adds an address such as `https://azure.example:8443`.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the text is not an `https` URL without a path.
    pub fn add(&mut self, address: &str) -> Result<()> {
        let address = parsed(address)?;
        self.trusted.push(Trusted {
            address,
            authority: None,
        });
        Ok(())
    }

    /// Adds an address that is trusted only if the server's certificate is checked with this
    /// certificate authority, in PEM.
    ///
    /// # Errors
    /// The same as for [`add`](Self::add).
    pub fn add_with_authority(&mut self, address: &str, authority: &str) -> Result<()> {
        let address = parsed(address)?;
        self.trusted.push(Trusted {
            address,
            authority: Some(authority.to_owned()),
        });
        Ok(())
    }

    /// Checks all addresses to which the cloud's credentials would be sent.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`], which names the first address that is not trusted.
    pub fn check_cloud(&self, spec: &AzureSpec) -> Result<()> {
        let ca = spec.ca.as_deref();
        if let Some(endpoint) = &spec.endpoint {
            self.check("cloud.endpoint", endpoint, ca, |host| {
                is_one_of(&MANAGEMENT, host) || { MANAGEMENT.iter() }
                    .any(|known| is_below(host, known))
            })?;
        }
        if let Some(authority) = &spec.authority {
            self.check("cloud.authority", authority, ca, |host| {
                is_one_of(&ENTRA, host)
            })?;
        }
        Ok(())
    }

    /// Checks the address to which the code store's credential would be sent.
    ///
    /// # Errors
    /// The same as for [`check_cloud`](Self::check_cloud).
    pub fn check_files(&self, spec: &AzureFilesSpec) -> Result<()> {
        let Some(endpoint) = &spec.endpoint else {
            return Ok(());
        };
        self.check("code.endpoint", endpoint, spec.ca.as_deref(), |host| {
            let Some((account, rest)) = host.split_once('.') else {
                return false;
            };
            // The owner of another account could read the requests in its logs.
            let is_own = account.eq_ignore_ascii_case(&spec.account);
            is_own
                && FILES
                    .iter()
                    .any(|known| rest.eq_ignore_ascii_case(known) || is_below(rest, known))
        })
    }

    fn check(
        &self,
        setting: &str,
        address: &str,
        ca: Option<&str>,
        is_of_azure: impl FnOnce(&str) -> bool,
    ) -> Result<()> {
        let url = parsed(address)?;
        if url.port().is_none() && url.host_str().is_some_and(is_of_azure) {
            return Ok(());
        }
        let is_trusted = |trusted: &Trusted| {
            let has_authority = |authority: &String| ca.map(str::trim) == Some(authority.trim());
            trusted.address.origin() == url.origin()
                && trusted.authority.as_ref().is_none_or(has_authority)
        };
        if self.trusted.iter().any(is_trusted) {
            return Ok(());
        }
        let origin = url.origin().ascii_serialization();
        Err(Error::invalid(
            format!("`{setting}` ({origin})"),
            "it is not an address of Azure's clouds, and it would receive your credentials",
            format!(
                "if you trust this address, and not only the author of platform.toml, run the \
                 command with `--trust-address {origin}`, or set \
                 LIFECYCLE_TRUST_ADDRESSES={origin} in the environment; otherwise, remove \
                 `{setting}`"
            ),
        ))
    }
}

/// Returns whether a host is in the list. Azure ignores the case of names.
fn is_one_of(known: &[&str], host: &str) -> bool {
    known.iter().any(|known| host.eq_ignore_ascii_case(known))
}

/// Returns whether a host is below a domain.
fn is_below(host: &str, domain: &str) -> bool {
    let rest = host.len().checked_sub(domain.len());
    rest.and_then(|at| host.split_at_checked(at))
        .is_some_and(|(rest, end)| rest.ends_with('.') && end.eq_ignore_ascii_case(domain))
}

fn parsed(text: &str) -> Result<Url> {
    let invalid = |why: &str| {
        Error::invalid(
            format!("the address `{text}`"),
            why,
            "write an address such as `https://azure.example:8443`",
        )
    };
    let url = Url::parse(text).map_err(|error| invalid(&error.to_string()))?;
    if url.scheme() != "https" || url.host_str().is_none_or(str::is_empty) {
        return Err(invalid("it is not an https address"));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || !url.username().is_empty() {
        return Err(invalid("it contains more than a host and a port"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use lifecycle_core::platform::FilesSecret;

    use super::*;

    fn cloud(endpoint: &str, authority: &str) -> AzureSpec {
        AzureSpec {
            endpoint: Some(endpoint.to_owned()),
            authority: Some(authority.to_owned()),
            ..AzureSpec::new("s", "westeurope")
        }
    }

    fn files(endpoint: &str) -> AzureFilesSpec {
        AzureFilesSpec {
            account: "store".to_owned(),
            share: "code".to_owned(),
            directory: None,
            with: FilesSecret::Key,
            endpoint: Some(endpoint.to_owned()),
            ca: None,
        }
    }

    #[test]
    fn only_azures_clouds_are_trusted_by_default() {
        let none = TrustedAddresses::default();
        let public = [
            "https://management.azure.com",
            "https://login.microsoftonline.com",
        ];
        for (endpoint, authority) in [
            (public[0], public[1]),
            (
                "https://westeurope.management.azure.com",
                "https://LOGIN.microsoftonline.com/",
            ),
            (
                "https://management.usgovcloudapi.net",
                "https://login.microsoftonline.us",
            ),
            (
                "https://management.chinacloudapi.cn",
                "https://login.chinacloudapi.cn",
            ),
        ] {
            none.check_cloud(&cloud(endpoint, authority)).unwrap();
        }
        for (endpoint, authority) in [
            ("https://evil.example", public[1]),
            (public[0], "https://evil.example"),
            ("https://management.azure.com.evil.example", public[1]),
            ("https://evilmanagement.azure.com", public[1]),
            ("https://management.azure.com:8443", public[1]),
            ("https://127.0.0.1:8443", public[1]),
            ("https://localhost", public[1]),
            (public[1], public[0]),
            (public[0], "https://x.login.microsoftonline.com"),
        ] {
            let error = none.check_cloud(&cloud(endpoint, authority)).unwrap_err();
            let hint = error.hint().unwrap();
            assert!(hint.contains("--trust-address https://"), "{hint}");
        }
        for good in [
            "https://store.file.core.windows.net",
            "https://store.z12.file.storage.azure.net",
            "https://store.file.core.usgovcloudapi.net",
        ] {
            none.check_files(&files(good)).unwrap();
        }
        for bad in [
            "https://other.file.core.windows.net",
            "https://store.evil.example",
            "https://store.file.core.windows.net.evil.example",
            "https://store.evilfile.core.windows.net",
            "https://127.0.0.1:10444",
        ] {
            none.check_files(&files(bad)).unwrap_err();
        }
    }

    #[test]
    fn the_operator_can_trust_other_addresses() {
        let mut trusted = TrustedAddresses::default();
        trusted.add("https://azure.example:8443/").unwrap();
        trusted
            .check_cloud(&cloud(
                "https://azure.example:8443",
                "https://azure.example:8443",
            ))
            .unwrap();
        trusted
            .check_files(&files("https://azure.example:8443"))
            .unwrap();
        for other in [
            "https://azure.example",
            "https://azure.example:8444",
            "https://b.example:8443",
        ] {
            trusted.check_files(&files(other)).unwrap_err();
        }
        for bad in [
            "azure.example",
            "http://azure.example",
            "https://u@x",
            "https://x/path",
            "https://x?y",
        ] {
            let error = trusted.add(bad).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
        }
    }

    #[test]
    fn an_address_with_an_authority_is_trusted_only_together_with_it() {
        let mut trusted = TrustedAddresses::default();
        let address = "https://172.17.0.1:10444";
        trusted
            .add_with_authority(address, "the authority\n")
            .unwrap();
        trusted.check_files(&files(address)).unwrap_err();
        let with = |ca: &str| AzureFilesSpec {
            ca: Some(ca.to_owned()),
            ..files(address)
        };
        trusted.check_files(&with("another")).unwrap_err();
        trusted.check_files(&with("the authority")).unwrap();
    }
}
