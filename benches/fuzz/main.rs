//! Fuzzes the readers of Compose files and of `platform.toml` with mutated declarations.
//!
//! `cargo run -p benches --bin fuzz -- --seconds 600`. The fuzzer mutates and mixes the files of
//! the tests, and reads the results. It stops if a read panics or takes too long, if a rejection
//! has no message, or if a message refers to a line that does not exist. It then prints the
//! directory of the input, and a seed with which `--seed` repeats the case. Build the fuzzer
//! without `--release`, so that an integer overflow also panics.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the fuzzer prints to the terminal"
)]

mod mutate;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lifecycle_core::code::DirectoryStore;
use lifecycle_core::model::PlatformId;
use lifecycle_core::platform::{Diagnostics, Sources, load};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use mutate::{Corpus, Mutator};

/// All inputs are small, so a read that takes this long counts as a defect.
const TOO_LONG: Duration = Duration::from_secs(20);

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let options = Options::of(std::env::args().skip(1))?;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lifecycle-core/tests");
    let corpus = Corpus::of(&tests)?;
    let directory = tempfile::Builder::new()
        .prefix("declarations-")
        .tempdir()?
        .keep();
    println!(
        "starting with {} projects and {} files; seed {}; the input is in {}",
        corpus.projects(),
        corpus.texts(),
        options.seed,
        directory.display()
    );
    let case = Arc::new(AtomicU64::new(0));
    report_panics(directory.clone(), &case);
    watch(directory.clone(), &case);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()?;
    let begin = Instant::now();
    let mut taken = 0_u64;
    let mut number = options.seed;
    while begin.elapsed() < options.time {
        case.store(number, Ordering::Relaxed);
        let stage = directory.join(number.to_string());
        let sources = write(&stage, &corpus, number)?;
        match runtime.block_on(read(&sources)) {
            Ok(()) => taken += 1,
            Err(problems) => check(&problems, &sources, number)?,
        }
        fs::remove_dir_all(&stage)?;
        number += 1;
    }
    let read = number - options.seed;
    println!("{read} declarations read, {taken} of them accepted, no defect found");
    fs::remove_dir_all(&directory)?;
    Ok(())
}

/// The command line options.
struct Options {
    time: Duration,
    seed: u64,
}

impl Options {
    fn of(mut arguments: impl Iterator<Item = String>) -> Outcome<Self> {
        let mut options = Self {
            time: Duration::from_mins(1),
            seed: rand::random::<u32>().into(),
        };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or("a value is missing")?.parse()?;
            match name.as_str() {
                "--seconds" => options.time = Duration::from_secs(value),
                "--seed" => options.seed = value,
                _ => return Err("the options are `--seconds <n>` and `--seed <n>`".into()),
            }
        }
        Ok(options)
    }
}

/// Ends the process at the first panic on any thread, and prints the seed.
fn report_panics(directory: PathBuf, case: &Arc<AtomicU64>) {
    let usual = std::panic::take_hook();
    let case = Arc::clone(case);
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        let number = case.load(Ordering::Relaxed);
        let stage = directory.join(number.to_string());
        eprintln!("--seed {number}: reading {} panicked", stage.display());
        std::process::exit(1);
    }));
}

/// Ends the process if a read takes too long, and prints the seed.
fn watch(directory: PathBuf, case: &Arc<AtomicU64>) {
    let case = Arc::clone(case);
    std::thread::spawn(move || {
        let mut seen = (case.load(Ordering::Relaxed), Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let now = case.load(Ordering::Relaxed);
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > TOO_LONG {
                let stage = directory.join(now.to_string());
                eprintln!("--seed {now}: reading {} takes too long", stage.display());
                std::process::exit(1);
            }
        }
    });
}

/// Writes the files of one case to a directory.
fn write(stage: &Path, corpus: &Corpus, number: u64) -> Outcome<Sources> {
    let mut mutator = Mutator::new(corpus, StdRng::seed_from_u64(number));
    fs::create_dir_all(stage.join("sub"))?;
    for name in [
        "compose.yaml",
        "compose.override.yaml",
        "base.yaml",
        "sub/compose.yaml",
    ] {
        fs::write(stage.join(name), mutator.compose())?;
    }
    fs::write(stage.join("platform.toml"), mutator.settings())?;
    fs::write(stage.join(".env"), mutator.variables())?;
    fs::write(stage.join("sub/.env"), mutator.variables())?;
    fs::write(stage.join("Dockerfile"), mutator.dockerfile())?;
    let mut compose_files = vec![stage.join("compose.yaml")];
    if mutator.random.random_bool(0.6) {
        for name in ["compose.yaml", "base.yaml"] {
            fs::remove_file(stage.join(name))?;
        }
        for (path, content) in mutator.project() {
            let file = stage.join(path);
            fs::create_dir_all(file.parent().unwrap_or(stage))?;
            fs::write(file, content)?;
        }
        let names = [
            "compose.yaml",
            "compose.yml",
            "docker-compose.yml",
            "docker-compose.yaml",
        ];
        let found = names
            .iter()
            .map(|name| stage.join(name))
            .find(|file| file.is_file());
        compose_files = found.into_iter().collect();
    }
    if mutator.random.random_bool(0.4) {
        compose_files.push(stage.join("compose.override.yaml"));
    }
    let has_settings = mutator.random.random_bool(0.5);
    Ok(Sources {
        compose_files,
        platform_toml: has_settings.then(|| stage.join("platform.toml")),
        nodes: 1,
        project_dir: stage.to_owned(),
        env_files: Vec::new(),
        environment: [("SET", "set"), ("TAG", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        name: None,
        profiles: mutator
            .random
            .random_bool(0.5)
            .then(|| "*".to_owned())
            .into_iter()
            .collect(),
    })
}

async fn read(sources: &Sources) -> Result<(), Diagnostics> {
    let store = DirectoryStore::new(sources.project_dir.clone());
    let id = PlatformId::new(uuid::Uuid::from_u128(1));
    load(sources, id, &store).await.map(|_| ())
}

/// Checks that a rejection has a message, and that the line of each message exists.
fn check(problems: &Diagnostics, sources: &Sources, number: u64) -> Outcome<()> {
    let mut all = problems.iter().peekable();
    if all.peek().is_none() {
        return Err(format!("--seed {number}: rejected without a message").into());
    }
    for problem in all {
        let file = sources.project_dir.join(&problem.file);
        let Some(line) = problem.line else { continue };
        let bytes =
            fs::read(&file).map_err(|error| format!("--seed {number}: {problem}: {error}"))?;
        let text = String::from_utf8_lossy(&bytes);
        // YAML has more line ends than `\n`. A message may refer to the line after the last one.
        let lines = text
            .split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
            .count()
            + 1;
        if line > lines {
            return Err(format!("--seed {number}: this line does not exist: {problem}").into());
        }
    }
    Ok(())
}
