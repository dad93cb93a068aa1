//! Reads `[code]`: where code bases are stored.

use super::super::Credentials;
use super::super::azure::{AzureFilesSpec, CodeStoreSpec, FilesSecret};
use super::super::diagnostic::Report;
use super::super::secret_reference::SecretReader;
use super::super::tree::Field;
use super::cloud::{address, certificate, filled};
use crate::code::DirectoryStore;

pub(in super::super) const CODE: [&str; 9] = [
    "account",
    "ca",
    "directory",
    "endpoint",
    "key",
    "path",
    "sas",
    "share",
    "store",
];
pub(in super::super) const STORES: [&str; 2] = ["azure-files", "directory"];
/// The keys that all stores have; the other keys are for Azure Files.
const COMMON: [&str; 2] = ["path", "store"];
/// The default directory of code bases.
const PATH: &str = "code";

/// The settings in `[code]`.
pub(super) struct Code {
    /// The directory of code bases, relative to the Compose file.
    pub(super) path: String,
    pub(super) store: CodeStoreSpec,
}

impl Default for Code {
    fn default() -> Self {
        Self {
            path: PATH.to_owned(),
            store: CodeStoreSpec::default(),
        }
    }
}

/// Reads `[code]`, and stores its secret in `credentials`.
pub(super) fn read(
    field: &Field<'_>,
    secrets: SecretReader<'_>,
    credentials: &mut Credentials,
    report: &mut Report,
) -> Code {
    let named = field.get("store");
    let is_share =
        named.is_some_and(|named| named.text(&mut Report::new("")) == Some("azure-files"));
    let mut code = Code::default();
    let (mut account, mut share, mut directory) = (None, None, None);
    let (mut endpoint, mut ca) = (None, None);
    for (key, field) in field.entries(report) {
        if !is_share && CODE.contains(&key) && !COMMON.contains(&key) {
            let help = "set `store = \"azure-files\"` for a share, or remove this key";
            field.problem_with_help(
                report,
                "this key is not valid for the store `directory`",
                help,
            );
            continue;
        }
        match key {
            "store" => {
                field.word(report, &STORES.map(|word| (word, ())));
            }
            "path" => {
                let path = field.text(report).map(DirectoryStore::normalised);
                code.path = path.unwrap_or(code.path);
            }
            "account" => account = field.parse(report, filled),
            "share" => share = field.parse(report, filled),
            "directory" => directory = field.parse(report, filled),
            "endpoint" => endpoint = field.parse(report, address),
            "ca" => ca = certificate(&field, secrets, report),
            "key" | "sas" => credentials.code = secrets.secret(&field, report),
            _ => report.unknown_key(field.at, &field.path, key, CODE),
        }
    }
    if !is_share {
        return code;
    }
    for key in ["account", "share"] {
        if field.get(key).is_none() {
            field.problem(report, format!("`{key}` is missing"));
        }
    }
    let with = match (field.get("key"), field.get("sas")) {
        (Some(_), None) => FilesSecret::Key,
        (None, Some(_)) => FilesSecret::Sas,
        (given, _) => {
            let why = given.map_or(
                "`key` or `sas` is missing",
                |_| "only one of `key` and `sas` may be set",
            );
            let help = "write `key = { env = \"NAME\" }` or `sas = { file = \"path\" }`";
            field.problem_with_help(report, why, help);
            return code;
        }
    };
    if let (Some(account), Some(share)) = (account, share) {
        code.store = CodeStoreSpec::AzureFiles(AzureFilesSpec {
            account,
            share,
            directory,
            with,
            endpoint,
            ca,
        });
    }
    code
}
