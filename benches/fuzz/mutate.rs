//! Reads the tests' files and mutates them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

/// Lines that often lead to interesting cases. The mutator inserts them.
const LINES: &[&str] = &[
    "include: [base.yaml]",
    "include: [{path: [sub/compose.yaml, base.yaml], project_directory: sub, env_file: .env}]",
    "include: [compose.yaml]",
    "    extends: {service: web}",
    "    extends: {file: base.yaml, service: web}",
    "    extends: {file: sub/compose.yaml, service: db}",
    "    extends: db",
    "    profiles: [a, b]",
    "    profiles: [\"*\"]",
    "    depends_on: [web, db]",
    "    depends_on: {db: {condition: service_completed_successfully, required: false}}",
    "    ports: !reset []",
    "    ports: !override ['1-65535:1-65535/udp']",
    "    environment: !reset null",
    "    environment: [A=b, C, =d]",
    "    environment: {A: , B: 1}",
    "    extra_hosts: {a: [b, c], d: }",
    "    build: {context: ., args: [A], additional_contexts: {a: ../b}}",
    "    build: .",
    "    volumes: ['.:/x', 'data:/data:ro', {type: bind, source: a, target: /b}]",
    "    logging: {driver: x, options: {}}",
    "    logging: x",
    "    healthcheck: {test: [NONE], interval: 99999999h}",
    "    deploy: {mode: global, replicas: 65535, placement: {constraints: [node.labels.a==b]}}",
    "    x-lifecycle: {class: model, ready: 'http://:80/x', ready_within: 1h, code: web}",
    "    <<: [*a, *b]",
    "    <<: {image: x}",
    "  &a web: &b",
    "  web: {image: nginx}",
    "  db: &a {image: \"${IMAGE:-x${TAG}}\"}",
    "services: &a",
    "services:",
    "networks: {a: {ipam: {config: [{subnet: 10.0.0.0/8}]}}}",
    "secrets: {a: {file: .env}}",
    "configs: {a: {content: $A}}",
    "volumes: {data: {external: true}}",
    "name: $COMPOSE_PROJECT_NAME",
    "---",
    "[nodes.one]",
    "[[node_pool]]",
    "capacity = { cpus = 1e9, memory = \"9e9g\" }",
    "url = \"postgresql://${USER}:${PASSWORD}@[::1]:0/x\"",
];

/// Words with which the mutator replaces other words.
const WORDS: &[&str] = &[
    "",
    "~",
    "null",
    "true",
    "no",
    "0",
    "-1",
    "65536",
    "99999999999999999999",
    "1e400",
    ".5",
    "0x1F",
    "1_000",
    "${",
    "$",
    "$$",
    "${A:-${B:-${C}}}",
    "${A:?b}",
    "${A:+}",
    "!reset",
    "!override",
    "!!str",
    "&a",
    "*a",
    "[",
    "]",
    "{",
    "}",
    "[]",
    "{}",
    "|",
    ">-",
    "\"",
    "'",
    "#",
    ":",
    "-",
    "?",
    "@",
    "`",
    "..",
    "/",
    "./x",
    "~/x",
    "\u{feff}",
    "\u{0}",
    "\u{85}",
    "\u{2028}",
    "ä",
    "\u{1F980}",
    "\t",
    "1h1h",
    "1.1.1m",
    "0-0",
    "1-65535",
    "[::1]:1:1",
    ":::",
    "a=b=c",
    "=",
    "node.hostname == ",
    "sha256:",
    "x@sha256:0",
];

/// A project: the path and the contents of each file.
pub(crate) type Project = Vec<(PathBuf, Vec<u8>)>;

/// The initial files: single files by type, and whole projects.
pub(crate) struct Corpus {
    projects: Vec<Project>,
    compose: Vec<String>,
    settings: Vec<String>,
    variables: Vec<String>,
}

impl Corpus {
    /// Reads all files in the directory of the tests.
    pub(crate) fn of(tests: &Path) -> io::Result<Self> {
        let mut corpus = Self {
            projects: Vec::new(),
            compose: Vec::new(),
            settings: Vec::new(),
            variables: vec!["A=1\n".to_owned()],
        };
        for directory in ["declared", "malformed", "published"] {
            corpus.add(&tests.join(directory))?;
        }
        for directory in sorted(&tests.join("published"))? {
            let mut project = Project::new();
            if directory.is_dir() {
                add_files(&directory, &directory, &mut project)?;
            }
            // Only directories with a YAML file are projects.
            let has_compose = |(path, _): &(PathBuf, Vec<u8>)| {
                path.extension()
                    .is_some_and(|end| end == "yaml" || end == "yml")
            };
            if project.iter().any(has_compose) {
                corpus.projects.push(project);
            }
        }
        let nothing = corpus.compose.is_empty() || corpus.settings.is_empty();
        if nothing || corpus.projects.is_empty() {
            return Err(io::Error::other(
                "the directory of the tests contains no usable files",
            ));
        }
        Ok(corpus)
    }

