//! Mounts: what rustix does not wrap.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, check};

/// Attributes of a mount (mount_setattr(2)).
pub mod attributes {
    /// No writing.
    pub const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    /// Set-uid bits and file capabilities have no effect.
    pub const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
    /// Device nodes cannot be opened.
    pub const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
    /// Nothing can be executed.
    pub const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
}

/// Whether a change reaches the mounts below too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This mount alone.
    Single,
    /// All mounts below as well. (A remount by mount(2) never did that.)
    Recursive,
}

/// mount_setattr(2) on the mount that `mount` refers to: sets and clears attributes, and makes it private.
///
/// Always private: a copy of a mount is a peer of the original if that is shared, as every mount of a systemd host is,
/// and what is mounted on the copy then appears on the host as well.
///
/// # Errors
/// `ENOSYS` before Linux 5.12, `EPERM` for a locked attribute, `EINVAL` if `mount` is not the root of a mount.
pub fn set_attributes(mount: BorrowedFd<'_>, set: u64, clear: u64, reach: Reach) -> Result<(), Errno> {
    set_attributes_and_propagation(mount, set, clear, libc::MS_PRIVATE, reach)
}

/// Makes every mount of this namespace private, so that nothing mounted here shows outside, nor the other way round.
///
/// # Errors
/// As mount(2).
pub fn make_all_private() -> Result<(), Errno> {
    // SAFETY: the strings are static; null stands for "none" as mount(2) allows for a change of propagation.
    check(
        unsafe {
            libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_PRIVATE,
                std::ptr::null(),
            )
        }
        .into(),
    )
    .map(drop)
}

fn set_attributes_and_propagation(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: u64,
    reach: Reach,
) -> Result<(), Errno> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 };
    let recursive = match reach {
        Reach::Single => 0,
        Reach::Recursive => libc::AT_RECURSIVE,
    };
    // SAFETY: the path is an empty static string, `attr` lives through the call and has the size given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(&attr),
            size_of_val(&attr),
        )
    })
    .map(drop)
}
