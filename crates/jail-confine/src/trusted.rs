//! Opening what must be root's, by descriptor, one component at a time.
//!
//! Whoever may write to a directory may replace what lies below it. So every directory on the way is opened without
//! following links and must belong to someone trusted and be writable by nobody else; what is returned is the very
//! object that was checked, never a name to be resolved again (sshd's safely_chroot checks strings, and is racy).

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use jail_sys::process::leak;
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

/// A directory that has been checked, with all above it; others are opened from here without checking those again.
///
/// Its descriptor, and those of the directories walked through, stay open until the process closes all it has in one
/// call: an entry opens a dozen, and closing each is a system call of its own.
#[derive(Debug, Clone)]
pub struct Top {
    fd: BorrowedFd<'static>,
    path: PathBuf,
    trust: Trust,
}

impl Top {
    /// The root of the file system.
    ///
    /// # Errors
    /// If others could write to it.
    pub fn root(trust: Trust) -> Result<Self, Untrusted> {
        let path = PathBuf::from("/");
        let (fd, _) = open_one(CWD, OsStr::new("/"), DIRECTORY, &path, trust)?;
        Ok(Self { fd: leak(fd), path, trust })
    }

    /// The directory at a relative path below this one, to start from.
    ///
    /// # Errors
    /// The first component that is not trusted.
    pub fn below(&self, path: &Path) -> Result<Self, Untrusted> {
        let (fd, _) = self.walk(path, DIRECTORY)?;
        Ok(Self { fd: leak(fd), path: self.path.join(path), trust: self.trust })
    }

    /// Opens a directory (`O_PATH`) whose every component is trusted.
    ///
    /// # Errors
    /// The first component that is not.
    pub fn open_directory(&self, path: &Path) -> Result<(OwnedFd, Stat), Untrusted> {
        self.walk(path, DIRECTORY)
    }

    /// Opens a regular file for reading, with every directory above it trusted, and itself too.
    ///
    /// # Errors
    /// The first component that is not.
    pub fn open_file(&self, path: &Path) -> Result<(OwnedFd, Stat), Untrusted> {
        self.walk(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    fn walk(&self, path: &Path, last: OFlags) -> Result<(OwnedFd, Stat), Untrusted> {
        let bad = || Untrusted::Path(printable(path.as_os_str().as_bytes()));
        let mut at = self.path.clone();
        let mut current = self.fd;
        let mut components = path.components().peekable();
        if components.next_if_eq(&Component::RootDir).is_some() && at != Path::new("/") {
            return Err(bad());
        }
        while let Some(component) = components.next() {
            let Component::Normal(name) = component else { return Err(bad()) };
            at.push(name);
            let flags = if components.peek().is_some() { DIRECTORY } else { last };
            let (fd, stat) = open_one(current, name, flags, &at, self.trust)?;
            if components.peek().is_none() {
                return Ok((fd, stat));
            }
            current = leak(fd);
        }
        Err(bad())
    }
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// As [`Top::open_directory`], from the root.
///
/// # Errors
/// The first component that is not trusted, or a path that is not absolute.
pub fn open_directory(path: &Path, trust: Trust) -> Result<(OwnedFd, Stat), Untrusted> {
    from_root(path, trust)?.open_directory(path)
}

/// As [`Top::open_file`], from the root.
///
/// # Errors
/// The first component that is not trusted, or a path that is not absolute.
pub fn open_file(path: &Path, trust: Trust) -> Result<(OwnedFd, Stat), Untrusted> {
    from_root(path, trust)?.open_file(path)
}

fn from_root(path: &Path, trust: Trust) -> Result<Top, Untrusted> {
    if !path.is_absolute() {
        return Err(Untrusted::Path(printable(path.as_os_str().as_bytes())));
    }
    Top::root(trust)
}

fn open_one(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    flags: OFlags,
    whole: &Path,
    trust: Trust,
) -> Result<(OwnedFd, Stat), Untrusted> {
    let shown = || printable(whole.as_os_str().as_bytes());
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(parent, name, flags, Mode::empty()).map_err(|errno| match errno {
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
