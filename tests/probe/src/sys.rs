//! The one door to the kernel for attempts: a system call by number, and the answers' names.

/// What an attempt came to: a note on its success, or the errno.
pub(crate) type Answer = Result<String, i32>;

/// Makes a system call with whatever arguments, as an attacker would.
pub(crate) fn call(number: libc::c_long, args: &[usize]) -> Result<libc::c_long, i32> {
    let arg = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: an attacker's program: a wild pointer here is the kernel's to refuse (EFAULT), and every pointer that the
    // attempts pass on purpose is to memory that lives across the call. None of these calls changes our own memory map.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    if result == -1 { Err(errno()) } else { Ok(result) }
}

/// The same, when only "it worked" matters.
pub(crate) fn attempt(number: libc::c_long, args: &[usize]) -> Answer {
    call(number, args).map(|value| format!("returned {value}"))
}

/// The last error's number.
pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// A path for the kernel; lives as long as the program, which is short.
pub(crate) fn path(text: &str) -> usize {
    let owned = std::ffi::CString::new(text).expect("no NUL in a path");
    owned.into_raw().addr()
}

/// getpid through the 32-bit door, `int 0x80`: another system call table, another argument layout.
#[cfg(target_arch = "x86_64")]
pub(crate) fn int80(number: u32, first: u32) -> Answer {
    let result: i32;
    // SAFETY: the numbers passed here (getpid, socketcall with a null block, mount with null paths) write to no memory of
    // ours; rbx, which LLVM keeps for itself, is saved and put back; r8 to r11 are declared lost, as this door may clear them.
    unsafe {
        std::arch::asm!(
            "push rbx", "mov ebx, {first:e}", "int 0x80", "pop rbx",
            first = in(reg) first,
            inlateout("eax") number => result,
            in("ecx") 0, in("edx") 0, in("esi") 0, in("edi") 0,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { Err(-result) } else { Ok(format!("returned {result}")) }
}

/// There is no such door on other machines.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn int80(_number: u32, _first: u32) -> Answer {
    Err(libc::ENOSYS)
}

/// Runs an attempt in a child, so that an attempt which the jail answers with a signal is told too.
pub(crate) fn in_a_child(run: impl FnOnce() -> Answer) -> String {
    // SAFETY: this program has one thread, so the child may go on as the parent could.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let text = match run() {
            Ok(note) => format!("OK {note}"),
            Err(error) => name_of(error),
        };
        println!("{text}");
        std::process::exit(0);
    }
    let mut status = 0;
    // SAFETY: `status` is ours and outlives the call.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if child < 0 || waited != child {
        return "no child: ".to_owned() + &name_of(errno());
    }
    if libc::WIFSIGNALED(status) {
        format!("killed by signal {}\n", libc::WTERMSIG(status))
    } else {
        String::new()
    }
}

/// An errno's name as errno(3) has it.
pub(crate) fn name_of(errno: i32) -> String {
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::ESRCH => "ESRCH",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::E2BIG => "E2BIG",
        libc::ENOEXEC => "ENOEXEC",
        libc::EBADF => "EBADF",
        libc::ECHILD => "ECHILD",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::ENOTBLK => "ENOTBLK",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::EXDEV => "EXDEV",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENFILE => "ENFILE",
        libc::EMFILE => "EMFILE",
        libc::ENOTTY => "ENOTTY",
        libc::EFBIG => "EFBIG",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::ENOSYS => "ENOSYS",
        libc::ELOOP => "ELOOP",
        libc::ENODATA => "ENODATA",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EPROTONOSUPPORT => "EPROTONOSUPPORT",
        libc::ESOCKTNOSUPPORT => "ESOCKTNOSUPPORT",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::ENOKEY => "ENOKEY",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}
