//! Directories as descriptors: opened one component at a time, never through a link, and checked on the way.
//!
//! A root process that names `/home/jail/home/dave` trusts everyone who can rename something in it. Here each
//! component is opened below the last one's descriptor and must be root's alone, so that nothing can be swapped.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::trouble::{Trouble, cannot, quoted};

/// Flags for opening a directory to work below it.
pub const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory whose every component, itself included, is a real directory that only root can change.
pub fn open_trusted(path: &Path) -> Result<OwnedFd, Trouble> {
    if !path.is_absolute() {
        return Err(Trouble::usage(format!("{} is not an absolute path", quoted(path.as_os_str()))));
    }
    let mut so_far = PathBuf::from("/");
    let mut dir = rustix::fs::open("/", DIRECTORY, Mode::empty()).map_err(cannot("open", "/"))?;
    check_root_owned(dir.as_fd(), &so_far)?;
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                so_far.push(name);
                dir = open_child(dir.as_fd(), name, &so_far)?;
                check_root_owned(dir.as_fd(), &so_far)?;
            }
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Trouble::usage(format!("{} has `..` in it", quoted(path.as_os_str())))
                    .hint("give the path without it"));
            }
        }
    }
    Ok(dir)
}

/// Opens (and with `make`, makes) a directory below one that is trusted, with the same demands on each component.
pub fn open_trusted_below(
    base: BorrowedFd<'_>,
    base_path: &Path,
    below: &Path,
    make: bool,
) -> Result<Option<OwnedFd>, Trouble> {
    let mut so_far = base_path.to_owned();
    let mut dir = base.try_clone_to_owned().map_err(cannot("open", base_path))?;
    for component in below.components() {
        let Component::Normal(name) = component else { continue };
        so_far.push(name);
        if make {
            match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                // The umask may have taken bits; a jailed user must be able to walk to his home.
                Ok(()) => {
                    let made = open_child(dir.as_fd(), name, &so_far)?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))
                        .map_err(cannot("set the mode of", &so_far))?;
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(cannot("make the directory", &so_far)(errno)),
            }
        } else if stat_at(dir.as_fd(), name).is_ok_and(|found| found.is_none()) {
            return Ok(None);
        }
        dir = open_child(dir.as_fd(), name, &so_far)?;
        check_root_owned(dir.as_fd(), &so_far)?;
    }
    Ok(Some(dir))
}

fn open_child(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<OwnedFd, Trouble> {
    match rustix::fs::openat(dir, name, DIRECTORY, Mode::empty()) {
        Ok(child) => Ok(child),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            let what = match kind_at(dir, name) {
                Some(FileType::Symlink) => "is a symbolic link",
                _ => "is not a directory",
            };
            Err(Trouble::unsafe_to(format!("{} {what}", quoted(path.as_os_str()))).hint("give the real path"))
        }
        Err(errno) => Err(cannot("open", path)(errno)),
    }
}

fn check_root_owned(dir: BorrowedFd<'_>, path: &Path) -> Result<(), Trouble> {
    let stat = rustix::fs::fstat(dir).map_err(cannot("look at", path))?;
    let path = quoted(path.as_os_str());
    if stat.st_uid != 0 {
        return Err(Trouble::unsafe_to(format!("{path} is owned by uid {}, not by root", stat.st_uid))
            .hint(format!("whoever owns it can put another jail in this one's place; chown root {path}")));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(Trouble::unsafe_to(format!(
            "{path} can be written by others (mode {:04o})",
            stat.st_mode & 0o7777
        ))
        .hint(format!("chmod go-w {path}")));
    }
    Ok(())
}

/// What a name in a directory is, without following a link; `None` if it is not there.
pub fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The kind of a name, if it is there.
#[must_use]
pub fn kind_at(dir: BorrowedFd<'_>, name: &OsStr) -> Option<FileType> {
    stat_at(dir, name).ok().flatten().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

/// Opens a name of a directory: never a link, never another mount, never anything above.
pub fn open_single(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    loop {
        match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
            // The kernel could not make sure that nothing was swapped on the way: ask again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            answer => return answer,
        }
    }
}

/// The names in a directory, but for `.` and `..`, in no order.
pub fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<OsString>> {
    let mut found = Vec::new();
    let mut stream = rustix::fs::Dir::read_from(dir)?;
    while let Some(entry) = stream.read() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            found.push(OsString::from_vec(name));
        }
    }
    Ok(found)
}

/// A path made of its plain components: no doubled, trailing or `.` parts. `None` with a `..` or a relative one.
#[must_use]
pub fn clean(path: &[u8]) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(path));
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    Some(path.components().collect())
}
