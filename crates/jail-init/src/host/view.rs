//! Reading the host without being led astray: below one directory descriptor, with a bound, never waiting.
//!
//! Much of what is read here was written by the very people whom the report is about: a crontab, a `.forward`, a unit.
//! It may be a link to somebody else's file, a FIFO, or a terabyte of holes.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use jail_provision::error::{Error, Result};
use jail_provision::text;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;

/// No configuration file is longer.
const LONGEST: usize = 4 << 20;
/// No user's file needs to be read further: what we look for stands in the first lines or is a finding anyway.
const LONGEST_OF_A_USER: usize = 256 << 10;
/// No directory that we list is longer.
const MOST_NAMES: usize = 10_000;

/// Whose file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The administrator's: links are followed, below the root.
    Roots,
    /// A user's: no link is followed, and only so much is read.
    Users,
}

/// The host, read-only.
#[derive(Debug)]
pub struct View {
    root: OwnedFd,
    is_this_host: bool,
    troubles: RefCell<Vec<String>>,
}

impl View {
    /// This host.
    ///
    /// # Errors
    /// `/` cannot be opened.
    pub fn this_host() -> Result<Self> {
        Self::below(Path::new("/"))
    }

    /// A host that lies below a directory.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn below(root: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| Error::io("open", root, e))?;
        Ok(Self { root: fd, is_this_host: root == Path::new("/"), troubles: RefCell::default() })
    }

    /// Whether programs of it may be asked.
    #[must_use]
    pub fn is_this_host(&self) -> bool {
        self.is_this_host
    }

    /// What could not be looked at.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.borrow().clone()
    }

    /// Notes what could not be looked at, once.
    pub fn trouble(&self, what: String) {
        let mut troubles = self.troubles.borrow_mut();
        if !troubles.contains(&what) {
            troubles.push(what);
        }
    }

    fn open(&self, path: &Path, whose: Whose, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        let resolve = match whose {
            Whose::Roots => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            Whose::Users => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
        };
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        // openat2 takes nothing else beside O_PATH.
        let waiting =
            if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK | OFlags::NOCTTY };
        let flags = flags | OFlags::CLOEXEC | waiting;
        openat2(&self.root, relative, flags, Mode::empty(), resolve)
    }

    /// The bytes of a regular file; `None` if there is none.
    #[must_use]
    pub fn read(&self, path: impl AsRef<Path>, whose: Whose) -> Option<Vec<u8>> {
        let path = path.as_ref();
        let most = if whose == Whose::Roots { LONGEST } else { LONGEST_OF_A_USER };
        let fd = match self.open(path, whose, OFlags::RDONLY) {
            Ok(fd) => fd,
            Err(errno) => return self.not_there(path, errno),
        };
        let regular = fstat(&fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile);
        if !regular {
            return None;
        }
        let mut bytes = Vec::new();
        let mut buffer = vec![0_u8; 64 << 10];
        while bytes.len() < most {
            match rustix::io::read(&fd, &mut buffer[..]) {
                Ok(0) => break,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(Errno::INTR) => {}
                Err(errno) => return self.not_there(path, errno),
            }
        }
        bytes.truncate(most);
        Some(bytes)
    }

    /// The names in a directory, sorted; empty if there is none.
    #[must_use]
    pub fn names(&self, path: impl AsRef<Path>, whose: Whose) -> Vec<OsString> {
        let path = path.as_ref();
        let fd = match self.open(path, whose, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(errno) => return self.not_there(path, errno).unwrap_or_default(),
        };
        let Ok(entries) = Dir::read_from(fd.as_fd()) else { return Vec::new() };
        let mut names: Vec<OsString> = entries
            .flatten()
            .map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()))
            .filter(|name| name != "." && name != "..")
            .take(MOST_NAMES)
            .collect();
        names.sort();
        names
    }

    /// What is there, links followed.
    #[must_use]
    pub fn stat(&self, path: impl AsRef<Path>) -> Option<Stat> {
        let path = path.as_ref();
        match self.open(path, Whose::Roots, OFlags::PATH) {
            Ok(fd) => fstat(&fd).ok(),
            Err(errno) => self.not_there(path, errno),
        }
    }

    /// What is there itself, which may be a link.
    #[must_use]
    pub fn lstat(&self, path: impl AsRef<Path>) -> Option<Stat> {
        let (parent, name) = self.parent_of(path.as_ref())?;
        rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// Where a link points.
    #[must_use]
    pub fn link(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let (parent, name) = self.parent_of(path.as_ref())?;
        rustix::fs::readlinkat(parent, &name, Vec::new()).ok().map(std::ffi::CString::into_bytes)
    }

    /// Whether something is there.
    #[must_use]
    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.stat(path).is_some()
    }

    fn parent_of(&self, path: &Path) -> Option<(OwnedFd, OsString)> {
        let parent = path.parent()?;
        let fd = match self.open(parent, Whose::Roots, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(errno) => return self.not_there(parent, errno),
        };
        Some((fd, path.file_name()?.to_owned()))
    }

    /// Not being there is an answer; not being readable is none.
    fn not_there<T>(&self, path: &Path, errno: Errno) -> Option<T> {
        if !matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) {
            let reason = text::reason(&errno.into());
            self.trouble(format!("{}: {reason}", text::quote(path)));
        }
        None
    }
}

/// Lines of a file, without blanks around them.
pub(super) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii)
}

/// The words of a line.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A path of a byte string.
pub(super) fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_file_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let view = View::below(dir.path()).unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink("secret", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let large = std::fs::File::create(dir.path().join("large")).unwrap();
        large.set_len(1 << 40).unwrap();
        assert_eq!(view.read("/secret", Whose::Users).as_deref(), Some(&b"s"[..]));
        assert_eq!(view.read("/link", Whose::Roots).as_deref(), Some(&b"s"[..]));
        assert_eq!(view.read("/link", Whose::Users), None, "no link of a user's is followed");
        assert_eq!(view.read("/out", Whose::Roots), None, "a link does not lead out of the root");
        assert_eq!(view.read("/fifo", Whose::Users), None, "nobody is waited for");
        assert_eq!(view.read("/large", Whose::Users).map(|b| b.len()), Some(LONGEST_OF_A_USER));
        assert!(view.troubles().is_empty(), "{:?}", view.troubles());
    }
}
