//! seccomp(2): loading a finished filter program. What is in the program is jail-confine's matter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// One BPF instruction, laid out as the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip if a comparison holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// What a program is loaded with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// Refused calls reach the audit log (kernel 4.14).
    pub log: bool,
    /// Keep speculative store bypass allowed (kernel 4.17).
    pub spec_allow: bool,
    /// All threads of the process take the filter, not only the caller.
    pub tsync: bool,
    /// A waiting notification can only be interrupted by a fatal signal (kernel 5.19; only with a listener).
    pub wait_killable: bool,
}

impl Flags {
    fn bits(self) -> libc::c_ulong {
        let mut bits = 0;
        if self.tsync {
            bits |= libc::SECCOMP_FILTER_FLAG_TSYNC;
        }
        if self.log {
            bits |= libc::SECCOMP_FILTER_FLAG_LOG;
        }
        if self.spec_allow {
            bits |= libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        }
        bits
    }
}

/// Loads a filter for this thread. Needs no_new_privs or CAP_SYS_ADMIN.
///
/// A kernel that knows none of the flags loads the same program without them, since they add comfort and no safety;
/// a program is never left out.
///
/// # Errors
/// Those of seccomp(2): `EACCES` without no_new_privs, `EINVAL` for a program the kernel refuses.
pub fn load(program: &[Instruction], flags: Flags) -> io::Result<()> {
    match set_filter(program, flags.bits()) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && flags.bits() != 0 => {
            let tsync = Flags { tsync: flags.tsync, ..Flags::default() };
            set_filter(program, tsync.bits()).and_then(all_threads)
        }
        other => other.and_then(all_threads),
    }
}

/// With TSYNC the kernel answers with the id of a thread that cannot take the filter: nothing was loaded then.
fn all_threads(answer: i32) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBUSY)) }
}

/// Loads a filter and returns the descriptor on which its `USER_NOTIF` answers are awaited (kernel 5.0).
///
/// # Errors
/// Those of seccomp(2); `EBUSY` if a filter with a listener is loaded already.
pub fn load_with_listener(program: &[Instruction], flags: Flags) -> io::Result<OwnedFd> {
    let killable = if flags.wait_killable { FLAG_WAIT_KILLABLE } else { 0 };
    let bits = flags.bits() | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = match set_filter(program, bits | killable) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && killable != 0 => {
            set_filter(program, bits)?
        }
        other => other?,
    };
    // SAFETY: with NEW_LISTENER a successful call returns a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, which the libc crate lacks.
const FLAG_WAIT_KILLABLE: libc::c_ulong = 1 << 5;

fn set_filter(program: &[Instruction], flags: libc::c_ulong) -> io::Result<i32> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `fprog` points to `len` instructions of the kernel's own layout, which the call only reads.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) };
    i32::try_from(result).ok().filter(|r| *r >= 0).ok_or_else(io::Error::last_os_error)
}

/// Whether the kernel can answer with `action` (a `SECCOMP_RET_*` value without its data).
#[must_use]
pub fn action_available(action: u32) -> Availability {
    // SAFETY: the call reads one u32.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0 as libc::c_ulong,
            &raw const action,
        )
    };
    if result == 0 { Availability::Available } else { Availability::Missing }
}

/// The kernel's answer to [`action_available`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// The action exists.
    Available,
    /// It does not, or the kernel is too old to be asked.
    Missing,
}
