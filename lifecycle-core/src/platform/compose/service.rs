//! Reads one service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::diagnostic::Report;
use super::super::environment_file::{self, unset_in};
use super::super::interpolation::Lookup;
use super::super::text_file;
use super::super::tree::{Field, Position};
use super::keys::{self, supported_entries};
use super::networks::Connected;
use super::{
    Declared, Draft, MAX_VARIABLE_BYTES, MAX_VARIABLES, ProjectContext, build, deploy, devices,
    extension, isolation, limits, material, network, networks, storage, take, value,
};
use crate::model::{
    DependencyCondition, Healthcheck, HealthcheckTest, ImageSource, RestartPolicy, ServiceName,
    ServiceSpec,
};
use crate::secret::Sensitive;

/// Prefix of the labels that the platform sets.
const OWN_LABELS: &str = "lifecycle.";

/// Reads a service. Adds problems to the report; the draft contains the valid values.
pub(super) fn read<'a>(
    name: ServiceName,
    field: &Field<'a>,
    project: &ProjectContext<'_>,
    declared: &Declared<'_>,
    report: &mut Report,
) -> (Draft, Connected<'a>) {
    let mut spec = ServiceSpec::new(name, ImageSource::Image(String::new()));
    let mut image = None;
    let mut environment_files = None;
    let mut environment = Variables::new();
    let mut from_label_files = BTreeMap::new();
    let mut plain_restart = None;
    let mut connected = Connected::default();
    let is_built = field.get("build").is_some_and(|build| !build.is_null());
    let mut reader = Reader { project, report };
    for (key, field) in supported_entries(field, keys::SERVICE, reader.report) {
        // A key without a value is ignored, except for keys where a missing value means "none".
        if field.is_null() && !matches!(key, "command" | "entrypoint") {
            continue;
        }
        // In Compose, these values are plain texts, and an empty text counts as absent.
        let is_optional = matches!(
            key,
            "container_name" | "hostname" | "network_mode" | "restart"
        );
        if (is_optional || key == "image" && is_built) && field.is_empty_text() {
            continue;
        }
        let container = &mut spec.container;
        match key {
            "image" => image = Some((field.parse(reader.report, value::image), field)),
            "command" => container.command = reader.command(&field),
            "entrypoint" => container.entrypoint = reader.command(&field),
            "env_file" => environment_files = Some(field),
            "environment" => {
                environment = reader.environment(&field, &mut spec.secrets.variables);
            }
            "user" => container.user = field.text(reader.report).map(str::to_owned),
            "working_dir" => {
                container.working_dir = field.parse(reader.report, value::container_directory);
            }
            "labels" => container.labels = reader.labels(&field),
            "stop_grace_period" => {
                container.stop_grace = field.parse(reader.report, value::duration);
            }
            "healthcheck" => container.healthcheck = reader.healthcheck(&field),
            "ports" => network::ports(&field, project, container, reader.report),
            "expose" => network::expose(&field, project, container, reader.report),
            "volumes" => storage::mounts(&field, declared, project, container, reader.report),
            "tmpfs" => storage::memory(&field, container, reader.report),
            "configs" => {
                let known = &declared.configs;
                let mounted = material::mounted(&field, material::CONFIG, known, reader.report);
                container.files.extend(mounted);
            }
            "secrets" => {
                let known = &declared.secrets;
                let mounted = material::mounted(&field, material::SECRET, known, reader.report);
                let targets = mounted.iter().map(|mount| mount.target.clone());
                spec.secrets.files.extend(targets);
                container.files.extend(mounted);
            }
            "label_file" => from_label_files = reader.label_files(&field),
            "pull_policy" => pull_policy(&field, reader.report),
            "cpus" => deploy::cpus(&field, &mut container.limits, reader.report),
            "mem_limit" => deploy::memory(&field, &mut container.limits, reader.report),
            "mem_reservation" => deploy::memory(&field, &mut spec.reserves, reader.report),
            "scale" => deploy::replicas(&field, &mut spec, reader.report),
            "deploy" => deploy::read(&field, &mut spec, project, reader.report),
            "restart" => plain_restart = field.parse(reader.report, restart),
            "depends_on" => spec.depends_on = reader.dependencies(&field, declared),
            _ => {
                let report = &mut *reader.report;
                let _known = isolation::read(key, &field, project, container, report)
                    || limits::read(key, &field, &mut container.kernel, report)
                    || devices::read(key, &field, &mut container.devices, report)
                    || networks::read(key, &field, &mut spec, declared, &mut connected, report);
            }
        }
    }
    // The key under `deploy` takes precedence, as the specification defines.
    spec.restart = spec.restart.or(plain_restart);
    from_label_files.append(&mut spec.container.labels);
    spec.container.labels = from_label_files;
    if field.is_map() {
        networks::settle(field, &mut spec.container, reader.report);
        storage::check_duplicates(field, &spec.container, reader.report);
    }
    storage::add_mount_points(field, &mut spec.container, reader.report);
    network::settle_exposed(&mut spec.container);
    let from_files = environment_files.map(|field| reader.environment_files(&field, &environment));
    let mut from_files = from_files.unwrap_or_default();
    let only_in_files = from_files
        .keys()
        .filter(|name| !environment.contains_key(*name));
    spec.secrets.variables.extend(only_in_files.cloned());
    for (name, value) in environment {
        if let Some(value) = value {
            from_files.insert(name, value);
        } else {
            // A value of an environment file or of the image has no effect.
            from_files.remove(&name);
            spec.container.unset.insert(name);
        }
    }
    spec.container.environment = from_files;

    let code = field
        .get("x-lifecycle")
        .filter(|extension| !extension.is_null())
        .and_then(|extension| extension::read(&extension, &mut spec, reader.report));
    if field.is_map() {
        reader.agreement(field);
        reader.processors(field, &spec);
    }
    let build_field = field.get("build").filter(|build| !build.is_null());
    let build = build::read(build_field.as_ref(), code.as_ref(), project, reader.report);
    match image {
        Some((_, field)) if build.is_some() => {
            let consequence = "the platform chooses the name of a built image";
            reader
                .report
                .unsupported(field.at, &field.path, consequence, false);
        }
        Some((Some(image), _)) => spec.source = ImageSource::Image(image),
        None if build_field.is_none() && code.is_none() && field.is_map() => {
            reader.report.problem_with_help(
                field.at,
                &field.path,
                "the service has no image",
                "set `image`, `build` or `x-lifecycle.code`",
            );
        }
        Some((None, _)) | None => {}
    }
    reader.readiness_port(field, &spec);
    deploy::settle(field, &mut spec, project, reader.report);
    let draft = Draft { spec, build };
    (draft, connected)
}

