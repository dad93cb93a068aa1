//! Attributes each new process to its node and, if a declared health check started the process, to
//! the health check.
//!
//! All descendants of the shim of a node's container are the node's processes. For a container with
//! a health check, a child of the container's shim counts as a run of the check if the declared
//! command is executed. All processes in a run belong to the check, even those of the container
//! runtime.
//!
//! A process's arguments can be read only after the kernel has reported the process's exec. If a
//! short-lived process has exited by then, it is counted as "unseen".

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::events::Event;
use super::nodes::{Check, Node};

/// The commands of `runc`. The list is needed to find the command after options with values.
const RUNC: [&str; 9] = [
    "init", "create", "start", "exec", "kill", "delete", "state", "ps", "update",
];

/// Reads the arguments of a process.
pub(crate) trait Arguments {
    /// Returns the arguments of a process, or `None` if it no longer exists. Returns only the name
    /// if the process has exited but its parent has not waited for it.
    fn of(&self, process: u32) -> Option<Vec<String>>;
}

/// Reads the arguments from `/proc`.
#[derive(Debug)]
pub(crate) struct Proc;

impl Arguments for Proc {
    fn of(&self, process: u32) -> Option<Vec<String>> {
        let read = |file: &str| std::fs::read(format!("/proc/{process}/{file}")).ok();
        let line = read("cmdline")?;
        // The kernel ends each argument with a zero byte.
        let words: Vec<String> = line
            .strip_suffix(&[0])
            .unwrap_or(&line)
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        if words.first().is_some_and(|word| !word.is_empty()) {
            return Some(words);
        }
        // The arguments are gone, so use the name, which may be truncated.
        let name = String::from_utf8_lossy(&read("comm")?).trim().to_owned();
        Some(vec![name])
    }
}

#[derive(Debug, Clone)]
struct Process {
    node: usize,
    program: Program,
    is_new: bool,
    /// If this is the shim of a container with a health check, the index of the check.
    shim_of: Option<usize>,
    /// The run that the process belongs to, if any.
    run: Option<usize>,
}

/// The program that a process executes.
#[derive(Debug, Clone)]
enum Program {
    Seen(String),
    /// The process was forked and has executed no program of its own. Contains the name of the
    /// parent's program.
    Forked(String),
    /// The process exited before its arguments could be read. Contains the last known program of
    /// the process or of an ancestor.
    Unseen(String),
}

impl Program {
    /// Returns the name of the last known program.
    fn known(&self) -> &str {
        match self {
            Self::Seen(name) | Self::Forked(name) | Self::Unseen(name) => name,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Seen(name) => name,
            Self::Forked(name) => format!("{name} (forked)"),
            Self::Unseen(name) => format!("unseen, started by {name}"),
        }
    }
}

/// A possible run of a health check: a child of the checked container's shim, with all descendants.
#[derive(Debug)]
struct Run {
    check: usize,
    command: Command,
    processes: BTreeMap<(usize, String), u64>,
}

/// The command that a run executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Unseen,
    Check,
    Other,
}

/// The runs of a health check.
#[derive(Debug, Clone)]
pub struct CheckRuns {
    pub check: Check,
    /// How many times the engine ran the check.
    pub runs: u64,
    /// The number of runs in which the declared command was seen. In all other runs, the command
    /// exited too early.
    pub seen: u64,
    /// The number of processes in all runs, including those of the container runtime.
    pub processes: u64,
}

/// Counts the new processes on the nodes.
#[derive(Debug, Clone, Default)]
pub struct Started {
    pub checks: Vec<CheckRuns>,
    /// The number of processes that do not belong to health checks, by node and program.
    pub others: BTreeMap<(String, String), u64>,
    /// The number of events that the kernel could not deliver. If this is not 0, all other numbers
    /// are lower bounds.
    pub lost_events: u64,
}

impl Started {
    /// Returns the number of processes that do not belong to health checks.
    pub fn others(&self) -> u64 {
        self.others.values().sum()
    }

    /// Returns the number of processes that belong to health checks.
    pub fn of_checks(&self) -> u64 {
        self.checks.iter().map(|check| check.processes).sum()
    }
}

/// Tracks all processes of the nodes.
#[derive(Debug)]
pub(crate) struct Tree<'a> {
    nodes: &'a [Node],
    checks: Vec<(usize, &'a Check)>,
    processes: HashMap<u32, Process>,
    runs: Vec<Run>,
    others: BTreeMap<(usize, String), u64>,
}

