//! Finds the error in the output of the Azure CLI, which also contains warnings and advice.

/// The starts of lines that follow an error and do not belong to it.
const ADVICE: [&str; 10] = [
    "Trace ID",
    "Correlation ID",
    "Timestamp",
    "Interactive authentication",
    "To re-authenticate",
    "To troubleshoot",
    "To check existing issues",
    "To open an issue",
    "az login",
    "WARNING",
];

const CERTIFICATE: [&str; 2] = ["CERTIFICATE_VERIFY_FAILED", "certificate verify failed"];
const NAMES: [&str; 4] = [
    "NameResolutionError",
    "Failed to resolve",
    "Name or service not known",
    "Temporary failure in name resolution",
];
const CONNECTIONS: [&str; 4] = [
    "Connection refused",
    "Failed to establish a new connection",
    "ConnectTimeoutError",
    "ProxyError",
];

/// Returns the error in the output of a failed `az`, in one line. `output` is the error of the
/// identity library, which contains the output after its own first words.
pub(super) fn reason(output: &str) -> String {
    let (_, output) = output
        .split_once("AzureCliCredential authentication failed.")
        .unwrap_or(("", output));
    let lines = || output.lines().map(str::trim);
    if output.contains("Traceback (most recent call last)")
        && let Some(line) = lines().rev().find(|line| is_exception(line))
    {
        return line.to_owned();
    }
    let mut after = lines().skip_while(|line| !line.starts_with("ERROR:"));
    if let Some(first) = after.next() {
        let first = first.trim_start_matches("ERROR:").trim();
        let more = after.take_while(|line| !is_advice(line));
        let all: Vec<&str> = std::iter::once(first).chain(more).collect();
        return all.join(" ").trim().to_owned();
    }
    let is_error = |line: &&str| !line.is_empty() && !is_warning(line);
    let found = lines().find(is_error).filter(|line| !is_advice(line));
    // Without any other line, the last warning is the best explanation.
    let warning = || lines().rfind(|line| line.starts_with("WARNING"));
    found
        .or_else(warning)
        .unwrap_or("it reported no reason")
        .to_owned()
}

/// Returns a hint if the Azure CLI could not reach Azure.
pub(super) fn offline_hint(output: &str) -> Option<&'static str> {
    let has = |parts: &[&str]| parts.iter().any(|part| output.contains(part));
    if has(&CERTIFICATE) {
        Some(
            "if a proxy or a firewall of your network inspects TLS connections, set \
             REQUESTS_CA_BUNDLE to a PEM file with its certificate authority, for the Azure CLI, \
             and `cloud.ca`, for this program",
        )
    } else if has(&NAMES) {
        Some("check this machine's network and name servers")
    } else if has(&CONNECTIONS) {
        Some("check this machine's network, and the proxy in HTTPS_PROXY if your network needs one")
    } else {
        None
    }
}

/// Returns whether the line is the last one of a Python traceback, for example
/// `requests.exceptions.SSLError: …`.
fn is_exception(line: &str) -> bool {
    let Some((name, _)) = line.split_once(": ") else {
        return false;
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._".contains(c);
    name.chars().all(is_name) && (name.ends_with("Error") || name.ends_with("Exception"))
}

fn is_advice(line: &str) -> bool {
    line.is_empty() || ADVICE.iter().any(|start| line.starts_with(start))
}

/// Returns whether the line is a warning of the Azure CLI or of Python.
fn is_warning(line: &str) -> bool {
    line.starts_with("WARNING") || line.contains("Warning:") || line.starts_with("warnings.warn(")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(text: &str) -> String {
        format!(
            "AzureCliCredential authentication failed. {text}\nTo troubleshoot, visit \
             https://aka.ms/azsdk/rust/identity/troubleshoot#azure-cli"
        )
    }

    /// The outputs are from public bug reports.
    #[test]
    fn the_error_counts_and_not_the_warnings_before_it() {
        let cases = [
            (
                "WARNING: Unable to encrypt cache. Learn more at https://aka.ms/azurecli\n\
                 ERROR: AADSTS700082: The refresh token has expired due to inactivity.\n\
                 Trace ID: 1\nCorrelation ID: 2\nTimestamp: 3\n\
                 To re-authenticate, please run:\naz login",
                "AADSTS700082: The refresh token has expired due to inactivity.",
            ),
            (
                "/opt/az/lib/python3.11/site-packages/cryptography/x.py:16: UserWarning: You are \
                 using cryptography on a 32-bit Python\n  warnings.warn(\n\
                 ERROR: Please run 'az login' to setup account.",
                "Please run 'az login' to setup account.",
            ),
            (
                "WARNING: You have 2 update(s) available. Consider updating your CLI.\n\
                 WARNING: The default behavior will change.\n\
                 Please run 'az login' to setup account.",
                "Please run 'az login' to setup account.",
            ),
            (
                "ERROR: The command failed with an unexpected error. Here is the traceback:\n\
                 ERROR: HTTPSConnectionPool\nTraceback (most recent call last):\n  File \"a.py\", \
                 line 1, in x\nrequests.exceptions.SSLError: certificate verify failed\n\
                 To check existing issues, please visit: https://github.com/Azure/azure-cli/issues",
                "requests.exceptions.SSLError: certificate verify failed",
            ),
            (
                "ERROR: The subscription of 'x' doesn't exist in cloud 'AzureCloud'.",
                "The subscription of 'x' doesn't exist in cloud 'AzureCloud'.",
            ),
            ("az not found on PATH", "az not found on PATH"),
            ("WARNING: only this", "WARNING: only this"),
            ("", "it reported no reason"),
        ];
        for (text, expected) in cases {
            assert_eq!(reason(&output(text)), expected);
        }
    }

    #[test]
    fn an_unreachable_azure_has_its_own_hint() {
        for (text, part) in [
            ("SSLError: certificate verify failed", "REQUESTS_CA_BUNDLE"),
            ("[SSL: CERTIFICATE_VERIFY_FAILED]", "cloud.ca"),
            ("NameResolutionError(\"…\")", "name servers"),
            ("[Errno 111] Connection refused", "HTTPS_PROXY"),
        ] {
            assert!(offline_hint(text).unwrap().contains(part), "{text}");
        }
        assert_eq!(offline_hint("Please run 'az login'"), None);
    }
}
