//! Processes: clone, exec, signals, descriptors, keyrings.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

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

/// An execve(2) whose arrays are already laid out, so that their addresses are known before it is made.
#[derive(Debug)]
pub struct Exec {
    path: CString,
    argv: Vec<CString>,
    env: Vec<CString>,
    argv_pointers: Vec<*const libc::c_char>,
    env_pointers: Vec<*const libc::c_char>,
}

impl Exec {
    /// Lays out the arrays.
    #[must_use]
    pub fn new(path: CString, argv: Vec<CString>, env: Vec<CString>) -> Self {
        let pointers = |strings: &[CString]| {
            strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>()
        };
        // The strings themselves lie on the heap: moving the vectors does not move them.
        let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
        Self { path, argv, env, argv_pointers, env_pointers }
    }

    /// The three arguments as the kernel will see them, for a seccomp filter that lets just this call pass.
    #[must_use]
    pub fn addresses(&self) -> (u64, u64, u64) {
        (self.path.as_ptr() as u64, self.argv_pointers.as_ptr() as u64, self.env_pointers.as_ptr() as u64)
    }

    /// What is executed.
    #[must_use]
    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// The argument strings.
    #[must_use]
    pub fn argv(&self) -> &[CString] {
        &self.argv
    }

    /// The environment strings.
    #[must_use]
    pub fn env(&self) -> &[CString] {
        &self.env
    }

    /// Becomes the program. Returns only what went wrong.
    #[must_use]
    pub fn run(&self) -> Errno {
        // SAFETY: both arrays end in a null pointer and point to strings that `self` owns.
        let result = unsafe {
            libc::execve(self.path.as_ptr(), self.argv_pointers.as_ptr(), self.env_pointers.as_ptr())
        };
        check(result.into()).err().unwrap_or(Errno::IO)
    }
}

/// unshare(2) of the namespaces given.
///
/// # Errors
/// `EPERM`, `ENOSPC` at a limit of namespaces, `EINVAL` with more than one thread.
pub fn unshare(namespaces: u64) -> Result<(), Errno> {
    let flags = libc::c_int::try_from(namespaces).map_err(|_| Errno::INVAL)?;
    // SAFETY: without CLONE_FILES or CLONE_FS, so no descriptor of another thread's changes its meaning.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
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

/// As [`close_from`], but some descriptors stay open at their numbers: a close_range(2) for each gap between them.
///
/// What is closed may have an owner yet: the caller then ends by exec or [`exit_now`], which runs no destructor.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from_but(first: u32, kept: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut first = first;
    let mut numbers: Vec<u32> = kept
        .iter()
        .map(|fd| u32::try_from(fd.as_raw_fd()).map_err(|_| Errno::BADF))
        .collect::<Result<_, _>>()?;
    numbers.sort_unstable();
    for number in numbers {
        if number > first {
            // SAFETY: closing descriptors touches no memory.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, number.saturating_sub(1), 0_u32) })
                .map(drop)?;
        }
        first = first.max(number.saturating_add(1));
    }
    close_from(first)
}

/// Gives a descriptor up to be closed by a later [`close_from`] or exec: one call for many.
pub fn leak(fd: OwnedFd) -> BorrowedFd<'static> {
    let raw = fd.into_raw_fd();
    // SAFETY: nobody owns it any more, so nobody closes it before `close_from` does, after which nothing borrowed here
    // is used (that is its contract).
    unsafe { BorrowedFd::borrow_raw(raw) }
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
    // The kernel's own structure, all zero: SIG_DFL, no flags, empty mask. libc's wrapper refuses the two signals that
    // it uses itself, and a hostile caller may have had just these ignored.
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: the structure is no longer than this on any architecture with a 64-bit signal set; no handler is installed.
    check(unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), std::ptr::null_mut::<u64>(), 8_usize)
    })
    .map(drop)
}

