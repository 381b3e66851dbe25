//! Removing a tree by descriptors: never through a link, never on another mount, at any depth.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::copy::{identity, up};
use crate::dir;

struct Frame {
    id: (u64, u64),
    todo: Vec<OsString>,
    /// The name of this directory in the one above.
    name: OsString,
}

/// Removes a name and, if it is a directory, everything below it. Nothing happens if it is not there.
pub(super) fn tree(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    let Some(mut open) = unlink_or_open(parent, name)? else { return Ok(()) };
    let mut stack = vec![Frame::new(&open, name)?];
    while let Some(frame) = stack.last_mut() {
        if let Some(entry) = frame.todo.pop() {
            if let Some(below) = unlink_or_open(open.as_fd(), &entry)? {
                stack.push(Frame::new(&below, &entry)?);
                open = below;
            }
            continue;
        }
        let Some(done) = stack.pop() else { break };
        match stack.last() {
            Some(above) => {
                // Moved away meanwhile: what it is in now is not ours to touch.
                open = up(&open, above.id)?.ok_or(Errno::XDEV)?;
                rmdir(open.as_fd(), &done.name)?;
            }
            None => rmdir(parent, &done.name)?,
        }
    }
    Ok(())
}

impl Frame {
    fn new(open: &OwnedFd, name: &OsStr) -> rustix::io::Result<Self> {
        Ok(Self { id: identity(open.as_fd())?, todo: dir::names(open.as_fd())?, name: name.to_owned() })
    }
}

/// Unlinks what is no directory; opens what is one.
fn unlink_or_open(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Option<OwnedFd>> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(None),
        Err(Errno::ISDIR | Errno::PERM) => {
            dir::open_single(dir, name, OFlags::RDONLY | OFlags::DIRECTORY).map(Some)
        }
        Err(errno) => Err(errno),
    }
}

fn rmdir(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}
