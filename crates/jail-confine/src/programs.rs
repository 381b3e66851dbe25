//! Finding a program below a root held by descriptor, as a shell would find it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

/// A program below a root.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its absolute path below the root, as it was named or found; it may be a link.
    pub(crate) path: Vec<u8>,
    /// The file itself (`O_PATH`), links followed.
    pub(crate) file: OwnedFd,
    /// Device and inode of the file.
    pub(crate) identity: (u64, u64),
}

/// Looks an absolute path up, or a bare name in the directories given.
pub(crate) fn find<'d>(
    root: impl AsFd,
    name: &[u8],
    directories: impl IntoIterator<Item = &'d str>,
) -> Option<Found> {
    if name.contains(&b'/') {
        return open(root.as_fd(), name.to_vec());
    }
    directories
        .into_iter()
        .find_map(|directory| open(root.as_fd(), [directory.as_bytes(), b"/", name].concat()))
}

fn open(root: impl AsFd, path: Vec<u8>) -> Option<Found> {
    let below = path.strip_prefix(b"/")?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(root, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).ok()?;
    let stat = fstat(&file).ok()?;
    let executable =
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0;
    executable.then_some(Found { path, file, identity: (stat.st_dev, stat.st_ino) })
}
