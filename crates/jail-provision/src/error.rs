//! One error for the whole of provisioning: a sentence, a hint, and the exit status that the tools end with.
//!
//! An administrator reads these at three in the morning, so each says what, where and why, and the hint says what to do.

use std::fmt;
use std::path::Path;

use crate::text;

/// What kind of failure it was; it decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The work failed (exit status 1).
    Failed,
    /// The command line made no sense (2).
    Usage,
    /// A section is wrong, or asks for what the host does not have (3).
    Profile,
    /// Doing it would be unsafe (4).
    Unsafe,
}

/// A sentence and, where there is something to do about it, a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Decides the exit status.
    pub kind: Kind,
    /// One sentence, lower case, with paths quoted.
    pub message: String,
    /// What the administrator can do.
    pub hint: Option<String>,
}

/// The result of most functions here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The work failed.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The command line made no sense.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// A section is wrong or cannot be met.
    #[must_use]
    pub fn profile(message: impl Into<String>) -> Self {
        Self::new(Kind::Profile, message)
    }

    /// Doing it would be unsafe.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Unsafe, message)
    }

    /// A system call failed: `cannot DOING 'PATH': reason`.
    #[must_use]
    pub fn io(doing: &str, path: &Path, error: impl Into<std::io::Error>) -> Self {
        let error: std::io::Error = error.into();
        let failed = Self::failed(format!("cannot {doing} {}: {}", text::quote(path), text::reason(&error)));
        match error.raw_os_error() {
            Some(libc_code::ENOSPC) => {
                failed.hint("free some space and run the same command again: it finishes what is missing")
            }
            Some(libc_code::EROFS) => failed.hint("the file system is mounted read-only"),
            _ => failed,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit status of a tool that ends with this error.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Profile => 3,
            Kind::Unsafe => 4,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The two codes that get a hint of their own, by their kernel numbers (the same on every Linux).
mod libc_code {
    pub(super) const ENOSPC: i32 = rustix::io::Errno::NOSPC.raw_os_error();
    pub(super) const EROFS: i32 = rustix::io::Errno::ROFS.raw_os_error();
}
