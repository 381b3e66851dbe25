//! Copying a hostile tree by descriptors: everything arrives as it was, and nothing outside is read.
//!
//! Only the current pair of directories is open; the way up is `..`, checked to be the directory that we came from.
//! So a tree of any depth costs two descriptors, and one that is moved away meanwhile is noticed.
//! A second run over a half copy keeps what is whole.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use jail_accounts::replace;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::remove;
use crate::dir;
use crate::trouble::quoted;

/// Why a tree could not be copied.
#[derive(Debug)]
pub(super) enum CopyError {
    /// It changes under our hands: try again, or later.
    Changing(PathBuf),
    /// The kernel refused.
    Io(PathBuf, Errno),
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changing(path) => write!(f, "{} changes all the while", quoted(path.as_os_str())),
            Self::Io(path, errno) => write!(f, "{}: {errno}", quoted(path.as_os_str())),
        }
    }
}

/// A directory's identity.
pub(super) fn identity(open: BorrowedFd<'_>) -> rustix::io::Result<(u64, u64)> {
    rustix::fs::fstat(open).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Goes up one directory, if that is still the one that we came from.
pub(super) fn up(from: &OwnedFd, expected: (u64, u64)) -> rustix::io::Result<Option<OwnedFd>> {
    let parent = rustix::fs::openat(from, "..", dir::DIRECTORY, Mode::empty())?;
    Ok((identity(parent.as_fd())? == expected).then_some(parent))
}

struct Frame {
    source: (u64, u64),
    copy: (u64, u64),
    todo: Vec<OsString>,
    seen: Vec<OsString>,
}

impl Frame {
    fn open(source: &OwnedFd, copy: &OwnedFd) -> rustix::io::Result<Self> {
        let todo = dir::names(source.as_fd())?;
        Ok(Self {
            source: identity(source.as_fd())?,
            copy: identity(copy.as_fd())?,
            seen: todo.clone(),
            todo,
        })
    }
}

struct Copier<'a> {
    /// First copies of files with several names, by device and inode.
    links: BorrowedFd<'a>,
    owner: Option<(Uid, Gid)>,
    path: PathBuf,
}

/// Copies the content and the attributes of a directory into another one of ours.
///
/// `owner` is for skeletons; without it each file keeps its own.
pub(super) fn tree(
    source: OwnedFd,
    copy: &OwnedFd,
    links: BorrowedFd<'_>,
    owner: Option<(Uid, Gid)>,
) -> Result<(), CopyError> {
    let mut copier = Copier { links, owner, path: PathBuf::new() };
    let copy = copy.try_clone().map_err(|_| CopyError::Io(PathBuf::new(), Errno::MFILE))?;
    copier.walk(source, copy)
}

