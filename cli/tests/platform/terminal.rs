//! Runs a command of the bootstrapper on a pseudo-terminal, reads the screen, and presses keys.

use std::io::{Read as _, Write as _};
use std::num::NonZeroU16;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::Pty;

/// Time limit for output to appear.
const SHOWN_WITHIN: Duration = Duration::from_mins(3);

/// The size of the screen.
pub(crate) const COLUMNS: NonZeroU16 = NonZeroU16::new(80).unwrap();
pub(crate) const ROWS: NonZeroU16 = NonZeroU16::new(60).unwrap();

/// How many lines are kept after they have scrolled off the screen.
const SCROLLBACK: usize = 2_000;

pub(crate) struct OnTerminal {
    child: Child,
    keyboard: Arc<Pty>,
    screen: Arc<Screen>,
}

#[derive(Default)]
struct Screen {
    seen: Mutex<Seen>,
    changed: Condvar,
}

#[derive(Default)]
struct Seen {
    /// All output so far, with its escape sequences.
    written: Vec<u8>,
    ended: bool,
}

impl Seen {
    fn text(&self) -> String {
        let mut parser = vt100::Parser::new(ROWS, COLUMNS, SCROLLBACK);
        // Read the output in pieces that fit on the screen, because the whole output may be longer.
        let mut text = String::new();
        let mut lines = 0;
        for line in self.written.split_inclusive(|byte| *byte == b'\n') {
            parser.process(line);
            lines += 1;
            if lines == usize::from(ROWS.get()) - 10 {
                text.push_str(&parser.screen().contents());
                text.push('\n');
                parser = vt100::Parser::new(ROWS, COLUMNS, SCROLLBACK);
                lines = 0;
            }
        }
        text.push_str(&parser.screen().contents());
        text
    }
}

impl OnTerminal {
    /// Starts a command on a terminal with 80 columns.
    pub(crate) fn start(command: Command) -> Self {
        Self::with_size(command, COLUMNS.get(), ROWS.get())
    }

    /// Starts a command on a terminal of this size.
    pub(crate) fn with_size(command: Command, columns: u16, rows: u16) -> Self {
        let (pty, pts) = pty_process::blocking::open().unwrap();
        pty.resize(Size::new(rows, columns)).unwrap();
        let child = pty_process::blocking::Command::from(command)
            .spawn(pts)
            .unwrap();
        let keyboard = Arc::new(pty);
        let screen = Arc::new(Screen::default());
        let (source, sink) = (Arc::clone(&keyboard), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // Treat an error as the end of the output: reading from a closed terminal is an
                // error.
                let read = (&*source).read(&mut buffer).unwrap_or(0);
                let mut seen = sink.seen.lock().unwrap();
                seen.written.extend_from_slice(&buffer[..read]);
                seen.ended = read == 0;
                sink.changed.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self {
            child,
            keyboard,
            screen,
        }
    }

    /// Waits until the text appears in the output.
    pub(crate) fn shows(&self, text: &str) {
        let end = Instant::now() + SHOWN_WITHIN;
        let mut seen = self.screen.seen.lock().unwrap();
        loop {
            let shown = seen.text();
            if shown.contains(text) {
                return;
            }
            assert!(
                !seen.ended,
                "the command exited without showing {text:?}:\n{shown}"
            );
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{text:?} did not appear in time:\n{shown}");
            seen = self.screen.changed.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Returns all output so far, without its escape sequences.
    pub(crate) fn text(&self) -> String {
        self.screen.seen.lock().unwrap().text()
    }

    /// Presses keys.
    pub(crate) fn types(&self, keys: &str) {
        (&*self.keyboard).write_all(keys.as_bytes()).unwrap();
    }

    /// Presses Ctrl-C.
    pub(crate) fn interrupts(&self) {
        self.types("\u{3}");
    }

    /// Changes the size of the terminal.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        self.keyboard.resize(Size::new(rows, columns)).unwrap();
    }

    /// Waits until the command exits and returns all output. Panics unless the exit code is `code`.
    pub(crate) fn ends(mut self, code: i32) -> String {
        let end = Instant::now() + SHOWN_WITHIN;
        let mut seen = self.screen.seen.lock().unwrap();
        while !seen.ended {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "the command has not exited:\n{}",
                seen.text()
            );
            seen = self.screen.changed.wait_timeout(seen, left).unwrap().0;
        }
        let text = seen.text();
        drop(seen);
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{text}");
        text
    }

    /// Returns all output so far, with its escape sequences.
    pub(crate) fn raw(&self) -> String {
        String::from_utf8_lossy(&self.screen.seen.lock().unwrap().written).into_owned()
    }
}

/// Kills the command, so that a failed test does not leave it running.
impl Drop for OnTerminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