/// Variables by name; `None` if the environment of the command has no value for it.
type Variables = BTreeMap<String, Option<Sensitive>>;

fn text_of(value: &Sensitive) -> String {
    value.expose().to_owned()
}

struct Reader<'w, 'r> {
    project: &'w ProjectContext<'w>,
    report: &'r mut Report,
}

impl Reader<'_, '_> {
    /// Reads a list of words, or a line that is split as in a shell.
    fn command(&mut self, field: &Field<'_>) -> Option<Vec<String>> {
        if field.is_null() {
            None
        } else if field.is_list() {
            Some(field.texts(self.report))
        } else {
            field.parse(self.report, value::words)
        }
    }

    /// Reads variables. Adds those whose values come from other variables to `from_variables`.
    fn environment(
        &mut self,
        field: &Field<'_>,
        from_variables: &mut BTreeSet<String>,
    ) -> Variables {
        let project = self.project;
        let read = |pair: Pair| {
            let is_own = pair.value.is_some() && !project.with_variables.contains(&pair.at);
            let value = pair.value.or_else(|| (project.lookup)(&pair.name));
            if value.is_some() && !is_own {
                from_variables.insert(pair.name.clone());
            }
            (pair.name, value.map(Sensitive::new))
        };
        let pairs = placed_pairs(field, self.report).into_iter();
        pairs.map(read).collect()
    }

