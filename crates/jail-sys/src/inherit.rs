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
    let [kept] = close_all_but_these([kept])?;
    Ok(kept)
}

/// As [`close_all_but`], for several, which must differ.
///
/// # Errors
/// As [`close_all_but`]; `EINVAL` for the same number twice.
pub fn close_all_but_these<const N: usize>(kept: [RawFd; N]) -> Result<[OwnedFd; N], Errno> {
    for (index, fd) in kept.iter().enumerate() {
        if *fd < 3 || kept.iter().skip(index.saturating_add(1)).any(|other| other == fd) {
            return Err(Errno::INVAL);
        }
        // SAFETY: touches no memory.
        check(unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    }
    // SAFETY: each is open, differs from the others, and was inherited, so nobody in this program owns it.
    let kept = kept.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    close_from_but(3, &kept.each_ref().map(OwnedFd::as_fd))?;
    Ok(kept)
}
