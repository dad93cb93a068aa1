//! Checks a service that the holder of a limited token declares: its containers must not reach their
//! node, nor services outside of the token's scope.

use std::collections::BTreeSet;

use super::Declaration;
use crate::error::{Error, Result};
use crate::model::{
    CgroupNamespace, ContainerTemplate, Devices, Isolation, NetworkMode, Origin, ServiceName,
    ServiceSpec, TokenScope, VolumeMount, VolumeOptions,
};

/// The log drivers that write only to the node's own log files for the container.
const LOCAL_LOGS: [&str; 3] = ["json-file", "local", "none"];

/// The key `security_opt` of Compose in this form is harmless: it only removes privileges.
const NO_NEW_PRIVILEGES: [&str; 3] = [
    "no-new-privileges",
    "no-new-privileges:true",
    "no-new-privileges=true",
];

impl Declaration {
    /// Checks that a token with this scope may declare the service `spec`.
    ///
    /// # Errors
    /// [`Error::Forbidden`], which lists the settings that need a token without a scope.
    pub(crate) fn check_confined(&self, spec: &ServiceSpec, scope: &TokenScope) -> Result<()> {
        let before = self.services.get(&spec.name);
        let is_own = |class| scope.includes(&spec.name, class);
        if !is_own(spec.class) || before.is_some_and(|before| !is_own(before.class)) {
            let what = format!("declaring {} {}", spec.class, spec.name);
            return Err(beyond(what, scope, "it is not in this scope"));
        }
        let mut keys = settings(&spec.container);
        if spec.public {
            keys.insert("x-lifecycle.public".to_owned());
        }
        let is_foreign = |name: &ServiceName| {
            let service = self.services.get(name);
            *name != spec.name && service.is_none_or(|s| !scope.includes(name, s.class))
        };
        if let Some(joined) = spec.container.connection.joins().filter(|s| is_foreign(s)) {
            keys.insert(format!("network_mode: service:{joined}"));
        }
        let volumes = self.services.values().filter(|s| is_foreign(&s.name));
        let foreign: BTreeSet<_> = volumes
            .flat_map(|other| &other.container.volumes)
            .map(|mount| &mount.volume)
            .collect();
        for VolumeMount { volume, .. } in &spec.container.volumes {
            if foreign.contains(volume) {
                keys.insert(format!("volumes: {volume}"));
            }
        }
        // A service that is needed by another one cannot be removed.
        let needed = spec.depends_on.keys().filter(|name| {
            let service = self.services.get(*name);
            is_foreign(name) && service.is_some_and(|service| service.origin == Origin::Api)
        });
        keys.extend(needed.map(|name| format!("depends_on: {name}")));
        // The names of services are names in the DNS, in any case of letters: a name of a foreign service,
        // or of the internet, would receive its connections.
        keys.extend(spec.aliases.iter().map(|alias| format!("aliases: {alias}")));
        let name = spec.name.as_str();
        let is_taken = self.services.values().any(|other| {
            let aliases = other.aliases.iter().map(String::as_str);
            let mut names = aliases.chain([other.name.as_str()]);
            is_foreign(&other.name) && names.any(|known| known.eq_ignore_ascii_case(name))
        });
        if is_taken || name.contains('.') {
            keys.insert(format!("the name {name}"));
        }
        if keys.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = keys.into_iter().map(|key| format!("`{key}`")).collect();
        let why = format!("these settings reach beyond that: {}", keys.join(", "));
        Err(beyond(format!("declaring service {name}"), scope, &why))
    }

    /// Checks that a token with this scope may change `service`, and thus the services that share its
    /// network namespace.
    ///
    /// # Errors
    /// [`Error::Forbidden`]
    pub(crate) fn check_group(&self, service: &str, scope: &TokenScope) -> Result<()> {
        let Some(service) = self.services.keys().find(|name| name.as_str() == service) else {
            return Ok(());
        };
        for member in self.joined_with(service) {
            let spec = self.services.get(&member);
            if spec.is_some_and(|spec| !scope.includes(&member, spec.class)) {
                let why = format!("service {member} shares the network of {service}");
                return Err(beyond(format!("changing service {service}"), scope, &why));
            }
        }
        Ok(())
    }
}

fn beyond(what: String, scope: &TokenScope, why: &str) -> Error {
    let why = format!("the token is limited to {scope}, and {why}");
    let hint = "remove what is named, or use a token without a scope";
    Error::forbidden(what, why, hint)
}

/// Returns the settings with which a container reaches its node or the manager's API. A new setting must
/// be added here.
fn settings(template: &ContainerTemplate) -> BTreeSet<String> {
    let ContainerTemplate {
        command: _,
        entrypoint: _,
        environment: _,
        user: _,
        working_dir: _,
        labels: _,
        volumes,
        ports: _,
        expose: _,
        healthcheck: _,
        stop_grace: _,
        limits: _,
        api,
        files: _,
        anonymous_volumes: _,
        node_paths,
        memory: _,
        connection,
        isolation,
        devices,
        kernel,
        terminal: _,
        logging,
        port_choices: _,
        metadata_service,
        unset: _,
    } = template;
    let Isolation {
        privileged,
        cap_add,
        cap_drop: _,
        security_opt,
        group_add: _,
        read_only: _,
        userns_mode,
        ipc,
        pid,
        uts,
        cgroup,
        cgroup_parent,
        runtime,
    } = isolation;
    let Devices {
        mappings,
        cgroup_rules,
        // The node's operator determines what a device driver adds to a container.
        requests: _,
    } = devices;
    let shares_host = |namespace: &Option<String>| namespace.as_deref() == Some("host");
    let has_options = |mount: &VolumeMount| {
        let VolumeOptions {
            driver,
            driver_opts,
            engine_name,
            external,
            labels: _,
            no_copy: _,
        } = &mount.options;
        driver.is_some() || !driver_opts.is_empty() || engine_name.is_some() || *external
    };
    let reduces = |option: &String| NO_NEW_PRIVILEGES.contains(&option.as_str());
    let conditions = [
        ("privileged", *privileged),
        ("cap_add", !cap_add.is_empty()),
        ("security_opt", !security_opt.iter().all(reduces)),
        ("userns_mode", userns_mode.is_some()),
        ("ipc", shares_host(ipc)),
        ("pid", pid.is_some()),
        ("uts", uts.is_some()),
        ("cgroup", *cgroup == Some(CgroupNamespace::Host)),
        ("cgroup_parent", cgroup_parent.is_some()),
        ("runtime", runtime.is_some()),
        ("devices", !mappings.is_empty()),
        ("device_cgroup_rules", !cgroup_rules.is_empty()),
        ("oom_kill_disable", kernel.oom_kill_disable),
        ("network_mode: host", connection.mode == NetworkMode::Host),
        // The engine connects to the other drivers' addresses from the node.
        (
            "logging",
            !{ logging.driver.as_deref() }.is_none_or(|name| LOCAL_LOGS.contains(&name)),
        ),
        ("x-lifecycle.api", api.is_some()),
        ("x-lifecycle.metadata", *metadata_service),
    ];
    let set = conditions.into_iter().filter(|(_, is_set)| *is_set);
    let paths = node_paths.iter().map(|path| &path.source);
    let paths = paths.map(|path| format!("volumes: {path}"));
    let volumes = volumes.iter().filter(|mount| has_options(mount));
    let volumes = volumes.map(|mount| format!("volumes: {}", mount.volume));
    set.map(|(key, _)| key.to_owned())
        .chain(paths)
        .chain(volumes)
        .collect()
}
