//! Runs other programs with a time limit, so that a test reports which program hangs.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::schema::Expected;

/// How often to check whether a program is still running.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    what: String,
    expected: Option<Expected>,
    output: Option<[JoinHandle<String>; 2]>,
}

/// Kills the program, so that a failed test does not leave it running.
impl Drop for Running {
    fn drop(&mut self) {
        if self.output.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Starts a program without a terminal.
pub(crate) fn start(command: &mut Command) -> Running {
    let what = format!("{command:?}");
    let expected = Expected::of(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    Running {
        what,
        expected,
        output: Some([
            reader(child.stdout.take().unwrap()),
            reader(child.stderr.take().unwrap()),
        ]),
        child,
    }
}

/// Runs a program. Panics if the program takes longer than `within`.
pub(crate) fn run(command: &mut Command, within: Duration) -> Finished {
    start(command).finish(within)
}

fn reader(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // Ignore read errors: the text up to the error is still useful.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Running {
    /// Waits until the program exits. Kills the program if this takes longer than `after`.
    pub(crate) fn kill_after(mut self, after: Duration) -> Finished {
        if self.wait(after).is_none() {
            self.child.kill().unwrap();
        }
        let status = self.child.wait().unwrap();
        self.read(status)
    }

    /// Sends SIGTERM and waits until the program exits. Panics if this takes longer than `within`.
    pub(crate) fn terminate(self, within: Duration) -> Finished {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        self.finish(within)
    }

    /// Waits until the program exits. Panics if this takes longer than `within`.
    pub(crate) fn finish(mut self, within: Duration) -> Finished {
        if let Some(status) = self.wait(within) {
            return self.read(status);
        }
        let what = self.what.clone();
        let finished = self.kill_after(Duration::ZERO);
        panic!(
            "{what} was still running after {within:?}:\n{}\n{}",
            finished.stdout, finished.stderr
        );
    }

    /// Returns whether the program is still running.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() >= deadline {
                return ended;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn read(mut self, status: ExitStatus) -> Finished {
        let [stdout, stderr] = self.output.take().unwrap().map(|text| text.join().unwrap());
        if let Some(expected) = &self.expected {
            expected.assert_matches(status, &stdout);
        }
        Finished {
            status,
            stdout,
            stderr,
        }
    }
}

/// Calls `ask` until it returns a value. Panics if this takes longer than `within`; the message
/// contains `what`.
pub(crate) fn until<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "timed out after {within:?}: {what}"
        );
        std::thread::sleep(POLL_INTERVAL * 10);
    }
}