impl<'a> Tree<'a> {
    /// Creates the tree from the running processes. Each pair is a process id and the parent's id.
    pub(crate) fn new(
        nodes: &'a [Node],
        running: &[(u32, u32)],
        arguments: &dyn Arguments,
    ) -> Self {
        let checks = (0..).zip(nodes).flat_map(|(index, node)| {
            let checks = node.checks.iter();
            checks.map(move |check| (index, check))
        });
        let mut tree = Self {
            nodes,
            checks: checks.collect(),
            processes: HashMap::new(),
            runs: Vec::new(),
            others: BTreeMap::new(),
        };
        for (index, node) in nodes.iter().enumerate() {
            tree.keep(node.shim, index, arguments);
        }
        loop {
            let before = tree.processes.len();
            for (process, parent) in running {
                if let Some(parent) = tree.processes.get(parent).map(|p| p.node)
                    && !tree.processes.contains_key(process)
                {
                    tree.keep(*process, parent, arguments);
                }
            }
            if tree.processes.len() == before {
                return tree;
            }
        }
    }

    /// Iterates over the running processes. Yields each process id with the index of the process's
    /// node.
    pub(crate) fn known(&self) -> impl Iterator<Item = (u32, usize)> {
        self.processes
            .iter()
            .map(|(id, process)| (*id, process.node))
    }

    fn keep(&mut self, id: u32, node: usize, arguments: &dyn Arguments) {
        let words = arguments.of(id).unwrap_or_default();
        let process = Process {
            node,
            program: Program::Seen(name(&words)),
            is_new: false,
            shim_of: self.shim_of(node, &words),
            run: None,
        };
        self.processes.insert(id, process);
    }

    fn shim_of(&self, node: usize, words: &[String]) -> Option<usize> {
        if !words.first()?.contains("containerd-shim") {
            return None;
        }
        let is_its =
            |(on, check): &(usize, &Check)| *on == node && words.contains(&check.container);
        self.checks.iter().position(is_its)
    }

    pub(crate) fn note(&mut self, event: Event, arguments: &dyn Arguments) {
        match event {
            Event::Fork { parent, child } => {
                let Some(parent) = self.processes.get(&parent) else {
                    return;
                };
                let mut process = parent.clone();
                process.is_new = true;
                process.program = Program::Forked(process.program.known().to_owned());
                if let Some(check) = process.shim_of.take() {
                    process.run = Some(self.runs.len());
                    self.runs.push(Run {
                        check,
                        command: Command::Unseen,
                        processes: BTreeMap::new(),
                    });
                }
                // PIDs are reused. An earlier process may have had this PID, and its exit may have
                // been missed.
                self.ended(child);
                self.processes.insert(child, process);
            }
            Event::Exec { process: id } => {
                let Some(process) = self.processes.get(&id) else {
                    return;
                };
                let words = arguments.of(id);
                let shim_of = words.as_deref().and_then(|w| self.shim_of(process.node, w));
                let run = process.run.and_then(|run| self.runs.get_mut(run));
                if let (Some(run), Some(words)) = (run, words.as_deref())
                    && let Some((_, check)) = self.checks.get(run.check)
                {
                    if check.is_command(words) {
                        run.command = Command::Check;
                    } else if run.command == Command::Unseen && !is_runtime(words) {
                        run.command = Command::Other;
                    }
                }
                if let Some(process) = self.processes.get_mut(&id) {
                    process.shim_of = shim_of;
                    process.program = match words {
                        Some(words) => Program::Seen(name(&words)),
                        None => Program::Unseen(process.program.known().to_owned()),
                    };
                }
            }
            Event::Exit { process } => self.ended(process),
        }
    }

    fn ended(&mut self, id: u32) {
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        if !process.is_new {
            return;
        }
        let run = process.run.and_then(|run| self.runs.get_mut(run));
        let count = run.map_or(&mut self.others, |run| &mut run.processes);
        *count
            .entry((process.node, process.program.name()))
            .or_default() += 1;
    }

    /// Ends the measurement and returns the counts. `within` is the duration of the measurement.
    pub(crate) fn finish(mut self, within: Duration, lost_events: u64) -> Started {
        let running: Vec<u32> = self.processes.keys().copied().collect();
        for process in running {
            self.ended(process);
        }
        let checks = self.checks.iter().map(|(_, check)| CheckRuns {
            check: (*check).clone(),
            runs: 0,
            seen: 0,
            processes: 0,
        });
        let mut checks: Vec<CheckRuns> = checks.collect();
        // First count the runs whose command was seen: all other runs count only up to a plausible
        // number.
        self.runs.sort_by_key(|run| run.command != Command::Check);
        for run in self.runs {
            let seen = run.command == Command::Check;
            match checks.get_mut(run.check) {
                Some(check) if seen || run.command.may_be_of(check, within) => {
                    check.runs += 1;
                    check.seen += u64::from(seen);
                    check.processes += run.processes.values().sum::<u64>();
                }
                _ => {
                    for (what, count) in run.processes {
                        *self.others.entry(what).or_default() += count;
                    }
                }
            }
        }
        let node = |index: usize| {
            self.nodes
                .get(index)
                .map_or_else(String::new, |n| n.name.clone())
        };
        let others = self.others.into_iter();
        Started {
            checks,
            others: others
                .map(|((on, what), n)| ((node(on), what), n))
                .collect(),
            lost_events,
        }
    }
}

