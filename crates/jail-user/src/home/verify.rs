//! Comparing a copy with its original, before anything is removed: names, content, owners, modes, times, ACLs and
//! other attributes, which names are one file, and holes.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use jail_accounts::replace;
use rustix::fs::{FileType, OFlags, Stat, Timespec};
use rustix::io::Errno;

use super::copy::{CopyError, data_after, identity, link_xattrs, same_attributes, shown, up};
use crate::dir;

/// What was compared.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Files, directories and all else.
    pub entries: u64,
    /// Bytes of content, holes included.
    pub bytes: u64,
}

/// What a comparison found.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The same in everything that is kept.
    Same(Totals),
    /// The first difference.
    Differs(String),
}

struct Frame {
    one: (u64, u64),
    other: (u64, u64),
    todo: Vec<OsString>,
}

struct Comparison {
    path: PathBuf,
    /// Original's inode → copy's inode, for files with several names.
    links: HashMap<(u64, u64), (u64, u64)>,
    totals: Totals,
}

/// Why the walk ends early.
enum Stop {
    Differs(String),
    Error(CopyError),
}

/// Compares two directories and all that is below them.
pub(super) fn trees(original: OwnedFd, copy: OwnedFd) -> Result<Verdict, CopyError> {
    let mut comparison =
        Comparison { path: PathBuf::new(), links: HashMap::new(), totals: Totals::default() };
    match comparison.walk(original, copy) {
        Ok(()) => Ok(Verdict::Same(comparison.totals)),
        Err(Stop::Differs(what)) => Ok(Verdict::Differs(what)),
        Err(Stop::Error(error)) => Err(error),
    }
}

impl Comparison {
    fn walk(&mut self, mut original: OwnedFd, mut copy: OwnedFd) -> Result<(), Stop> {
        let mut stack = vec![self.directory(&original, &copy)?];
        while let Some(frame) = stack.last_mut() {
            if let Some(name) = frame.todo.pop() {
                self.path.push(&name);
                match self.entry(&original, &copy, &name)? {
                    Some((below, copy_below)) => {
                        stack.push(self.directory(&below, &copy_below)?);
                        (original, copy) = (below, copy_below);
                    }
                    None => drop(self.path.pop()),
                }
                continue;
            }
            stack.pop();
            if let Some(parent) = stack.last() {
                original = self.ascend(&original, parent.one)?;
                copy = self.ascend(&copy, parent.other)?;
            }
            self.path.pop();
        }
        Ok(())
    }

    fn ascend(&self, from: &OwnedFd, expected: (u64, u64)) -> Result<OwnedFd, Stop> {
        up(from, expected).map_err(|e| self.io(e))?.ok_or_else(|| self.differs("was moved"))
    }

    /// A directory's own attributes and its names.
    fn directory(&mut self, original: &OwnedFd, copy: &OwnedFd) -> Result<Frame, Stop> {
        self.totals.entries += 1;
        let one = rustix::fs::fstat(original).map_err(|e| self.io(e))?;
        let other = rustix::fs::fstat(copy).map_err(|e| self.io(e))?;
        self.attributes(&one, &other)?;
        self.open_xattrs(original, copy)?;
        let mut names = dir::names(original.as_fd()).map_err(|e| self.io(e))?;
        let mut copied = dir::names(copy.as_fd()).map_err(|e| self.io(e))?;
        names.sort();
        copied.sort();
        if names != copied {
            return Err(self.differs("has other names in it"));
        }
        Ok(Frame { one: (one.st_dev, one.st_ino), other: (other.st_dev, other.st_ino), todo: names })
    }

