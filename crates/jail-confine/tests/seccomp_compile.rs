//! The compiler by its results: what programs answer, and that they are well-formed and short.

use jail_confine::seccomp::{
    Action, Arch, Builtin, COMPILED_AHEAD, ExecPointers, Name, Note, PortFilter, Profile, Program,
    SeccompData, Settings, Source, UnsafeItem, Violation, X32_BIT, caps, compile, compile_now, parse,
};

const EPERM: Action = Action::Errno(1);
const ENOSYS: Action = Action::Errno(38);
const KERNEL: (u32, u32) = (6, 18);
const TIOCSTI: u64 = 0x5412;

fn builtin(which: Builtin) -> Profile {
    Source::Builtin(which).profile().expect("built in")
}

fn file(json: &str) -> Profile {
    parse(json.as_bytes(), "test.json").expect("well-formed")
}

fn program(settings: &Settings<'_>) -> Program {
    let (program, _) = compile(settings).expect("compiles");
    assert_eq!(program.verify(), Ok(()));
    program
}

fn plain(profile: &Profile) -> Program {
    program(&Settings::plain(profile, KERNEL))
}

fn call_on(arch: Arch, name: &str, args: &[u64]) -> SeccompData {
    let name = Name::find(name).unwrap_or_else(|| panic!("{name} is not in the table"));
    let nr = name.number(arch).unwrap_or_else(|| panic!("{} is not of {arch:?}", name.as_str()));
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    SeccompData { nr, arch: arch.audit(), instruction_pointer: 0, args: all }
}

fn call(name: &str, args: &[u64]) -> SeccompData {
    call_on(Arch::NATIVE, name, args)
}

#[test]
fn builtin_profiles_are_short_and_well_formed() {
    for arch in [Arch::X86_64, Arch::Aarch64, Arch::Riscv64] {
        for which in COMPILED_AHEAD {
            let profile = builtin(which);
            for ports in [PortFilter::None, PortFilter::PortList] {
                let program = program(&Settings { arch, ports, ..Settings::plain(&profile, KERNEL) });
                assert!(program.len() < 400, "{which:?} on {arch:?} has {} instructions", program.len());
            }
        }
    }
}

#[test]
fn programs_compiled_ahead_are_what_the_compiler_makes() {
    for arch in [Arch::X86_64, Arch::Aarch64, Arch::Riscv64] {
        for which in COMPILED_AHEAD {
            let profile = builtin(which);
            let settings = Settings { arch, ..Settings::plain(&profile, KERNEL) };
            let now = compile_now(&settings).expect("compiles").0;
            let ahead = compile(&settings).expect("compiles").0;
            assert!(now == ahead, "{which:?} on {arch:?}: run the example seccomp-ahead again");
        }
    }
}

#[test]
fn only_plain_settings_use_what_was_compiled_ahead() {
    let profile = builtin(Builtin::Default);
    let usual = Settings::plain(&profile, KERNEL);
    let pointers = ExecPointers { path: 1, argv: 2, envp: 3 };
    for other in [
        Settings { violation: Violation::Kill, ..usual },
        Settings { violation: Violation::Log, ..usual },
        Settings { ports: PortFilter::PortList, ..usual },
        Settings { unsafe_open: &[UnsafeItem::Personality], ..usual },
        Settings { strict_exec: Some(pointers), ..usual },
    ] {
        assert_ne!(program(&other), program(&usual));
    }
    let file = parse(Builtin::Default.json().expect("has one"), "copy.json").expect("well-formed");
    assert_eq!(plain(&file).instructions(), plain(&profile).instructions());
}

#[test]
fn default_lets_work_pass_and_closes_the_kernel() {
    let program = plain(&builtin(Builtin::Default));
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
    let closed = "mount umount2 unshare setns chroot pivot_root ptrace process_vm_readv process_vm_writev bpf keyctl \
        add_key request_key io_uring_setup io_uring_enter io_uring_register perf_event_open userfaultfd kexec_load \
        init_module finit_module open_by_handle_at name_to_handle_at vmsplice syslog clock_settime settimeofday \
        pidfd_getfd kcmp fanotify_init process_madvise swapon reboot acct sethostname migrate_pages mbind quotactl";
    for name in closed.split_whitespace() {
        assert_eq!(program.simulate(&call(name, &[])), EPERM, "{name}");
    }
    assert_eq!(program.simulate(&call("clone3", &[])), ENOSYS);
    for nr in [470, 600, 4000, X32_BIT - 1] {
        assert_eq!(program.simulate(&SeccompData { nr, ..call("read", &[]) }), ENOSYS, "{nr}");
    }
}

