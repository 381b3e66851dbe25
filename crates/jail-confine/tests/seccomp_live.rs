//! The programs in the kernel: each attack is made without a filter and under it, and the answers are told apart.

use std::ffi::{c_int, c_long};

use jail_confine::seccomp::{
    Builtin, Flags, PortFilter, Program, Settings, Source, UnsafeItem, Violation, compile, parse,
};
use jail_sys::process::{self, Cloned};
use rustix::process::{WaitOptions, waitpid};
use rustix::thread::set_no_new_privs;

/// What became of a call made in a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Returned,
    Errno(c_int),
    Signal(c_int),
}

const EPERM: Outcome = Outcome::Errno(libc::EPERM);
const ENOSYS: Outcome = Outcome::Errno(libc::ENOSYS);
const LOAD_FAILED: c_int = 254;

/// A child loads the filter and makes the call; says what came of it.
fn attempt(program: Option<&Program>, call: fn() -> c_long) -> Outcome {
    let pid = match process::clone(0).expect("a child") {
        Cloned::Child => {
            let loaded = program.is_none_or(|program| {
                set_no_new_privs(true).is_ok()
                    && program.load(Flags { log: true, ..Flags::default() }).is_ok()
            });
            process::exit_now(match (loaded, loaded.then(call)) {
                (false, _) => LOAD_FAILED,
                (true, Some(-1)) => std::io::Error::last_os_error().raw_os_error().unwrap_or(LOAD_FAILED),
                (true, _) => 0,
            })
        }
        Cloned::Parent { pid, .. } => pid,
    };
    let (ended, status) =
        waitpid(Some(pid), WaitOptions::empty()).expect("our own child").expect("it has ended");
    assert_eq!(ended, pid);
    if let Some(signal) = status.terminating_signal() {
        return Outcome::Signal(signal);
    }
    match status.exit_status().expect("it ended by itself") {
        0 => Outcome::Returned,
        LOAD_FAILED => panic!("the filter could not be loaded"),
        errno => Outcome::Errno(errno),
    }
}

fn syscall3(nr: c_long, a: c_long, b: c_long, c: c_long) -> c_long {
    // SAFETY: the tests pass numbers and null pointers that the kernel refuses to follow.
    unsafe { libc::syscall(nr, a, b, c, 0, 0, 0) }
}