    fn environment_files(
        &mut self,
        field: &Field<'_>,
        environment: &Variables,
    ) -> BTreeMap<String, Sensitive> {
        let mut all = BTreeMap::new();
        for item in field.items_or_one(self.report) {
            let mut path = None;
            let mut required = true;
            let mut raw = false;
            if item.is_map() {
                for (key, field) in supported_entries(&item, keys::ENV_FILE, self.report) {
                    match key {
                        // A null value counts as an absent key.
                        _ if field.is_null() => {}
                        "path" => path = field.text(self.report),
                        "required" => required = field.boolean(self.report).unwrap_or(true),
                        "format" => {
                            raw = field
                                .word(self.report, &[("raw", true)])
                                .unwrap_or_default();
                        }
                        _ => {}
                    }
                }
                if item.get("path").is_none() {
                    item.problem(self.report, "`path` is missing");
                }
            } else {
                path = item.text(self.report);
            }
            if let Some(path) = path {
                let project = self.project;
                let own = |name: &str| {
                    let of_service = || environment.get(name)?.as_ref().map(text_of);
                    (project.lookup)(name).or_else(of_service)
                };
                let earlier = |name: &str| all.get(name).map(text_of);
                let scope = (&own as Lookup<'_>, &earlier as Lookup<'_>);
                let mut more = self.environment_file(&item, path, required, raw, scope);
                all.append(&mut more);
            }
        }
        all
    }