#[test]
fn arguments_of_the_default_profile() {
    let program = plain(&builtin(Builtin::Default));
    let answers = |name: &str, args: &[u64]| program.simulate(&call(name, args));
    let high = 1 << 32;
    for request in [TIOCSTI, 0x541c, 0x541d, 0x5423, 0x4b47, 0x4b49, 0x5606] {
        assert_eq!(answers("ioctl", &[0, request]), EPERM, "{request:#x}");
        assert_eq!(answers("ioctl", &[0, request | high]), EPERM, "{request:#x} with bit 32");
    }
    for request in [0x5401, 0x5413, 0x5414, 0x541b, 0x5410] {
        assert_eq!(answers("ioctl", &[0, request]), Action::Allow, "{request:#x}");
    }
    for flag in [0x20000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(answers("clone", &[flag | 17]), EPERM, "{flag:#x}");
    }
    assert_eq!(answers("clone", &[0x003d_0f00]), Action::Allow, "a thread");
    let (stream, datagram, raw, sequenced) = (1, 2, 3, 5);
    for (family, kind, protocol) in [
        (1, stream, 0),
        (1, sequenced, 0),
        (2, stream, 0),
        (2, stream, 6),
        (10, datagram, 0),
        (2, datagram | 0x80000, 17),
        (2, datagram, 1),
        (10, datagram, 58),
        (16, raw, 0),
    ] {
        assert_eq!(answers("socket", &[family, kind, protocol]), Action::Allow, "{family} {kind} {protocol}");
    }
    for (family, kind, protocol) in [
        (38, sequenced, 0),
        (40, stream, 0),
        (21, sequenced, 0),
        (39, stream, 0),
        (17, raw, 0),
        (2, raw, 1),
        (2, sequenced, 0),
        (2, stream, 262),
        (2, stream, 132),
        (16, raw, 12),
        (16, raw, 6),
        (high | 38, sequenced, 0),
    ] {
        assert_eq!(answers("socket", &[family, kind, protocol]), EPERM, "{family} {kind} {protocol}");
    }
    for (name, at) in
        [("sendto", 3), ("recvfrom", 3), ("sendmmsg", 3), ("recvmmsg", 3), ("sendmsg", 2), ("recvmsg", 2)]
    {
        let mut args = [0; 6];
        args[at] = 0x4001;
        assert_eq!(answers(name, &args), EPERM, "{name} with MSG_OOB");
        args[at] = 0x4000;
        assert_eq!(answers(name, &args), Action::Allow, "{name}");
    }
    for persona in [0, 8, 0x20000, 0x20008, 0xffff_ffff] {
        assert_eq!(answers("personality", &[persona]), Action::Allow);
    }
    for persona in [0x4_0000, 0x40_0000, 0x44_0000, 0x800_0000] {
        assert_eq!(answers("personality", &[persona]), EPERM);
    }
    for (mode, answer) in
        [(0o010_600, Action::Allow), (0o140_600, Action::Allow), (0o020_600, EPERM), (0o060_600, EPERM)]
    {
        assert_eq!(answers("mknodat", &[0, 0, mode]), answer, "{mode:o}");
    }
}