fn program(change: impl FnOnce(Settings<'_>) -> Settings<'_>) -> Program {
    let profile = Source::Builtin(Builtin::Default).profile().expect("built in");
    compile(&change(Settings::plain(&profile, (6, 18)))).expect("compiles").0
}

/// `int $0x80` with i386's number for a call without arguments.
#[cfg(target_arch = "x86_64")]
fn int80(nr: u32) -> c_long {
    let result: u64;
    // SAFETY: the i386 entry keeps all registers but rax; the call has no arguments and writes no memory.
    unsafe {
        std::arch::asm!("int 0x80", inlateout("rax") u64::from(nr) => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
    };
    match result as i32 {
        error @ -4095..0 => {
            // SAFETY: errno is this thread's.
            unsafe { *libc::__errno_location() = -error };
            -1
        }
        result => c_long::from(result),
    }
}

const TIOCSTI_BIT_32: c_long = 0x1_0000_5412;

#[test]
fn attacks_on_the_kernel_under_the_default_profile() {
    let program = program(|s| s);
    type Attack = (&'static str, fn() -> c_long);
    let attacks: &[Attack] = &[
        ("TIOCSTI with bit 32 set", || syscall3(libc::SYS_ioctl, -1, TIOCSTI_BIT_32, 0)),
        ("TIOCLINUX", || syscall3(libc::SYS_ioctl, -1, 0x541c, 0)),
        ("TIOCSETD", || syscall3(libc::SYS_ioctl, -1, 0x5423, 0)),
        ("KDSKBENT", || syscall3(libc::SYS_ioctl, -1, 0x4b47, 0)),
        ("AF_ALG", || syscall3(libc::SYS_socket, 38, 5, 0)),
        ("AF_VSOCK", || syscall3(libc::SYS_socket, 40, 1, 0)),
        ("AF_PACKET", || syscall3(libc::SYS_socket, 17, 3, 0)),
        ("netlink audit", || syscall3(libc::SYS_socket, 16, 3, 9)),
        ("netlink netfilter", || syscall3(libc::SYS_socket, 16, 3, 12)),
        ("MPTCP", || syscall3(libc::SYS_socket, 2, 1, 262)),
        ("MSG_OOB", || syscall3(libc::SYS_recvmsg, -1, 0, 1)),
        ("unshare(NEWUSER)", || syscall3(libc::SYS_unshare, 0x1000_0000, 0, 0)),
        ("unshare(NEWNS)", || syscall3(libc::SYS_unshare, 0x0002_0000, 0, 0)),
        ("setns", || syscall3(libc::SYS_setns, -1, 0, 0)),
        ("keyctl", || syscall3(libc::SYS_keyctl, 0xffff, 0, 0)),
        ("add_key", || syscall3(libc::SYS_add_key, 0, 0, 0)),
        ("request_key", || syscall3(libc::SYS_request_key, 0, 0, 0)),
        ("io_uring_setup", || syscall3(libc::SYS_io_uring_setup, 1, 0, 0)),
        ("bpf", || syscall3(libc::SYS_bpf, 0xffff, 0, 0)),
        ("perf_event_open", || syscall3(libc::SYS_perf_event_open, 0, 0, 0)),
        ("userfaultfd", || syscall3(libc::SYS_userfaultfd, 0x1000, 0, 0)),
        ("mount", || syscall3(libc::SYS_mount, 0, 0, 0)),
        ("umount2", || syscall3(libc::SYS_umount2, 0, 0, 0)),
        ("pivot_root", || syscall3(libc::SYS_pivot_root, 0, 0, 0)),
        ("chroot", || syscall3(libc::SYS_chroot, 0, 0, 0)),
        ("fsopen", || syscall3(libc::SYS_fsopen, 0, 0, 0)),
        ("open_tree", || syscall3(libc::SYS_open_tree, -1, 0, 0)),
        ("open_by_handle_at", || syscall3(libc::SYS_open_by_handle_at, -1, 0, 0)),
        ("name_to_handle_at", || syscall3(libc::SYS_name_to_handle_at, -1, 0, 0)),
        ("ptrace", || syscall3(libc::SYS_ptrace, 0, 0, 0)),
        ("process_vm_readv", || syscall3(libc::SYS_process_vm_readv, 0, 0, 0)),
        ("kcmp", || syscall3(libc::SYS_kcmp, -1, -1, 0)),
        ("pidfd_getfd", || syscall3(libc::SYS_pidfd_getfd, -1, -1, 0)),
        ("vmsplice", || syscall3(libc::SYS_vmsplice, -1, 0, 0)),
        ("fanotify_init", || syscall3(libc::SYS_fanotify_init, 0x8000_0000, 0, 0)),
        ("personality(ADDR_NO_RANDOMIZE)", || syscall3(libc::SYS_personality, 0x4_0000, 0, 0)),
        ("personality(READ_IMPLIES_EXEC)", || syscall3(libc::SYS_personality, 0x40_0000, 0, 0)),
        ("mknod of a device", || syscall3(libc::SYS_mknodat, -100, 0, 0o020_600)),
        ("sethostname", || syscall3(libc::SYS_sethostname, 0, 1, 0)),
        ("clock_settime", || syscall3(libc::SYS_clock_settime, 0, 0, 0)),
        ("kexec_load", || syscall3(libc::SYS_kexec_load, 0, 0xffff, 0)),
        ("init_module", || syscall3(libc::SYS_init_module, 0, 0, 0)),
        ("swapon", || syscall3(libc::SYS_swapon, 0, 0, 0)),
        ("migrate_pages", || syscall3(libc::SYS_migrate_pages, -1, 1, 0)),
    ];
    let mut told_apart = 0;
    for (what, attack) in attacks {
        assert_eq!(attempt(Some(&program), *attack), EPERM, "{what}");
        // An unprivileged run, or a kernel without the call, answers the same without us; root's does not.
        if attempt(None, *attack) != EPERM {
            told_apart += 1;
        }
    }
    let least = if rustix::process::geteuid().is_root() { attacks.len() - 6 } else { attacks.len() / 2 };
    assert!(
        told_apart >= least,
        "only {told_apart} of {} attacks go farther without the filter",
        attacks.len()
    );
}

#[test]
fn calls_that_fall_back_get_enosys() {
    for change in [Violation::Errno, Violation::Kill, Violation::Log] {
        let program = program(|s| Settings { violation: change, ..s });
        assert_eq!(
            attempt(Some(&program), || syscall3(libc::SYS_clone3, 0, 0, 0)),
            ENOSYS,
            "clone3, {change:?}"
        );
        assert_eq!(attempt(Some(&program), || syscall3(600, 0, 0, 0)), ENOSYS, "600, {change:?}");
    }
    assert_ne!(attempt(None, || syscall3(libc::SYS_clone3, 0, 0, 0)), ENOSYS);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_other_abis_of_x86() {
    const GETPID: u32 = 20;
    const SOCKETCALL: u32 = 102;
    let closed = program(|s| s);
    let without = attempt(None, || int80(GETPID));
    assert_eq!(attempt(Some(&closed), || int80(GETPID)), Outcome::Signal(libc::SIGSYS), "i386");
    assert_eq!(attempt(Some(&closed), || syscall3(0x4000_0027, 0, 0, 0)), ENOSYS, "x32");
    if without != Outcome::Returned {
        eprintln!("the kernel has no i386 entry ({without:?}): that opening it works was not tried");
        return;
    }
    let opened = program(|s| Settings { unsafe_open: &[UnsafeItem::I386], ..s });
    assert_eq!(attempt(Some(&opened), || int80(GETPID)), Outcome::Returned, "opened");
    assert_ne!(
        attempt(Some(&opened), || int80(SOCKETCALL)),
        Outcome::Returned,
        "the multiplexer stays closed"
    );
}

#[test]
fn violation_decides_about_unlisted_calls() {
    let ptrace = || syscall3(libc::SYS_ptrace, 0, 0, 0);
    let under = |violation| program(|s| Settings { violation, ..s });
    assert_eq!(attempt(Some(&under(Violation::Errno)), ptrace), EPERM);
    assert_eq!(attempt(Some(&under(Violation::Kill)), ptrace), Outcome::Signal(libc::SIGSYS));
    assert_eq!(attempt(Some(&under(Violation::Log)), ptrace), attempt(None, ptrace), "made, and logged");
    let mount = || syscall3(libc::SYS_mount, 0, 0, 0);
    assert_eq!(attempt(Some(&under(Violation::Log)), mount), EPERM, "the floor stays");
    assert_eq!(attempt(Some(&under(Violation::Kill)), mount), EPERM, "the floor stays");
}

#[test]
fn a_port_list_stops_datagrams_and_fast_open() {
    let program = program(|s| Settings { ports: PortFilter::PortList, ..s });
    let datagram = || syscall3(libc::SYS_socket, 2, 2, 0);
    assert_eq!(attempt(Some(&program), datagram), EPERM);
    assert_eq!(attempt(None, datagram), Outcome::Returned);
    let fast_open = || syscall3(libc::SYS_sendmsg, -1, 0, 0x2000_0000);
    assert_eq!(attempt(Some(&program), fast_open), EPERM);
    assert_eq!(attempt(None, fast_open), Outcome::Errno(libc::EBADF));
    assert_eq!(attempt(Some(&program), || syscall3(libc::SYS_socket, 2, 1, 0)), Outcome::Returned);
}

#[test]
fn strict_ends_in_the_kernel_too() {
    let profile = Source::Builtin(Builtin::Strict).profile().expect("built in");
    let pointers = jail_confine::seccomp::ExecPointers { path: 16, argv: 32, envp: 48 };
    let settings = Settings { strict_exec: Some(pointers), ..Settings::plain(&profile, (6, 18)) };
    let program = compile(&settings).expect("compiles").0;
    let this_one = || syscall3(libc::SYS_execve, 16, 32, 48);
    assert_eq!(
        attempt(Some(&program), this_one),
        Outcome::Errno(libc::EFAULT),
        "let pass, the pointers are bad"
    );
    assert_eq!(attempt(Some(&program), || syscall3(libc::SYS_execve, 16, 32, 0)), EPERM);
    assert_eq!(attempt(Some(&program), || syscall3(libc::SYS_getpid, 0, 0, 0)), EPERM);
    assert_eq!(attempt(Some(&program), || syscall3(libc::SYS_write, -1, 0, 0)), Outcome::Errno(libc::EBADF));
}

#[test]
fn a_program_of_the_greatest_length_loads() {
    let rules: Vec<String> = (0..2000)
        .map(|i| {
            format!(
                r#"{{"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
                    "args": [{{"index": 1, "value": {i}, "op": "SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let json = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#, rules.join(","));
    let profile = parse(json.as_bytes(), "long.json").expect("well-formed");
    let program = compile(&Settings::plain(&profile, (6, 18))).expect("compiles").0;
    assert!(program.len() > 2000);
    assert_eq!(
        attempt(Some(&program), || syscall3(libc::SYS_lseek, -1, 1999, 0)),
        Outcome::Errno(libc::EACCES)
    );
    assert_eq!(
        attempt(Some(&program), || syscall3(libc::SYS_lseek, -1, 2000, 0)),
        Outcome::Errno(libc::EBADF)
    );
}
