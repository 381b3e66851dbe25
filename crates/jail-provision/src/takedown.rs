//! Removes a tree by descriptor: never through a link, never into another file system, however deep it is.
//!
//! A jail holds what its users made: links to the host's `/etc`, trees ten thousand directories deep, bind mounts that an
//! administrator forgot. One descriptor is held at a time, and the way back up is checked to be the way we came.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::text;

/// Removes everything in a directory, and the directory itself if nothing is mounted on it.
///
/// # Errors
/// Something in it lies on another file system, or a system call failed.
pub fn remove_tree(dir: &Path) -> Result<()> {
    let io = |e: io::Error| Error::io("remove", dir, e);
    let parent = dir.parent().unwrap_or(Path::new("/"));
    let name =
        dir.file_name().ok_or_else(|| Error::refused(format!("{} cannot be removed", text::quote(dir))))?;
    let above = open_directory(fs::CWD, parent.as_os_str()).map_err(|e| io(e.into()))?;
    let top = match open_directory(above.as_fd(), name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|e| io(e.into()))?,
    };
    let device = fs::fstat(&top).map_err(|e| io(e.into()))?.st_dev;
    if let Some(mounted) = first_mount(&top, device).map_err(io)? {
        let mounted = dir.join(mounted);
        return Err(Error::refused(format!("something is mounted on {}", text::quote(&mounted)))
            .hint("unmount it first; nothing was removed"));
    }
    empty(top, device).map_err(io)?;
    match fs::unlinkat(&above, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(io(error.into())),
    }
}

/// A directory on the way down.
struct Level {
    /// Its name in the one above.
    name: OsString,
    /// Device and inode of the one above, to know it again.
    above: (u64, u64),
}

/// What to do with the entries of a directory.
enum Visit {
    /// Go into this one.
    Into(OsString),
    /// Nothing is left to do here.
    Done,
}

fn empty(top: OwnedFd, device: u64) -> io::Result<()> {
    let mut here = top;
    let mut levels: Vec<Level> = Vec::new();
    loop {
        match clear_files(&here, device)? {
            Visit::Into(name) => {
                let above = identity(here.as_fd())?;
                here = open_directory(here.as_fd(), &name)?;
                levels.push(Level { name, above });
            }
            Visit::Done => {
                let Some(level) = levels.pop() else { return Ok(()) };
                here = back(here.as_fd(), level.above)?;
                fs::unlinkat(&here, &level.name, AtFlags::REMOVEDIR)?;
            }
        }
    }
}

/// Removes everything but directories; answers the first directory met.
fn clear_files(here: &OwnedFd, device: u64) -> io::Result<Visit> {
    let mut found = None;
    for entry in Dir::read_from(here)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let name = OsStr::from_bytes(name);
        let stat = fs::statat(here, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            // One that something is mounted on cannot be removed (EBUSY). Its device says nothing: an overlay gives files
            // of its layers others than its own.
            fs::unlinkat(here, name, AtFlags::empty())?;
        } else if stat.st_dev != device {
            return Err(Errno::XDEV.into());
        } else if found.is_none() {
            found = Some(OsString::from_vec(name.as_bytes().to_vec()));
        }
    }
    Ok(found.map_or(Visit::Done, Visit::Into))
}

/// The first place, as a path below `top`, where another file system begins; looked for before anything is removed.
fn first_mount(top: &OwnedFd, device: u64) -> io::Result<Option<std::path::PathBuf>> {
    let mut here = open_directory(top.as_fd(), OsStr::new("."))?;
    let mut todo: Vec<Vec<OsString>> = vec![directories(&here)?];
    let mut levels: Vec<Level> = Vec::new();
    while let Some(names) = todo.last_mut() {
        let Some(name) = names.pop() else {
            todo.pop();
            let Some(level) = levels.pop() else { break };
            here = back(here.as_fd(), level.above)?;
            continue;
        };
        let above = identity(here.as_fd())?;
        let next = open_directory(here.as_fd(), &name)?;
        levels.push(Level { name, above });
        if fs::fstat(&next)?.st_dev != device {
            return Ok(Some(levels.iter().map(|level| &level.name).collect()));
        }
        here = next;
        todo.push(directories(&here)?);
    }
    Ok(None)
}

fn directories(here: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(here)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let kind = match entry.file_type() {
            FileType::Unknown => FileType::from_raw_mode(
                fs::statat(here, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?.st_mode,
            ),
            known => known,
        };
        if kind == FileType::Directory && name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

/// One step up; an error if that is not where we came from (somebody moved the directory meanwhile).
fn back(here: BorrowedFd<'_>, above: (u64, u64)) -> io::Result<OwnedFd> {
    let up = open_directory(here, OsStr::new(".."))?;
    if identity(up.as_fd())? != above {
        return Err(io::Error::other("a directory was moved while it was being removed"));
    }
    Ok(up)
}

fn identity(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn open_directory(at: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(at, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_tree_goes_and_what_it_points_to_stays() {
        let dir = tempfile::tempdir().expect("scratch");
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).expect("made");
        std::fs::write(outside.join("kept"), "x").expect("written");
        let jail = dir.path().join("jail");
        std::fs::create_dir_all(jail.join("home/dave")).expect("made");
        std::os::unix::fs::symlink(&outside, jail.join("home/dave/x")).expect("linked");
        std::os::unix::fs::symlink("..", jail.join("home/dave/up")).expect("linked");
        std::fs::hard_link(outside.join("kept"), jail.join("home/hard")).expect("linked");
        remove_tree(&jail).expect("removed");
        assert!(!jail.exists());
        assert_eq!(std::fs::read(outside.join("kept")).expect("kept"), b"x");
        remove_tree(&jail).expect("gone already");
    }

    #[test]
    fn ten_thousand_directories_deep() {
        let dir = tempfile::tempdir().expect("scratch");
        let jail = dir.path().join("jail");
        std::fs::create_dir(&jail).expect("made");
        let mut here = open_directory(fs::CWD, jail.as_os_str()).expect("opened");
        for _ in 0..10_000 {
            fs::mkdirat(&here, "d", Mode::from_raw_mode(0o755)).expect("made");
            here = open_directory(here.as_fd(), OsStr::new("d")).expect("opened");
        }
        drop(here);
        remove_tree(&jail).expect("removed");
        assert!(!jail.exists());
    }
}
