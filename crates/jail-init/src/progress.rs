//! One line on a terminal while a run takes longer than half a second: files, bytes, rate. Nothing anywhere else.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use jail_provision::apply::Progress;

use crate::say;

/// How long a run may take before it says anything, and how often it speaks then.
const PATIENCE: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_millis(100);

/// The line, and with `-v` a line for each step.
pub(crate) struct Line {
    verbose: bool,
    terminal: bool,
    began: Instant,
    spoke: Option<Instant>,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

impl Line {
    pub(crate) fn new(verbose: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { verbose, terminal, began: Instant::now(), spoke: None, files: 0, bytes: 0 }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.spoke.take().is_some() {
            write!(std::io::stderr().lock(), "\r\x1b[K").unwrap_or_default();
        }
    }
}

impl Progress for Line {
    fn step(&mut self, path: &Path, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
        if self.verbose {
            say::out(&format!("{}\n", jail_provision::text::encode(path)));
            return;
        }
        let now = Instant::now();
        let due = match self.spoke {
            None => now.duration_since(self.began) > PATIENCE,
            Some(last) => now.duration_since(last) > INTERVAL,
        };
        if !self.terminal || !due {
            return;
        }
        self.spoke = Some(now);
        let millis = now.duration_since(self.began).as_millis().max(1);
        let rate = u64::try_from(u128::from(self.bytes) * 1000 / millis).unwrap_or(u64::MAX);
        let (files, bytes, rate) = (say::count(self.files, "step"), say::size(self.bytes), say::size(rate));
        write!(std::io::stderr().lock(), "\r\x1b[K{files}, {bytes}, {rate}/s").unwrap_or_default();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}
