//! The scratch host's system log: /dev/log is ours, so a test can say what has to be logged.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::runner::lock;

/// The log's lines so far.
pub struct Syslog {
    lines: Arc<Mutex<Vec<String>>>,
}

impl Syslog {
    /// Binds /dev/log and reads it from now on.
    pub(crate) fn listen() -> Syslog {
        let socket = UnixDatagram::bind("/dev/log").expect("bind /dev/log");
        std::fs::set_permissions("/dev/log", std::fs::Permissions::from_mode(0o666)).expect("chmod");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&lines);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(n) = socket.recv(&mut buffer) {
                lock(&shared).push(String::from_utf8_lossy(&buffer[..n]).into_owned());
            }
        });
        Syslog { lines }
    }

    /// All lines that hold `word`.
    #[must_use]
    pub fn with(&self, word: &str) -> Vec<String> {
        lock(&self.lines).iter().filter(|line| line.contains(word)).cloned().collect()
    }

    /// Waits for a line that holds all these words and gives it back.
    #[track_caller]
    pub fn expect(&self, words: &[&str]) -> String {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let found = lock(&self.lines).iter().find(|line| words.iter().all(|w| line.contains(w))).cloned();
            if let Some(line) = found {
                return line;
            }
            assert!(
                Instant::now() < end,
                "nothing logged with {words:?}; the log holds:\n{}",
                lock(&self.lines).join("\n")
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
