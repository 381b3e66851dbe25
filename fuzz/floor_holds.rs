// The property that the fuzzer and the tests share: whatever compiles is a program the kernel takes, and under it the floor
// holds. The list below is written out again on purpose, apart from the compiler's own.

use jail_confine::seccomp::{
    Arch, Name, PortFilter, SeccompData, Settings, Verdict, Violation, X32_BIT, compile, parse,
};

/// How far a profile came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// It was refused: as JSON, or because its program would be too long.
    Refused,
    /// It compiled, and everything held.
    Compiled,
}

/// What no profile may get, with the arguments that matter.
const FORBIDDEN: &[(&str, &[u64])] = &[
    ("ioctl", &[0, 0x5412]),
    ("ioctl", &[0, 0x1_0000_5412]),
    ("ioctl", &[0, 0xffff_ffff_0000_541c]),
    ("ioctl", &[0, 0x5423]),
    ("ioctl", &[0, 0x4b47]),
    ("unshare", &[0x1000_0000]),
    ("unshare", &[0]),
    ("setns", &[]),
    ("clone3", &[]),
    ("clone", &[0x1000_0011]),
    ("clone", &[0x0002_0000]),
    ("clone", &[u64::MAX]),
    ("mount", &[]),
    ("umount2", &[]),
    ("pivot_root", &[]),
    ("chroot", &[]),
    ("fsopen", &[]),
    ("fsmount", &[]),
    ("open_tree", &[]),
    ("move_mount", &[]),
    ("mount_setattr", &[]),
    ("open_by_handle_at", &[]),
    ("quotactl", &[0x8000_0800]),
    ("keyctl", &[]),
    ("add_key", &[]),
    ("request_key", &[]),
    ("io_uring_setup", &[]),
    ("io_uring_enter", &[]),
    ("io_uring_register", &[]),
    ("bpf", &[]),
    ("perf_event_open", &[]),
    ("userfaultfd", &[]),
    ("kcmp", &[]),
    ("pidfd_getfd", &[]),
    ("process_madvise", &[]),
    ("vmsplice", &[]),
    ("move_pages", &[]),
    ("personality", &[0x40000]),
    ("personality", &[0xffff_0000_0040_0000]),
    ("socket", &[38, 5, 0]),
    ("socket", &[0x1_0000_0026, 5, 0]),
    ("socket", &[40, 1, 0]),
    ("socket", &[2, 1, 262]),
    ("socket", &[2, 3, 1]),
    ("socket", &[16, 3, 12]),
    ("socketpair", &[30, 1, 0]),
    ("sendto", &[0, 0, 0, 1]),
    ("recvmsg", &[0, 0, 0x4001]),
    ("clock_settime", &[]),
    ("init_module", &[]),
    ("kexec_load", &[]),
    ("reboot", &[]),
    ("syslog", &[]),
    ("swapon", &[]),
];

/// Compiles `json` in several ways and checks each program.
///
/// # Panics
/// If the property does not hold.
#[must_use]
pub(crate) fn floor_holds(json: &[u8]) -> Met {
    let Ok(profile) = parse(json, "fuzz.json") else { return Met::Refused };
    let mut met = Met::Refused;
    for arch in [Arch::X86_64, Arch::Aarch64] {
        for violation in [Violation::Errno, Violation::Kill, Violation::Log] {
            let ports = if violation == Violation::Kill { PortFilter::PortList } else { PortFilter::None };
            let settings = Settings { arch, violation, ports, ..Settings::plain(&profile, (6, 18)) };
            let Ok((program, _)) = compile(&settings) else { continue };
            met = Met::Compiled;
            assert_eq!(program.verify(), Ok(()));
            let denied = |data: &SeccompData| program.simulate(data).denies() == Verdict::Denied;
            for (name, args) in FORBIDDEN {
                let Some(nr) = Name::find(name).and_then(|n| n.number(arch)) else { continue };
                let mut data = SeccompData { nr, arch: arch.audit(), ..SeccompData::default() };
                for (slot, arg) in data.args.iter_mut().zip(*args) {
                    *slot = *arg;
                }
                assert!(denied(&data), "{name} {args:x?} on {arch:?}: {:?}", program.simulate(&data));
            }
            for nr in 0..600 {
                for other in
                    [Arch::X86, Arch::Aarch64, Arch::X86_64].into_iter().filter(|a| a.audit() != arch.audit())
                {
                    assert!(
                        denied(&SeccompData { nr, arch: other.audit(), ..SeccompData::default() }),
                        "{other:?}"
                    );
                }
                if arch == Arch::X86_64 {
                    let data = SeccompData { nr: nr | X32_BIT, arch: arch.audit(), ..SeccompData::default() };
                    assert!(denied(&data), "x32 {nr}");
                }
            }
        }
    }
    met
}
