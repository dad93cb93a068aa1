//! Reads the logins for registries of images that `docker login` stored on this machine: in Docker's
//! configuration file, or in a credential helper.
//!
//! The file is `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`. A helper is a program
//! `docker-credential-<name>`; its protocol is described at
//! <https://github.com/docker/docker-credential-helpers>.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lifecycle_core::platform::Diagnostic;
use lifecycle_core::runtime::{ImageLogin, ImageLogins, ImageRegistry};
use lifecycle_core::secret::Sensitive;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// How long a helper may take. The user may have to unlock a key store.
const HELPER_ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// The largest configuration file that is read, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// The name with which a helper marks an identity token.
const TOKEN_USER: &str = "<token>";

/// The output of a helper that has no login for a registry.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// The logins that were found on this machine.
#[derive(Debug, Default)]
pub struct FoundLogins {
    pub logins: ImageLogins,
    /// For each login, its registry and where it was found.
    pub remarks: Vec<String>,
    /// The reasons why logins could not be read.
    pub warnings: Vec<Diagnostic>,
}

impl FoundLogins {
    fn warn(&mut self, file: &Path, message: String, help: String) {
        self.warnings.push(Diagnostic {
            file: file.display().to_string(),
            line: None,
            column: None,
            path: String::new(),
            message,
            help: Some(help),
        });
    }
}

/// Finds the logins for these registries, as Docker's own command does. `environment` contains the
/// environment variables `DOCKER_CONFIG`, `HOME` and `PATH` of the user.
///
/// A login that cannot be read is a warning, because the image may be public.
pub async fn image_logins(
    environment: &BTreeMap<String, String>,
    registries: &BTreeSet<ImageRegistry>,
) -> FoundLogins {
    find(environment, registries, HELPER_ANSWERS_WITHIN).await
}

async fn find(
    environment: &BTreeMap<String, String>,
    registries: &BTreeSet<ImageRegistry>,
    limit: Duration,
) -> FoundLogins {
    let mut found = FoundLogins::default();
    let Some(file) = file(environment) else {
        return found;
    };
    let path = file.clone();
    let read = tokio::task::spawn_blocking(move || Config::read(&path)).await;
    let config = match read.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(Some(config)) => config,
        Ok(None) => return found,
        Err(why) => {
            let message = format!("images are pulled without credentials: {why}");
            let help = "correct the file, or delete it and run `docker login` again".to_owned();
            found.warn(&file, message, help);
            return found;
        }
    };
    let search_path = environment.get("PATH").map(String::as_str);
    for registry in registries {
        let (source, login) = match config.helper(registry) {
            Some(helper) => {
                let program = format!("docker-credential-{helper}");
                let login = ask(&program, registry, search_path, limit).await;
                (format!("the credential helper {program}"), login)
            }
            None => (file.display().to_string(), config.stored(registry)),
        };
        match login {
            Ok(Some(login)) => {
                let remark =
                    format!("images from {registry} are pulled with {login}, from {source}");
                found.remarks.push(remark);
                found.logins.insert(registry.clone(), login);
            }
            Ok(None) => {}
            Err(why) => {
                let message =
                    format!("images from {registry} are pulled without credentials: {why}");
                let command = registry.login_command();
                let help = format!("if the images are private, run `{command}` again");
                found.warn(&file, message, help);
            }
        }
    }
    found
}

/// Returns the path of the configuration file.
fn file(environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    let of = |name| environment.get(name).filter(|value| !value.is_empty());
    let directory = match of("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(of("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json"))
}

/// The parts of the configuration file that concern logins.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
    creds_store: Option<String>,
}

/// A login in the configuration file.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// `user:password` in base64.
    auth: Option<Sensitive>,
    username: Option<String>,
    password: Option<Sensitive>,
    identitytoken: Option<Sensitive>,
    registrytoken: Option<Sensitive>,
}

