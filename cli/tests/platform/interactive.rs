//! Tests the command line as a person uses it, on a terminal and without one. All checks use the
//! same platform to save time.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::load::TIMEOUT;
use crate::project::Project;
use crate::schema;
use crate::subprocess::{run, until};
use crate::terminal::{COLUMNS, OnTerminal};

const COMPOSE: &str = r#"
  talker:
    image: debian:bookworm-slim
    command: ["sh", "-c", "trap 'exit 0' TERM; echo talker starts; while :; do sleep 0.1; done"]
    deploy: {replicas: 2}
    stop_grace_period: 2s
  quiet:
    image: debian:bookworm-slim
    command: ["sh", "-c", "trap 'exit 0' TERM; echo quiet starts; while :; do sleep 0.1; done"]
    stop_grace_period: 2s
    depends_on: [talker]
"#;

#[test]
fn command_line_on_a_terminal() {
    let project = Project::named("meeting");
    project.compose(COMPOSE);

    init_asks_before_overwriting(&project);
    let plan = on_terminal(&project, &["plan"]).ends(0);
    snapshot("plan", &project, &plan);
    commands_without_a_platform_point_to_up(&project);
    interrupted_up_can_be_continued(&project);

    let status = on_terminal(&project, &["status"]).ends(0);
    let widest = status.lines().map(|line| line.chars().count()).max();
    assert!(widest <= Some(usize::from(COLUMNS.get())), "{status}");
    snapshot("status", &project, &status);
    let wide = project.ends(0, &["status", "--wide"]).stdout;
    assert!(
        wide.contains("microservice") && wide.contains("CONTAINER"),
        "{wide}"
    );
    let why = project.ends(0, &["why", "talker"]).stdout;
    // Compare only the reasons: the order of services in the evidence differs between runs.
    let (reasons, evidence) = why.split_once("evidence\n").unwrap();
    snapshot("why", &project, reasons);
    assert!(
        evidence.contains("talker-2 is ready on node-1"),
        "{evidence}"
    );

    exec_runs_a_command_in_a_container(&project);
    a_service_is_restarted(&project);
    logs_and_events_can_be_followed(&project);
    colors_only_on_terminals(&project);
    mistyped_names_get_a_suggestion(&project);
    services_are_changed_at_run_time(&project);
    project.ends(0, &["doctor"]);
    a_token_restricts_commands(&project);
    missing_secrets_are_reported_immediately(&project);
    every_document_follows_its_schema(&project);
}

fn on_terminal(project: &Project, arguments: &[&str]) -> OnTerminal {
    OnTerminal::start(project.command(arguments))
}

fn init_asks_before_overwriting(project: &Project) {
    let init = on_terminal(project, &["init"]);
    init.shows("The platform's name? [meeting]");
    init.types("\r");
    init.shows("How many nodes? [1]");
    init.types("many\r");
    init.shows("enter a number from 1 to 50\nHow many nodes? [1]");
    init.types("1\r");
    let shown = init.ends(0);
    snapshot("init", project, &shown);
    insta::assert_snapshot!("platform.toml", project.read("platform.toml"));

    project.write("platform.toml", "name = \"meeting\"\n");
    let again = on_terminal(project, &["init"]);
    again.shows("Overwrite it? [y/N]");
    again.types("n\r");
    again.ends(1);
    // Without a terminal, `init` cannot ask whether to overwrite the file.
    let refused = project.ends(2, &["init"]);
    assert!(
        refused
            .stderr
            .contains("hint: edit the file, or overwrite it with --force")
    );
    assert_eq!(project.read("platform.toml"), "name = \"meeting\"\n");
    project.ends(0, &["init", "--yes", "--force"]);
}

fn commands_without_a_platform_point_to_up(project: &Project) {
    for command in [
        &["status"][..],
        &["logs"],
        &["why", "talker"],
        &["restart", "talker"],
        &["node", "list"],
        &["node", "cordon", "node-1"],
        &["node", "uncordon", "node-1"],
    ] {
        let refused = project.ends(1, command);
        let hint = "hint: start the platform with `bootstrapper up`";
        assert!(
            refused.stderr.contains(hint),
            "{command:?}: {}",
            refused.stderr
        );
    }
    let not_run = project.ends(125, &["exec", "talker", "--", "true"]);
    assert!(not_run.stderr.contains("hint: "), "{}", not_run.stderr);
    // Before the first `up`, `doctor` finds no errors.
    let doctor = project.ends(0, &["doctor"]);
    assert!(
        doctor
            .stdout
            .contains("not started from this directory yet"),
        "{}",
        doctor.stdout
    );
}

