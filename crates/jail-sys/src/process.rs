//! Processes: clone, exec, signals, descriptors, keyrings.

use std::ffi::{CStr, CString};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

use crate::{Errno, check};

/// Which side of a [`clone`] this is.
#[derive(Debug)]
pub enum Cloned {
    /// The new process.
    Child,
    /// The caller.
    Parent {
        /// The child's id, as the caller's pid namespace sees it.
        pid: Pid,
        /// Refers to just this child, whatever becomes of its id. Owned by the caller, close-on-exec.
        pidfd: OwnedFd,
    },
}

/// Namespaces for [`clone`] (clone(2), `CLONE_NEW*`).
pub mod namespaces {
    /// Mounts.
    pub const MOUNT: u64 = libc::CLONE_NEWNS as u64;
    /// Process ids.
    pub const PID: u64 = libc::CLONE_NEWPID as u64;
    /// System V IPC and POSIX message queues.
    pub const IPC: u64 = libc::CLONE_NEWIPC as u64;
    /// Host name.
    pub const UTS: u64 = libc::CLONE_NEWUTS as u64;
    /// Network.
    pub const NET: u64 = libc::CLONE_NEWNET as u64;
    /// The view of the cgroup tree.
    pub const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    /// Users and capabilities.
    pub const USER: u64 = libc::CLONE_NEWUSER as u64;
}

/// clone3(2) without shared memory, so a fork with namespaces; the child's end is reported by SIGCHLD.
///
/// The child runs on a copy of the caller's stack, as after fork(2). libc's fork handlers do not run: the programs
/// that use this have one thread.
///
/// # Errors
/// As clone3(2): `EPERM` without the right for a namespace, `ENOSPC` at a limit of namespaces, `EAGAIN`.
pub fn clone(namespaces: u64) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    // The fields of struct clone_args up to Linux 5.3 (64 bytes); the rest is zero by leaving it out.
    let args: [u64; 8] = [
        namespaces | libc::CLONE_PIDFD as u64,
        std::ptr::from_mut(&mut pidfd) as u64,
        0,
        0,
        libc::SIGCHLD as u64,
        0,
        0,
        0,
    ];
    // SAFETY: no CLONE_VM, so the child has its own copy of all memory and returns here on its own stack; `args`
    // and `pidfd` live through the call and have the size given.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) })?;
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        None => Ok(Cloned::Child),
        // SAFETY: the kernel has stored a new descriptor there, which nobody else owns.
        Some(pid) => Ok(Cloned::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// execve(2). Returns only what went wrong.
#[must_use]
pub fn exec(path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| {
        strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end in a null pointer and point to strings that outlive the call.
    let result = unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    check(result.into()).err().unwrap_or(Errno::IO)
}

/// Ends the process at once: no destructors, no exit handlers, no flushing.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: always sound; it does not return.
    unsafe { libc::_exit(status) }
}

/// close_range(2): closes every descriptor from `first` up, however high the numbers go.
///
/// The caller must not use an owned descriptor in that range again; this is for the start of a program and for
/// a child that has moved what it keeps below `first`.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: closing descriptors touches no memory.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) }).map(drop)
}

/// As [`close_from`], but marks them close-on-exec instead (Linux 5.11).
///
/// # Errors
/// `EINVAL` or `ENOSYS` on an older kernel.
pub fn cloexec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: setting a descriptor flag touches no memory.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Puts a signal back to its default action.
///
/// # Errors
/// `EINVAL` for a number that is no signal or cannot be changed.
pub fn default_signal(signal: i32) -> Result<(), Errno> {
    // SAFETY: a zeroed sigaction is valid (SIG_DFL, no flags, empty mask) and installs no handler.
    unsafe {
        let action: libc::sigaction = std::mem::zeroed();
        check(libc::sigaction(signal, &action, std::ptr::null_mut()).into()).map(drop)
    }
}

/// Blocks or unblocks every signal for this thread.
///
/// # Errors
/// None that Linux documents for these arguments.
pub fn block_all_signals(block: bool) -> Result<(), Errno> {
    // SAFETY: the set is initialised by sigfillset or sigemptyset before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        if block {
            libc::sigfillset(&mut set);
        } else {
            libc::sigemptyset(&mut set);
        }
        check(libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()).into()).map(drop)
    }
}

/// A signal that [`wait_signal`] took.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Its number.
    pub signal: i32,
    /// Whether the kernel sent it itself (a child's end, a terminal's key), not some process.
    pub from_kernel: bool,
}

/// Takes the next pending signal out of all that are blocked; waits if there is none.
///
/// # Errors
/// `EINTR`.
pub fn wait_signal() -> Result<Taken, Errno> {
    // SAFETY: both structures are plain data, initialised before use and alive through the call.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let signal = check(libc::sigwaitinfo(&set, &mut info).into())?;
        Ok(Taken { signal: i32::try_from(signal).unwrap_or(0), from_kernel: info.si_code > 0 })
    }
}

/// kill(2) with any signal number; `pid` as there (-1: all that may be reached).
///
/// # Errors
/// `ESRCH` if there is nobody, `EPERM`.
pub fn kill(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Leaves the caller's session keyring for a new, empty one (keyctl(2)), so that keys of the host's are out of reach.
///
/// # Errors
/// `ENOSYS` where the kernel has no keyrings.
pub fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    })
    .map(drop)
}

/// Asks for `signal` when the parent dies (0: none). A change of uid clears it (prctl(2)).
///
/// # Errors
/// `EINVAL` for a number that is no signal.
pub fn parent_death_signal(signal: i32) -> Result<(), Errno> {
    // SAFETY: touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) }.into()).map(drop)
}

/// Whether the kernel treats this process as set-uid and the like (getauxval(3), `AT_SECURE`).
#[must_use]
pub fn at_secure() -> bool {
    // SAFETY: touches no memory of ours.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
