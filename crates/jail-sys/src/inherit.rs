//! Descriptors that this program was started with.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::{Errno, check};

/// Closes every descriptor from 3 up but one, which is given back, close-on-exec. To be called before anything else is
/// opened.
///
/// # Errors
/// `EBADF` if that one is not open, `EINVAL` below 3, `ENOSYS` before Linux 5.9.
pub fn close_all_but(kept: RawFd) -> Result<OwnedFd, Errno> {
    let number = u32::try_from(kept).ok().filter(|number| *number >= 3).ok_or(Errno::INVAL)?;
    // SAFETY: touches no memory.
    check(unsafe { libc::fcntl(kept, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    if number > 3 {
        // SAFETY: as above; nobody owns a descriptor yet.
        check(unsafe { libc::syscall(libc::SYS_close_range, 3_u32, number - 1, 0_u32) })?;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_close_range, number + 1, u32::MAX, 0_u32) })?;
    // SAFETY: it is open, and was inherited, so nobody in this program owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(kept) })
}
