//! The log: one line for an entry, one for a refusal, to the host's syslog socket.
//!
//! The socket is connected at admission, before the root changes, and never opened by name again.

use std::os::unix::net::UnixDatagram;

use crate::refusal::one_line;

/// How grave a line is; the facility is always authpriv (syslog(3)).
#[derive(Debug, Clone, Copy)]
pub enum Level {
    /// A refusal.
    Warning,
    /// Something the administrator should know, such as a protection that this kernel cannot give.
    Notice,
    /// An entry, an end.
    Info,
}

/// The host's syslog. Without one, lines go nowhere: an entry does not depend on it.
#[derive(Debug)]
pub struct Log {
    socket: Option<UnixDatagram>,
    tag: &'static str,
}

/// Longer lines are cut: every syslog daemon takes this much.
const LONGEST: usize = 1900;

impl Log {
    /// Connects to `/dev/log`.
    #[must_use]
    pub fn open(tag: &'static str) -> Self {
        let socket = UnixDatagram::unbound().ok().filter(|s| {
            // A full queue must not hold up a login.
            s.connect("/dev/log").is_ok() && s.set_nonblocking(true).is_ok()
        });
        Self { socket, tag }
    }

    /// A log that says nothing (an ordinary user's jail-run).
    #[must_use]
    pub const fn silent(tag: &'static str) -> Self {
        Self { socket: None, tag }
    }

    /// Writes one line. A log that cannot take it is no reason to stop.
    pub fn line(&self, level: Level, text: &str) {
        const AUTHPRIV: u8 = 10 << 3;
        let Some(socket) = &self.socket else { return };
        let severity = match level {
            Level::Warning => 4,
            Level::Notice => 5,
            Level::Info => 6,
        };
        let mut text = one_line(text);
        while text.len() > LONGEST {
            text.pop();
        }
        let line = format!("<{}>{}[{}]: {text}", AUTHPRIV | severity, self.tag, std::process::id());
        if socket.send(line.as_bytes()).is_err() {
            // Nobody is left to tell.
        }
    }
}