    fn environment_file(
        &mut self,
        item: &Field<'_>,
        path: &str,
        required: bool,
        raw: bool,
        (own, earlier): (Lookup<'_>, Lookup<'_>),
    ) -> BTreeMap<String, Sensitive> {
        let left = &self.project.left;
        if left.variables.get() == 0 || left.variable_bytes.get() == 0 {
            // The problem was already reported.
            return BTreeMap::new();
        }
        let text = match text_file::read(&self.project.path(path)) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => {
                return BTreeMap::new();
            }
            Err(error) => {
                let help = match error.kind() {
                    std::io::ErrorKind::NotFound => "create the file, or set `required: false`",
                    _ => "specify a UTF-8 text file that you have permission to read",
                };
                let message = format!("`{path}` cannot be read: {error}");
                item.problem_with_help(self.report, message, help);
                return BTreeMap::new();
            }
        };
        // Comments count, too, but less, because they are not kept.
        take(&left.variable_bytes, text.len() / 4);
        let parsed = if raw {
            environment_file::parse_raw(&text)
        } else {
            environment_file::parse(&text, own, earlier)
        };
        match parsed {
            Ok(file) => {
                for (line, key) in &file.unset {
                    let message = format!("`{path}`, line {line}: {}", unset_in(key));
                    self.report.warning(item.value_at(), &item.path, message);
                }
                let sizes = file.variables.iter();
                let sizes =
                    sizes.map(|(name, value)| name.len() + value.as_ref().map_or(0, String::len));
                let bytes = sizes.sum();
                let number = file.variables.len();
                let has_room = take(&left.variables, number) && take(&left.variable_bytes, bytes);
                if !has_room {
                    let most = MAX_VARIABLE_BYTES >> 20;
                    let message = format!(
                        "up to this line, environment files add more than {MAX_VARIABLES} variables \
                         or {most} MiB to the services"
                    );
                    item.problem(self.report, message);
                    return BTreeMap::new();
                }
                let variables = file.variables.into_iter();
                variables
                    .filter_map(|(name, value)| {
                        let value = value.or_else(|| (self.project.lookup)(&name))?;
                        Some((name, Sensitive::new(value)))
                    })
                    .collect()
            }
            Err(bad) => {
                let message = format!("`{path}`, line {}: {}", bad.line, bad.message);
                item.problem(self.report, message);
                BTreeMap::new()
            }
        }
    }

    /// Reads labels from files in the format of environment files.
    fn label_files(&mut self, field: &Field<'_>) -> BTreeMap<String, String> {
        let mut labels: BTreeMap<String, String> = BTreeMap::new();
        for item in field.items_or_one(self.report) {
            let Some(path) = item.text(self.report) else {
                continue;
            };
            let earlier = |name: &str| labels.get(name).cloned();
            let own: Lookup<'_> = &|_| None;
            let scope = (own, &earlier as Lookup<'_>);
            let variables = self.environment_file(&item, path, true, false, scope);
            for (name, value) in variables {
                if name.starts_with(OWN_LABELS) {
                    let message = format!(
                        "labels that start with `{OWN_LABELS}` are reserved for the platform"
                    );
                    item.problem(self.report, message);
                }
                labels.insert(name, value.expose().to_owned());
            }
        }
        labels
    }

    fn labels(&mut self, field: &Field<'_>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for (name, value) in pairs(field, self.report) {
            if name.starts_with(OWN_LABELS) {
                let message =
                    format!("labels that start with `{OWN_LABELS}` are reserved for the platform");
                field.problem(self.report, message);
            }
            labels.insert(name, value.unwrap_or_default());
        }
        labels
    }

    fn healthcheck(&mut self, field: &Field<'_>) -> Option<Healthcheck> {
        let mut check = Healthcheck {
            test: HealthcheckTest::None,
            interval: None,
            timeout: None,
            retries: None,
            start_period: None,
        };
        let mut test = None;
        let mut disabled = false;
        for (key, field) in supported_entries(field, keys::HEALTHCHECK, self.report) {
            let mut duration =
                || -> Option<Duration> { field.parse(self.report, value::check_duration) };
            match key {
                "interval" => check.interval = duration(),
                "timeout" => check.timeout = duration(),
                "start_period" => check.start_period = duration(),
                "retries" => check.retries = field.number(self.report, 0, i32::MAX.unsigned_abs()),
                "disable" => disabled = field.boolean(self.report).unwrap_or_default(),
                "test" => test = Some(self.health_test(&field)?),
                _ => {}
            }
        }
        match test {
            _ if disabled => Some(check),
            Some(test) => {
                check.test = test;
                Some(check)
            }
            None => {
                let consequence = "without `test`, the health check of the image is used unchanged";
                self.report
                    .unsupported(field.at, &field.path, consequence, true);
                None
            }
        }
    }

    fn health_test(&mut self, field: &Field<'_>) -> Option<HealthcheckTest> {
        if !field.is_list() {
            let line = field.text(self.report)?;
            if line.trim().is_empty() {
                field.problem_with_help(
                    self.report,
                    "the command is empty",
                    "set a command, or `disable: true`",
                );
            }
            return Some(HealthcheckTest::Shell(line.to_owned()));
        }
        let mut words = field.texts(self.report).into_iter();
        let first = words.next();
        let rest: Vec<String> = words.collect();
        match (first.as_deref(), rest.as_slice()) {
            (Some("NONE"), []) => Some(HealthcheckTest::None),
            (Some("CMD"), [_, ..]) => Some(HealthcheckTest::Exec(rest)),
            (Some("CMD-SHELL"), [line]) => Some(HealthcheckTest::Shell(line.clone())),
            _ => {
                field.problem_with_help(
                    self.report,
                    "invalid health check",
                    "start the list with `CMD` and a program, `CMD-SHELL` and one line, or `NONE`",
                );
                None
            }
        }
    }

    fn dependencies(
        &mut self,
        field: &Field<'_>,
        declared: &Declared<'_>,
    ) -> BTreeMap<ServiceName, DependencyCondition> {
        let mut dependencies = BTreeMap::new();
        if field.is_list() {
            for item in field.items(self.report) {
                let Some(name) = item.text(self.report) else {
                    continue;
                };
                if let Some(service) = self.dependency(name, &item, declared) {
                    dependencies.insert(service, DependencyCondition::ServiceStarted);
                }
            }
            return dependencies;
        }
        if !field.is_map() {
            field.wrong_kind(self.report, "a list or a mapping");
            return dependencies;
        }
        for (name, entry) in field.entries(self.report) {
            let mut condition = DependencyCondition::ServiceStarted;
            if !entry.is_null() {
                for (key, field) in entry.entries(self.report) {
                    if key == "required" {
                        // `profiles` has already used the value, so only check the type.
                        field.boolean(self.report);
                        continue;
                    }
                    // This value requests what the platform does anyway, so it is not reported.
                    let is_default = key == "restart" && field.boolean(self.report) == Some(false);
                    let supported = !is_default
                        && keys::is_supported(key, &field, keys::DEPENDENCY, self.report);
                    if supported {
                        let conditions = [
                            ("service_started", DependencyCondition::ServiceStarted),
                            ("service_healthy", DependencyCondition::ServiceHealthy),
                            (
                                "service_completed_successfully",
                                DependencyCondition::ServiceCompletedSuccessfully,
                            ),
                        ];
                        condition = field.word(self.report, &conditions).unwrap_or(condition);
                    }
                }
            }
            if let Some(service) = self.dependency(name, &entry, declared) {
                dependencies.insert(service, condition);
            }
        }
        dependencies
    }

    fn dependency(
        &mut self,
        name: &str,
        field: &Field<'_>,
        declared: &Declared<'_>,
    ) -> Option<ServiceName> {
        if !declared.services.contains(name) {
            self.report.unknown_name(
                field.at,
                &field.path,
                format!("the service `{name}` is not declared"),
                name,
                declared.services.iter(),
            );
            return None;
        }
        // An invalid name is reported where the service is declared.
        ServiceName::try_from(name).ok()
    }

    /// Checks that older keys do not contradict those under `deploy`.
    fn agreement(&mut self, field: &Field<'_>) {
        let integer = |text: &str| text.parse().map_err(|_| String::new());
        let pairs: [(&str, [&str; 3], Amount<'_>); 5] = [
            ("scale", ["deploy", "replicas", ""], &integer),
            (
                "cpus",
                ["deploy", "resources", "limits.cpus"],
                &value::cpu_millis,
            ),
            (
                "mem_limit",
                ["deploy", "resources", "limits.memory"],
                &value::bytes,
            ),
            (
                "pids_limit",
                ["deploy", "resources", "limits.pids"],
                &integer,
            ),
            (
                "mem_reservation",
                ["deploy", "resources", "reservations.memory"],
                &value::bytes,
            ),
        ];
        for (older, newer, amount) in pairs {
            let path = newer
                .iter()
                .flat_map(|part| part.split('.'))
                .filter(|p| !p.is_empty());
            let mut found = Some(field.clone());
            for part in path {
                found = found.and_then(|field| field.get(part));
            }
            if let (Some(older), Some(found)) = (field.get(older), found)
                && !older.is_null()
                && !found.is_null()
                && !is_same_amount(&older, &found, amount)
            {
                let newer: Vec<&str> = newer.into_iter().filter(|part| !part.is_empty()).collect();
                let message = format!(
                    "`{}` sets the same option to a different value",
                    newer.join(".")
                );
                older.problem_with_help(self.report, message, "keep only one of the two");
            }
        }
    }

    /// Checks the processor settings. Engines reject a number of processors together with settings
    /// of the scheduler.
    fn processors(&mut self, field: &Field<'_>, spec: &ServiceSpec) {
        for key in ["cpu_period", "cpu_quota"] {
            if let Some(field) = field.get(key).filter(|field| !field.is_null())
                && spec.container.limits.cpu_millis > 0
            {
                field.problem_with_help(
                    self.report,
                    "the number of processors is already limited by `cpus`",
                    "keep either `cpus`, or `cpu_quota` and `cpu_period`",
                );
            }
        }
    }

    fn readiness_port(&mut self, field: &Field<'_>, spec: &ServiceSpec) {
        let Some(ready) = &spec.ready else { return };
        let container = &spec.container;
        let known = container
            .ports
            .iter()
            .any(|port| port.container_port == ready.port)
            || container.expose.iter().any(|(port, _)| *port == ready.port);
        if let Some(field) = field
            .get("x-lifecycle")
            .and_then(|field| field.get("ready"))
            && !known
        {
            field.problem_with_help(
                self.report,
                format!(
                    "the port {} is not reachable from outside the container",
                    ready.port
                ),
                format!("add the port to `expose`: `expose: [{}]`", ready.port),
            );
        }
    }
}

