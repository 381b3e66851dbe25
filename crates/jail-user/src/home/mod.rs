//! Homes: made, moved and taken back. A home's content is hostile until shown otherwise.
//!
//! On one file system a move is a rename: nothing is read and nothing is deleted. Across file systems it is a copy
//! that is compared with the original, byte for byte, before anything is removed. Every name is opened below the
//! descriptor of its directory and never through a link, so a user who swaps links all the while can at worst spoil
//! his own move. The stages lie on disk, so a run that was killed is taken up where it stopped.

mod copy;
mod mover;
mod remove;
mod verify;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, Stat, Uid};

use crate::dir;
use crate::trouble::{Trouble, cannot, quoted};

pub use mover::{Finished, Mover};
pub use verify::Totals;

/// A name in a directory that only root can change.
#[derive(Debug)]
pub struct Place {
    parent: OwnedFd,
    parent_path: PathBuf,
    name: OsString,
}

impl Place {
    /// A place on the host. The parent may be reached by links of root's (`/home -> /data/home`); what it is in the
    /// end, and everything above, must be root's alone.
    pub fn on_host(path: &Path) -> Result<Self, Trouble> {
        let (parent, name) = split(path)?;
        let real = std::fs::canonicalize(parent).map_err(cannot("find", parent))?;
        Ok(Self { parent: dir::open_trusted(&real)?, parent_path: real, name })
    }

    /// A place below a directory that is trusted already; with `make`, missing directories above it are made.
    pub fn below(
        base: &OwnedFd,
        base_path: &Path,
        inner: &Path,
        make: bool,
    ) -> Result<Option<Self>, Trouble> {
        let (parent, name) = split(inner)?;
        let Some(open) = dir::open_trusted_below(base.as_fd(), base_path, parent, make)? else {
            return Ok(None);
        };
        let below = parent.strip_prefix("/").unwrap_or(parent);
        Ok(Some(Self { parent: open, parent_path: base_path.join(below), name }))
    }

    /// The whole path, for messages.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.parent_path.join(&self.name)
    }

    /// What is there now.
    pub fn stat(&self) -> Result<Option<Stat>, Trouble> {
        dir::stat_at(self.parent.as_fd(), &self.name).map_err(cannot("look at", self.path()))
    }

    /// Whether what is there is the top of a mount.
    pub fn is_mount_point(&self) -> Result<bool, Trouble> {
        use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
        let found =
            rustix::fs::statx(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
                .map_err(cannot("look at", self.path()))?;
        Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }
}

fn split(path: &Path) -> Result<(&Path, OsString), Trouble> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.to_owned())),
        _ => Err(Trouble::unsafe_to(format!("{} cannot be a home", quoted(path.as_os_str())))),
    }
}

/// Whose a new home is, and how open.
#[derive(Debug, Clone, Copy)]
pub struct NewHome {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The mode.
    pub mode: u32,
}

/// Makes a home from the skeleton: in a directory of root's first, then renamed, so that half a home never shows.
///
/// A home of the user's that is there already is kept.
pub fn make(place: &Place, skeleton: &Path, new: NewHome) -> Result<(), Trouble> {
    if let Some(found) = place.stat()? {
        return check_own(place, &found, new.uid);
    }
    let stage = mover::open_stage(place, new.uid, mover::NEW)?;
    remove::tree(stage.as_fd(), "home".as_ref()).map_err(cannot("clear", place.path()))?;
    rustix::fs::mkdirat(&stage, "home", Mode::from_raw_mode(0o700)).map_err(cannot("make", place.path()))?;
    let home = rustix::fs::openat(&stage, "home", dir::DIRECTORY, Mode::empty())
        .map_err(cannot("open", place.path()))?;
    let made = fill(&home, &stage, skeleton, new).and_then(|()| {
        rustix::fs::renameat(&stage, "home", &place.parent, &place.name).map_err(cannot("make", place.path()))
    });
    mover::drop_stage(place, new.uid, mover::NEW)?;
    made
}

fn fill(home: &OwnedFd, stage: &OwnedFd, skeleton: &Path, new: NewHome) -> Result<(), Trouble> {
    match rustix::fs::open(skeleton, dir::DIRECTORY, Mode::empty()) {
        Ok(source) => {
            let owner = (Uid::from_raw(new.uid), Gid::from_raw(new.gid));
            copy::tree(source, home, stage.as_fd(), Some(owner)).map_err(|error| {
                Trouble::failed(format!("cannot copy {}: {error}", quoted(skeleton.as_os_str())))
            })?;
        }
        Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(cannot("open", skeleton)(errno)),
    }
    rustix::fs::fchown(home, Some(Uid::from_raw(new.uid)), Some(Gid::from_raw(new.gid)))
        .and_then(|()| rustix::fs::fchmod(home, Mode::from_raw_mode(new.mode)))
        .and_then(|()| rustix::fs::fsync(home))
        .map_err(cannot("make", "the new home"))
}

/// A home must be a real directory of the user's own.
pub fn check_own(place: &Place, found: &Stat, uid: u32) -> Result<(), Trouble> {
    let path = quoted(place.path().as_os_str());
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory if found.st_uid == uid => Ok(()),
        FileType::Directory => Err(Trouble::unsafe_to(format!(
            "the home {path} belongs to uid {}, not to the account's uid {uid}",
            found.st_uid
        ))
        .hint(format!("see whose it is; if it is the account's, chown {uid} {path}"))),
        FileType::Symlink => Err(Trouble::unsafe_to(format!("the home {path} is a symbolic link"))
            .hint("set the account's home to the real path first (usermod -d)")),
        _ => Err(Trouble::unsafe_to(format!("the home {path} is not a directory"))),
    }
}

/// Makes the empty directory of root's on which a cell mounts a home that stays outside.
pub fn make_mount_point(place: &Place) -> Result<(), Trouble> {
    match rustix::fs::mkdirat(&place.parent, &place.name, Mode::from_raw_mode(0o755)) {
        Ok(()) => rustix::fs::fsync(&place.parent).map_err(cannot("make", place.path())),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(cannot("make", place.path())(errno)),
    }
}

/// Removes that directory again. Anything in it stays, and so does a directory that is not root's.
pub fn remove_mount_point(place: &Place) -> Result<(), Trouble> {
    use rustix::io::Errno;
    if place.stat()?.is_none_or(|found| found.st_uid != 0) {
        return Ok(());
    }
    match rustix::fs::unlinkat(&place.parent, &place.name, rustix::fs::AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY) => Ok(()),
        Err(errno) => Err(cannot("remove", place.path())(errno)),
    }
}

/// Opens a home of the user's that is there.
pub fn open_own(place: &Place, uid: u32) -> Result<OwnedFd, Trouble> {
    let gone = || Trouble::failed(format!("the home {} is not there", quoted(place.path().as_os_str())));
    check_own(place, &place.stat()?.ok_or_else(gone)?, uid)?;
    rustix::fs::openat(&place.parent, &place.name, dir::DIRECTORY, Mode::empty())
        .map_err(cannot("open", place.path()))
}

/// Removes a home that was made and never used, and what a killed run left of making it.
pub fn unmake(place: &Place, uid: u32) -> Result<(), Trouble> {
    if let Some(found) = place.stat()? {
        check_own(place, &found, uid)?;
        remove::tree(place.parent.as_fd(), &place.name).map_err(cannot("remove", place.path()))?;
    }
    mover::drop_stage(place, uid, mover::NEW)
}
