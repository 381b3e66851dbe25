//! The compiler by its results: what programs answer, and that they are well-formed and short.

use jail_confine::seccomp::{Action, Arch, Builtin, Name, Program, SeccompData, Settings, Source, compile};

const EPERM: Action = Action::Errno(1);
const ENOSYS: Action = Action::Errno(38);
const KERNEL: (u32, u32) = (6, 18);

fn builtin(which: Builtin) -> Program {
    let profile = Source::Builtin(which).profile().expect("built in");
    compile(&Settings::plain(&profile, KERNEL)).expect("compiles").0
}

fn call(name: &str, args: &[u64]) -> SeccompData {
    let name = Name::find(name).unwrap_or_else(|| panic!("{name} is not in the table"));
    let nr = name.number(Arch::NATIVE).unwrap_or_else(|| panic!("{} is not of this machine", name.as_str()));
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    SeccompData { nr, arch: Arch::NATIVE.audit(), instruction_pointer: 0, args: all }
}

#[test]
fn builtin_profiles_are_short_and_well_formed() {
    for which in [Builtin::Default, Builtin::Transfer, Builtin::Off] {
        let program = builtin(which);
        assert_eq!(program.verify(), Ok(()), "{which:?}");
        assert!(program.len() < 400, "{which:?} has {} instructions", program.len());
        println!("{which:?}: {} instructions", program.len());
    }
}

#[test]
fn default_lets_work_pass_and_closes_the_kernel() {
    let program = builtin(Builtin::Default);
    for name in [
        "read",
        "openat",
        "execve",
        "mmap",
        "futex",
        "ioctl",
        "connect",
        "pidfd_open",
        "landlock_create_ruleset",
    ] {
        assert_eq!(program.simulate(&call(name, &[])), Action::Allow, "{name}");
    }
    for name in [
        "mount",
        "umount2",
        "unshare",
        "setns",
        "chroot",
        "pivot_root",
        "ptrace",
        "process_vm_readv",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "io_uring_setup",
        "perf_event_open",
        "userfaultfd",
        "kexec_load",
        "init_module",
        "open_by_handle_at",
        "name_to_handle_at",
        "vmsplice",
        "syslog",
        "clock_settime",
        "pidfd_getfd",
        "kcmp",
    ] {
        assert_eq!(program.simulate(&call(name, &[])), EPERM, "{name}");
    }
    assert_eq!(program.simulate(&call("clone3", &[])), ENOSYS);
    for nr in [470, 600, 4000, 0x3fff_ffff] {
        let data = SeccompData { nr, ..call("read", &[]) };
        assert_eq!(program.simulate(&data), ENOSYS, "{nr}");
    }
}
