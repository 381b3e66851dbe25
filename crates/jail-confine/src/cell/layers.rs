//! The root of a cell from one directory or from several laid over each other, with or without a layer for changes.
//!
//! All of it is one overlay: an overlay on an overlay is refused by the kernel as an upper, and two deep is its end
//! (rulings 26). What a layer is made from is held by descriptor; the names that the overlay is told are our own, on a
//! file system of our own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jail_sys::process::leak;
use rustix::fs::{Mode, fstat, mkdirat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::blueprint::Privilege;
use super::root::{attach_below, attach_to_root};

/// What the root of a cell is made from.
#[derive(Debug)]
pub(crate) struct Layers {
    /// Copies of mounts, the uppermost first; never empty.
    pub(crate) lowers: Vec<OwnedFd>,
    pub(crate) changes: Changes,
    pub(crate) privilege: Privilege,
}

/// Where changes to the root go.
#[derive(Debug)]
pub(crate) enum Changes {
    /// To the one directory itself, if its mount lets them.
    InPlace,
    /// To a layer on the cell's scratch space, which ends with the cell.
    OnScratch,
    /// To a directory on disk, which somebody removes when the cell has ended.
    OnDisk(OwnedFd),
}

impl Layers {
    /// Mounts the root over this namespace's, and gives it back.
    pub(super) fn mount(&self, scratch: BorrowedFd<'_>) -> Result<BorrowedFd<'_>, Errno> {
        if let (true, Some(only)) = (self.is_plain(), self.lowers.first()) {
            attach_to_root(only.as_fd())?;
            return Ok(only.as_fd());
        }
        let overlay = leak(self.overlay(scratch, "layers", self.mode()?)?);
        attach_to_root(overlay)?;
        Ok(overlay)
    }

    /// The mode of the uppermost layer's root.
    fn mode(&self) -> Result<u32, Errno> {
        let upmost = self.lowers.first().ok_or(Errno::NOENT)?;
        Ok(fstat(upmost)?.st_mode & 0o7777)
    }

    /// What is being done, for the sentence of a failure.
    pub(super) fn doing(&self) -> String {
        if self.is_plain() {
            "mount the jail".to_owned()
        } else {
            "mount the jail's layers as an overlay (it needs the kernel's overlayfs, free space on the cell's tmp, and for \
             discard = \"disk\" a file system there that is no overlay itself)"
                .to_owned()
        }
    }

    fn is_plain(&self) -> bool {
        self.lowers.len() == 1 && matches!(self.changes, Changes::InPlace)
    }

    /// The layers as one file system, put together in a directory of the scratch space; its root has the mode given.
    pub(super) fn overlay(&self, scratch: BorrowedFd<'_>, place: &str, mode: u32) -> Result<OwnedFd, Errno> {
        directory(scratch, place, 0o700)?;
        let mut names: Vec<String> = Vec::new();
        for (number, lower) in self.lowers.iter().enumerate() {
            // A layer has to be mounted in this namespace before the overlay may take it up.
            let name = format!("{place}/{number}");
            directory(scratch, &name, 0o700)?;
            attach_below(lower.as_fd(), scratch, &name)?;
            names.push(name);
        }
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // The names are looked up from the working directory; afterwards that is changed once more, into the new root.
        rustix::process::fchdir(scratch)?;
        fsconfig_set_string(context.as_fd(), "lowerdir", names.join(":"))?;
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        match &self.changes {
            Changes::InPlace => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
            Changes::OnScratch => upper(context.as_fd(), scratch, place, mode)?,
            Changes::OnDisk(disk) => {
                let place = format!("{place}/disk");
                directory(scratch, &place, 0o700)?;
                attach_below(disk.as_fd(), scratch, &place)?;
                upper(context.as_fd(), scratch, &place, mode)?;
                // Nobody waits for what is thrown away to reach the disk.
                fsconfig_set_flag(context.as_fd(), "volatile")?;
            }
        }
        if self.privilege == Privilege::UserNamespace {
            // Attributes of the trusted kind are for root of the host.
            fsconfig_set_flag(context.as_fd(), "userxattr")?;
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    }
}

/// Makes the two directories of the layer for changes. The overlay's root has the mode of its uppermost directory.
fn upper(context: BorrowedFd<'_>, scratch: BorrowedFd<'_>, place: &str, mode: u32) -> Result<(), Errno> {
    for (key, name, mode) in [("upperdir", "upper", mode), ("workdir", "work", 0o700)] {
        let name = format!("{place}/{name}");
        directory(scratch, &name, mode)?;
        fsconfig_set_string(context, key, name.as_str())?;
    }
    Ok(())
}

fn directory(scratch: BorrowedFd<'_>, name: &str, mode: u32) -> Result<(), Errno> {
    mkdirat(scratch, name, Mode::from_raw_mode(mode))
}
