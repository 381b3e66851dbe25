//! What went wrong, said once: a sentence, a hint, and the exit status that the design gives to its kind.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The kinds of failure that a script may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The work failed.
    Failed,
    /// The command line asks for something that makes no sense.
    Usage,
    /// A policy or profile file is wrong.
    Policy,
    /// Doing it would be unsafe.
    Unsafe,
}

impl Kind {
    /// The exit status of a run that ends with this.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Policy => 3,
            Self::Unsafe => 4,
        }
    }
}

/// A failure, ready to be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What kind it is.
    pub kind: Kind,
    /// What, where and why.
    pub sentence: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Trouble {
    /// The work failed.
    pub fn failed(sentence: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, sentence: sentence.into(), hint: String::new() }
    }

    /// The request makes no sense.
    pub fn usage(sentence: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, sentence: sentence.into(), hint: String::new() }
    }

    /// Refused, since it would be unsafe.
    pub fn unsafe_to(sentence: impl Into<String>) -> Self {
        Self { kind: Kind::Unsafe, sentence: sentence.into(), hint: String::new() }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Trouble {}

impl From<jail_accounts::lock::LockError> for Trouble {
    fn from(error: jail_accounts::lock::LockError) -> Self {
        Self::failed(error.to_string()).hint("try again when the other program is done")
    }
}

/// Says what could not be done to a path: `cannot ACT 'PATH': reason`.
pub fn cannot<E: fmt::Display>(act: &str, path: impl AsRef<Path>) -> impl FnOnce(E) -> Trouble {
    let what = format!("cannot {act} {}", quoted(path.as_ref().as_os_str()));
    move |error| Trouble::failed(format!("{what}: {error}"))
}

/// A name or path for a message: quoted, with control characters and odd bytes escaped, so that a hostile name cannot
/// write to the terminal.
#[must_use]
pub fn quoted(name: &OsStr) -> String {
    let mut text = String::from("'");
    for chunk in name.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text.push('\'');
    text
}

/// The same for bytes.
#[must_use]
pub fn quoted_bytes(name: &[u8]) -> String {
    quoted(OsStr::from_bytes(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_write_to_the_terminal() {
        assert_eq!(quoted_bytes(b"a\x1b[2J\n\xff\xc3\xa9"), "'a\\u{1b}[2J\\n\\xff\u{e9}'");
    }
}
