//! Kernel surface that a shell account has no use for, and other doors to the same kernel.

use jailwright_tests::user::Under;
use jailwright_tests::{Done, Scratch, Test, test};

use crate::attacker;

pub(crate) const TESTS: &[Test] = &[
    test!(scratch bpf_and_perf),
    test!(scratch io_uring),
    test!(scratch userfaultfd),
    test!(scratch keyrings),
    test!(scratch vmsplice),
    test!(scratch crypto_sockets),
    test!(scratch odd_socket_families),
    test!(scratch odd_protocols),
    test!(scratch raw_and_packet_sockets),
    test!(scratch netlink_beyond_routes),
    test!(scratch out_of_band_bytes),
    test!(scratch modules_and_kexec),
    test!(scratch clocks_and_names),
    test!(scratch segments_and_ports),
    test!(scratch personality),
    test!(scratch accounting_log_and_swap),
    test!(scratch page_and_process_games),
    test!(scratch the_32_bit_door),
    test!(scratch the_x32_door),
    test!(scratch calls_younger_than_the_profile),
    test!(scratch line_disciplines),
];

/// Every year's local root of the verifier's and of perf's.
fn bpf_and_perf(host: &Scratch) -> Done {
    attacker(host).cannot(&["bpf", "perf_event_open"]);
    Ok(())
}

/// io_uring does its work past every system call filter; PinTheft, CVE-2026-43494.
fn io_uring(host: &Scratch) -> Done {
    attacker(host).cannot(&["io_uring_setup", "io_uring_enter", "io_uring_register"]);
    Ok(())
}

/// What makes kernel races easy to win.
fn userfaultfd(host: &Scratch) -> Done {
    attacker(host).cannot(&["userfaultfd"]);
    Ok(())
}

/// Keyrings are by uid, in no namespace: CVE-2016-0728, and another login's secrets.
fn keyrings(host: &Scratch) -> Done {
    attacker(host).cannot(&["keyctl_join", "keyctl_describe_user", "add_key", "request_key"]);
    Ok(())
}

/// CVE-2022-0847 and its kin write to page caches by way of a pipe.
fn vmsplice(host: &Scratch) -> Done {
    attacker(host).cannot(&["vmsplice"]);
    Ok(())
}

/// CVE-2026-31431: AF_ALG and splice write to a file's page cache.
fn crypto_sockets(host: &Scratch) -> Done {
    attacker(host).cannot(&["socket_alg"]);
    Ok(())
}

/// Families that load modules on being asked for; each had its local root.
fn odd_socket_families(host: &Scratch) -> Done {
    let families = ["vsock", "rds", "tipc", "can", "bluetooth", "nfc", "xdp", "smc", "key", "x25"];
    let names: Vec<String> = families.iter().map(|f| format!("socket_{f}")).collect();
    attacker(host).cannot(&names.iter().map(String::as_str).collect::<Vec<_>>());
    Ok(())
}

/// CVE-2026-64564 (SCTP); MPTCP gets past Landlock's port rules.
fn odd_protocols(host: &Scratch) -> Done {
    attacker(host).cannot(&["socket_sctp", "socket_mptcp"]);
    Ok(())
}

/// CVE-2020-14386 needed a packet socket.
fn raw_and_packet_sockets(host: &Scratch) -> Done {
    attacker(host).cannot(&["socket_raw", "socket_packet"]);
    Ok(())
}

/// Docker's profile leaves all of netlink open: netfilter (CVE-2024-1086), xfrm (CVE-2026-43284), audit.
fn netlink_beyond_routes(host: &Scratch) -> Done {
    attacker(host).cannot(&["socket_netfilter", "socket_xfrm", "socket_audit"]);
    Ok(())
}

/// CVE-2025-38236, reachable from the inside of browsers' sandboxes.
fn out_of_band_bytes(host: &Scratch) -> Done {
    attacker(host).cannot(&["unix_oob"]);
    Ok(())
}

/// New code for the kernel.
fn modules_and_kexec(host: &Scratch) -> Done {
    attacker(host).cannot(&["init_module", "finit_module", "delete_module", "kexec_load"]);
    Ok(())
}

/// What the whole machine shares.
fn clocks_and_names(host: &Scratch) -> Done {
    attacker(host).cannot(&["settimeofday", "clock_settime", "sethostname", "setdomainname"]);
    Ok(())
}

/// Descriptor tables of one's own have a long past of local roots; I/O ports reach the hardware.
fn segments_and_ports(host: &Scratch) -> Done {
    attacker(host).cannot(&["modify_ldt", "iopl", "ioperm"]);
    Ok(())
}

/// READ_IMPLIES_EXEC and no address randomisation make the next bug easier.
fn personality(host: &Scratch) -> Done {
    attacker(host).cannot(&["personality_exec", "personality_norandom"]);
    Ok(())
}

/// Old calls of root's, each with a past.
fn accounting_log_and_swap(host: &Scratch) -> Done {
    attacker(host).cannot(&[
        "acct",
        "syslog",
        "swapon",
        "reboot",
        "quotactl",
        "fanotify_init",
        "uselib",
        "lookup_dcookie",
    ]);
    Ok(())
}

/// Looking into, and pushing at, other processes' memory.
fn page_and_process_games(host: &Scratch) -> Done {
    attacker(host).cannot(&["move_pages", "process_madvise", "kcmp", "pidfd_getfd"]);
    Ok(())
}

/// CVE-2017-5206's class: `int 0x80` has other numbers; socketcall reaches AF_ALG past Docker's rule for it.
fn the_32_bit_door(host: &Scratch) -> Done {
    attacker(host).cannot(&["i386_getpid", "i386_socketcall", "i386_mount"]);
    Ok(())
}

/// The third table of x86-64: the same calls with bit 30 set.
fn the_x32_door(host: &Scratch) -> Done {
    attacker(host).cannot(&["x32_getpid", "x32_mount"]);
    Ok(())
}

/// A call that was added after the profile was written: ENOSYS, so that a libc falls back.
fn calls_younger_than_the_profile(host: &Scratch) -> Done {
    for (name, answer) in attacker(host).probe(&["syscall_600", "syscall_4095"]) {
        assert_eq!(answer, "ENOSYS", "{name}");
    }
    if Under::test() == Under::Ours {
        let user = attacker(host);
        let answers = user.probe(&["clone3_newuser"]);
        assert_eq!(answers[0].1, "ENOSYS", "glibc falls back to clone(2) only on this");
    }
    Ok(())
}

/// CVE-2017-2636: a line discipline is a module that any terminal can load.
fn line_disciplines(host: &Scratch) -> Done {
    let answers = attacker(host).probe(&["tiocsetd", "tioccons"]);
    for (name, answer) in answers {
        assert_eq!(answer, "EPERM", "{name} got as far as the driver");
    }
    Ok(())
}