    fn add(&mut self, directory: &Path) -> io::Result<()> {
        for path in sorted(directory)? {
            if path.is_dir() {
                self.add(&path)?;
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let name = path.to_string_lossy().into_owned();
            match name.rsplit('.').next() {
                Some("yaml" | "yml") => self.compose.push(text),
                Some("toml") => self.settings.push(text),
                Some("env") => self.variables.push(text),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn projects(&self) -> usize {
        self.projects.len()
    }

    pub(crate) fn texts(&self) -> usize {
        self.compose.len() + self.settings.len() + self.variables.len()
    }
}

/// Returns the entries of a directory, sorted, so that a seed always produces the same case.
fn sorted(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = entries.collect::<io::Result<_>>()?;
    paths.sort();
    Ok(paths)
}

fn add_files(root: &Path, directory: &Path, project: &mut Project) -> io::Result<()> {
    for path in sorted(directory)? {
        if path.is_dir() {
            add_files(root, &path, project)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            project.push((relative.to_owned(), fs::read(&path)?));
        }
    }
    Ok(())
}

/// Generates the files of one case.
pub(crate) struct Mutator<'c> {
    corpus: &'c Corpus,
    pub(crate) random: StdRng,
}

impl<'c> Mutator<'c> {
    pub(crate) fn new(corpus: &'c Corpus, random: StdRng) -> Self {
        Self { corpus, random }
    }

    pub(crate) fn compose(&mut self) -> Vec<u8> {
        let corpus = self.corpus;
        self.text(&corpus.compose)
    }

    pub(crate) fn settings(&mut self) -> Vec<u8> {
        let corpus = self.corpus;
        self.text(&corpus.settings)
    }

    pub(crate) fn variables(&mut self) -> Vec<u8> {
        let corpus = self.corpus;
        self.text(&corpus.variables)
    }

    pub(crate) fn dockerfile(&mut self) -> Vec<u8> {
        let lines = [
            "ARG A=b",
            "FROM ${A}",
            "FROM scratch AS x",
            "# escape=`",
            "COPY . .",
            "FROM x \\",
        ];
        let count = self.random.random_range(0..6);
        let lines: Vec<&str> = (0..count).map(|_| *self.one_of(&lines)).collect();
        lines.join("\n").into_bytes()
    }

    /// Returns a whole project, with small changes to some of its files.
    pub(crate) fn project(&mut self) -> Project {
        let corpus = self.corpus;
        let mut project = self.one_of(&corpus.projects).clone();
        for (path, content) in &mut project {
            let texts = match path.to_string_lossy().rsplit('.').next() {
                Some("yaml" | "yml") => &corpus.compose,
                Some("env") => &corpus.variables,
                _ => continue,
            };
            if self.random.random_bool(0.6) {
                let text = String::from_utf8_lossy(content).into_owned();
                let changes = self.random.random_range(1..4);
                *content = self.changed(&text, changes, texts);
            }
        }
        project
    }

    fn one_of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.random.random_range(0..all.len())]
    }

    fn text(&mut self, texts: &[String]) -> Vec<u8> {
        let text = self.one_of(texts);
        let changes = self.random.random_range(0..6);
        self.changed(text, changes, texts)
    }

    fn changed(&mut self, text: &str, changes: usize, texts: &[String]) -> Vec<u8> {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for _ in 0..changes {
            self.change(&mut lines, texts);
        }
        let mut bytes = (lines.join("\n") + "\n").into_bytes();
        if self.random.random_bool(0.1) {
            for _ in 0..self.random.random_range(1..4) {
                let at = self.random.random_range(0..bytes.len());
                bytes[at] = self.random.next_u32().to_le_bytes()[0];
            }
        }
        bytes
    }

    fn change(&mut self, lines: &mut Vec<String>, texts: &[String]) {
        let at = self.random.random_range(0..=lines.len());
        let line = lines.get(at).cloned().unwrap_or_default();
        match self.random.random_range(0..10) {
            0 if at < lines.len() => {
                lines.remove(at);
            }
            1 => lines.insert(at, line),
            2 if at < lines.len() => {
                let other = self.random.random_range(0..lines.len());
                lines.swap(at, other);
            }
            3 | 4 => lines.insert(at, (*self.one_of(LINES)).to_owned()),
            5 if at < lines.len() => {
                let indent = self.random.random_range(0..9);
                lines[at] = format!("{}{}", " ".repeat(indent), line.trim_start());
            }
            6 => {
                // Insert a part of another file.
                let other: Vec<&str> = self.one_of(texts).lines().collect();
                let from = self.random.random_range(0..=other.len());
                let to = self.random.random_range(from..=other.len());
                let part = other[from..to].iter().map(|line| (*line).to_owned());
                lines.splice(at..at, part);
            }
            _ if at < lines.len() => {
                // Replace one word.
                let words: Vec<&str> = line.split(' ').collect();
                let place = self.random.random_range(0..words.len());
                let word = *self.one_of(WORDS);
                let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
                if self.random.random_bool(0.3) {
                    words.insert(place, word.to_owned());
                } else {
                    word.clone_into(&mut words[place]);
                }
                lines[at] = words.join(" ");
            }
            _ => {}
        }
    }
}