impl Config {
    /// Reads the file; returns `None` if it does not exist. Errors contain nothing of the file's
    /// contents.
    fn read(path: &Path) -> Result<Option<Self>, String> {
        // Check the type first: opening a FIFO could block forever.
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        if !metadata.is_file() {
            return Err("it is not a regular file".into());
        }
        let mut text = Vec::new();
        let opened = std::fs::File::open(path);
        let read = opened.and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut text));
        read.map_err(|error| error.to_string())?;
        if text.len() as u64 > LARGEST_FILE {
            return Err("it is larger than 1 MiB".into());
        }
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            format!(
                "the file cannot be parsed at line {}, column {}",
                error.line(),
                error.column()
            )
        })
    }

    /// Returns the name of the credential helper for a registry.
    fn helper(&self, registry: &ImageRegistry) -> Option<&str> {
        let helpers = self.cred_helpers.as_ref();
        let of_registry = helpers.and_then(|helpers| helpers.get(registry.address()));
        let of_registry = of_registry.and_then(Option::as_ref);
        let name = of_registry.or(self.creds_store.as_ref())?;
        Some(name.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns the login for a registry that is stored in the file itself.
    fn stored(&self, registry: &ImageRegistry) -> Result<Option<ImageLogin>, String> {
        let Some(entries) = &self.auths else {
            return Ok(None);
        };
        let address = registry.address();
        let entry = entries.get(address).or_else(|| {
            let mut entries = entries.iter();
            let same = entries.find(|(written, _)| host(written) == host(address));
            same.map(|(_, entry)| entry)
        });
        let entry = entry.and_then(Option::as_ref);
        entry.map_or(Ok(None), Entry::login)
    }
}

/// Returns the host of an address, without scheme and path.
fn host(address: &str) -> &str {
    let rest = address
        .strip_prefix("https://")
        .or_else(|| address.strip_prefix("http://"))
        .unwrap_or(address);
    rest.split('/').next().unwrap_or(rest)
}

impl Entry {
    fn login(&self) -> Result<Option<ImageLogin>, String> {
        let given = |value: &Option<Sensitive>| {
            let value = value.as_ref();
            value.filter(|value| !value.expose().is_empty()).cloned()
        };
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(ImageLogin::IdentityToken(token)));
        }
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Some(ImageLogin::RegistryToken(token)));
        }
        if let Some(auth) = given(&self.auth) {
            let login = decoded(auth.expose());
            return login.map(Some).ok_or_else(|| {
                "the value of `auth` in the file is not `user:password` in base64".into()
            });
        }
        let user = self.username.clone().filter(|user| !user.is_empty());
        Ok(user.map(|user| ImageLogin::Password {
            user,
            password: given(&self.password).unwrap_or_else(|| Sensitive::new("")),
        }))
    }
}

fn decoded(auth: &str) -> Option<ImageLogin> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    (!user.is_empty()).then(|| ImageLogin::Password {
        user: user.to_owned(),
        password: Sensitive::new(password.trim_matches('\0')),
    })
}

/// The response of a credential helper.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: Sensitive,
}

