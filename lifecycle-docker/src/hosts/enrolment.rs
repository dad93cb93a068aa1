//! The scripts that make a machine a node, and that release it.
//!
//! The file [`MARKER`] on a machine names the platform that owns the machine. Creating it is an
//! atomic claim, so that two platforms cannot take the same machine over.

use lifecycle_core::Error;
use lifecycle_core::host::{HostOutput, OWNER_FILE};
use lifecycle_core::model::{NodeName, PlatformId};
use lifecycle_core::runtime::Owner;

use crate::engine::UNBLOCK;
use crate::labels::PLATFORM_ID;
use crate::ssh::quote;

/// The account of the platform on each machine.
pub(super) const ACCOUNT: &str = "lifecycle";

/// The description of the account, by which an account that an interrupted release left is recognized.
const COMMENT: &str = "lifecycle manager";

/// The file that names the owner: the platform's id and the node's name, on one line, then the
/// platform's name.
const MARKER: &str = OWNER_FILE;

/// The file that allows the account to run commands as root. Sudo reads these files in the order of
/// their names, and the last rule applies.
const SUDOERS: &str = "/etc/sudoers.d/zz-lifecycle";

/// Exit codes of the script.
const FOREIGN_ACCOUNT: u32 = 43;
const FOREIGN_OWNER: u32 = 44;

/// Returns the script that claims the machine for a platform and creates the platform's account. It
/// can be repeated after it was interrupted.
pub(super) fn script(owner: &Owner, node: &NodeName, public_key: &str) -> String {
    let mark = format!("{} {node}", owner.id);
    let name = quote(owner.name.as_str());
    let key = quote(public_key.trim());
    format!(
        "set -eu; umask 077\n\
         mkdir -p /var/lib/lifecycle\n\
         chmod 0711 /var/lib/lifecycle\n\
         [ -s {MARKER} ] || rm -f {MARKER} {MARKER}.*\n\
         if [ ! -e {MARKER} ]; then\n\
           account=$(getent passwd {ACCOUNT} | cut -d: -f5)\n\
           case \"$account\" in ''|'{COMMENT}') ;; *) exit {FOREIGN_ACCOUNT};; esac\n\
           if [ -z \"$account\" ] && getent passwd {ACCOUNT} >/dev/null; then exit {FOREIGN_ACCOUNT}; fi\n\
           printf '%s\\n%s\\n' '{mark}' {name} > {MARKER}.$$\n\
           chmod 0444 {MARKER}.$$\n\
           sync {MARKER}.$$\n\
           ln {MARKER}.$$ {MARKER} || true\n\
           rm -f {MARKER}.$$\n\
         fi\n\
         if [ \"$(head -n 1 {MARKER})\" != '{mark}' ]; then tail -n 1 {MARKER}; exit {FOREIGN_OWNER}; fi\n\
         if ! command -v sudo >/dev/null; then\n\
           export DEBIAN_FRONTEND=noninteractive LC_ALL=C\n\
           {{ apt-get -q update && apt-get -q install -y --no-install-recommends sudo; }} >&2\n\
         fi\n\
         getent passwd {ACCOUNT} >/dev/null || useradd --create-home --shell /bin/sh \
           --comment '{COMMENT}' --password '*' --inactive -1 {ACCOUNT}\n\
         usermod --shell /bin/sh --password '*' {ACCOUNT}\n\
         chage --maxdays -1 --expiredate -1 {ACCOUNT}\n\
         home=$(getent passwd {ACCOUNT} | cut -d: -f6)\n\
         mkdir -p \"$home/.ssh\"\n\
         printf '%s\\n' {key} > \"$home/.ssh/authorized_keys\"\n\
         chown -R {ACCOUNT}: \"$home\"\n\
         printf '%s\\n' 'Defaults:{ACCOUNT} !requiretty' '{ACCOUNT} ALL=(ALL:ALL) NOPASSWD: ALL' \
           > {SUDOERS}.new\n\
         chmod 0440 {SUDOERS}.new\n\
         mv {SUDOERS}.new {SUDOERS}\n"
    )
}

/// Removes the fallback routes of agents, by their protocol (`lifecycle-core/src/agent/route.rs`).
const REMOVE_ROUTES: &str = "ip route flush proto 108 2>/dev/null";

/// Returns the script that removes the platform's networks, firewall rules, routes, files and account
/// from a machine. The account itself may run the script.
pub(super) fn release(platform: PlatformId) -> String {
    format!(
        "trap '' HUP PIPE TERM; umask 077\n\
         networks=$(docker network ls --quiet --filter label={PLATFORM_ID}={platform} 2>/dev/null)\n\
         [ -z \"$networks\" ] || docker network rm $networks >/dev/null\n\
         {UNBLOCK}\n\
         {REMOVE_ROUTES}\n\
         rm -rf '/var/lib/lifecycle/{platform}' && rm -f {SUDOERS} {SUDOERS}.new {MARKER} {MARKER}.* && \
         {{ rmdir /var/lib/lifecycle 2>/dev/null; \
            userdel --force --remove {ACCOUNT} >/dev/null 2>&1; \
            ! getent passwd {ACCOUNT} >/dev/null; }}"
    )
}

/// Returns the script that prints the machine's boot and, if there is one, its owner. It needs no
/// privileges, so that it also works while the account of an open connection is being removed.
///
/// The boot is the kernel's boot id with the start time of the first process, which differs at each
/// start of a system container.
pub(super) fn inspection() -> String {
    format!(
        "printf '%s-%s\\n' \"$(cat /proc/sys/kernel/random/boot_id)\" \
           \"$(sed 's/.*) //' /proc/1/stat | cut -d' ' -f20)\"; \
         if [ -e {MARKER} ]; then head -n 1 {MARKER}; fi"
    )
}

/// Returns the script that restarts the machine after the connection has ended.
pub(super) fn reboot() -> &'static str {
    "if [ -d /run/systemd/system ]; then systemctl reboot; else reboot; fi"
}

/// Converts the result of [`script`].
pub(super) fn enrolled(output: HostOutput, host: &str) -> Result<(), Error> {
    let what = format!("taking over {host}");
    match output.code {
        FOREIGN_ACCOUNT => Err(Error::conflict(
            what,
            format!(
                "the machine has an account `{ACCOUNT}` that no platform created; remove or rename \
                 the account"
            ),
        )),
        FOREIGN_OWNER => Err(Error::conflict(
            what,
            format!(
                "the machine was taken over by platform {}",
                output.stdout.trim()
            ),
        )),
        _ => output.success(&what).map(drop),
    }
}
