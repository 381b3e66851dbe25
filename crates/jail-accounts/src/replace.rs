//! Replacing a file so that a reader, or a crash at any moment, finds the old one or the new one and never half.
//!
//! Everything happens below a directory descriptor: the caller has already made sure whose directory it is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// Why a file could not be read or replaced.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} '{name}': {source}")]
pub struct ReplaceError {
    /// What was being done.
    pub what: &'static str,
    /// The file, in its directory.
    pub name: String,
    /// What the kernel said.
    pub source: Errno,
}

/// A file as it was read: the bytes, and the descriptor whose owner, mode and attributes the new file gets.
#[derive(Debug)]
pub struct Original {
    /// The content.
    pub bytes: Vec<u8>,
    file: OwnedFd,
}

/// Reads a regular file of that directory whole; `None` if it is not there. Never follows a link.
pub fn read(dir: BorrowedFd<'_>, name: &str) -> Result<Option<Original>, ReplaceError> {
    let fail = failing("read", name);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(source) => return Err(fail(source)),
    };
    let stat = rustix::fs::fstat(&file).map_err(&fail)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fail(Errno::INVAL));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).saturating_add(1));
    let mut chunk = vec![0u8; 1 << 16];
    loop {
        match rustix::io::read(&file, &mut *chunk) {
            Ok(0) => return Ok(Some(Original { bytes, file })),
            Ok(length) => bytes.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(source) => return Err(fail(source)),
        }
    }
}

/// What a new file looks like where there is no old one to take after.
#[derive(Debug, Clone, Copy)]
pub struct Fresh {
    /// Its mode; the owner is root (whoever runs this).
    pub mode: u32,
}

/// Writes a new file beside the old one, makes it durable and renames it over.
///
/// The new one has the owner, mode and extended attributes (security label, ACL) of `old`.
/// The caller holds the lock of this file: a temporary file of that name is a dead run's.
pub fn replace(
    dir: BorrowedFd<'_>,
    name: &str,
    bytes: &[u8],
    old: Option<&Original>,
    fresh: Fresh,
) -> Result<(), ReplaceError> {
    let temporary = format!("{name}.jailwright");
    let written = write_temporary(dir, &temporary, bytes, old, fresh, None)
        .and_then(|()| rustix::fs::renameat(dir, &temporary, dir, name).map_err(failing("replace", name)))
        .and_then(|()| rustix::fs::fsync(dir).map_err(failing("make durable", name)));
    if written.is_err() {
        discard(dir, &temporary);
    }
    written
}

/// Keeps the old content as `NAME-`, with the times it had: usermod's own backup.
pub fn keep_backup(dir: BorrowedFd<'_>, name: &str, old: &Original) -> Result<(), ReplaceError> {
    let backup = format!("{name}-");
    let temporary = format!("{name}-.jailwright");
    let stat = rustix::fs::fstat(&old.file).map_err(failing("read", name))?;
    let times = Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: i64::try_from(stat.st_atime_nsec).unwrap_or(0),
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
    };
    let written =
        write_temporary(dir, &temporary, &old.bytes, Some(old), Fresh { mode: 0o600 }, Some(&times))
            .and_then(|()| {
                rustix::fs::renameat(dir, &temporary, dir, &backup).map_err(failing("replace", &backup))
            });
    if written.is_err() {
        discard(dir, &temporary);
    }
    written
}

fn write_temporary(
    dir: BorrowedFd<'_>,
    temporary: &str,
    bytes: &[u8],
    old: Option<&Original>,
    fresh: Fresh,
    times: Option<&Timestamps>,
) -> Result<(), ReplaceError> {
    let fail = failing("write", temporary);
    discard(dir, temporary);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // 0600 until it is whole: gshadow's content must not show for a moment.
    let file = rustix::fs::openat(dir, temporary, flags, Mode::from_raw_mode(0o600)).map_err(&fail)?;
    write_all(&file, bytes).map_err(&fail)?;
    let mode = match old {
        Some(old) => take_after(&file, old).map_err(&fail)?,
        None => Mode::from_raw_mode(fresh.mode),
    };
    rustix::fs::fchmod(&file, mode).map_err(&fail)?;
    if let Some(times) = times {
        rustix::fs::futimens(&file, times).map_err(&fail)?;
    }
    rustix::fs::fsync(&file).map_err(&fail)
}

/// Owner and attributes of the old file; its mode is returned, since fchown may drop bits of it.
fn take_after(file: &OwnedFd, old: &Original) -> rustix::io::Result<Mode> {
    let stat = rustix::fs::fstat(&old.file)?;
    rustix::fs::fchown(file, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    copy_xattrs(old.file.as_fd(), file.as_fd())?;
    Ok(Mode::from_raw_mode(stat.st_mode))
}

/// Copies every extended attribute from one open file to another.
pub fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> rustix::io::Result<()> {
    for (name, value) in xattrs(from)? {
        rustix::fs::fsetxattr(to, name.as_slice(), &value, XattrFlags::empty())?;
    }
    Ok(())
}

/// The extended attributes of an open file, by name; none where the file system has none.
pub fn xattrs(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // An empty buffer asks for the length; xattr lists end at 64 KiB, which one buffer always holds.
    let mut list = vec![0u8; 1 << 16];
    let length = match rustix::fs::flistxattr(file, &mut *list) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => 0,
        Err(errno) => return Err(errno),
    };
    list.truncate(length);
    let mut found = Vec::new();
    let mut value = vec![0u8; 1 << 16];
    for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        match rustix::fs::fgetxattr(file, name, &mut *value) {
            Ok(length) => found.push((name.to_vec(), value.get(..length).unwrap_or_default().to_vec())),
            Err(Errno::NODATA) => {}
            Err(errno) => return Err(errno),
        }
    }
    found.sort();
    Ok(found)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Removes a temporary file that may not be there; a failure shows at the O_EXCL open that follows.
fn discard(dir: BorrowedFd<'_>, temporary: &str) {
    rustix::fs::unlinkat(dir, temporary, AtFlags::empty()).unwrap_or(());
}

fn failing(what: &'static str, name: &str) -> impl Fn(Errno) -> ReplaceError + use<> {
    let name = name.to_owned();
    move |source| ReplaceError { what, name: name.clone(), source }
}
