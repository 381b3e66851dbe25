//! Where profiles come from: a file of the administrator's, or those that are part of the program (the same files lie in
//! `share/seccomp` for podman and crun).
//!
//! A built-in profile is read only when its program has not been compiled ahead.

use std::borrow::Cow;

use super::error::Error;
use super::profile::{Content, read};

/// A built-in profile by its name in the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// Interactive accounts.
    Default,
    /// scp, sftp, rsync and git, and nothing else.
    Transfer,
    /// Read, write and exit.
    Strict,
    /// The floor alone.
    Off,
}

impl Builtin {
    /// Every one with its name.
    pub const ALL: [(Self, &'static str); 4] = [
        (Self::Default, "default"),
        (Self::Transfer, "transfer"),
        (Self::Strict, "strict"),
        (Self::Off, "off"),
    ];

    /// The profile of a policy's word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == word).map(|(builtin, _)| *builtin)
    }

    /// Its word in the policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(builtin, _)| *builtin == self).map_or("?", |(_, name)| name)
    }

    /// Its JSON; `off` has none.
    #[must_use]
    pub fn json(self) -> Option<&'static [u8]> {
        match self {
            Self::Default => Some(include_bytes!("../../../../share/seccomp/default.json")),
            Self::Transfer => Some(include_bytes!("../../../../share/seccomp/transfer.json")),
            Self::Strict => Some(include_bytes!("../../../../share/seccomp/strict.json")),
            Self::Off => None,
        }
    }
}

/// Where a profile comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<'a> {
    /// A built-in one.
    Builtin(Builtin),
    /// A file's content, and its name for messages.
    File {
        /// The content.
        json: &'a [u8],
        /// The name.
        name: &'a str,
    },
}

impl Source<'_> {
    /// Reads the profile.
    ///
    /// # Errors
    /// Those of [`parse`].
    pub fn profile(self) -> Result<Profile, Error> {
        match self {
            Self::File { json, name } => parse(json, name),
            Self::Builtin(builtin) => Ok(Profile { body: Body::Builtin(builtin) }),
        }
    }
}

/// A profile, ready to be compiled.
#[derive(Debug, Clone)]
pub struct Profile {
    body: Body,
}

#[derive(Debug, Clone)]
enum Body {
    Builtin(Builtin),
    File { name: String, content: Content },
}

/// Reads a profile of the administrator's. `file` is only its name, for messages.
///
/// # Errors
/// Anything that is not exactly the format: unknown keys, actions, operators, architectures and flags, values out of
/// range, and what would need a supervisor.
pub fn parse(json: &[u8], file: &str) -> Result<Profile, Error> {
    let content = read(json, file)?;
    Ok(Profile { body: Body::File { name: file.to_owned(), content } })
}

impl Profile {
    /// Its name for messages: of a built-in one the policy's word, else the file's.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.body {
            Body::Builtin(builtin) => builtin.as_str(),
            Body::File { name, .. } => name,
        }
    }

    /// Which built-in one it is.
    #[must_use]
    pub fn builtin(&self) -> Option<Builtin> {
        match self.body {
            Body::Builtin(builtin) => Some(builtin),
            Body::File { .. } => None,
        }
    }

    pub(super) fn content(&self) -> Result<Cow<'_, Content>, Error> {
        match &self.body {
            Body::File { content, .. } => Ok(Cow::Borrowed(content)),
            Body::Builtin(builtin) => Ok(Cow::Owned(match builtin.json() {
                Some(json) => read(json, builtin.as_str())?,
                None => Content::allow_all(),
            })),
        }
    }
}
