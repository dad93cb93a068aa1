//! The secrets that must not appear in any output.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifecycle_azure::simulator::{AzureSimulator, CLIENT_SECRET, STORAGE_KEY};

/// The prefix of all tokens of the simulator and of Azure: `{"` in Base64.
const TOKEN: &str = "eyJ";

/// Returns all secrets in use, in each encoding in which they were sent: the secrets of the login
/// and of the storage account, tokens, and the private host keys of the VMs.
pub(crate) fn planted(azure: &AzureSimulator) -> Vec<String> {
    let mut all = [CLIENT_SECRET, STORAGE_KEY, TOKEN, "Bearer e"]
        .map(str::to_owned)
        .to_vec();
    for vm in azure.vms() {
        let sent = vm.custom_data.unwrap().expose().to_owned();
        let text = String::from_utf8(STANDARD.decode(&sent).unwrap()).unwrap();
        all.push(sent);
        // The lines of the key between its first and its last line.
        let key = text
            .split("\\n")
            .filter(|line| line.len() >= 60 && !line.contains(' '));
        all.extend(key.map(str::to_owned));
    }
    all
}

/// Checks that none of the texts contains a secret.
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
