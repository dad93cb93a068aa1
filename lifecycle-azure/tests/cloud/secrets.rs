//! Collects the secrets that must not appear in any output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifecycle_azure::simulator::{AzureSimulator, CLIENT_SECRET, STORAGE_KEY};

/// The prefix of all tokens from the simulator and from Azure: `{"` in Base64.
const TOKEN: &str = "eyJ";

/// Returns all secrets in use, in every encoding in which they were sent: the client secret, the
/// storage account's key, tokens, and the private host keys of the VMs.
pub(crate) fn planted(azure: &AzureSimulator) -> Vec<String> {
    let mut all = [CLIENT_SECRET, STORAGE_KEY, TOKEN, "Bearer e"]
        .map(str::to_owned)
        .to_vec();
    for vm in azure.vms() {
        let sent = vm.custom_data.unwrap().expose().to_owned();
        let text = String::from_utf8(STANDARD.decode(&sent).unwrap()).unwrap();
        all.push(sent);
        // Add the lines between the first and the last line of the key.
        let key = text
            .split("\\n")
            .filter(|line| line.len() >= 60 && !line.contains(' '));
        all.extend(key.map(str::to_owned));
    }
    all
}

/// Checks that no text contains a secret.
#[track_caller]
pub(crate) fn in_none(secrets: &[String], texts: &[&str]) {
    for secret in secrets {
        for text in texts {
            if let Some(position) = text.find(secret.as_str()) {
                let from = text.floor_char_boundary(position.saturating_sub(300));
                panic!("found a secret after: {}", &text[from..position]);
            }
        }
    }
}