/// Presses Ctrl-C while a node is being created, then runs the same command again.
fn interrupted_up_can_be_continued(project: &Project) {
    let up = on_terminal(project, &["up"]);
    up.shows("provision node node-1");
    up.interrupts();
    let shown = up.ends(130);
    assert!(shown.contains("error: interrupted"), "{shown}");
    assert!(
        shown.contains("run the same command again to continue"),
        "{shown}"
    );
    let up = on_terminal(project, &["up"]);
    let shown = up.ends(0);
    for said in [
        "✓ start the lifecycle manager on node-1",
        "quiet-1 is ready",
        "next: ",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
}

fn exec_runs_a_command_in_a_container(project: &Project) {
    let shell = on_terminal(project, &["exec", "talker", "--index", "2", "--", "sh"]);
    shell.shows("#");
    shell.types("stty size; echo $((40 + 2))-$(cat /proc/1/cmdline | wc -l)\r");
    shell.shows("60 80");
    shell.shows("42-0");
    shell.resize(100, 30);
    shell.types("while [ \"$(stty size)\" != '30 100' ]; do sleep 0.1; done; echo resi''zed\r");
    shell.shows("resized");
    // Ctrl-C must interrupt the command in the container, not the bootstrapper.
    shell.types("sleep 60\r");
    shell.shows("sleep 60");
    shell.interrupts();
    until("the shell asks again", Duration::from_mins(1), || {
        shell.text().ends_with("# ").then_some(())
    });
    shell.types("exit 5\r");
    shell.ends(5);
    // A command can end before its terminal gets its size.
    for _ in 0..10 {
        on_terminal(project, &["exec", "quiet", "--", "sh", "-c", "exit 7"]).ends(7);
    }
    // The command may start before its terminal gets its size.
    let script = "until [ \"$(stty size)\" != '0 0' ]; do sleep 0.1; done; stty size";
    let size = ["exec", "quiet", "--", "sh", "-c", script];
    let shown = OnTerminal::with_size(project.command(&size), 0, 0).ends(0);
    assert_eq!(shown.trim(), "24 80", "a terminal without a size");
    commands_end_with_their_client(project);

    let apart = project.ends(
        3,
        &[
            "exec",
            "quiet",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 3",
        ],
    );
    assert_eq!(
        (apart.stdout.as_str(), apart.stderr.as_str()),
        ("out\n", "err\n")
    );
    // The command's standard input is closed, so `cat` must exit.
    project.ends(0, &["exec", "quiet", "--", "cat"]);
    // Docker versions differ in the exit code for a program that does not exist.
    let lacks = project.call(&["exec", "quiet", "--", "no-such-program"]);
    let code = lacks.status.code();
    assert!(
        matches!(code, Some(126 | 127)),
        "{code:?}: {}",
        lacks.stderr
    );
}

/// Runs a command whose client ends first, and one whose manager ends first.
fn commands_end_with_their_client(project: &Project) {
    let node = project.node();
    let wait = |until: &str| node.exec(&["timeout", "60", "sh", "-c", until]);
    let mut yes = project.command(&["exec", "quiet", "--", "sh", "-c", "yes; true"]);
    let mut client = yes.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = BufReader::new(client.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "y\n");
    wait("until pgrep -x yes; do sleep 0.1; done");
    // The client ends when it cannot write the next line.
    drop(output);
    assert!(client.wait().unwrap().success());
    wait("while pgrep -x yes; do sleep 0.1; done");

    let cut = project.start(&["exec", "quiet", "--", "sh", "-c", "exec sleep 4321"]);
    wait("until pgrep -f '^sleep 4321'; do sleep 0.1; done");
    let manager = node.inspect("lifecycle.role=manager");
    node.exec(&["kill", "-TERM", &manager["State"]["Pid"].to_string()]);
    let cut = cut.finish(TIMEOUT);
    assert_eq!(cut.status.code(), Some(125), "{}", cut.stderr);
    for expected in ["the manager is stopping", "hint: the command may have done"] {
        assert!(cut.stderr.contains(expected), "{expected}: {}", cut.stderr);
    }
    wait("while pgrep -f '^sleep 4321'; do sleep 0.1; done");
    until("the manager is running again", TIMEOUT, || {
        (project.call(&["status"]).status.code() == Some(0)).then_some(())
    });
}

fn a_service_is_restarted(project: &Project) {
    let before = instances(&project.status());
    let logs = on_terminal(project, &["logs", "-f", "talker"]);
    for replica in ["talker-1", "talker-2"] {
        logs.shows(&format!("{replica} | talker starts"));
    }
    let restart = on_terminal(project, &["restart", "talker"]);
    let shown = restart.ends(0);
    for said in [
        "restart of talker-1, talker-2 requested",
        "Restarted: talker-1, talker-2.",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let after = instances(&project.status());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before["container"], after["container"]);
        assert_eq!(after["state"], "ready");
        let is_same_run = before["started_at"] == after["started_at"];
        assert_eq!(is_same_run, before["id"] == "quiet-1", "{before} {after}");
    }
    logs.shows("note: talker-2: the container was started again");
    until("both replicas write again", TIMEOUT, || {
        let starts = logs.text().matches("| talker starts").count();
        assert!(starts <= 4, "{}", logs.text());
        (starts == 4).then_some(())
    });
    logs.interrupts();
    logs.ends(130);
}

