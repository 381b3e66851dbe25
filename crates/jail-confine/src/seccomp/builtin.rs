//! The profiles that are part of the program; the same files lie in `share/seccomp` for podman and crun.

use super::error::Error;
use super::profile::{Exec, Profile, parse};

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
            Self::Builtin(builtin) => {
                let Some(json) = builtin.json() else { return Ok(Profile::allow_all(builtin.as_str())) };
                let mut profile = parse(json, builtin.as_str())?;
                if builtin == Builtin::Strict {
                    profile.exec = Exec::OnlyTheFirst;
                }
                Ok(profile)
            }
        }
    }
}
