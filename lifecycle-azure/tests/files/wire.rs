//! Sends raw requests as in Azure's documentation, without this crate's client. Tests write plain
//! files with these requests, and check which requests the simulator rejects.

use axum::http::StatusCode;
use chrono::TimeDelta;
use lifecycle_azure::simulator::files::AccountSas;
use lifecycle_core::clock::Clock as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::ExposeSecret as _;

use crate::bench::{ACCOUNT, Bench, SHARE};

/// A request (method, path, query, headers, and size of the body), and the expected status and
/// code.
type Case<'c> = (&'c str, &'c str, &'c str, Headers<'c>, usize, u16, &'c str);
type Headers<'c> = &'c [(&'c str, &'c str)];

/// A client that authorizes requests with a shared access signature.
pub(crate) struct Wire {
    client: reqwest_013::Client,
    url: String,
    sas: String,
}

impl Wire {
    pub(crate) fn new(bench: &Bench) -> Self {
        Self::with(bench, "rwdlc", "sco")
    }

    fn with(bench: &Bench, permissions: &str, resource_types: &str) -> Self {
        let terms = AccountSas {
            permissions: permissions.to_owned(),
            resource_types: resource_types.to_owned(),
            starts: None,
            expires: bench.clock.now() + TimeDelta::hours(1),
        };
        let sas = bench.service.account_sas(ACCOUNT, &terms).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let tls = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let client = reqwest_013::Client::builder()
            .tls_backend_preconfigured(tls)
            .build()
            .unwrap();
        Self {
            client,
            url: bench.url(),
            sas: sas.expose_secret().to_owned(),
        }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (StatusCode, String, Vec<u8>) {
        let path: Vec<_> = path
            .split('/')
            .map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string())
            .collect();
        let url = format!(
            "{}/{SHARE}/{}?{query}&{}",
            self.url,
            path.join("/"),
            self.sas
        );
        let mut request = self
            .client
            .request(method.parse().unwrap(), url)
            .header("x-ms-version", "2022-11-02");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body).send().await.unwrap();
        let code = answer.headers().get("x-ms-error-code");
        let code = code.map_or_else(String::new, |code| code.to_str().unwrap().to_owned());
        assert!(answer.headers().contains_key("x-ms-request-id"));
        (
            answer.status(),
            code,
            answer.bytes().await.unwrap().to_vec(),
        )
    }

    /// Writes a file and its parent directories.
    pub(crate) async fn put(&self, path: &str, contents: &[u8]) {
        for (end, _) in path.match_indices('/') {
            let (status, code, _) = self
                .send("PUT", &path[..end], "restype=directory", &[], Vec::new())
                .await;
            assert!(
                status == StatusCode::CREATED || code == "ResourceAlreadyExists",
                "{code}"
            );
        }
        let size = contents.len().to_string();
        let headers = [("x-ms-type", "file"), ("x-ms-content-length", &size)];
        let (status, code, _) = self.send("PUT", path, "", &headers, Vec::new()).await;
        assert_eq!(status, StatusCode::CREATED, "{path}: {code}");
        let mut start = 0;
        for part in contents.chunks(4 << 20) {
            let range = format!("bytes={start}-{}", start + part.len() - 1);
            let headers = [("x-ms-write", "update"), ("x-ms-range", &range)];
            let (status, code, _) = self
                .send("PUT", path, "comp=range", &headers, part.to_vec())
                .await;
            assert_eq!(status, StatusCode::CREATED, "{path}: {code}");
            start += part.len();
        }
    }

    pub(crate) async fn delete(&self, path: &str) {
        let (status, code, _) = self.send("DELETE", path, "", &[], Vec::new()).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{path}: {code}");
    }

    /// Removes a directory and its contents.
    pub(crate) async fn remove_tree(&self, path: &str) {
        let query = "restype=directory&comp=list";
        let (status, _, body) = self.send("GET", path, query, &[], Vec::new()).await;
        if status == StatusCode::NOT_FOUND {
            return;
        }
        let body = String::from_utf8(body).unwrap();
        for (kind, query) in [("Directory", "restype=directory"), ("File", "")] {
            for part in body.split(&format!("<{kind}><Name>")).skip(1) {
                let name = part.split("</Name>").next().unwrap();
                let inner = format!("{path}/{name}");
                if kind == "Directory" {
                    Box::pin(self.remove_tree(&inner)).await;
                } else {
                    self.send("DELETE", &inner, query, &[], Vec::new()).await;
                }
            }
        }
        let (status, code, _) = self
            .send("DELETE", path, "restype=directory", &[], Vec::new())
            .await;
        assert_eq!(status, StatusCode::ACCEPTED, "{path}: {code}");
    }
}

