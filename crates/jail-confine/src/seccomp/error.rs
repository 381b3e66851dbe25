//! What can be wrong with a profile, and what to do about it.

use std::fmt;

/// A profile that is refused: where, what, and a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    file: String,
    line: Option<usize>,
    what: String,
    hint: &'static str,
}

impl Error {
    pub(super) fn new(file: &str, line: Option<usize>, what: impl Into<String>, hint: &'static str) -> Self {
        Self { file: file.to_owned(), line, what: what.into(), hint }
    }

    /// The line of the file, where one is to blame.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seccomp profile \"{}\"", self.file.escape_debug())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.what)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
