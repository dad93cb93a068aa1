//! Texts to begin with, and what is done to them.

use std::fs;
use std::io;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};

/// Lines that lead a text to where something is decided.
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

/// Words that stand where another one is awaited.
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

/// Texts by what they are.
pub(crate) struct Corpus {
    compose: Vec<String>,
    settings: Vec<String>,
    variables: Vec<String>,
}

impl Corpus {
    /// All that lies under the tests' directory.
    pub(crate) fn of(tests: &Path) -> io::Result<Self> {
        let mut corpus = Self {
            compose: Vec::new(),
            settings: Vec::new(),
            variables: vec!["A=1\n".to_owned()],
        };
        for directory in ["declared", "malformed", "published"] {
            corpus.add(&tests.join(directory))?;
        }
        if corpus.compose.is_empty() || corpus.settings.is_empty() {
            return Err(io::Error::other("there is nothing to begin with"));
        }
        Ok(corpus)
    }

    fn add(&mut self, directory: &Path) -> io::Result<()> {
        let mut entries: Vec<_> = fs::read_dir(directory)?.collect::<io::Result<_>>()?;
        // One seed is one case, whatever the order of the directory.
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if path.is_dir() {
                self.add(&path)?;
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.rsplit('.').next() {
                Some("yaml" | "yml") => self.compose.push(text),
                Some("toml") => self.settings.push(text),
                Some("env") => self.variables.push(text),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.compose.len() + self.settings.len() + self.variables.len()
    }
}

/// Makes the texts of one case.
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

    fn one_of<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.random.random_range(0..all.len())]
    }

    fn text(&mut self, texts: &[String]) -> Vec<u8> {
        let text = self.one_of(texts).clone();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let changes = self.random.random_range(0..6);
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
                // A part of another text.
                let other: Vec<&str> = self.one_of(texts).lines().collect();
                let from = self.random.random_range(0..=other.len());
                let to = self.random.random_range(from..=other.len());
                let part = other[from..to].iter().map(|line| (*line).to_owned());
                lines.splice(at..at, part);
            }
            _ if at < lines.len() => {
                // Another word in the place of one.
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
