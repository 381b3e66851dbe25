//! Terminals: taking one over as session leader.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Errno, check};

/// What [`take`] does with a terminal that another session controls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theft {
    /// Leave it there; the call fails.
    Refuse,
    /// Take it away from that session. Needs `CAP_SYS_ADMIN` in the initial user namespace (ioctl_tty(2)).
    Steal,
}

/// Makes `terminal` the controlling terminal of this session, whose leader the caller must be (`TIOCSCTTY`).
///
/// # Errors
/// `EPERM` if the caller leads no session or may not steal.
pub fn take(terminal: BorrowedFd<'_>, theft: Theft) -> Result<(), Errno> {
    let argument: libc::c_int = match theft {
        Theft::Refuse => 0,
        Theft::Steal => 1,
    };
    // SAFETY: the argument is an integer, not a pointer.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, argument) }.into()).map(drop)
}

/// Gives up the controlling terminal (`TIOCNOTTY`). A session leader's foreground group gets SIGHUP.
///
/// # Errors
/// `ENOTTY` if it is not the controlling terminal.
pub fn give_up(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) }.into()).map(drop)
}
