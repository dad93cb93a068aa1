//! Tests that the error of a failed `az` reaches the user, and not a warning before it.

use std::os::unix::fs::PermissionsExt as _;

use lifecycle_azure::simulator::SUBSCRIPTION;

use crate::project::Project;

/// Creates a project whose commands use an `az` that fails with this output.
fn project(output: &str) -> Project {
    let project = Project::new();
    project.compose("  web: {image: \"debian:bookworm-slim\"}\n");
    let identity = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/g/providers/Microsoft.ManagedIdentity/\
         userAssignedIdentities/manager"
    );
    project.write(
        "platform.toml",
        &format!(
            "[cloud]\nprovider = \"azure\"\nsubscription = \"{SUBSCRIPTION}\"\n\
             location = \"westeurope\"\nlogin = \"azure-cli\"\nidentity = \"{identity}\"\n"
        ),
    );
    project.write("bin/output", output);
    let file = project.path("bin/output");
    let script = format!("#!/bin/sh\ncat '{}' >&2\nexit 1\n", file.display());
    project.write("bin/az", &script);
    let az = project.path("bin/az");
    std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    project.set("PATH", &format!("{}:{path}", project.path("bin").display()));
    project
}

#[test]
fn the_error_of_az_is_shown_without_its_warnings() {
    let expired = "WARNING: Unable to encrypt cache.\n\
                   ERROR: AADSTS700082: The refresh token has expired due to inactivity.\n\
                   Trace ID: 1\nTo re-authenticate, please run:\naz login\n";
    let none = "/opt/az/x.py:16: UserWarning: You are using cryptography on a 32-bit Python\n  \
                warnings.warn(\nERROR: Please run 'az login' to setup account.\n";
    for (output, error) in [
        (expired, "AADSTS700082: The refresh token has expired"),
        (none, "Please run 'az login' to setup account."),
    ] {
        let shown = project(output).ends(1, &["plan"]).stderr;
        assert!(shown.contains(error), "{shown}");
        assert!(!shown.to_lowercase().contains("warning"), "{shown}");
        assert!(shown.contains("hint: run `az login`"), "{shown}");
    }
}

#[test]
fn an_az_that_cannot_reach_azure_is_not_reported_as_a_missing_login() {
    let proxy = "WARNING: a\nERROR: HTTPSConnectionPool(host='login.microsoftonline.com', \
                 port=443): Max retries exceeded (Caused by SSLError(SSLCertVerificationError(1, \
                 '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed')))\n";
    let names = "ERROR: HTTPSConnectionPool(host='login.microsoftonline.com', port=443): Max \
                 retries exceeded (Caused by NameResolutionError(\"Failed to resolve\"))\n";
    for (output, hint) in [(proxy, "REQUESTS_CA_BUNDLE"), (names, "name servers")] {
        let shown = project(output).ends(1, &["plan"]).stderr;
        assert!(shown.contains("cannot be reached"), "{shown}");
        assert!(shown.contains(hint), "{shown}");
        assert!(!shown.contains("hint: run `az login`"), "{shown}");
    }
}
