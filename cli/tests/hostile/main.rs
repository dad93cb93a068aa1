//! Runs `plan --simulate` on hostile files. Whatever the files contain, the program must end without a
//! panic, within 2 s of processor time, and with less than 170 MB of memory besides the program itself.
//! Each input is a process, whose memory and time the kernel reports.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod expansion;
mod findings;
mod size;
mod special_files;
mod text;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode};

/// The limit for the processor time of one input. Unlike the time until the end, it does not depend on
/// the other tests on the machine. It is 2 seconds for the program that users run; a debug build is several
/// times slower.
const TIME: Duration = Duration::from_secs(if cfg!(debug_assertions) { 6 } else { 2 });

/// The limit for the memory of one input, in bytes, without the pages of the program's file, which is
/// several times larger in a debug build.
const MEMORY: u64 = 170 << 20;

/// The time after which a program counts as hanging.
const DEADLINE: Duration = Duration::from_secs(50);

/// The unit of processor time in `/proc`: this many per second.
const TICKS: u64 = 100;

/// How often the memory and the time of a process are read.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The maximum number of lines that are printed about one input: 50 problems, 50 warnings, and 50 keys
/// without effect, each with a count, and the error with its hint.
const LINES: usize = 160;

#[derive(Debug)]
struct Finished {
    code: Option<i32>,
    output: String,
    errors: String,
    memory: u64,
    time: Duration,
}

/// Returns the peak memory of a process in bytes, without pages of files, and its processor time, if it is
/// still running.
fn usage(process: u32) -> Option<(u64, Duration)> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    let kilobytes = value("VmHWM:")?.saturating_sub(value("RssFile:")?);
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program, which precedes the other fields, ends with `)`.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?;
    Some((kilobytes << 10, Duration::from_millis(ticks * 1000 / TICKS)))
}

fn reader(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Kills the program, so that a failed test does not leave it running.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn plan(directory: &Path, variables: &[(&str, &str)]) -> Finished {
    let home = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_bootstrapper"))
        .args(["plan", "--simulate", "--project-dir"])
        .arg(directory)
        .env_clear()
        .env("HOME", home.path())
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Running(child);
    let output = reader(child.0.stdout.take().unwrap());
    let errors = reader(child.0.stderr.take().unwrap());
    let began = Instant::now();
    let (mut memory, mut time) = (0, Duration::ZERO);
    let status = loop {
        if let Some((peak, used)) = usage(child.0.id()) {
            memory = memory.max(peak);
            time = time.max(used);
        }
        if let Some(status) = child.0.try_wait().unwrap() {
            break status;
        }
        assert!(began.elapsed() < DEADLINE, "the program hangs");
        std::thread::sleep(POLL_INTERVAL);
    };
    Finished {
        code: status.code(),
        output: output.join().unwrap(),
        errors: errors.join().unwrap(),
        memory,
        time,
    }
}

/// The inputs of one test.
#[derive(Default)]
struct Inputs {
    failures: Vec<String>,
    count: usize,
}

/// Fails with all inputs that failed.
impl Drop for Inputs {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.failures.is_empty(), "{}", self.failures.join("\n\n"));
        }
    }
}

impl Inputs {
    /// Checks an input in its own directory. `expected` is a part of the errors; if it is empty, the
    /// input may be valid.
    fn check(&mut self, name: &str, expected: &str, create: impl FnOnce(&Path)) {
        self.check_with(name, expected, &[], create);
    }

    fn check_with(
        &mut self,
        name: &str,
        expected: &str,
        variables: &[(&str, &str)],
        create: impl FnOnce(&Path),
    ) {
        self.count += 1;
        let directory = tempfile::tempdir().unwrap();
        create(directory.path());
        let found = plan(directory.path(), variables);
        let lines = found.errors.lines().count();
        let is_printable = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n');
        for (is_good, what) in [
            (matches!(found.code, Some(0..=2)), "the exit code"),
            (!found.errors.contains("panicked"), "a panic"),
            (found.time <= TIME, "the time"),
            (found.memory <= MEMORY, "the memory"),
            (lines <= LINES, "the number of lines"),
            (is_printable(&found.errors), "control characters"),
            (found.errors.len() <= 1 << 20, "the size of the errors"),
            (found.errors.contains(expected), "the message"),
            (expected.is_empty() || found.code != Some(0), "success"),
        ] {
            if !is_good {
                self.failures.push(format!(
                    "{name}: {what}: code {:?}, {:?}, {} MB, {lines} lines, {} bytes of output, expected \
                     {expected:?}:\n{:.1500}",
                    found.code,
                    found.time,
                    found.memory >> 20,
                    found.output.len(),
                    found.errors
                ));
                break;
            }
        }
    }

    /// Checks a Compose file.
    fn compose(&mut self, name: &str, expected: &str, text: impl AsRef<[u8]>) {
        self.check(name, expected, |path| {
            fs::write(path.join("compose.yaml"), text).unwrap();
        });
    }

    /// Checks the keys of a service, with other files.
    fn service(&mut self, name: &str, expected: &str, keys: &str, create: impl FnOnce(&Path)) {
        self.check(name, expected, |path| {
            let compose = format!("services:\n  s:\n    {}\n", keys.replace('\n', "\n    "));
            fs::write(path.join("compose.yaml"), compose).unwrap();
            create(path);
        });
    }
}

const VALID: &str = "services: {s: {image: x}}\n";

fn pipe(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

/// Creates a file of this size without contents on the disk.
fn sparse(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

/// Creates each kind of special file: a pipe, a device, a file of the kernel, a directory, and a loop of
/// symbolic links.
fn special(kind: &str, path: &Path) {
    match kind {
        "pipe" => pipe(path),
        "device" => symlink("/dev/zero", path).unwrap(),
        "kernel" => symlink("/proc/self/environ", path).unwrap(),
        "sys" => symlink("/sys/kernel/mm/transparent_hugepage/enabled", path).unwrap(),
        "directory" => fs::create_dir(path).unwrap(),
        "loop" => symlink(path, path).unwrap(),
        _ => unreachable!(),
    }
}