/// Parses an amount.
type Amount<'a> = &'a dyn Fn(&str) -> Result<u64, String>;

/// Returns whether two values are equal, also as amounts in different units.
fn is_same_amount(one: &Field<'_>, other: &Field<'_>, amount: Amount<'_>) -> bool {
    let amount = |field: &Field<'_>| {
        let text = field.node.as_decimal()?;
        amount(&text).ok()
    };
    one.node.is_same_value(other.node)
        || amount(one).is_some_and(|bytes| amount(other) == Some(bytes))
}

/// Reads `pull_policy`. All values have the same effect: an image is pulled only if the node lacks
/// it.
fn pull_policy(field: &Field<'_>, report: &mut Report) {
    let Some(text) = field.text(report) else {
        return;
    };
    match text {
        "missing" | "if_not_present" | "build" => {}
        "always" | "daily" | "weekly" | "refresh" => {
            let consequence = "an image is pulled only if the node does not have it; to update the \
                               image, use its digest or a different tag";
            report.unsupported(field.at, &field.path, consequence, true);
        }
        "never" => {
            let consequence = "an image is pulled if the node does not have it";
            report.unsupported(field.at, &field.path, consequence, true);
        }
        _ if text.starts_with("every_") => {
            let consequence = "an image is pulled only if the node does not have it";
            report.unsupported(field.at, &field.path, consequence, true);
        }
        _ => field.problem_with_help(
            report,
            format!("`{text}` is not a pull policy"),
            "write `missing`, `build`, `always` or `never`",
        ),
    }
}