    fn entry(
        &mut self,
        original: &OwnedFd,
        copy: &OwnedFd,
        name: &OsStr,
    ) -> Result<Option<(OwnedFd, OwnedFd)>, Stop> {
        let one = self.stat(original, name)?;
        let other = self.stat(copy, name)?;
        let kind = FileType::from_raw_mode(one.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            return Ok(Some((self.open(original, name, flags)?, self.open(copy, name, flags)?)));
        }
        self.totals.entries += 1;
        self.attributes(&one, &other)?;
        self.same_file(&one, &other)?;
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOATIME;
                let (one, other) = (self.open(original, name, flags)?, self.open(copy, name, flags)?);
                self.open_xattrs(&one, &other)?;
                self.content(&one, &other)?;
            }
            FileType::Symlink => {
                let target = |dir: &OwnedFd| {
                    rustix::fs::readlinkat(dir, name, Vec::new()).map_err(|e| self.replaced(e))
                };
                if target(original)? != target(copy)? {
                    return Err(self.differs("points elsewhere"));
                }
                self.closed_xattrs(original, copy, name)?;
            }
            _ => self.closed_xattrs(original, copy, name)?,
        }
        Ok(None)
    }

    fn attributes(&self, one: &Stat, other: &Stat) -> Result<(), Stop> {
        if same_attributes(one, other) {
            Ok(())
        } else {
            Err(self.differs("has another owner, mode, size or time"))
        }
    }

    /// Names that are one file must be one file in the copy, and the other way round.
    fn same_file(&mut self, one: &Stat, other: &Stat) -> Result<(), Stop> {
        if one.st_nlink < 2 {
            return Ok(());
        }
        let copied = (other.st_dev, other.st_ino);
        let first = *self.links.entry((one.st_dev, one.st_ino)).or_insert(copied);
        if first == copied { Ok(()) } else { Err(self.differs("is no longer a hard link to the same file")) }
    }

    fn content(&mut self, one: &OwnedFd, other: &OwnedFd) -> Result<(), Stop> {
        let mut left = vec![0u8; 1 << 18];
        let mut right = vec![0u8; 1 << 18];
        let size = rustix::fs::fstat(one).map_err(|e| self.io(e))?.st_size;
        let size = u64::try_from(size).unwrap_or_default();
        // Only stretches that either has as data need reading: elsewhere both are zeros.
        let mut at = 0;
        while let Some((start, end)) = self.next_data(one, other, at, size)? {
            at = start;
            while at < end {
                let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(left.len());
                let got = read_full(one, &mut left[..want], at).map_err(|e| self.io(e))?;
                let copied = read_full(other, &mut right[..want], at).map_err(|e| self.io(e))?;
                if got != want || left[..got] != right[..copied] {
                    return Err(self.differs("has other content"));
                }
                at += got as u64;
            }
        }
        self.totals.bytes += size;
        self.holes(one, other, size)
    }

    fn next_data(
        &self,
        one: &OwnedFd,
        other: &OwnedFd,
        at: u64,
        size: u64,
    ) -> Result<Option<(u64, u64)>, Stop> {
        let first = data_after(one, at, size).map_err(|e| self.io(e))?;
        let second = data_after(other, at, size).map_err(|e| self.io(e))?;
        Ok(match (first, second) {
            (Some(a), Some(b)) => Some(if a.0 <= b.0 { a } else { b }),
            (a, b) => a.or(b),
        })
    }

    /// A sparse file must not have been filled up: its data may grow by the other file system's block, no more.
    fn holes(&self, one: &OwnedFd, other: &OwnedFd, size: u64) -> Result<(), Stop> {
        const BLOCK: u64 = 64 << 10;
        let extent = |file: &OwnedFd| -> Result<(u64, u64), Stop> {
            let (mut bytes, mut stretches, mut at) = (0, 0, 0);
            while let Some((start, end)) = data_after(file, at, size).map_err(|e| self.io(e))? {
                bytes += end - start;
                stretches += 1;
                at = end;
            }
            Ok((bytes, stretches))
        };
        let (data, stretches) = extent(one)?;
        let (copied, _) = extent(other)?;
        if copied > data + 2 * BLOCK * stretches { Err(self.differs("has lost its holes")) } else { Ok(()) }
    }

    fn open_xattrs(&self, one: &OwnedFd, other: &OwnedFd) -> Result<(), Stop> {
        let one = replace::xattrs(one.as_fd()).map_err(|e| self.io(e))?;
        let other = replace::xattrs(other.as_fd()).map_err(|e| self.io(e))?;
        if one == other { Ok(()) } else { Err(self.differs("has other extended attributes")) }
    }

    fn closed_xattrs(&self, one: &OwnedFd, other: &OwnedFd, name: &OsStr) -> Result<(), Stop> {
        let one = link_xattrs(one.as_fd(), name).map_err(|e| self.replaced(e))?;
        let other = link_xattrs(other.as_fd(), name).map_err(|e| self.io(e))?;
        if one == other { Ok(()) } else { Err(self.differs("has other extended attributes")) }
    }

    fn stat(&self, dir: &OwnedFd, name: &OsStr) -> Result<Stat, Stop> {
        dir::stat_at(dir.as_fd(), name).map_err(|e| self.io(e))?.ok_or_else(|| self.differs("is gone"))
    }

    fn open(&self, dir: &OwnedFd, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Stop> {
        dir::open_single(dir.as_fd(), name, flags).map_err(|errno| self.replaced(errno))
    }

    /// What the kernel says of a name that is no longer the kind of thing it was a moment ago.
    fn replaced(&self, errno: Errno) -> Stop {
        match errno {
            Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::INVAL => {
                self.differs("was replaced")
            }
            other => self.io(other),
        }
    }

    fn differs(&self, what: &str) -> Stop {
        Stop::Differs(format!("{} {what}", shown(self.path.as_os_str())))
    }

    fn io(&self, errno: Errno) -> Stop {
        Stop::Error(CopyError::Io(self.path.clone(), errno))
    }
}

