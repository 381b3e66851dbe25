//! A refusal: one plain sentence for the client, the whole reason for the log.
//!
//! The client may be an attacker who probes; the administrator reads the log. The reference ties the two together.

use std::fmt;

/// What is refused, as the client is told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The way the program was called.
    Call,
    /// Who called it.
    Account,
    /// The policy cannot be read, trusted or met.
    Policy,
    /// The jail is missing or unsafe.
    Jail,
    /// The home inside the jail is missing or unsafe.
    Home,
    /// The kernel or the host would not give what the policy requires.
    Host,
    /// The command is not on the list of what may be run.
    Command,
}

impl What {
    /// The sentence for the client.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Call => "this program is a login shell and cannot be started like that",
            Self::Account => "this account is not set up for a jail",
            Self::Policy => "the policy for this account does not allow a session now",
            Self::Jail => "the jail of this account cannot be entered safely",
            Self::Home => "the home directory of this account cannot be entered safely",
            Self::Host => "this host could not set up the confinement that the policy requires",
            Self::Command => "this command is not allowed for this account",
        }
    }
}

/// Why an entry ends before the user's program runs.
#[derive(Debug)]
pub struct Refusal {
    /// What is refused.
    pub what: What,
    /// The whole reason: what, where, why, and what to do.
    pub why: String,
}

/// The result of each step of an entry.
pub type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    /// A refusal with its reason.
    pub fn new(what: What, why: impl Into<String>) -> Self {
        Self { what, why: why.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Refusal {}

/// Turns a failed system call into a refusal that says what was being done.
pub trait OrRefuse<T> {
    /// `doing` completes "cannot …".
    ///
    /// # Errors
    /// The refusal, if this was an error.
    fn or_refuse(self, what: What, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> OrRefuse<T> for std::result::Result<T, E> {
    fn or_refuse(self, what: What, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Refusal::new(what, format!("cannot {}: {error}", doing())))
    }
}

/// The last look at a line on its way to a log or a terminal: whatever its parts were, it stays one line. Backslashes
/// are left alone, since [`printable`] has already written some.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if moves_a_cursor(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

fn moves_a_cursor(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes that may hold anything, for a log line or a terminal: control characters and broken UTF-8 are escaped,
/// so that no user can write log lines of his own (CVE-2023-28486).
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || moves_a_cursor(c) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_a_cursor_gets_through() {
        assert_eq!(printable(b"a\nroot login\x1b[2J\xff\xc3\xa4"), "a\\nroot login\\u{1b}[2J\\xff\u{e4}");
        assert_eq!(printable("x\u{202e}y".as_bytes()), "x\\u{202e}y");
    }
}