/// Scales and stops services. `up` with unchanged files must keep this.
fn services_are_changed_at_run_time(project: &Project) {
    let running = || -> Vec<String> {
        let instances = instances(&project.status()).into_iter();
        let ready = instances.filter(|one| one["state"] == "ready");
        ready
            .map(|one| one["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let before = instances(&project.status());
    let scaled = project.ends(0, &["scale", "talker=3"]).stderr;
    assert!(scaled.contains("Scaled talker to 3."), "{scaled}");
    let stopped = project.ends(0, &["stop", "quiet"]).stderr;
    assert!(stopped.contains("note: quiet is stopped"), "{stopped}");
    for _ in 0..2 {
        assert_eq!(running(), ["talker-1", "talker-2", "talker-3"]);
        let status = project.ends(0, &["status"]).stderr;
        let note = "note: talker has 3 replicas, the files declare 2 (requested at";
        assert!(status.contains(note), "{status}");
        let plan = project.ends(0, &["plan"]).stdout;
        assert!(plan.contains("note: quiet is stopped"), "{plan}");
        assert!(plan.contains("Nothing to do"), "{plan}");
        project.ends(0, &["up"]);
    }
    project.ends(0, &["start", "quiet"]);
    project.ends(0, &["override", "remove", "talker.replicas"]);
    let after = instances(&project.status());
    assert_eq!(running(), ["quiet-1", "talker-1", "talker-2"]);
    for (before, after) in before.iter().zip(&after) {
        let is_same = before["container"] == after["container"];
        assert_eq!(is_same, before["id"] != "quiet-1", "{before} {after}");
    }
    an_application_is_added(project);
    an_earlier_revision_is_restored(project);
    let unknown = project.ends(1, &["stop", "talkr"]).stderr;
    assert!(
        unknown.contains("service talkr does not exist"),
        "{unknown}"
    );
    let wrong = project.ends(2, &["scale", "talker"]).stderr;
    assert!(
        wrong.contains("`talker` is not of the form `web=3`"),
        "{wrong}"
    );
}

/// Adds an application that the files do not declare, and removes it.
fn an_application_is_added(project: &Project) {
    let chat = r#"{"image": "debian:bookworm-slim", "command": ["sleep", "infinity"]}"#;
    project.write("chat.json", chat);
    let file = project.path("chat.json").display().to_string();
    let apply = ["app", "apply", "chat", &file];
    let plan = project.ends(0, &[&apply[..], &["--dry-run"]].concat());
    assert!(plan.stdout.contains("start chat-1"), "{}", plan.stdout);
    assert!(!project.ends(0, &["app", "list"]).stdout.contains("chat-1"));
    project.ends(0, &apply);
    project.ends(0, &["up"]);
    let listed = project.ends(0, &["app", "list"]).stdout;
    assert!(
        listed.contains("chat-1") && !listed.contains("talker"),
        "{listed}"
    );
    project.ends(0, &["exec", "chat", "--", "true"]);
    project.ends(0, &["app", "remove", "chat"]);
    assert!(!project.ends(0, &["status"]).stdout.contains("chat-1"));
    overrides_are_exported(project, &apply);
    project.write("chat.json", r#"{"image": "x", "env_file": "/etc/passwd"}"#);
    let refused = project.ends(1, &apply).stderr;
    let why = "application chat:1:16: services.chat.env_file: files cannot be read at run time";
    assert!(refused.contains(why), "{refused}");
}

/// Exports an added application and a number of replicas, applies the exported files, and returns to the
/// original ones.
fn overrides_are_exported(project: &Project, apply: &[&str]) {
    let read = |file: &str| std::fs::read_to_string(project.path(file)).unwrap();
    let original = read("compose.yaml");
    project.ends(0, apply);
    project.ends(0, &["scale", "talker=3"]);
    let before = instances(&project.status());
    let shown = project.ends(0, &["export", "--dry-run"]).stderr;
    assert!(shown.contains("Would write"), "{shown}");
    let elsewhere = project.path("exported").display().to_string();
    project.ends(0, &["export", "--output", &elsewhere]);
    let refused = project.ends(1, &["export", "--output", &elsewhere]).stderr;
    assert!(refused.contains("the file already exists"), "{refused}");
    assert_eq!(read("compose.yaml"), original);
    let exported = project.ends(0, &["--json", "export"]).stdout;
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let overrides = serde_json::json!(["chat.added", "talker.replicas"]);
    assert_eq!(exported["files"][0]["overrides"], overrides, "{exported}");
    assert_eq!(exported["left"], serde_json::json!([]));
    assert_eq!(read("compose.yaml"), read("exported/compose.yaml"));
    let plan = project.ends(0, &["plan"]).stdout;
    assert!(plan.contains("Nothing to do"), "{plan}");
    project.ends(0, &["up"]);
    assert_eq!(instances(&project.status()), before);
    let nothing = project.ends(0, &["export"]).stderr;
    assert!(nothing.contains("there is nothing to export"), "{nothing}");
    project.write("compose.yaml", &original);
    project.ends(0, &["up"]);
    assert_eq!(instances(&project.status()).len(), before.len() - 2);
}

/// Returns to the revision in which `talker` was scaled, and to the current one.
fn an_earlier_revision_is_restored(project: &Project) {
    let listed = project.ends(0, &["history", "--json"]).stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let revisions = listed["revisions"].as_array().unwrap();
    let scaled = revisions.iter().find(|one| one["request"] == "scale to 3");
    let scaled = scaled.unwrap()["generation"].to_string();
    let history = project.ends(0, &["history"]).stdout;
    assert!(history.contains("talker (replicas)"), "{history}");
    let before = instances(&project.status());
    let refused = project.ends(2, &["rollback", &scaled]).stderr;
    assert!(refused.contains("--yes"), "{refused}");
    let plan = project.ends(0, &["rollback", &scaled, "--dry-run"]).stdout;
    assert!(plan.contains("start talker-3"), "{plan}");
    assert_eq!(instances(&project.status()), before);
    project.ends(0, &["rollback", &scaled, "--yes"]);
    assert_eq!(instances(&project.status()).len(), before.len() + 1);
    project.ends(0, &["up"]);
    assert_eq!(instances(&project.status()).len(), before.len() + 1);
    let back = project.ends(0, &["rollback", "--yes"]).stderr;
    assert!(back.contains("run again"), "{back}");
    assert_eq!(instances(&project.status()), before);
    let unknown = project.ends(1, &["rollback", "1000", "--yes"]).stderr;
    assert!(
        unknown.contains("revision 1000 does not exist"),
        "{unknown}"
    );
}

fn instances(status: &Value) -> Vec<Value> {
    let services = status["services"].as_array().unwrap().iter();
    let instances = services.flat_map(|s| s["instances"].as_array().unwrap().clone());
    instances.collect()
}

fn logs_and_events_can_be_followed(project: &Project) {
    let logs = on_terminal(project, &["logs", "-f", "--timestamps"]);
    logs.shows("talker-2 | 20");
    logs.shows("quiet-1  | 20");
    logs.interrupts();
    assert!(!logs.ends(130).contains("error"));
    let all = project
        .ends(0, &["logs", "talker", "quiet", "--tail", "1"])
        .stdout;
    let mut lines: Vec<&str> = all.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "quiet-1  | quiet starts",
            "talker-1 | talker starts",
            "talker-2 | talker starts"
        ]
    );
    let none = project.ends(0, &["logs", "quiet", "--since", "2100-01-01T00:00:00Z"]);
    assert_eq!(none.stdout, "");

    let events = on_terminal(project, &["events", "-f", "talker"]);
    events.shows("talker-1, talker-2 restarted");
    events.interrupts();
    let shown = events.ends(130);
    assert!(!shown.contains("quiet-1"), "{shown}");
    let last = project.ends(0, &["events", "--tail", "2"]).stdout;
    assert_eq!(last.lines().count(), 2, "{last}");
}

fn colors_only_on_terminals(project: &Project) {
    let escape = '\u{1b}';
    let colored = on_terminal(project, &["status"]);
    colored.shows("quiet-1");
    assert!(colored.raw().contains(escape));
    colored.ends(0);
    assert!(!project.ends(0, &["status"]).stdout.contains(escape));
    let forced = project.ends(0, &["status", "--color", "always"]);
    assert!(forced.stdout.contains(escape));
    let mut command = project.command(&["status"]);
    command.env("NO_COLOR", "1");
    let plain = OnTerminal::start(command);
    plain.shows("quiet-1");
    assert!(!plain.raw().contains(escape), "{}", plain.raw());
    plain.ends(0);
}

fn mistyped_names_get_a_suggestion(project: &Project) {
    for command in [
        &["logs", "talkr"][..],
        &["why", "talkr"],
        &["restart", "talkr"],
        &["retry", "talkr"],
        &["rollout", "pause", "talkr"],
        &["events", "talkr"],
    ] {
        let refused = project.ends(1, command);
        let hint = "hint: did you mean `talker`?";
        assert!(
            refused.stderr.contains(hint),
            "{command:?}: {}",
            refused.stderr
        );
    }
}

fn a_token_restricts_commands(project: &Project) {
    let create = |name: &str, role: &str| {
        let created = project.ends(0, &["token", "create", name, "--role", role]);
        assert!(created.stderr.contains("cannot be shown again"));
        created.stdout.trim_end().to_owned()
    };
    let (viewer, operator) = (create("panel", "viewer"), create("ci", "operator"));
    let ends = |code, token: &str, arguments: &[&str]| {
        let mut command = project.command(arguments);
        command.env("LIFECYCLE_TOKEN", token);
        let ended = run(&mut command, TIMEOUT);
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {ended:?}");
        ended.stderr
    };
    ends(0, &viewer, &["status"]);
    let denied = ends(1, &viewer, &["restart", "quiet"]);
    assert!(denied.contains("needs the role operator"), "{denied}");
    ends(0, &operator, &["restart", "quiet"]);
    let denied = ends(1, &viewer, &["node", "restart", "node-1"]);
    assert!(denied.contains("needs the role operator"), "{denied}");
    let denied = ends(1, &operator, &["token", "list"]);
    assert!(denied.contains("needs the role admin"), "{denied}");

    let list = project.ends(0, &["token", "list"]).stdout;
    assert!(
        list.contains("bootstrapper") && list.contains("panel"),
        "{list}"
    );
    for token in [&viewer, &operator] {
        assert!(!list.contains(&**token), "{list}");
    }
    project.ends(0, &["token", "revoke", "panel"]);
    let denied = ends(1, &viewer, &["status"]);
    assert!(denied.contains("neither expired nor revoked"), "{denied}");
    let log = "docker logs $(docker ps --quiet --filter label=lifecycle.role=manager) 2>&1";
    let log = project.node().call(&["sh", "-c", log]).stdout;
    let events = project.ends(0, &["events", "--tail", "50"]).stdout;
    assert!(log.contains("the API is listening"), "{log}");
    assert!(events.contains("token panel ("), "{events}");
    for token in [&viewer, &operator] {
        assert!(
            !log.contains(&**token),
            "the manager's log contains a token"
        );
        assert!(!events.contains(&**token), "an event contains a token");
    }
}

fn missing_secrets_are_reported_immediately(project: &Project) {
    let (kept, away) = (project.state(), project.configuration().join("away"));
    std::fs::rename(&kept, &away).unwrap();
    let before = project.node().containers("lifecycle.platform-id");
    for command in [&["up"][..], &["plan"]] {
        let refused = project.ends(2, command).stderr;
        for hint in [
            "does not have the platform's secrets",
            "hint: copy ",
            "node-1",
        ] {
            assert!(refused.contains(hint), "{command:?}: {hint}: {refused}");
        }
        assert!(refused.contains(&kept.display().to_string()), "{refused}");
    }
    assert_eq!(project.node().containers("lifecycle.platform-id"), before);
    assert!(
        !kept.join("platform.key").exists(),
        "new secrets were stored"
    );
    std::fs::remove_dir_all(&kept).ok();
    std::fs::rename(&away, &kept).unwrap();
}

/// Checks the output of every command. Must run last, because one of the commands is `down`.
fn every_document_follows_its_schema(project: &Project) {
    let mut commands = BTreeSet::new();
    for command in [
        &["init", "--yes", "--force"][..],
        &["plan"],
        &["status"],
        &["why", "talker"],
        &["why", "node-1"],
        &["events", "--tail", "20"],
        &["logs", "quiet", "--timestamps"],
        &["restart", "quiet"],
        &["scale", "talker=2"],
        &["stop", "quiet"],
        &["override", "list"],
        &["service", "list"],
        &["app", "list"],
        &["model", "list"],
        &["export", "--dry-run"],
        &["history"],
        &["override", "remove", "quiet.stopped"],
        &["rollback", "--dry-run"],
        &["rollback", "--yes"],
        &["start", "quiet"],
        &["node", "list"],
        &["node", "restart", "node-1"],
        &["node", "prepare", "node-1"],
        &["operation", "list"],
        &["retry", "quiet"],
        &[
            "token",
            "create",
            "documented",
            "--role",
            "viewer",
            "--expires-in",
            "1h",
        ],
        &["token", "list"],
        &["token", "revoke", "documented"],
        &["rotate", "tokens"],
        &["doctor"],
        &["up"],
        &["exec", "quiet", "--", "echo", "{}"],
        &["down", "--yes"],
    ] {
        let said = project.ends(0, &[&["--json"], command].concat());
        assert!(!said.stdout.is_empty(), "{command:?}");
        commands.insert(command[0].to_owned());
    }
    // Other tests check the output of these commands, which need a simulated Azure or a rollout.
    for elsewhere in ["azure-simulator", "publish", "rollout"] {
        commands.insert(elsewhere.to_owned());
    }
    assert_eq!(commands, schema::commands());
}

/// Replaces the values that differ between runs, then compares the output with a snapshot.
fn snapshot(name: &str, project: &Project, shown: &str) {
    let mut shown = shown.replace(&project.path("").display().to_string(), "<project>/");
    for (pattern, instead) in [
        (r"\d\d:\d\d:\d\d", "<time>"),
        (r"\d+\.\d+\.\d+\.\d+(:\d+)?", "<address>"),
        (r"meeting-[0-9a-f]{6}", "<platform>"),
        (r"-[0-9a-f]{12}\b", "-<digest>"),
        (r"\b\d+ (s|min)\b *", "<age> "),
        (r"(?m)^warning: compose\S+ .*\n", ""),
        (r"20\.\d+\.\d+\S*", "<version>"),
        (r"(?m) +$", ""),
    ] {
        let pattern = regex::Regex::new(pattern).unwrap();
        shown = pattern.replace_all(&shown, instead).into_owned();
    }
    insta::assert_snapshot!(name, shown);
}