#[test]
fn foreign_abis_die_unless_listed_and_opened() {
    let read = |arch: Arch| call_on(arch, "read", &[]);
    let profile = builtin(Builtin::Default);
    let usual = Settings { arch: Arch::X86_64, ..Settings::plain(&profile, KERNEL) };
    let closed = program(&usual);
    assert_eq!(closed.simulate(&read(Arch::X86_64)), Action::Allow);
    assert_eq!(closed.simulate(&read(Arch::X86)), Action::KillProcess);
    assert_eq!(closed.simulate(&read(Arch::X32)), ENOSYS);
    assert_eq!(closed.simulate(&read(Arch::Aarch64)), Action::KillProcess);

    let opened = program(&Settings { unsafe_open: &[UnsafeItem::I386, UnsafeItem::X32], ..usual });
    assert_eq!(opened.simulate(&read(Arch::X86)), Action::Allow);
    assert_eq!(opened.simulate(&read(Arch::X32)), Action::Allow);
    assert_eq!(opened.simulate(&read(Arch::Aarch64)), Action::KillProcess);
    for arch in [Arch::X86, Arch::X32] {
        for name in ["keyctl", "unshare", "mount", "io_uring_setup"] {
            assert_eq!(opened.simulate(&call_on(arch, name, &[])), EPERM, "{name} on {arch:?}");
        }
        assert_eq!(opened.simulate(&call_on(arch, "ioctl", &[0, TIOCSTI])), EPERM);
        assert_eq!(opened.simulate(&call_on(arch, "socket", &[38, 5, 0])), EPERM);
    }
    assert_eq!(opened.simulate(&call_on(Arch::X86, "socketcall", &[1])), ENOSYS);

    let unlisted = file(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    let settings =
        Settings { profile: &unlisted, unsafe_open: &[UnsafeItem::I386, UnsafeItem::X32], ..usual };
    assert_eq!(program(&settings).simulate(&read(Arch::X86)), Action::KillProcess, "not listed");
    let listed = file(r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"]}"#);
    let (_, notes) = compile(&Settings { profile: &listed, ..usual }).expect("compiles");
    assert_eq!(notes, [Note::AbiClosed(Arch::X86)]);
}

#[test]
fn violation_replaces_the_default_and_nothing_else() {
    let profile = builtin(Builtin::Default);
    for (violation, answer) in
        [(Violation::Errno, EPERM), (Violation::Kill, Action::KillProcess), (Violation::Log, Action::Log)]
    {
        let program = program(&Settings { violation, ..Settings::plain(&profile, KERNEL) });
        assert_eq!(program.simulate(&call("ptrace", &[])), answer, "not listed");
        assert_eq!(program.simulate(&call("mknodat", &[0, 0, 0o020_600])), answer, "listed, other arguments");
        for name in ["mount", "unshare", "keyctl"] {
            assert_eq!(program.simulate(&call(name, &[])), EPERM, "{name} is the floor's");
        }
        assert_eq!(program.simulate(&call("ioctl", &[0, TIOCSTI])), EPERM);
        assert_eq!(program.simulate(&call("clone3", &[])), ENOSYS);
        assert_eq!(program.simulate(&SeccompData { nr: 600, ..call("read", &[]) }), ENOSYS);
        assert_eq!(program.simulate(&call("read", &[])), Action::Allow);
    }
}

#[test]
fn a_rule_that_states_the_default_is_kept_from_violation() {
    let profile = file(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"names": ["ptrace"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let program = program(&Settings { violation: Violation::Log, ..Settings::plain(&profile, KERNEL) });
    assert_eq!(program.simulate(&call("ptrace", &[])), EPERM);
    assert_eq!(program.simulate(&call("write", &[])), Action::Log);
}

#[test]
fn off_is_the_floor_alone() {
    let program = plain(&builtin(Builtin::Off));
    for name in ["ptrace", "read", "name_to_handle_at", "process_vm_readv"] {
        assert_eq!(program.simulate(&call(name, &[])), Action::Allow, "{name}");
    }
    for name in ["mount", "bpf", "keyctl", "io_uring_setup", "setns"] {
        assert_eq!(program.simulate(&call(name, &[])), EPERM, "{name}");
    }
    assert_eq!(program.simulate(&SeccompData { nr: 600, ..call("read", &[]) }), Action::Allow);
}

#[test]
fn the_floor_gives_way_to_a_stricter_profile_only() {
    let profile = file(
        r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
            {"names": ["mount"], "action": "SCMP_ACT_TRAP"},
            {"names": ["bpf", "ioctl", "keyctl"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["keyctl"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let program = plain(&profile);
    assert_eq!(program.simulate(&call("mount", &[])), Action::Trap, "stated");
    assert_eq!(program.simulate(&call("unshare", &[])), Action::KillProcess, "the profile's own default");
    assert_eq!(program.simulate(&call("bpf", &[])), EPERM, "the floor's");
    assert_eq!(program.simulate(&call("ioctl", &[0, TIOCSTI])), EPERM, "the floor's");
    assert_eq!(program.simulate(&call("ioctl", &[0, 1])), Action::Allow);
    assert_eq!(
        program.simulate(&call("keyctl", &[7])),
        EPERM,
        "the unconditional rule beats the conditional one"
    );
}

#[test]
fn each_unsafe_item_opens_its_part_and_no_other() {
    let profile = file(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#);
    let cases: &[(UnsafeItem, SeccompData)] = &[
        (UnsafeItem::Terminal, call("ioctl", &[0, TIOCSTI])),
        (UnsafeItem::Namespaces, call("unshare", &[0x1000_0000])),
        (UnsafeItem::Mount, call("mount", &[])),
        (UnsafeItem::Keyrings, call("keyctl", &[])),
        (UnsafeItem::IoUring, call("io_uring_setup", &[])),
        (UnsafeItem::Bpf, call("bpf", &[])),
        (UnsafeItem::Perf, call("perf_event_open", &[])),
        (UnsafeItem::Userfaultfd, call("userfaultfd", &[])),
        (UnsafeItem::Debug, call("pidfd_getfd", &[])),
        (UnsafeItem::Vmsplice, call("vmsplice", &[])),
        (UnsafeItem::Numa, call("move_pages", &[])),
        (UnsafeItem::Personality, call("personality", &[0x40000])),
        (UnsafeItem::Sockets, call("socket", &[38, 5, 0])),
        (UnsafeItem::Oob, call("sendto", &[0, 0, 0, 1])),
        (UnsafeItem::Time, call("clock_settime", &[])),
        (UnsafeItem::System, call("reboot", &[])),
    ];
    let closed = plain(&profile);
    for (item, data) in cases {
        assert_eq!(closed.simulate(data), EPERM, "{item:?} is closed");
        let opened = program(&Settings { unsafe_open: &[*item], ..Settings::plain(&profile, KERNEL) });
        for (other, data) in cases {
            let answer = if other == item { Action::Allow } else { EPERM };
            assert_eq!(opened.simulate(data), answer, "{other:?} with {item:?} open");
        }
    }
    for (item, word) in UnsafeItem::ALL {
        assert_eq!(UnsafeItem::parse(word), Some(item));
    }
    assert_eq!(UnsafeItem::parse("everything"), None);
}

#[test]
fn quotas_can_be_read_and_not_set() {
    let program = plain(&file(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#));
    let (get, set) = (0x80_0007_u64 << 8, 0x80_0008_u64 << 8);
    let low = |command: u64| command & 0xffff_ffff;
    for (command, answer) in
        [(low(get), Action::Allow), (low(get) | 1, Action::Allow), (low(set), EPERM), (0x80_0002 << 8, EPERM)]
    {
        assert_eq!(program.simulate(&call("quotactl", &[command])), answer, "{command:#x}");
    }
}

#[test]
fn a_port_list_closes_the_ways_around_landlock() {
    let profile = builtin(Builtin::Default);
    let fastopen = 0x2000_0000;
    for opened in [&[][..], &[UnsafeItem::Sockets, UnsafeItem::Oob][..]] {
        let ports = PortFilter::PortList;
        let program = program(&Settings { ports, unsafe_open: opened, ..Settings::plain(&profile, KERNEL) });
        let answers = |name: &str, args: &[u64]| program.simulate(&call(name, args));
        assert_eq!(answers("sendto", &[0, 0, 0, fastopen]), EPERM);
        assert_eq!(answers("sendmmsg", &[0, 0, 0, fastopen]), EPERM);
        assert_eq!(answers("sendmsg", &[0, 0, fastopen]), EPERM);
        assert_eq!(answers("sendto", &[0, 0, 0, 0x4000]), Action::Allow);
        assert_eq!(answers("socket", &[2, 1, 0]), Action::Allow);
        assert_eq!(answers("socket", &[10, 1, 6]), Action::Allow);
        assert_eq!(answers("socket", &[2, 1, 262]), EPERM, "MPTCP");
        assert_eq!(answers("socket", &[2, 2, 0]), EPERM, "UDP");
        assert_eq!(answers("socket", &[10, 2, 58]), EPERM, "ping");
        assert_eq!(answers("socket", &[1, 2, 0]), Action::Allow, "UNIX datagrams");
    }
    let open = plain(&profile);
    assert_eq!(open.simulate(&call("sendto", &[0, 0, 0, fastopen])), Action::Allow);
}

#[test]
fn strict_lets_one_execve_pass() {
    let profile = builtin(Builtin::Strict);
    let refused = compile(&Settings::plain(&profile, KERNEL)).expect_err("not told which");
    assert!(refused.to_string().contains("was not told which"), "{refused}");

    let pointers = ExecPointers { path: 0x7fff_1234_5678, argv: 0x5555_0000_1000, envp: 0x7fff_0000_0008 };
    let settings = Settings { strict_exec: Some(pointers), ..Settings::plain(&profile, KERNEL) };
    let program = program(&settings);
    let good = [pointers.path, pointers.argv, pointers.envp];
    assert_eq!(program.simulate(&call("execve", &good)), Action::Allow);
    for wrong in 0..3 {
        for difference in [1, 1 << 32] {
            let mut args = good;
            args[wrong] ^= difference;
            assert_eq!(program.simulate(&call("execve", &args)), EPERM);
        }
    }
    for name in Name::all() {
        let Some(nr) = name.number(Arch::NATIVE) else { continue };
        let answer = program.simulate(&SeccompData { nr, ..call("read", &[]) });
        let allowed = ["read", "write", "exit", "exit_group", "rt_sigreturn"].contains(&name.as_str());
        assert_eq!(answer == Action::Allow, allowed, "{}", name.as_str());
    }
    assert_ne!(program.simulate(&call("execveat", &good)), Action::Allow);
}

#[test]
fn newer_calls_than_the_author_knew_answer_enosys() {
    let profile = file(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read", "openat2"], "action": "SCMP_ACT_ALLOW"}]}"#,
    );
    let program = plain(&profile);
    for (name, answer) in
        [("openat2", Action::Allow), ("statx", EPERM), ("faccessat2", ENOSYS), ("cachestat", ENOSYS)]
    {
        assert_eq!(program.simulate(&call(name, &[])), answer, "{name}");
    }
    let open = plain(&file(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#));
    assert_eq!(open.simulate(&call("cachestat", &[])), Action::Allow, "who allows all, allows the new too");
}

#[test]
fn includes_and_excludes() {
    let profile = file(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["alarm"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}},
            {"names": ["pause"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}},
            {"names": ["getpid"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.10"}},
            {"names": ["getppid"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "5.10"}},
            {"names": ["getuid"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "s390x"]}},
            {"names": ["getgid"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64", "s390x"]}},
            {"names": ["sync"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_FROM_THE_FUTURE"]}},
            {"names": ["time"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": [], "arches": [], "minKernel": ""}}]}"#,
    );
    let (chown, kill) = (caps::bit("CAP_CHOWN").expect("known"), caps::bit("kill").expect("known"));
    let answers = |caps: u64, kernel: (u32, u32), arch: Arch, name: &str| {
        let settings = Settings { caps, arch, ..Settings::plain(&profile, kernel) };
        program(&settings).simulate(&call_on(arch, name, &[])) == Action::Allow
    };
    let x86 = |caps: u64, name: &str| answers(caps, KERNEL, Arch::X86_64, name);
    assert_eq!([x86(0, "alarm"), x86(chown, "alarm"), x86(chown | kill, "alarm")], [false, false, true]);
    assert_eq!([x86(0, "pause"), x86(chown, "pause"), x86(chown | kill, "pause")], [true, false, false]);
    let on = |kernel, name: &str| answers(0, kernel, Arch::X86_64, name);
    assert_eq!([on((4, 19), "getpid"), on((5, 9), "getpid"), on((5, 10), "getpid")], [false, false, true]);
    assert_eq!([on((5, 9), "getppid"), on((5, 10), "getppid"), on((6, 0), "getppid")], [true, false, false]);
    assert_eq!([x86(0, "getuid"), answers(0, KERNEL, Arch::Aarch64, "getuid")], [true, false]);
    assert_eq!([x86(0, "getgid"), answers(0, KERNEL, Arch::Aarch64, "getgid")], [false, true]);
    assert_eq!([x86(u64::MAX, "sync"), x86(0, "time")], [false, true]);
}

#[test]
fn argument_operators_on_64_bits() {
    let big = 0x1_0000_0005_u64;
    let probes = [0, 4, 5, 6, 0xffff_ffff, big - 1, big, big + 1, 0x2_0000_0000, 0x2_0000_0005, u64::MAX];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(&str, Holds); 6] = [
        ("NE", |a, v| a != v),
        ("LT", |a, v| a < v),
        ("LE", |a, v| a <= v),
        ("EQ", |a, v| a == v),
        ("GE", |a, v| a >= v),
        ("GT", |a, v| a > v),
    ];
    for value in [0, 5, big, u64::MAX] {
        for (op, holds) in operators {
            let profile = file(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["lseek"], "action": "SCMP_ACT_ALLOW",
                    "args": [{{"index": 3, "value": {value}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
            ));
            let program = plain(&profile);
            for probe in probes {
                let answer = program.simulate(&call("lseek", &[0, 0, 0, probe]));
                assert_eq!(answer == Action::Allow, holds(probe, value), "{probe:#x} {op} {value:#x}");
            }
        }
    }
}

#[test]
fn conditions_are_joined_and_repeated_ones_are_alternatives() {
    let rule = |args: &str| {
        file(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
                {{"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": [{args}]}}]}}"#
        ))
    };
    let both = plain(&rule(
        r#"{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}"#,
    ));
    let answers = |p: &Program, args: &[u64]| p.simulate(&call("lseek", args)) == Action::Allow;
    assert_eq!(
        [answers(&both, &[1, 2]), answers(&both, &[1, 3]), answers(&both, &[0, 2])],
        [true, false, false]
    );
    let either = plain(&rule(
        r#"{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"},
           {"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}"#,
    ));
    let seen = [[1, 0], [2, 0], [3, 9], [3, 0]].map(|args| answers(&either, &args));
    assert_eq!(seen, [true, true, true, false]);
}

#[test]
fn a_condition_on_a_pointer_compares_the_number() {
    // What it points to cannot be seen; the address can, and that is what the profile asked for.
    let profile = file(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["openat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
            "args": [{"index": 1, "value": 140737488355327, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let program = plain(&profile);
    assert_eq!(program.simulate(&call("openat", &[0, 0x7fff_ffff_ffff])), Action::Errno(13));
    assert_eq!(program.simulate(&call("openat", &[0, 0x7fff_ffff_fffe])), Action::Allow);
}

#[test]
fn two_thousand_rules() {
    let names: Vec<&str> =
        Name::all().filter(|n| n.number(Arch::NATIVE).is_some()).map(Name::as_str).collect();
    let rules = |rule: &dyn Fn(usize) -> String| {
        let rules: Vec<String> = (0..2000).map(rule).collect();
        file(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#, rules.join(",")))
    };
    let by_name =
        rules(&|i| format!(r#"{{"names": ["{}"], "action": "SCMP_ACT_ALLOW"}}"#, names[i % names.len()]));
    assert!(plain(&by_name).len() < 400);

    let with_arguments = rules(&|i| {
        format!(
            r#"{{"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": [{{"index": 1, "value": {i}, "op": "SCMP_CMP_EQ"}}]}}"#
        )
    });
    let long = plain(&with_arguments);
    assert!(long.len() > 2000 && long.len() <= 4096, "{}", long.len());
    for (offset, answer) in [(0, Action::Allow), (1999, Action::Allow), (2000, EPERM), (1 << 32, EPERM)] {
        assert_eq!(long.simulate(&call("lseek", &[0, offset])), answer, "{offset}");
    }

    let too_many = rules(&|i| {
        format!(
            r#"{{"names": ["{}"], "action": "SCMP_ACT_ALLOW",
                "args": [{{"index": 0, "value": {i}, "op": "SCMP_CMP_GT"}}, {{"index": 1, "value": {i}, "op": "SCMP_CMP_LT"}}]}}"#,
            names[i % names.len()]
        )
    });
    let refused = compile(&Settings::plain(&too_many, KERNEL)).expect_err("too long");
    assert!(refused.to_string().contains("longer than the kernel's 4096 instructions"), "{refused}");
}

#[test]
fn notes_tell_what_stays_closed() {
    let profile = file(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["s390_runtime_instr"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"names": ["mount", "mseal"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["lseek"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 9, "op": "SCMP_CMP_LT"}]},
            {"names": ["lseek"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]}]}"#,
    );
    let (program, notes) = compile(&Settings::plain(&profile, (6, 1))).expect("compiles");
    let expected = [
        Note::UnknownName("no_such_call".to_owned()),
        Note::Overlap("lseek"),
        Note::NewerThanKernel("mseal", (6, 10)),
        Note::Floor("mount", UnsafeItem::Mount),
    ];
    assert_eq!(notes, expected);
    assert_eq!(program.simulate(&call("lseek", &[3])), Action::Allow, "the first listed holds");
}

#[test]
fn the_manual_names_every_part_of_the_floor() {
    let manual = include_str!("../../../docs/seccomp.md");
    for (_, word) in UnsafeItem::ALL {
        assert!(manual.contains(&format!("`{word}`")), "{word} is not in docs/seccomp.md");
    }
    let example = manual
        .split_once("builders.json\"\n\n")
        .and_then(|(_, rest)| rest.split_once("\n\n- "))
        .expect("there")
        .0;
    let (program, notes) = compile(&Settings::plain(&file(example), KERNEL)).expect("the example compiles");
    assert_eq!(notes, []);
    assert_eq!(program.simulate(&call("ptrace", &[])), Action::Allow);
    assert_eq!(program.simulate(&call("socket", &[1])), Action::Allow);
    assert_eq!(program.simulate(&call("socket", &[2])), EPERM);
}