/// Has the kernel reap every child by itself (`SIGCHLD` ignored, waitpid(2)).
///
/// # Errors
/// None that Linux documents.
pub fn reap_automatically() -> Result<(), Errno> {
    // SAFETY: a zeroed sigaction with SIG_IGN is valid and installs no handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_IGN;
        check(libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()).into()).map(drop)
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

/// Takes a pending signal out of all that are blocked, if there is one.
#[must_use]
pub fn take_signal() -> Option<i32> {
    // SAFETY: both structures are plain data, initialised before use and alive through the call.
    let signal = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        let at_once: libc::timespec = std::mem::zeroed();
        libc::sigtimedwait(&set, std::ptr::null_mut(), &at_once)
    };
    (signal > 0).then_some(signal)
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

/// The session of this process; `None` if its leader is outside this pid namespace (a container's `exec`), for which
/// getsid(2) answers 0, a number that no `Pid` may hold.
#[must_use]
pub fn session() -> Option<Pid> {
    // SAFETY: touches no memory.
    Pid::from_raw(unsafe { libc::getsid(0) })
}

/// Real, effective and saved ids of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// User ids (getresuid(2)).
    pub user: [u32; 3],
    /// Group ids (getresgid(2)).
    pub group: [u32; 3],
}

/// All six ids of this process, in two calls.
///
/// # Errors
/// None that Linux documents for these arguments.
pub fn ids() -> Result<Ids, Errno> {
    let mut ids = Ids { user: [0; 3], group: [0; 3] };
    let [real, effective, saved] = &mut ids.user;
    // SAFETY: three distinct numbers that live through the call.
    check(unsafe { libc::getresuid(real, effective, saved) }.into())?;
    let [real, effective, saved] = &mut ids.group;
    // SAFETY: as above.
    check(unsafe { libc::getresgid(real, effective, saved) }.into())?;
    Ok(ids)
}

/// Gives the pages of the stack that lie unused below the caller's frame back to the kernel: what was dirtied by deep calls
/// stays allocated otherwise, for as long as the process only waits.
pub fn release_unused_stack() {
    const PAGE: usize = 4096;
    // As far down as a main thread's stack ever grows by default; nothing else is mapped in the gap that the kernel keeps
    // below it (stack_guard_gap), and what is not mapped is skipped.
    const REACH: usize = 256 << 10;
    let marker = 0_u8;
    let here = std::ptr::from_ref(&marker) as usize;
    // One page is left for this call's own frames.
    let Some(end) = (here & !(PAGE - 1)).checked_sub(PAGE) else { return };
    let Some(start) = end.checked_sub(REACH) else { return };
    // SAFETY: the range lies below the page under the current frame, so it holds no live value of this thread; the
    // processes that call this have one thread.
    let result = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    if result != 0 {
        // ENOMEM: part of it was never mapped. Only memory is at stake.
    }
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

/// close(2) by number, for the standard descriptors, which nobody owns.
///
/// # Errors
/// `EBADF` if it is not open.
pub fn close(fd: RawFd) -> Result<(), Errno> {
    // SAFETY: touches no memory; the caller says that nobody owns the descriptor.
    check(unsafe { libc::close(fd) }.into()).map(drop)
}

/// alarm(2): SIGALRM from the kernel in so many seconds.
pub fn alarm(seconds: u32) {
    // SAFETY: touches no memory and cannot fail.
    unsafe { libc::alarm(seconds) };
}

/// dup2(2) onto a standard descriptor's number, which nobody owns. The copy is not close-on-exec.
///
/// # Errors
/// `EBADF`, `EINVAL` above 2.
pub fn move_descriptor(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    if !(0..=2).contains(&number) {
        return Err(Errno::INVAL);
    }
    // SAFETY: touches no memory; the standard descriptors have no owner whose view could be changed under him.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into()).map(drop)
}

/// Sleeps; a signal may end it early.
pub fn sleep_milliseconds(milliseconds: u64) {
    std::thread::sleep(std::time::Duration::from_millis(milliseconds));
}