/// Asks a credential helper for the login for a registry. Errors contain nothing of the helper's
/// output, which may contain secrets.
async fn ask(
    program: &str,
    registry: &ImageRegistry,
    search_path: Option<&str>,
    limit: Duration,
) -> Result<Option<ImageLogin>, String> {
    if program.contains('/') {
        return Err(format!(
            "`{program}` is not the name of a credential helper"
        ));
    }
    let mut command = Command::new(program);
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(path) = search_path {
        command.env("PATH", path);
    }
    let talk = async {
        let mut child = command.spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // Ignore the error: a helper may exit without reading its input.
            drop(input.write_all(registry.address().as_bytes()).await);
        }
        let mut stdout = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(LARGEST_FILE).read_to_end(&mut stdout).await?;
        }
        // A helper that writes more gets an error.
        let status = child.wait().await?;
        Ok::<_, std::io::Error>((status, stdout))
    };
    let (status, stdout) = match tokio::time::timeout(limit, talk).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("the credential helper {program} failed: {error}")),
        Err(_) => {
            return Err(format!(
                "the credential helper {program} did not respond within {} s",
                limit.as_secs()
            ));
        }
    };
    if !status.success() {
        if stdout.trim_ascii() == NOT_FOUND.as_bytes() {
            return Ok(None);
        }
        return Err(format!("the credential helper {program} failed: {status}"));
    }
    let answer: Answer = serde_json::from_slice(&stdout)
        .map_err(|_| format!("the response of the credential helper {program} cannot be parsed"))?;
    Ok(match (answer.username.as_str(), answer.secret) {
        (_, secret) if secret.expose().is_empty() => None,
        (TOKEN_USER, secret) => Some(ImageLogin::IdentityToken(secret)),
        (user, password) => Some(ImageLogin::Password {
            user: user.to_owned(),
            password,
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;

    /// A directory with a configuration file and helpers.
    struct User {
        directory: TempDir,
        environment: BTreeMap<String, String>,
    }

    impl User {
        fn with(config: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("config.json"), config).unwrap();
            let path = directory.path().to_str().unwrap().to_owned();
            let path_with_tools = format!("{path}:/usr/bin:/bin");
            let environment = BTreeMap::from([
                ("DOCKER_CONFIG".to_owned(), path),
                ("PATH".to_owned(), path_with_tools),
            ]);
            Self {
                directory,
                environment,
            }
        }

        /// Adds a helper that is this shell script.
        fn helper(self, name: &str, script: &str) -> Self {
            let program = self
                .directory
                .path()
                .join(format!("docker-credential-{name}"));
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            let executable = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&program, executable).unwrap();
            self
        }

        /// Finds the logins for the registries of these images.
        async fn found(&self, images: &[&str]) -> FoundLogins {
            self.found_within(images, Duration::from_secs(20)).await
        }

        async fn found_within(&self, images: &[&str], limit: Duration) -> FoundLogins {
            let registries = images
                .iter()
                .map(|image| ImageRegistry::of(image))
                .collect();
            find(&self.environment, &registries, limit).await
        }
    }

    fn password(user: &str, password: &str) -> ImageLogin {
        ImageLogin::Password {
            user: user.into(),
            password: Sensitive::new(password),
        }
    }

    fn only(found: &FoundLogins) -> Option<&ImageLogin> {
        assert!(found.logins.len() < 2);
        found.logins.values().next()
    }

    #[tokio::test]
    async fn a_login_in_the_file_is_found_for_its_registry_only() {
        // `ann:secret:1`, with the zero bytes that old versions of Docker append.
        let user = User::with(
            r#"{"auths": {
                "registry:5000": {"auth": "YW5uOnNlY3JldDoxAAA="},
                "https://ghcr.io/v2/": {"username": "bob", "password": "pw"},
                "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
                "acr.example": {"auth": "MDowOg==", "identitytoken": "refresh"},
                "bearer.example": {"registrytoken": "access"}
            }, "HttpHeaders": {"User-Agent": "x"}}"#,
        );
        for (image, login) in [
            ("registry:5000/web:1", Some(password("ann", "secret:1"))),
            ("ghcr.io/acme/web", Some(password("bob", "pw"))),
            ("nginx", Some(password("hub", "pw"))),
            ("registry:5001/web", None),
            (
                "acr.example/web",
                Some(ImageLogin::IdentityToken(Sensitive::new("refresh"))),
            ),
            (
                "bearer.example/web",
                Some(ImageLogin::RegistryToken(Sensitive::new("access"))),
            ),
        ] {
            let found = user.found(&[image]).await;
            assert_eq!(only(&found), login.as_ref(), "{image}");
            assert_eq!(found.remarks.len(), usize::from(login.is_some()));
            assert_eq!(found.warnings, []);
        }
        let remark = user.found(&["ghcr.io/x"]).await.remarks.remove(0);
        let file = user.directory.path().join("config.json");
        assert_eq!(
            remark,
            format!(
                "images from ghcr.io are pulled with a user name and password, from {}",
                file.display()
            )
        );
    }

    #[tokio::test]
    async fn a_helper_is_asked_only_about_its_registries() {
        let user = User::with(
            r#"{"auths": {"other.example": {}, "null.example": null}, "credsStore": "store",
                "credHelpers": {"cloud.example": "cloud", "file.example": ""}}"#,
        )
        .helper(
            "cloud",
            r#"read -r server; echo "$1 $server" >>"$(dirname "$0")/asked"
               echo '{"ServerURL": "x", "Username": "<token>", "Secret": "refresh"}'"#,
        )
        .helper(
            "store",
            r#"read -r server; echo "$1 $server" >>"$(dirname "$0")/asked"
               [ "$server" = none.example ] && { echo "credentials not found in native keychain"; exit 1; }
               echo '{"ServerURL": "x", "Username": "ann", "Secret": "pw"}'"#,
        );
        let images = [
            "cloud.example/a",
            "none.example/a",
            "nginx",
            "file.example/a",
        ];
        let found = user.found(&images).await;
        assert_eq!(found.warnings, []);
        let expected = ImageLogins::from([
            (
                ImageRegistry::of("cloud.example/a"),
                ImageLogin::IdentityToken(Sensitive::new("refresh")),
            ),
            (ImageRegistry::of("nginx"), password("ann", "pw")),
        ]);
        assert_eq!(found.logins, expected);
        let asked = std::fs::read_to_string(user.directory.path().join("asked")).unwrap();
        let mut asked: Vec<&str> = asked.lines().collect();
        asked.sort_unstable();
        assert_eq!(
            asked,
            [
                "get cloud.example",
                "get https://index.docker.io/v1/",
                "get none.example"
            ]
        );
    }

    #[tokio::test]
    async fn a_failing_helper_is_a_warning_without_its_output() {
        for (script, expected) in [
            ("echo planted; echo planted >&2; exit 3", "exit status: 3"),
            ("echo '{\"Username\": \"planted\"}'", "cannot be parsed"),
            ("exec sleep 60", "did not respond within"),
        ] {
            let user = User::with(r#"{"credsStore": "x"}"#).helper("x", script);
            let limit = if script.contains("sleep") { 50 } else { 20_000 };
            let limit = Duration::from_millis(limit);
            let found = user.found_within(&["registry:5000/web"], limit).await;
            assert!(found.logins.is_empty());
            let warning = found.warnings[0].to_string();
            for part in [
                expected,
                "registry:5000",
                "docker-credential-x",
                "docker login",
            ] {
                assert!(warning.contains(part), "{warning}");
            }
            assert!(!warning.contains("planted"), "{warning}");
        }
        for helper in ["absent", "../x"] {
            let user = User::with(&format!(r#"{{"credsStore": "{helper}"}}"#));
            let found = user.found(&["web"]).await;
            assert_eq!(found.warnings.len(), 1, "{helper}");
        }
    }

    #[tokio::test]
    async fn an_unreadable_file_is_a_warning_without_its_contents() {
        for text in ["{\"auths\": {\"r:1\": \"planted\"}}", "{planted", "7"] {
            let found = User::with(text).found(&["r:1/x"]).await;
            assert!(found.logins.is_empty());
            let warning = found.warnings[0].to_string();
            assert!(warning.contains("config.json: "), "{warning}");
            assert!(warning.contains("line 1"), "{warning}");
            assert!(!warning.contains("planted"), "{warning}");
        }
        let malformed = r#"{"auths": {"r:1": {"auth": "cGxhbnRlZA=="}, "r:2": {"auth": "?"}}}"#;
        let user = User::with(malformed);
        let found = user.found(&["r:1/x", "r:2/x"]).await;
        assert_eq!(found.warnings.len(), 2, "{:?}", found.warnings);
        assert_eq!(user.found(&["nginx"]).await.warnings, []);
        let file = user.directory.path().join("config.json");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(user.found(&["r:1/x"]).await.warnings, []);
        std::fs::create_dir(&file).unwrap();
        let warning = user.found(&["r:1/x"]).await.warnings.remove(0);
        assert!(
            warning.to_string().contains("not a regular file"),
            "{warning}"
        );
    }

    #[test]
    fn the_file_is_in_the_home_directory_by_default() {
        let environment = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = pairs.iter();
            pairs
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        let home = file(&environment(&[
            ("HOME", "/home/ann"),
            ("DOCKER_CONFIG", ""),
        ]));
        assert_eq!(home.unwrap(), Path::new("/home/ann/.docker/config.json"));
        let other = file(&environment(&[
            ("HOME", "/home/ann"),
            ("DOCKER_CONFIG", "/x"),
        ]));
        assert_eq!(other.unwrap(), Path::new("/x/config.json"));
        assert_eq!(file(&BTreeMap::new()), None);
    }
}
