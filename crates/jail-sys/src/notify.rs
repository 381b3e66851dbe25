//! seccomp user notification: a supervisor is asked about each call of another process (seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    id: u64,
    /// The thread that makes it, as the supervisor's pid namespace numbers it.
    pub pid: u32,
    /// The call's number.
    pub nr: u32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Takes the next waiting call.
///
/// # Errors
/// `ENOENT` if the caller died meanwhile; those of ioctl(2).
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Call> {
    // SAFETY: the structure is plain numbers, for which zero is a value; the kernel wants it zeroed.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the request fills the structure, which is of the kernel's own layout.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let data = call.data;
    Ok(Call {
        id: call.id,
        pid: call.pid,
        nr: data.nr.cast_unsigned_bits(),
        arch: data.arch,
        args: data.args,
    })
}

/// Lets the kernel make the call. Safe for what was judged by number and register arguments only: memory behind pointers
/// can change between the judgement and the call.
///
/// # Errors
/// `ENOENT` if the caller died meanwhile; those of ioctl(2).
pub fn let_pass(listener: BorrowedFd<'_>, call: &Call) -> io::Result<()> {
    // The flag is 1; the field is 32 bits wide.
    answer(listener, call, 0, 1)
}

/// Makes the call fail with `errno`.
///
/// # Errors
/// Those of [`let_pass`].
pub fn refuse(listener: BorrowedFd<'_>, call: &Call, errno: u16) -> io::Result<()> {
    answer(listener, call, -i32::from(errno), 0)
}

fn answer(listener: BorrowedFd<'_>, call: &Call, error: i32, flags: u32) -> io::Result<()> {
    let mut response = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
    // SAFETY: the request reads the structure, which is of the kernel's own layout.
    let result =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `i32::cast_unsigned` came with Rust 1.87.
trait Bits {
    fn cast_unsigned_bits(self) -> u32;
}

impl Bits for i32 {
    fn cast_unsigned_bits(self) -> u32 {
        u32::from_ne_bytes(self.to_ne_bytes())
    }
}
