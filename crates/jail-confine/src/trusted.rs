//! Opening what must be root's, by descriptor, one component at a time.
//!
//! Whoever may write to a directory may replace what lies below it. So every directory on the way is opened without
//! following links and must belong to someone trusted and be writable by nobody else; what is returned is the very
//! object that was checked, never a name to be resolved again (sshd's safely_chroot checks strings, and is racy).

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;

use crate::refusal::printable;

/// Whose directories are safe to walk through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Root's alone, and writable by root alone: for everything that jail-sh believes.
    Root,
    /// Also this user's own, and sticky directories like /tmp: for what a user's own jail-run enters.
    RootOr(u32),
}

/// Why a path is not trusted.
#[derive(Debug)]
pub enum Untrusted {
    /// It could not be opened.
    Open(String, Errno),
    /// It is not absolute, or holds `..`.
    Path(String),
    /// A component is a symbolic link, or is of the wrong kind.
    Kind(String),
    /// A component belongs to someone else.
    Owner(String, u32),
    /// A component can be written by others.
    Writable(String, u32),
}

impl fmt::Display for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(path, errno) => write!(f, "cannot open '{path}': {errno}"),
            Self::Path(path) => write!(f, "'{path}' is no plain absolute path"),
            Self::Kind(path) => write!(f, "'{path}' is a symbolic link or no directory, use its real path"),
            Self::Owner(path, uid) => write!(f, "'{path}' belongs to uid {uid}; chown it to root"),
            Self::Writable(path, mode) => {
                write!(f, "'{path}' can be written by others (mode {mode:04o}); chmod go-w it")
            }
        }
    }
}

impl Untrusted {
    /// Whether the path is simply not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Open(_, Errno::NOENT))
    }
}

/// Opens a directory (`O_PATH`) whose every component is trusted.
///
/// # Errors
/// The first component that is not.
pub fn open_directory(path: &Path, trust: Trust) -> Result<(OwnedFd, Stat), Untrusted> {
    walk(path, trust, OFlags::PATH | OFlags::DIRECTORY)
}

/// Opens a regular file for reading, with every directory above it trusted, and itself too.
///
/// # Errors
/// The first component that is not.
pub fn open_file(path: &Path, trust: Trust) -> Result<(OwnedFd, Stat), Untrusted> {
    walk(path, trust, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
}

fn walk(path: &Path, trust: Trust, last: OFlags) -> Result<(OwnedFd, Stat), Untrusted> {
    let named = |p: &Path| printable(p.as_os_str().as_bytes());
    let mut at = Path::new("/").to_path_buf();
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    let mut components = path.components().peekable();
    if components.next() != Some(Component::RootDir) {
        return Err(Untrusted::Path(named(path)));
    }
    let mut current = open_one(None, OsStr::new("/"), directory, &at, trust)?;
    while let Some(component) = components.next() {
        let Component::Normal(name) = component else { return Err(Untrusted::Path(named(path))) };
        at.push(name);
        let flags = if components.peek().is_some() { directory } else { last };
        current = open_one(Some(&current.0), name, flags, &at, trust)?;
    }
    Ok(current)
}

fn open_one(
    parent: Option<&OwnedFd>,
    name: &OsStr,
    flags: OFlags,
    whole: &Path,
    trust: Trust,
) -> Result<(OwnedFd, Stat), Untrusted> {
    let shown = || printable(whole.as_os_str().as_bytes());
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match parent {
        Some(parent) => openat(parent, name, flags, Mode::empty()),
        None => openat(CWD, name, flags, Mode::empty()),
    };
    let fd = opened.map_err(|errno| match errno {
        Errno::LOOP | Errno::NOTDIR => Untrusted::Kind(shown()),
        errno => Untrusted::Open(shown(), errno),
    })?;
    let stat = fstat(fd.as_fd()).map_err(|errno| Untrusted::Open(shown(), errno))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let wanted = if flags.contains(OFlags::DIRECTORY) { FileType::Directory } else { FileType::RegularFile };
    if kind != wanted {
        return Err(Untrusted::Kind(shown()));
    }
    judge(&stat, trust, &shown())?;
    Ok((fd, stat))
}

fn judge(stat: &Stat, trust: Trust, shown: &str) -> Result<(), Untrusted> {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let owned = stat.st_uid == 0 || trust == Trust::RootOr(stat.st_uid);
    if !owned {
        // In a user namespace with one uid mapped, root's files belong to the overflow uid: the caller says so.
        return Err(Untrusted::Owner(shown.to_owned(), stat.st_uid));
    }
    let sticky = matches!(trust, Trust::RootOr(_)) && stat.st_mode & STICKY != 0;
    if stat.st_mode & OTHERS_WRITE != 0 && !sticky {
        return Err(Untrusted::Writable(shown.to_owned(), stat.st_mode & 0o7777));
    }
    Ok(())
}
