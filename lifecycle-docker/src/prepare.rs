//! Installs the distribution's engine package on a bare Debian or Ubuntu host, so that the host can
//! run containers.

use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use lifecycle_core::host::{Account, HostCommand, HostOutput, HostPreparer, NodeAccess};
use lifecycle_core::runtime::EngineInfo;
use lifecycle_core::{Error, Result};

/// Time limit for the host's first boot and cloud-init's package installations.
const FIRST_BOOT: Duration = Duration::from_mins(15);
/// Time limit, per attempt, for waiting until another run of the package manager has finished.
const LOCK: Duration = Duration::from_mins(10);
/// Time limit for the download and the installation.
const INSTALL: Duration = Duration::from_mins(15);
/// Time limit for the engine's first response after its start.
const ANSWER: Duration = Duration::from_mins(2);
/// The number of installation attempts.
const ATTEMPTS: usize = 4;
/// The message that every program prints when the disk is full (`ENOSPC`).
const DISK_FULL: &str = "No space left on device";

/// Prepares hosts that run Debian or Ubuntu.
#[derive(Debug, Clone, Copy, Default)]
pub struct DebianPreparer;

#[async_trait]
impl HostPreparer for DebianPreparer {
    async fn prepare(
        &self,
        host: &dyn NodeAccess,
        account: Account,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<EngineInfo> {
        progress("waiting for the host's first boot to finish");
        first_boot(host, progress).await?;
        if let Some(info) = engine(host).await? {
            join_group(host, account).await?;
            progress(&format!("engine {} was already running", info.version));
            return Ok(info);
        }
        let is_installed = has(host, "command -v dockerd").await?;
        if !is_installed {
            let system = debian(host).await?;
            progress(&format!("installing the engine on {system}"));
            install(host, progress).await?;
        }
        progress("starting the engine");
        start(host).await?;
        progress("waiting for the engine to respond");
        let info = answer(host).await?;
        join_group(host, account).await?;
        let done = if is_installed { "" } else { "installed and " };
        progress(&format!("engine {} was {done}started", info.version));
        Ok(info)
    }
}

/// Adds the account to the group `docker` if the account was created for the platform. The SSH
/// server can then forward the engine's socket.
async fn join_group(host: &dyn NodeAccess, account: Account) -> Result<()> {
    // `SUDO_USER` is the account that runs sudo. Root needs no group membership.
    const SCRIPT: &str = "\
        user=${SUDO_USER:-root}; [ \"$user\" = root ] && exit 0; \
        getent group docker >/dev/null || exit 0; \
        id -nG \"$user\" | tr ' ' '\\n' | grep -qx docker && exit 0; \
        usermod -aG docker \"$user\" && echo joined";
    if account == Account::Adopted {
        return Ok(());
    }
    let output = run(host, "adding the account to group docker", SCRIPT, QUICK).await?;
    if output.trim() == "joined" {
        host.reconnect().await;
    }
    Ok(())
}

/// Waits until cloud-init has finished, if it is installed. The result is ignored, because later
/// steps check what the platform needs.
async fn first_boot(
    host: &dyn NodeAccess,
    progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
) -> Result<()> {
    let seconds = FIRST_BOOT.as_secs();
    let script = format!(
        "command -v cloud-init >/dev/null || exit 0; \
         timeout {seconds} cloud-init status --wait >/dev/null 2>&1; \
         [ $? -eq 124 ] && echo late; exit 0"
    );
    let limit = FIRST_BOOT + Duration::from_mins(1);
    let output = run(host, "waiting for cloud-init", &script, limit).await?;
    if output.trim() == "late" {
        progress("the host's first boot has not finished; continuing anyway");
    }
    Ok(())
}

/// Returns the engine's version and resources, if an engine responds.
async fn engine(host: &dyn NodeAccess) -> Result<Option<EngineInfo>> {
    const SCRIPT: &str = "\
        docker version --format '{{.Server.Version}} {{.Server.APIVersion}} {{.Server.Arch}}' && \
        docker info --format '{{.NCPU}} {{.MemTotal}}'";
    let output = host.exec(HostCommand::new(SCRIPT).as_root()).await?;
    if output.code != 0 {
        return Ok(None);
    }
    Ok(parse(&output.stdout))
}

fn parse(output: &str) -> Option<EngineInfo> {
    let mut words = output.split_whitespace().map(str::to_owned);
    Some(EngineInfo {
        version: words.next()?,
        api_version: words.next()?,
        architecture: words.next()?,
        cpus: words.next()?.parse().ok()?,
        memory_bytes: words.next()?.parse().ok()?,
    })
}

/// Returns the operating system's name. Fails if the system does not use Debian packages.
async fn debian(host: &dyn NodeAccess) -> Result<String> {
    const SCRIPT: &str = ". /etc/os-release 2>/dev/null; echo \"${PRETTY_NAME:-an unknown system}\"; \
        case \" $ID $ID_LIKE \" in *' debian '*|*' ubuntu '*) command -v apt-get;; esac";
    let output = run(host, "reading the host's operating system", SCRIPT, QUICK).await?;
    let mut lines = output.lines();
    let name = lines.next().unwrap_or_default().to_owned();
    if lines.next().is_some() {
        return Ok(name);
    }
    Err(Error::invalid(
        "the node's operating system",
        format!("the node runs {name}, but the engine can be installed on Debian and Ubuntu only"),
        "install Docker on the node yourself, or choose a Debian or Ubuntu image",
    ))
}

/// Installs the engine. Retries, because a mirror may fail, and a first boot may hold the package
/// manager's locks.
async fn install(
    host: &dyn NodeAccess,
    progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
) -> Result<()> {
    let lock = LOCK.as_secs();
    // First configure packages that an interrupted installation left half-configured. They would
    // make every later installation fail.
    let script = format!(
        "export DEBIAN_FRONTEND=noninteractive LC_ALL=C; \
         apt() {{ apt-get -q -o DPkg::Lock::Timeout={lock} -o Acquire::Retries=3 \"$@\"; }}; \
         dpkg --configure -a >/dev/null 2>&1; \
         apt update && \
         apt install -y --no-install-recommends docker.io iptables ca-certificates"
    );
    let attempt = || async {
        let limit = LOCK + INSTALL;
        let command = HostCommand::new(&script).as_root().within(limit);
        installed(host.exec(command).await?)
    };
    attempt
        .retry(
            ExponentialBuilder::default()
                .with_min_delay(Duration::from_secs(3))
                .with_max_delay(Duration::from_secs(30))
                .with_max_times(ATTEMPTS)
                .with_jitter(),
        )
        .sleep(tokio::time::sleep)
        // Other errors are not retried: the caller handles a broken connection, and a retry does
        // not help if the disk is full.
        .when(|error| matches!(error, Error::Failed { .. }))
        .notify(|error, after| {
            progress(&format!(
                "{}; retrying in {} s",
                error.chain(),
                after.as_secs()
            ));
        })
        .await
}

/// Checks the result of an installation. A full disk is a separate error.
fn installed(output: HostOutput) -> Result<()> {
    let is_full = [&output.stderr, &output.stdout].map(|text| text.contains(DISK_FULL));
    match output.success("installing the engine") {
        Err(Error::Failed { what, why, .. }) if is_full.contains(&true) => Err(Error::exhausted(
            what,
            why,
            "free disk space on the node, or give the node a larger disk",
        )),
        result => result.map(drop),
    }
}

async fn start(host: &dyn NodeAccess) -> Result<()> {
    const SCRIPT: &str = "\
        if [ -d /run/systemd/system ]; then systemctl enable --now docker; \
        elif [ -e /usr/local/bin/node-engine ]; then sh /usr/local/bin/node-engine; \
        else service docker start; fi </dev/null >/dev/null";
    run(host, "starting the engine", SCRIPT, ANSWER)
        .await
        .map(drop)
}

async fn answer(host: &dyn NodeAccess) -> Result<EngineInfo> {
    let seconds = ANSWER.as_secs();
    let script = format!(
        "timeout {seconds} sh -c 'until docker version >/dev/null 2>&1; do sleep 0.2; done'"
    );
    let limit = ANSWER + Duration::from_secs(30);
    let output = host
        .exec(HostCommand::new(script).as_root().within(limit))
        .await?;
    let info = if output.code == 0 {
        engine(host).await?
    } else {
        None
    };
    info.ok_or(Error::timed_out("the start of the engine", ANSWER))
}

const QUICK: Duration = Duration::from_mins(1);

async fn has(host: &dyn NodeAccess, test: &str) -> Result<bool> {
    let output = host.exec(HostCommand::new(test).as_root()).await?;
    Ok(output.code == 0)
}

async fn run(host: &dyn NodeAccess, what: &str, script: &str, limit: Duration) -> Result<String> {
    host.exec(HostCommand::new(script).as_root().within(limit))
        .await?
        .success(what)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use lifecycle_core::host::{Duplex, ForwardTarget, HostFile};

    use super::*;

    /// A fake host that chooses its response by the text of each script, and records the scripts.
    #[derive(Debug, Default)]
    struct FakeHost {
        runs: Mutex<bool>,
        installed: Mutex<bool>,
        broken_mirrors: Mutex<usize>,
        is_full: bool,
        foreign: bool,
        scripts: Mutex<Vec<String>>,
        in_group: Mutex<bool>,
        logins: Mutex<usize>,
    }

    impl FakeHost {
        fn ran(&self, part: &str) -> usize {
            let scripts = self.scripts.lock().unwrap();
            scripts.iter().filter(|s| s.contains(part)).count()
        }
    }

    fn result(code: u32, stdout: &str) -> HostOutput {
        HostOutput {
            code,
            stdout: stdout.into(),
            stderr: String::new(),
        }
    }

    #[async_trait]
    impl NodeAccess for FakeHost {
        async fn exec(&self, command: HostCommand) -> Result<HostOutput> {
            assert!(command.as_root);
            let script = command.script;
            self.scripts.lock().unwrap().push(script.clone());
            let runs = *self.runs.lock().unwrap();
            Ok(if script.contains("docker info") {
                if runs {
                    result(0, "20.10.24 1.41 amd64\n2 4096\n")
                } else {
                    result(127, "")
                }
            } else if script.contains("os-release") {
                if self.foreign {
                    result(0, "Fedora Linux 42\n")
                } else {
                    result(0, "Debian GNU/Linux 12\n/usr/bin/apt-get\n")
                }
            } else if script.contains("apt install") && self.is_full {
                result(100, &format!("dpkg: error: {DISK_FULL}"))
            } else if script.contains("apt install") {
                let mut broken = self.broken_mirrors.lock().unwrap();
                if *broken > 0 {
                    *broken -= 1;
                    result(100, "E: Could not get lock")
                } else {
                    *self.installed.lock().unwrap() = true;
                    result(0, "")
                }
            } else if script.contains("usermod") {
                let mut in_group = self.in_group.lock().unwrap();
                result(
                    0,
                    if std::mem::replace(&mut *in_group, true) {
                        ""
                    } else {
                        "joined\n"
                    },
                )
            } else if script.contains("command -v dockerd") {
                result(u32::from(!*self.installed.lock().unwrap()), "")
            } else if script.contains("systemctl") {
                assert!(*self.installed.lock().unwrap());
                *self.runs.lock().unwrap() = true;
                result(0, "")
            } else {
                result(0, "")
            })
        }

        async fn put(&self, _: HostFile) -> Result<()> {
            Ok(())
        }

        async fn connect(&self, _: ForwardTarget) -> Result<Box<dyn Duplex>> {
            Err(Error::not_found("anything"))
        }

        async fn reconnect(&self) {
            *self.logins.lock().unwrap() += 1;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_created_accounts_join_the_group_once() {
        for (account, logins) in [(Account::Created, 1), (Account::Adopted, 0)] {
            let host = FakeHost::default();
            for _ in 0..2 {
                let prepared = DebianPreparer.prepare(&host, account, &|_| {}).await;
                prepared.unwrap();
            }
            assert_eq!(*host.in_group.lock().unwrap(), logins == 1, "{account:?}");
            assert_eq!(*host.logins.lock().unwrap(), logins, "{account:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bare_host_is_prepared_once() {
        let host = FakeHost::default();
        let stages = Mutex::new(Vec::new());
        let progress = |line: &str| stages.lock().unwrap().push(line.to_owned());
        let info = DebianPreparer
            .prepare(&host, Account::Created, &progress)
            .await
            .unwrap();
        assert_eq!((info.cpus, info.memory_bytes), (2, 4096));
        assert_eq!(info.version, "20.10.24");
        assert_eq!(host.ran("apt install"), 1);
        let last = || stages.lock().unwrap().last().cloned().unwrap();
        assert_eq!(last(), "engine 20.10.24 was installed and started");
        assert!(stages.lock().unwrap().len() >= 4);

        DebianPreparer
            .prepare(&host, Account::Created, &progress)
            .await
            .unwrap();
        assert_eq!(host.ran("apt install"), 1);
        assert_eq!(host.ran("systemctl"), 1);
        assert_eq!(last(), "engine 20.10.24 was already running");

        *host.runs.lock().unwrap() = false;
        DebianPreparer
            .prepare(&host, Account::Created, &progress)
            .await
            .unwrap();
        assert_eq!(last(), "engine 20.10.24 was started");
    }

    #[tokio::test(start_paused = true)]
    async fn retries_a_failed_installation_a_few_times() {
        let host = FakeHost {
            broken_mirrors: Mutex::new(2),
            ..FakeHost::default()
        };
        DebianPreparer
            .prepare(&host, Account::Created, &|_| {})
            .await
            .unwrap();
        assert_eq!(host.ran("apt install"), 3);

        let host = FakeHost {
            broken_mirrors: Mutex::new(100),
            ..FakeHost::default()
        };
        let error = DebianPreparer
            .prepare(&host, Account::Created, &|_| {})
            .await
            .unwrap_err();
        assert!(error.to_string().contains("Could not get lock"), "{error}");
        assert_eq!(host.ran("apt install"), 1 + ATTEMPTS);
    }

    #[tokio::test(start_paused = true)]
    async fn an_install_on_a_full_disk_is_not_repeated() {
        let host = FakeHost {
            is_full: true,
            ..FakeHost::default()
        };
        let prepared = DebianPreparer.prepare(&host, Account::Created, &|_| {});
        let error = prepared.await.unwrap_err();
        assert!(matches!(error, Error::Exhausted { .. }), "{error:?}");
        assert_eq!(host.ran("apt install"), 1);
    }

    #[tokio::test]
    async fn starts_an_installed_engine_without_installing() {
        let host = FakeHost {
            installed: Mutex::new(true),
            ..FakeHost::default()
        };
        DebianPreparer
            .prepare(&host, Account::Created, &|_| {})
            .await
            .unwrap();
        assert_eq!(host.ran("apt install"), 0);
        assert_eq!(host.ran("systemctl"), 1);
    }

    #[tokio::test]
    async fn rejects_other_systems_with_a_hint() {
        let host = FakeHost {
            foreign: true,
            ..FakeHost::default()
        };
        let error = DebianPreparer
            .prepare(&host, Account::Created, &|_| {})
            .await
            .unwrap_err();
        assert!(error.to_string().contains("Fedora"), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains("Docker")));
        assert_eq!(host.ran("apt install"), 0);
    }
}