/// Parses `restart`. Also accepts `false`, because YAML may read an unquoted `no` as `false`.
fn restart(text: &str) -> Result<RestartPolicy, String> {
    match text {
        "no" | "false" => return Ok(RestartPolicy::No),
        "always" => return Ok(RestartPolicy::Always),
        "unless-stopped" => return Ok(RestartPolicy::UnlessStopped),
        "on-failure" => return Ok(RestartPolicy::OnFailure { max_retries: None }),
        _ => {}
    }
    text.strip_prefix("on-failure:")
        .and_then(|retries| retries.parse().ok())
        .map(|retries: u32| RestartPolicy::OnFailure {
            // As in Docker, 0 means no limit.
            max_retries: (retries > 0).then_some(retries),
        })
        .ok_or_else(|| {
            format!(
                "`{text}` is not one of `no`, `always`, `on-failure[:<retries>]`, `unless-stopped`"
            )
        })
}

/// Reads a mapping of names to values, or a list of `NAME=value`; the value may be missing.
pub(super) fn pairs(field: &Field<'_>, report: &mut Report) -> Vec<(String, Option<String>)> {
    let pairs = placed_pairs(field, report).into_iter();
    pairs.map(|pair| (pair.name, pair.value)).collect()
}

/// A name with its value, if it has one.
struct Pair {
    name: String,
    value: Option<String>,
    /// The position of the value, or of the whole list item.
    at: Position,
}

fn placed_pairs(field: &Field<'_>, report: &mut Report) -> Vec<Pair> {
    let mut pairs = Vec::new();
    if field.is_list() {
        for item in field.items(report) {
            let Some(text) = item.text(report) else {
                continue;
            };
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (text, None),
            };
            if name.is_empty() {
                item.problem(report, "the name before `=` is missing");
                continue;
            }
            pairs.push(Pair {
                name: name.to_owned(),
                value,
                at: item.node.at,
            });
        }
        return pairs;
    }
    if !field.is_map() {
        field.wrong_kind(report, "a list or a mapping");
        return pairs;
    }
    for (name, entry) in field.entries(report) {
        if name.is_empty() || name.contains('=') {
            entry.problem(report, "a name cannot be empty or contain `=`");
        } else if entry.is_null() {
            pairs.push(Pair {
                name: name.to_owned(),
                value: None,
                at: entry.node.at,
            });
        } else if let Some(value) = entry.canonical(report) {
            if entry.node.as_text().is_some_and(|text| text != value) {
                // The value may be a secret.
                let message = "the value is a number or a boolean, so it is passed in its \
                               canonical form; write it in quotes to pass exactly this text";
                report.warning(entry.value_at(), &entry.path, message);
            }
            pairs.push(Pair {
                name: name.to_owned(),
                value: Some(value.into_owned()),
                at: entry.node.at,
            });
        }
    }
    pairs
}