impl Copier<'_> {
    fn walk(&mut self, mut source: OwnedFd, mut copy: OwnedFd) -> Result<(), CopyError> {
        let mut stack = vec![Frame::open(&source, &copy).map_err(|e| self.io(e))?];
        while let Some(frame) = stack.last_mut() {
            if let Some(name) = frame.todo.pop() {
                self.path.push(&name);
                match self.entry(&source, &copy, &name)? {
                    Some((below, copy_below)) => {
                        stack.push(Frame::open(&below, &copy_below).map_err(|e| self.io(e))?);
                        (source, copy) = (below, copy_below);
                    }
                    None => drop(self.path.pop()),
                }
                continue;
            }
            self.finish_directory(&source, &copy, &frame.seen)?;
            stack.pop();
            if let Some(parent) = stack.last() {
                source =
                    up(&source, parent.source).map_err(|e| self.io(e))?.ok_or_else(|| self.changing())?;
                copy = up(&copy, parent.copy).map_err(|e| self.io(e))?.ok_or_else(|| self.changing())?;
            }
            self.path.pop();
        }
        Ok(())
    }

    /// Copies one name; a directory is made and handed back, to be walked.
    fn entry(
        &self,
        source: &OwnedFd,
        copy: &OwnedFd,
        name: &OsStr,
    ) -> Result<Option<(OwnedFd, OwnedFd)>, CopyError> {
        let Some(stat) = dir::stat_at(source.as_fd(), name).map_err(|e| self.io(e))? else {
            return Err(self.changing());
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let below = dir::open_single(source.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|e| self.open_error(e))?;
                self.make_directory(copy, name)?;
                let copy_below = dir::open_single(copy.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|e| self.io(e))?;
                return Ok(Some((below, copy_below)));
            }
            FileType::RegularFile => self.regular(source, copy, name)?,
            _ => self.special(source, copy, name, &stat)?,
        }
        Ok(None)
    }

    fn make_directory(&self, copy: &OwnedFd, name: &OsStr) -> Result<(), CopyError> {
        if dir::kind_at(copy.as_fd(), name).is_some_and(|kind| kind != FileType::Directory) {
            self.clear(copy, name)?;
        }
        match rustix::fs::mkdirat(copy, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.io(errno)),
        }
    }

    fn regular(&self, source: &OwnedFd, copy: &OwnedFd, name: &OsStr) -> Result<(), CopyError> {
        // As root, NOATIME leaves no trace; the kernel allows it to the owner and to root only, which we are.
        let file = dir::open_single(source.as_fd(), name, OFlags::RDONLY | OFlags::NOATIME)
            .map_err(|e| self.open_error(e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| self.io(e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.changing());
        }
        if self.link_to_first(copy, name, &stat)? {
            return Ok(());
        }
        if !self.is_whole(copy.as_fd(), name, &stat)? {
            self.clear(copy, name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let new =
                rustix::fs::openat(copy, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| self.io(e))?;
            content(&file, &new, &stat).map_err(|e| self.io(e))?;
            self.attributes(&file, &new, &stat).map_err(|e| self.io(e))?;
        }
        self.remember_first(copy, name, &stat)
    }

    fn attributes(&self, from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> rustix::io::Result<()> {
        let (uid, gid) = self.owner_of(stat);
        rustix::fs::fchown(to, Some(uid), Some(gid))?;
        // A default ACL that an earlier run set on the directory is inherited by what this one makes in it.
        let wanted = replace::xattrs(from.as_fd())?;
        for (key, _) in replace::xattrs(to.as_fd())? {
            if !wanted.iter().any(|(name, _)| *name == key) {
                rustix::fs::fremovexattr(to, key.as_slice())?;
            }
        }
        replace::copy_xattrs(from.as_fd(), to.as_fd())?;
        // After the owner, since changing that takes set-uid bits away; after the ACL, whose mask is the group's bits.
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
        rustix::fs::futimens(to, &times(stat))
    }

    fn special(&self, source: &OwnedFd, copy: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<(), CopyError> {
        if self.link_to_first(copy, name, stat)? {
            return Ok(());
        }
        self.clear(copy, name)?;
        self.make_special(source, copy, name, stat).map_err(|e| self.open_error(e))?;
        self.remember_first(copy, name, stat)
    }

    fn make_special(
        &self,
        source: &OwnedFd,
        copy: &OwnedFd,
        name: &OsStr,
        stat: &Stat,
    ) -> rustix::io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            let target = rustix::fs::readlinkat(source, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), copy, name)?;
        } else {
            rustix::fs::mknodat(copy, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
        }
        let (uid, gid) = self.owner_of(stat);
        rustix::fs::chownat(copy, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        for (key, value) in link_xattrs(source.as_fd(), name)? {
            rustix::fs::lsetxattr(
                by_descriptor(copy.as_fd(), name),
                key.as_slice(),
                &value,
                XattrFlags::empty(),
            )?;
        }
        if kind != FileType::Symlink {
            // The copy lies in a directory of root's own, so the name is what was just made.
            rustix::fs::chmodat(copy, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
        }
        rustix::fs::utimensat(copy, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Removes what the source no longer has, then sets the directory's own attributes: last, as filling it changes them.
    fn finish_directory(&self, source: &OwnedFd, copy: &OwnedFd, seen: &[OsString]) -> Result<(), CopyError> {
        if self.owner.is_some() {
            // A skeleton: its own top stays as it is, the directories below it get the owner.
            if self.path.as_os_str().is_empty() {
                return Ok(());
            }
        } else {
            for extra in dir::names(copy.as_fd()).map_err(|e| self.io(e))? {
                if !seen.contains(&extra) {
                    self.clear(copy, &extra)?;
                }
            }
        }
        let stat = rustix::fs::fstat(source).map_err(|e| self.io(e))?;
        self.attributes(source, copy, &stat).map_err(|e| self.io(e))
    }

    fn owner_of(&self, stat: &Stat) -> (Uid, Gid) {
        self.owner.unwrap_or((Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)))
    }

    /// A further name of a file that has been copied becomes a link to that copy.
    fn link_to_first(&self, copy: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<bool, CopyError> {
        let first = link_name(stat);
        if stat.st_nlink < 2 || self.owner.is_some() || !self.is_whole(self.links, first.as_ref(), stat)? {
            return Ok(false);
        }
        self.clear(copy, name)?;
        rustix::fs::linkat(self.links, &first, copy, name, AtFlags::empty()).map_err(|e| self.io(e))?;
        Ok(true)
    }

    fn remember_first(&self, copy: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<(), CopyError> {
        if stat.st_nlink < 2 || self.owner.is_some() {
            return Ok(());
        }
        let first = link_name(stat);
        remove::tree(self.links, first.as_ref()).map_err(|e| self.io(e))?;
        rustix::fs::linkat(copy, name, self.links, &first, AtFlags::empty()).map_err(|e| self.io(e))
    }

    /// Whether an earlier run finished this file: attributes are set last, the time of change last of all.
    /// The content is compared later in any case.
    fn is_whole(&self, dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<bool, CopyError> {
        let Some(there) = dir::stat_at(dir, name).map_err(|e| self.io(e))? else { return Ok(false) };
        Ok(FileType::from_raw_mode(stat.st_mode) == FileType::from_raw_mode(there.st_mode)
            && same_attributes(stat, &there))
    }

    fn clear(&self, copy: &OwnedFd, name: &OsStr) -> Result<(), CopyError> {
        remove::tree(copy.as_fd(), name).map_err(|e| self.io(e))
    }

    fn changing(&self) -> CopyError {
        CopyError::Changing(self.path.clone())
    }

    fn io(&self, errno: Errno) -> CopyError {
        CopyError::Io(self.path.clone(), errno)
    }

    /// A name that was a file or a link a moment ago and is something else, or gone, now.
    fn open_error(&self, errno: Errno) -> CopyError {
        match errno {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::INVAL => self.changing(),
            other => self.io(other),
        }
    }
}

/// Size, owner, mode and time of change.
pub(super) fn same_attributes(one: &Stat, other: &Stat) -> bool {
    let symlink = FileType::from_raw_mode(one.st_mode) == FileType::Symlink;
    one.st_mode == other.st_mode
        && one.st_uid == other.st_uid
        && one.st_gid == other.st_gid
        && (one.st_size == other.st_size || FileType::from_raw_mode(one.st_mode) == FileType::Directory)
        && one.st_mtime == other.st_mtime
        && (one.st_mtime_nsec == other.st_mtime_nsec || symlink)
        && one.st_rdev == other.st_rdev
}

fn link_name(stat: &Stat) -> String {
    format!("{}-{}", stat.st_dev, stat.st_ino)
}

fn times(stat: &Stat) -> Timestamps {
    let spec = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: spec(stat.st_atime, stat.st_atime_nsec),
        last_modification: spec(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// The extended attributes of a name that cannot be opened (a link, a FIFO, a device).
pub(super) fn link_xattrs(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = by_descriptor(dir, name);
    let mut list = vec![0u8; 1 << 16];
    let length = match rustix::fs::llistxattr(&path, &mut *list) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    list.truncate(length);
    let mut found = Vec::new();
    for key in list.split(|b| *b == 0).filter(|key| !key.is_empty()) {
        let mut value = vec![0u8; 1 << 16];
        let length = rustix::fs::lgetxattr(&path, key, &mut *value)?;
        value.truncate(length);
        found.push((key.to_vec(), value));
    }
    found.sort();
    Ok(found)
}

/// A path that begins at a descriptor, for the calls that have no `at` form. The last part is not followed by `l…xattr`.
fn by_descriptor(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name)
}

/// Copies what is data and leaves what is hole.
fn content(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> rustix::io::Result<()> {
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let mut buffer = vec![0u8; 1 << 18];
    let mut at = 0;
    while let Some((start, end)) = data_after(from, at, size)? {
        at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let got = rustix::io::pread(from, &mut buffer[..want], at)?;
            if got == 0 {
                // It became shorter: the comparison will say so.
                return rustix::fs::ftruncate(to, at);
            }
            let mut written = 0;
            while written < got {
                let offset = at + written as u64;
                match rustix::io::pwrite(to, &buffer[written..got], offset)? {
                    0 => return Err(Errno::NOSPC),
                    length => written += length,
                }
            }
            at += got as u64;
        }
    }
    rustix::fs::ftruncate(to, size)
}

/// The next stretch of data at or after an offset.
pub(super) fn data_after(file: &OwnedFd, at: u64, size: u64) -> rustix::io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes: all of it is data.
        Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some((at, size))),
        Err(errno) => return Err(errno),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

/// For messages: a path inside the tree.
pub(super) fn shown(path: &OsStr) -> String {
    quoted(OsStr::from_bytes(path.as_bytes()))
}
