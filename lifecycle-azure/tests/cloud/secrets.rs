//! What must be in no text that leaves the process.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifecycle_azure::simulator::{AzureSimulator, CLIENT_SECRET, STORAGE_KEY};

/// What all tokens of the simulator begin with, as those of Azure do: `{"` in base64.
const TOKEN: &str = "eyJ";

/// The secrets that are about: those of the login and of the account, tokens, and the private host
/// keys of the VMs, in each form in which they were sent.
pub(crate) fn planted(azure: &AzureSimulator) -> Vec<String> {
    let mut all = [CLIENT_SECRET, STORAGE_KEY, TOKEN, "Bearer e"]
        .map(str::to_owned)
        .to_vec();
    for machine in azure.machines() {
        let sent = machine.custom_data.unwrap().expose().to_owned();
        let text = String::from_utf8(STANDARD.decode(&sent).unwrap()).unwrap();
        all.push(sent);
        // The lines of the key itself, between its first and its last.
        let key = text
            .split("\\n")
            .filter(|line| line.len() >= 60 && !line.contains(' '));
        all.extend(key.map(str::to_owned));
    }
    all
}

/// None of the secrets is in any of the texts.
#[track_caller]
pub(crate) fn in_none(secrets: &[String], texts: &[&str]) {
    for secret in secrets {
        for text in texts {
            if let Some(position) = text.find(secret.as_str()) {
                let from = text.floor_char_boundary(position.saturating_sub(300));
                panic!("a secret stands after: {}", &text[from..position]);
            }
        }
    }
}