#[tokio::test]
async fn rejects_the_requests_that_azure_rejects() {
    let bench = Bench::start().await;
    let wire = Wire::new(&bench);
    wire.put("a/file", b"0123456789").await;
    let file = [("x-ms-type", "file"), ("x-ms-content-length", "10")];
    let range = |range| [("x-ms-write", "update"), ("x-ms-range", range)];
    let none: &[(&str, &str)] = &[];
    let cases: &[Case] = &[
        ("PUT", "absent/file", "", &file, 0, 404, "ParentNotFound"),
        ("PUT", "a/b:c", "", &file, 0, 400, "InvalidResourceName"),
        ("PUT", "a", "", &file, 0, 409, "ResourceTypeMismatch"),
        (
            "PUT",
            "a/x",
            "",
            &file[..1],
            0,
            400,
            "MissingRequiredHeader",
        ),
        (
            "PUT",
            "A",
            "restype=directory",
            none,
            0,
            409,
            "ResourceAlreadyExists",
        ),
        (
            "DELETE",
            "a",
            "restype=directory",
            none,
            0,
            409,
            "DirectoryNotEmpty",
        ),
        ("GET", "a/absent", "", none, 0, 404, "ResourceNotFound"),
        (
            "GET",
            "a/file",
            "",
            &[("range", "bytes=10-")],
            0,
            416,
            "InvalidRange",
        ),
        (
            "PUT",
            "a/file",
            "comp=range",
            &range("bytes=8-11"),
            4,
            416,
            "InvalidRange",
        ),
        (
            "PUT",
            "a/file",
            "comp=range",
            &range("bytes=0-3"),
            3,
            400,
            "InvalidHeaderValue",
        ),
        (
            "PUT",
            "a/file",
            "comp=range",
            &range("bytes=0-4194304"),
            4_194_305,
            413,
            "RequestBodyTooLarge",
        ),
        (
            "GET",
            "a",
            "restype=directory&comp=list&maxresults=0",
            none,
            0,
            400,
            "InvalidQueryParameterValue",
        ),
        (
            "PUT",
            "a/copy",
            "",
            &[("x-ms-copy-source", "x")],
            0,
            501,
            "NotImplemented",
        ),
    ];
    for (method, path, query, headers, size, status, code) in cases {
        let (got, refused, body) = wire
            .send(method, path, query, headers, vec![1; *size])
            .await;
        let shown = format!("{method} {path} {query}: {got} {refused}");
        assert_eq!(
            (got.as_u16(), refused.as_str()),
            (*status, *code),
            "{shown}"
        );
        let body = String::from_utf8(body).unwrap();
        assert!(
            body.contains(&format!("<Code>{code}</Code>")),
            "{shown}: {body}"
        );
    }
    let (_, _, body) = wire
        .send("GET", "A/FILE", "", &[("range", "bytes=2-4")], Vec::new())
        .await;
    assert_eq!(body, b"234", "names must be case-insensitive");
}

#[tokio::test]
async fn a_signature_grants_only_its_permissions() {
    let bench = Bench::start().await;
    Wire::new(&bench).put("a/file", b"x").await;
    let list = "restype=directory&comp=list";
    for (permissions, types, method, query, code) in [
        ("r", "o", "GET", "", ""),
        ("w", "o", "GET", "", "AuthorizationPermissionMismatch"),
        ("r", "c", "GET", "", "AuthorizationResourceTypeMismatch"),
        ("r", "o", "DELETE", "", "AuthorizationPermissionMismatch"),
        ("l", "o", "GET", list, "AuthorizationResourceTypeMismatch"),
        ("r", "c", "GET", list, "AuthorizationPermissionMismatch"),
        ("l", "c", "GET", list, "ResourceTypeMismatch"),
    ] {
        let wire = Wire::with(&bench, permissions, types);
        let (_, refused, _) = wire.send(method, "a/file", query, &[], Vec::new()).await;
        assert_eq!(refused, code, "{permissions} {types} {method} {query}");
    }
    let mut forged = Wire::with(&bench, "r", "o");
    forged.sas = forged.sas.replace("sp=r", "sp=rwd");
    let (status, code, _) = forged.send("GET", "a/file", "", &[], Vec::new()).await;
    assert_eq!(
        (status.as_u16(), code.as_str()),
        (403, "AuthenticationFailed")
    );
    let unsigned = Wire {
        sas: String::new(),
        ..forged
    };
    let (status, code, _) = unsigned.send("GET", "a/file", "", &[], Vec::new()).await;
    assert_eq!(
        (status.as_u16(), code.as_str()),
        (401, "NoAuthenticationInformation")
    );
}
