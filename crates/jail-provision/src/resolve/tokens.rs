//! `$ORIGIN`, `$LIB` and `$PLATFORM` in run paths and DT_NEEDED.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One directory of a run path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SearchDir {
    pub(super) path: PathBuf,
    /// It was written with `$ORIGIN`.
    pub(super) by_origin: bool,
    /// On some processors the loader looks here instead of in the directory before (`$PLATFORM`).
    pub(super) instead: bool,
}

impl SearchDir {
    pub(super) fn plain(path: PathBuf) -> Self {
        Self { path, by_origin: false, instead: false }
    }
}

/// Whether a path is written with `$ORIGIN`.
pub(super) fn uses_origin(path: &[u8]) -> bool {
    find_token(path).any(|(_, _, token)| token == Token::Origin)
}

/// What the tokens stand for, for one loaded file.
pub(super) struct Tokens<'a> {
    /// The directory of the file.
    pub(super) origin: &'a Path,
    /// The loader's own `lib` directory name (`lib/x86_64-linux-gnu`, `lib64`).
    pub(super) lib: &'a [u8],
    /// What the kernel may call the processor; the loader uses one of them, which one depends on the processor.
    pub(super) platforms: &'a [&'a str],
    /// musl knows `$ORIGIN` alone, and drops the whole path if it holds another dollar.
    pub(super) origin_only: bool,
}

impl Tokens<'_> {
    /// The directories of a run path, in order. Relative and empty elements mean the working directory of whoever
    /// starts the program: nothing that a jail could be made from, so they are left out.
    pub(super) fn directories(&self, path: &[u8]) -> Vec<SearchDir> {
        if self.origin_only && has_other_token(path) {
            return Vec::new();
        }
        let separator = |b: &u8| *b == b':' || (self.origin_only && *b == b'\n');
        let mut dirs = Vec::new();
        for element in path.split(separator) {
            let by_origin = uses_origin(element);
            let expanded = self.expand(element).into_iter().enumerate().filter(|(_, dir)| dir.is_absolute());
            dirs.extend(expanded.map(|(n, path)| SearchDir { path, by_origin, instead: n > 0 }));
        }
        dirs
    }

    /// One element, once for each thing `$PLATFORM` may stand for.
    pub(super) fn expand(&self, element: &[u8]) -> Vec<PathBuf> {
        let plain = [""];
        let uses_platform = find_token(element).any(|(_, _, token)| token == Token::Platform);
        let platforms = if uses_platform { self.platforms } else { &plain };
        platforms.iter().map(|platform| self.expand_with(element, platform)).collect()
    }

    fn expand_with(&self, element: &[u8], platform: &str) -> PathBuf {
        let mut out = Vec::with_capacity(element.len());
        let mut copied = 0;
        for (start, end, token) in find_token(element) {
            out.extend_from_slice(&element[copied..start]);
            out.extend_from_slice(match token {
                Token::Origin => self.origin.as_os_str().as_bytes(),
                Token::Lib if !self.origin_only => self.lib,
                Token::Platform if !self.origin_only => platform.as_bytes(),
                _ => &element[start..end],
            });
            copied = end;
        }
        out.extend_from_slice(&element[copied..]);
        PathBuf::from(OsString::from_vec(out))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Origin,
    Lib,
    Platform,
}

const NAMES: [(&[u8], Token); 3] =
    [(b"ORIGIN", Token::Origin), (b"LIB", Token::Lib), (b"PLATFORM", Token::Platform)];

/// Tokens with where they start and end. As in glibc a name without braces must not run on into a longer word.
fn find_token(element: &[u8]) -> impl Iterator<Item = (usize, usize, Token)> + '_ {
    let dollars = element.iter().enumerate().filter(|(_, b)| **b == b'$').map(|(at, _)| at);
    dollars.filter_map(move |at| {
        let rest = &element[at + 1..];
        let (braced, name) = match rest.strip_prefix(b"{") {
            Some(inner) => (true, inner),
            None => (false, rest),
        };
        NAMES.iter().find_map(|(text, token)| {
            let after = name.strip_prefix(*text)?;
            match (braced, after.first()) {
                (true, Some(b'}')) => Some((at, at + text.len() + 3, *token)),
                (true, _) => None,
                (false, Some(b)) if b.is_ascii_alphanumeric() || *b == b'_' => None,
                (false, _) => Some((at, at + text.len() + 1, *token)),
            }
        })
    })
}

fn has_other_token(path: &[u8]) -> bool {
    let dollars = path.iter().filter(|b| **b == b'$').count();
    dollars != find_token(path).filter(|(_, _, token)| *token == Token::Origin).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(origin_only: bool) -> Tokens<'static> {
        Tokens {
            origin: Path::new("/opt/app/bin"),
            lib: b"lib/x86_64-linux-gnu",
            platforms: &["x86_64", "haswell"],
            origin_only,
        }
    }

    fn glibc(path: &str) -> Vec<PathBuf> {
        tokens(false).directories(path.as_bytes()).into_iter().map(|dir| dir.path).collect()
    }

    #[test]
    fn each_token_stands_for_its_value() {
        assert_eq!(glibc("$ORIGIN/../lib"), [PathBuf::from("/opt/app/bin/../lib")]);
        assert_eq!(glibc("${ORIGIN}:/a"), [PathBuf::from("/opt/app/bin"), PathBuf::from("/a")]);
        assert_eq!(glibc("/x/$LIB"), [PathBuf::from("/x/lib/x86_64-linux-gnu")]);
        assert_eq!(glibc("/x/$PLATFORM"), [PathBuf::from("/x/x86_64"), PathBuf::from("/x/haswell")]);
    }

    #[test]
    fn what_is_no_token_stays_as_it_is() {
        assert_eq!(glibc("/x/$LIBS"), [PathBuf::from("/x/$LIBS")]);
        assert_eq!(glibc("/x/${LIB"), [PathBuf::from("/x/${LIB")]);
        assert_eq!(glibc("/x/$"), [PathBuf::from("/x/$")]);
    }

    #[test]
    fn relative_and_empty_elements_are_nobodys_directory() {
        assert_eq!(glibc("lib::./x:/a:"), [PathBuf::from("/a")]);
    }

    #[test]
    fn musl_drops_a_path_with_a_token_it_does_not_know() {
        let musl = |path: &str| tokens(true).directories(path.as_bytes());
        let dirs: Vec<_> = musl("$ORIGIN/a:/b").into_iter().map(|dir| dir.path).collect();
        assert_eq!(dirs, [PathBuf::from("/opt/app/bin/a"), PathBuf::from("/b")]);
        assert!(musl("$ORIGIN/a:/b/$LIB").is_empty());
    }
}