fn read_full(file: &OwnedFd, buffer: &mut [u8], at: u64) -> rustix::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match rustix::io::pread(file, &mut buffer[got..], at + got as u64)? {
            0 => break,
            length => got += length,
        }
    }
    Ok(got)
}

/// Looks for anything in a tree that was changed at or after a moment; the top directory's own rename does not count.
pub(super) fn changed_since(top: OwnedFd, moment: Timespec) -> Result<Option<PathBuf>, CopyError> {
    let later = |seconds: i64, nanoseconds: u64| {
        (seconds, i64::try_from(nanoseconds).unwrap_or(i64::MAX)) >= (moment.tv_sec, moment.tv_nsec)
    };
    let mut path = PathBuf::new();
    let io = |path: &PathBuf, errno| CopyError::Io(path.clone(), errno);
    let stat = rustix::fs::fstat(&top).map_err(|e| io(&path, e))?;
    if later(stat.st_mtime, stat.st_mtime_nsec) {
        return Ok(Some(path));
    }
    let mut open = top;
    let mut stack = vec![((stat.st_dev, stat.st_ino), dir::names(open.as_fd()).map_err(|e| io(&path, e))?)];
    while let Some((_, todo)) = stack.last_mut() {
        let Some(name) = todo.pop() else {
            stack.pop();
            if let Some((id, _)) = stack.last() {
                let Some(above) = up(&open, *id).map_err(|e| io(&path, e))? else { return Ok(Some(path)) };
                open = above;
            }
            path.pop();
            continue;
        };
        path.push(&name);
        let Some(stat) = dir::stat_at(open.as_fd(), &name).map_err(|e| io(&path, e))? else {
            return Ok(Some(path));
        };
        if later(stat.st_ctime, stat.st_ctime_nsec) {
            return Ok(Some(path));
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            open = dir::open_single(open.as_fd(), &name, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|e| io(&path, e))?;
            let names = dir::names(open.as_fd()).map_err(|e| io(&path, e))?;
            stack.push((identity(open.as_fd()).map_err(|e| io(&path, e))?, names));
        } else {
            path.pop();
        }
    }
    Ok(None)
}
