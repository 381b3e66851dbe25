//! Descriptors that this program was started with.

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};

use crate::process::close_from_but;
use crate::{Errno, check};

/// Closes every descriptor from 3 up but one, which is given back, close-on-exec. To be called before anything else is
/// opened.
///
/// # Errors
/// `EBADF` if that one is not open, `EINVAL` below 3, `ENOSYS` before Linux 5.9.
pub fn close_all_but(kept: RawFd) -> Result<OwnedFd, Errno> {
    if kept < 3 {
        return Err(Errno::INVAL);
    }
    // SAFETY: touches no memory.
    check(unsafe { libc::fcntl(kept, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, and was inherited, so nobody in this program owns it.
    let kept = unsafe { OwnedFd::from_raw_fd(kept) };
    close_from_but(3, &[kept.as_fd()])?;
    Ok(kept)
}