impl Command {
    /// Returns whether to count a run whose command was not seen. The number of runs must fit into
    /// `within`: an engine starts a check one interval after the end of the previous run.
    fn may_be_of(self, check: &CheckRuns, within: Duration) -> bool {
        let runs = u32::try_from(check.runs).unwrap_or(u32::MAX);
        self == Self::Unseen && check.check.interval.saturating_mul(runs) <= within
    }
}

/// Returns whether this is the container runtime. Its name is `exe` while it re-executes itself.
fn is_runtime(words: &[String]) -> bool {
    let name = name(words);
    name == "exe" || name.split([' ', ':']).next() == Some("runc")
}

/// Returns the program's name and subcommands, without options and their values.
fn name(words: &[String]) -> String {
    let Some(program) = words.first() else {
        return "?".into();
    };
    // The name may be followed by a status, as in `sshd: root@notty`.
    let program = program.split(':').next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    let rest = words.get(1..).unwrap_or_default();
    let is_plain = |word: &&String| {
        let letters = |c: char| c.is_ascii_lowercase() || c == '-';
        !word.is_empty() && !word.starts_with('-') && word.chars().all(letters)
    };
    let subcommands: Vec<&str> = if program == "runc" {
        let known = rest.iter().find(|word| RUNC.contains(&word.as_str()));
        known.into_iter().map(String::as_str).collect()
    } else if rest.first().is_some_and(|word| word == "-c") {
        let first = rest.get(1).and_then(|line| line.split_whitespace().next());
        std::iter::once("-c").chain(first).collect()
    } else {
        let plain = rest.iter().take_while(is_plain).take(2);
        plain.map(String::as_str).collect()
    };
    std::iter::once(program)
        .chain(subcommands)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::at_rest::events::Events;
    use crate::at_rest::{count, nodes};

    impl Arguments for BTreeMap<u32, &str> {
        fn of(&self, process: u32) -> Option<Vec<String>> {
            let line = self.get(&process)?;
            Some(line.split(' ').map(str::to_owned).collect())
        }
    }

    fn node(shim: u32, checks: Vec<Check>) -> Node {
        Node {
            name: "hub".into(),
            shim,
            checks,
        }
    }

    fn check() -> Check {
        Check {
            service: "web".into(),
            interval: Duration::from_secs(1),
            container: "c1".into(),
            command: vec!["/bin/web".into(), "check".into()],
        }
    }

    const WITHIN: Duration = Duration::from_secs(1);

    const SHIM: &str = "/usr/bin/containerd-shim-runc-v2 -namespace moby -id c1";

    fn counts(started: &Started) -> Vec<(&str, u64)> {
        let others = started.others.iter();
        others.map(|((_, what), n)| (what.as_str(), *n)).collect()
    }

    #[test]
    fn distinguishes_a_health_check_from_other_commands() {
        let nodes = [node(1, vec![check()])];
        let mut words = BTreeMap::from([(1, "containerd-shim -id node"), (2, SHIM)]);
        let mut tree = Tree::new(&nodes, &[(2, 1)], &words);
        words.extend([
            (10, "runc --root /run exec --process /tmp/1 c1"),
            (11, "runc init"),
            (12, "/bin/web check"),
            (20, "runc --root /run exec --process /tmp/2 c1"),
            (21, "/bin/other"),
            (30, "/bin/true"),
        ]);
        for (parent, child) in [
            (2, 10),
            (10, 11),
            (11, 12),
            (2, 20),
            (20, 21),
            (1, 30),
            (99, 98),
        ] {
            tree.note(Event::Fork { parent, child }, &words);
            tree.note(Event::Exec { process: child }, &words);
        }
        let started = tree.finish(WITHIN, 0);
        assert_eq!((started.checks[0].runs, started.of_checks()), (1, 3));
        let others = [("other", 1), ("runc exec", 1), ("true", 1)];
        assert_eq!(counts(&started), others);
    }

    #[test]
    fn counts_a_short_check_while_its_interval_allows_it() {
        let nodes = [node(1, vec![check()])];
        let mut words = BTreeMap::from([(1, "containerd-shim -id node"), (2, SHIM)]);
        let mut tree = Tree::new(&nodes, &[(2, 1)], &words);
        words.extend([(10, "runc exec c1"), (11, "runc init"), (20, "exe")]);
        // Process 40 exits before its arguments are read, but its name shows that it was the check.
        // Only one more run fits into a second: that of process 10. Processes 20 and 30 count as
        // other processes.
        words.insert(40, "web");
        for (parent, child) in [(2, 10), (10, 11), (2, 20), (2, 30), (2, 40)] {
            tree.note(Event::Fork { parent, child }, &words);
            tree.note(Event::Exec { process: child }, &words);
        }
        let started = tree.finish(WITHIN, 0);
        let check = &started.checks[0];
        assert_eq!((check.runs, check.seen, check.processes), (2, 1, 3));
        let unseen = "unseen, started by containerd-shim-runc-v2";
        assert_eq!(counts(&started), [("exe", 1), (unseen, 1)]);
    }

    #[test]
    fn recognizes_the_health_check_of_a_later_container() {
        let nodes = [node(1, vec![check()])];
        let words = BTreeMap::from([
            (1, "containerd"),
            (2, SHIM),
            (3, "runc exec c1"),
            (4, "/bin/web check"),
        ]);
        let mut tree = Tree::new(&nodes, &[], &words);
        for (parent, child) in [(1, 2), (2, 3), (3, 4)] {
            tree.note(Event::Fork { parent, child }, &words);
            tree.note(Event::Exec { process: child }, &words);
            tree.note(
                Event::Exit {
                    process: child + 100,
                },
                &words,
            );
        }
        assert_eq!(tree.finish(WITHIN, 0).of_checks(), 2);
    }

    #[test]
    fn counts_a_process_once_by_its_last_program() {
        let nodes = [node(1, Vec::new())];
        let mut words = BTreeMap::from([(1, "/usr/sbin/sshd -D")]);
        let mut tree = Tree::new(&nodes, &[], &words);
        for (parent, child) in [(1, 2), (2, 3), (2, 4), (3, 5)] {
            tree.note(Event::Fork { parent, child }, &words);
        }
        for line in ["sh -c exec docker", "docker system dial-stdio --x y"] {
            words.insert(3, line);
            tree.note(Event::Exec { process: 3 }, &words);
        }
        tree.note(Event::Exit { process: 3 }, &words);
        tree.note(Event::Exec { process: 4 }, &words);
        let expected = [
            ("docker system dial-stdio", 1),
            ("sshd (forked)", 2),
            ("unseen, started by sshd", 1),
        ];
        assert_eq!(counts(&tree.finish(WITHIN, 0)), expected);
    }

    #[test]
    fn names_programs_with_subcommands_but_no_values() {
        let named = |line: &str| name(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for (line, expected) in [
            ("sshd: root@notty", "sshd"),
            (
                "/usr/bin/docker system dial-stdio",
                "docker system dial-stdio",
            ),
            ("/usr/bin/docker exec 1f2e3d sh", "docker exec"),
            ("runc --root /run --log /x/log.json init", "runc init"),
            (
                "/lifecycle-manager agent feed --state /s",
                "lifecycle-manager agent feed",
            ),
            (
                "lifecycle-manager run --directory /d",
                "lifecycle-manager run",
            ),
            ("", ""),
        ] {
            assert_eq!(named(line), expected, "{line}");
        }
    }

    /// Uses real processes and the kernel's events. Each process must be counted once, and threads
    /// must not be counted.
    #[test]
    fn counts_real_processes_but_no_threads() {
        const SHELLS: usize = 40;
        let nodes = [node(std::process::id(), Vec::new())];
        let events = Events::subscribe().unwrap();
        let stop = AtomicBool::new(false);
        let started = std::thread::scope(|scope| {
            let counting = scope.spawn(|| count(events, &nodes, &stop));
            for _ in 0..SHELLS {
                std::thread::spawn(|| ()).join().unwrap();
                // This starts two processes: the shell, and a child for the first command.
                let shell = std::process::Command::new("sh")
                    .args(["-c", "/bin/true; exit 3"])
                    .status();
                assert_eq!(shell.unwrap().code(), Some(3));
            }
            stop.store(true, Ordering::Relaxed);
            counting.join().unwrap().unwrap()
        });
        // The kernel may drop a few events on a busy machine.
        assert!(started.lost_events < 20, "{started:?}");
        let least = 2 * SHELLS as u64 - started.lost_events;
        let counted = least..=2 * SHELLS as u64;
        assert!(counted.contains(&started.others()), "{:?}", started.others);
        // Require only one name: on a busy machine, many short processes exit before their names
        // can be read.
        let seen = started
            .others
            .get(&("hub".into(), "sh -c /bin/true;".into()));
        assert!(seen.is_some_and(|n| *n > 0), "{:?}", started.others);
        assert!(nodes::running().len() > 1);
    }
}
