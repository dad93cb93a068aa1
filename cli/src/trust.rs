//! Finds the addresses to which the operator allows this program to send the credentials for Azure,
//! in addition to those of Azure's clouds. The files of a project cannot add any.

use lifecycle_azure::TrustedAddresses;
use lifecycle_core::{Error, Result};

use crate::arguments::Arguments;
use crate::{simulated_azure, wiring};

/// The environment variable with addresses, separated by spaces or commas.
pub(crate) const VARIABLE: &str = "LIFECYCLE_TRUST_ADDRESSES";

/// Returns the addresses of the command line, of the environment, and of the operator's own
/// simulator.
pub(crate) fn addresses(arguments: &Arguments) -> Result<TrustedAddresses> {
    let mut trusted = TrustedAddresses::default();
    for address in &arguments.trust_addresses {
        trusted.add(address)?;
    }
    let variable = match std::env::var(VARIABLE) {
        Ok(variable) => variable,
        Err(std::env::VarError::NotPresent) => String::new(),
        Err(error @ std::env::VarError::NotUnicode(_)) => {
            let hint = "set it to addresses such as `https://azure.example:8443`";
            return Err(Error::invalid(VARIABLE, error.to_string(), hint));
        }
    };
    let separators = |c: char| c == ',' || c.is_whitespace();
    for address in variable.split(separators).filter(|one| !one.is_empty()) {
        trusted.add(address)?;
    }
    // Without a configuration directory, no simulator has used it.
    if let Ok(directory) = wiring::configuration_directory() {
        simulated_azure::trust(&directory, &mut trusted);
    }
    Ok(trusted)
}
