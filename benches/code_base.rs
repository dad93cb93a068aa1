//! Measures how long it takes to list the files of a code base, with and without a `.dockerignore`.
//! The numbers of files and patterns increase. Prints the results without asserting them.
//!
//! `cargo bench -p benches --bench code_base`

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot continue fails, and prints to the terminal"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lifecycle_core::code::digest::entries;

const FILES: [usize; 3] = [625, 2_500, 10_000];
const PATTERNS: [usize; 3] = [13, 52, 208];

/// Templates for patterns. `{}` is replaced by a number, so that all patterns differ.
const FORMS: [&str; 6] = [
    "node_modules{}/",
    "**/node_modules{}/",
    "npm-debug{}.log*",
    "*.pyc{}",
    ".cache{}",
    "**/*.snap{}",
];

/// Creates files in directories on six levels. Each directory contains twenty files.
fn make(root: &Path, files: usize) -> std::io::Result<()> {
    for number in 0..files.div_ceil(20) {
        let (a, b, c) = (number % 5, number / 5 % 5, number / 25);
        let directory = root.join(format!(
            "apps{a}/packages{b}/source{c}/components/internal/deep"
        ));
        fs::create_dir_all(&directory)?;
        for file in 0..20 {
            fs::write(directory.join(format!("component-{file}.tsx")), "")?;
        }
    }
    Ok(())
}

fn patterns(count: usize) -> String {
    let mut text = String::new();
    for (number, form) in FORMS.iter().cycle().take(count).enumerate() {
        writeln!(text, "{}", form.replace("{}", &number.to_string()))
            .expect("writing to a string succeeds");
    }
    text
}

/// Lists the files several times. Returns the shortest time.
fn finding(root: &Path) -> Duration {
    let run = |()| {
        let since = Instant::now();
        entries(root).expect("the files are listed");
        since.elapsed()
    };
    [(); 5].map(run).into_iter().min().unwrap_or_default()
}

fn main() {
    println!("files   patterns  without .dockerignore  with it     ratio");
    for files in FILES {
        let root = tempfile::tempdir().expect("there is a directory for temporary files");
        make(root.path(), files).expect("files can be written");
        let without = finding(root.path());
        for count in PATTERNS {
            fs::write(root.path().join(".dockerignore"), patterns(count))
                .expect("a file is written");
            let with = finding(root.path());
            println!(
                "{files:<7} {count:<9} {without:<22.1?} {with:<11.1?} {:.1}",
                with.as_secs_f64() / without.as_secs_f64()
            );
        }
        fs::remove_file(root.path().join(".dockerignore")).expect("a file is removed");
    }
}
