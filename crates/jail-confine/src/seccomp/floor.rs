//! The floor: what no profile opens, unless the policy says `unsafe = ["…"]`.
//!
//! Each row is an attack that a shell account has no use for. A row answers the errno that lets programs fall back;
//! where the profile is stricter (it kills), the profile holds.

use super::action::Action;
use super::dag::{Dag, Id, Test, Word};
use super::errno::{ENOSYS, EPERM};
use super::names::Name;

/// A part of the floor that a policy can open, by its name in `unsafe = ["…"]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UnsafeItem {
    /// 32-bit x86 programs (their own system call table, with `socketcall` and other things no filter can look into).
    I386,
    /// x32 programs.
    X32,
    /// Typing into the terminal for someone else (TIOCSTI, TIOCLINUX), console and line-discipline ioctls.
    Terminal,
    /// Making and joining namespaces.
    Namespaces,
    /// Mounting, chroot, pivot_root, opening by handle, setting quotas.
    Mount,
    /// Kernel keyrings.
    Keyrings,
    /// io_uring.
    IoUring,
    /// bpf(2).
    Bpf,
    /// perf_event_open(2).
    Perf,
    /// userfaultfd(2).
    Userfaultfd,
    /// Looking into other processes: kcmp, pidfd_getfd, process_madvise.
    Debug,
    /// vmsplice(2).
    Vmsplice,
    /// Moving memory between NUMA nodes.
    Numa,
    /// Changing segment descriptors and virtual-8086 mode.
    ModifyLdt,
    /// Persona bits that weaken address-space randomisation or no-execute.
    Personality,
    /// Socket families and protocols beyond UNIX, TCP, UDP, ping and route netlink.
    Sockets,
    /// Out-of-band data on sockets.
    Oob,
    /// Setting the clock.
    Time,
    /// The machine itself: modules, kexec, reboot, swap, accounting, the kernel log, I/O ports, host name, and calls that
    /// only remain for programs of the nineties.
    System,
}

impl UnsafeItem {
    /// Every item with its name in the policy.
    pub const ALL: [(Self, &'static str); 19] = [
        (Self::I386, "i386"),
        (Self::X32, "x32"),
        (Self::Terminal, "terminal"),
        (Self::Namespaces, "namespaces"),
        (Self::Mount, "mount"),
        (Self::Keyrings, "keyrings"),
        (Self::IoUring, "io_uring"),
        (Self::Bpf, "bpf"),
        (Self::Perf, "perf"),
        (Self::Userfaultfd, "userfaultfd"),
        (Self::Debug, "debug"),
        (Self::Vmsplice, "vmsplice"),
        (Self::Numa, "numa"),
        (Self::ModifyLdt, "modify_ldt"),
        (Self::Personality, "personality"),
        (Self::Sockets, "sockets"),
        (Self::Oob, "oob"),
        (Self::Time, "time"),
        (Self::System, "system"),
    ];

    /// The item of a policy's word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == word).map(|(item, _)| *item)
    }

    /// Its word in the policy.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(item, _)| *item == self).map_or("?", |(_, name)| name)
    }
}

/// Which INET traffic seccomp lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortFilter {
    /// No list of ports: TCP, UDP and ping.
    #[default]
    None,
    /// Landlock filters TCP ports, so what passes it by (fast open, multipath TCP, datagrams) is closed here.
    PortList,
}

/// How a row of the floor judges a call. Arguments are compared by the low 32 bits, which is what the kernel uses of them.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Never made.
    Never(u16),
    /// Refused if the argument, under the mask, is one of these.
    IfMasked { arg: u8, checks: &'static [(u32, u32)] },
    /// Refused unless the argument, under the mask, is one of these.
    UnlessMasked { arg: u8, checks: &'static [(u32, u32)] },
    /// Refused if any of these bits is set.
    IfBits { arg: u8, bits: u32 },
    /// The allow-list of socket families and protocols.
    Socket,
}

struct Row {
    item: UnsafeItem,
    names: &'static [&'static str],
    rule: Rule,
}

const WHOLE: u32 = u32::MAX;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. (NEWTIME has a bit that clone(2) uses for its signal.)
const CLONE_NEW: u32 = 0x7e02_0000;
const MSG_OOB: u32 = 1;
const MSG_FASTOPEN: u32 = 0x2000_0000;

/// TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD; and all console ioctls, which lie in the KD and VT ranges.
const TERMINAL: &[(u32, u32)] = &[
    (WHOLE, 0x5412),
    (WHOLE, 0x541c),
    (WHOLE, 0x541d),
    (WHOLE, 0x5423),
    (0xffff_ff00, 0x4b00),
    (0xffff_ff00, 0x5600),
];
/// PER_LINUX, PER_LINUX32, each with UNAME26 or without, and the question which it is.
const PERSONAS: &[(u32, u32)] =
    &[(WHOLE, 0), (WHOLE, 0x8), (WHOLE, 0x2_0000), (WHOLE, 0x2_0008), (WHOLE, 0xffff_ffff)];
/// The quota commands that only read: the low byte is the kind of quota.
const QUOTA_READS: &[(u32, u32)] = &[
    (0xffff_ff00, 0x8000_0400),
    (0xffff_ff00, 0x8000_0500),
    (0xffff_ff00, 0x8000_0700),
    (0xffff_ff00, 0x8000_0900),
    (0xffff_ff00, 0x0058_0300),
    (0xffff_ff00, 0x0058_0500),
    (0xffff_ff00, 0x0058_0800),
    (0xffff_ff00, 0x0058_0900),
];

const ROWS: &[Row] = &[
    Row { item: UnsafeItem::Terminal, names: &["ioctl"], rule: Rule::IfMasked { arg: 1, checks: TERMINAL } },
    Row { item: UnsafeItem::Namespaces, names: &["setns", "unshare"], rule: Rule::Never(EPERM) },
    // Its flags are behind a pointer; ENOSYS makes libc use clone(2).
    Row { item: UnsafeItem::Namespaces, names: &["clone3"], rule: Rule::Never(ENOSYS) },
    Row { item: UnsafeItem::Namespaces, names: &["clone"], rule: Rule::IfBits { arg: 0, bits: CLONE_NEW } },
    Row {
        item: UnsafeItem::Mount,
        names: &[
            "chroot",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_by_handle_at",
            "open_tree",
            "open_tree_attr",
            "pivot_root",
            "umount",
            "umount2",
        ],
        rule: Rule::Never(EPERM),
    },
    Row {
        item: UnsafeItem::Mount,
        names: &["quotactl"],
        rule: Rule::UnlessMasked { arg: 0, checks: QUOTA_READS },
    },
    Row {
        item: UnsafeItem::Mount,
        names: &["quotactl_fd"],
        rule: Rule::UnlessMasked { arg: 1, checks: QUOTA_READS },
    },
    Row {
        item: UnsafeItem::Keyrings,
        names: &["add_key", "keyctl", "request_key"],
        rule: Rule::Never(EPERM),
    },
    Row {
        item: UnsafeItem::IoUring,
        names: &["io_uring_enter", "io_uring_register", "io_uring_setup"],
        rule: Rule::Never(EPERM),
    },
    Row { item: UnsafeItem::Bpf, names: &["bpf"], rule: Rule::Never(EPERM) },
    Row { item: UnsafeItem::Perf, names: &["perf_event_open"], rule: Rule::Never(EPERM) },
    Row { item: UnsafeItem::Userfaultfd, names: &["userfaultfd"], rule: Rule::Never(EPERM) },
    Row {
        item: UnsafeItem::Debug,
        names: &["kcmp", "pidfd_getfd", "process_madvise"],
        rule: Rule::Never(EPERM),
    },
    Row { item: UnsafeItem::Vmsplice, names: &["vmsplice"], rule: Rule::Never(EPERM) },
    Row {
        item: UnsafeItem::Numa,
        names: &["mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node"],
        rule: Rule::Never(EPERM),
    },
    Row { item: UnsafeItem::ModifyLdt, names: &["modify_ldt", "vm86", "vm86old"], rule: Rule::Never(EPERM) },
    Row {
        item: UnsafeItem::Personality,
        names: &["personality"],
        rule: Rule::UnlessMasked { arg: 0, checks: PERSONAS },
    },
    Row { item: UnsafeItem::Sockets, names: &["socket", "socketpair"], rule: Rule::Socket },
    // i386's multiplexer: the family is behind a pointer. Its callers use socket(2) where this says ENOSYS.
    Row { item: UnsafeItem::Sockets, names: &["socketcall"], rule: Rule::Never(ENOSYS) },
    Row {
        item: UnsafeItem::Oob,
        names: &["recvfrom", "recvmmsg", "recvmmsg_time64", "sendmmsg", "sendto"],
        rule: Rule::IfBits { arg: 3, bits: MSG_OOB },
    },
    Row {
        item: UnsafeItem::Oob,
        names: &["recvmsg", "sendmsg"],
        rule: Rule::IfBits { arg: 2, bits: MSG_OOB },
    },
    Row {
        item: UnsafeItem::Time,
        names: &[
            "adjtimex",
            "clock_adjtime",
            "clock_adjtime64",
            "clock_settime",
            "clock_settime64",
            "settimeofday",
            "stime",
        ],
        rule: Rule::Never(EPERM),
    },
    Row {
        item: UnsafeItem::System,
        names: &[
            "acct",
            "create_module",
            "delete_module",
            "fanotify_init",
            "finit_module",
            "get_kernel_syms",
            "init_module",
            "ioperm",
            "iopl",
            "kexec_file_load",
            "kexec_load",
            "lookup_dcookie",
            "nfsservctl",
            "query_module",
            "reboot",
            "setdomainname",
            "sethostname",
            "swapoff",
            "swapon",
            "sysfs",
            "syslog",
            "uselib",
            "ustat",
        ],
        rule: Rule::Never(EPERM),
    },
];

/// Rows that a list of ports adds; no `unsafe` item opens them, only taking the list away does.
const PORT_ROWS: &[(&[&str], Rule)] = &[
    (&["sendmmsg", "sendto"], Rule::IfBits { arg: 3, bits: MSG_FASTOPEN }),
    (&["sendmsg"], Rule::IfBits { arg: 2, bits: MSG_FASTOPEN }),
];

/// What of the floor is in force.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor<'a> {
    pub(super) opened: &'a [UnsafeItem],
    pub(super) ports: PortFilter,
}

impl Floor<'_> {
    /// Calls `tell` for every call that is closed wholly, with the item that would open it.
    pub(super) fn each_closed(self, mut tell: impl FnMut(Name, UnsafeItem)) {
        for row in ROWS {
            if !self.opened.contains(&row.item) && matches!(row.rule, Rule::Never(_)) {
                row.names.iter().filter_map(|n| Name::find(n)).for_each(|name| tell(name, row.item));
            }
        }
    }

    /// Calls `lay` for every call the floor has a say in.
    pub(super) fn each(self, mut lay: impl FnMut(Name, Layer)) {
        let closed = |item: UnsafeItem| !self.opened.contains(&item);
        let socket_by_ports = self.ports == PortFilter::PortList;
        for row in ROWS {
            let anyway = socket_by_ports && row.item == UnsafeItem::Sockets;
            if closed(row.item) || anyway {
                for name in row.names.iter().filter_map(|n| Name::find(n)) {
                    lay(name, Layer { rule: row.rule, ports: self.ports });
                }
            }
        }
        if socket_by_ports {
            for (names, rule) in PORT_ROWS {
                for name in names.iter().filter_map(|n| Name::find(n)) {
                    lay(name, Layer { rule: *rule, ports: self.ports });
                }
            }
        }
    }
}

/// One layer of the floor under one system call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    rule: Rule,
    ports: PortFilter,
}

impl Layer {
    /// Puts the layer under a decision: where it refuses, the answer is its errno or a stricter one of `stated`, what the
    /// profile itself states; elsewhere `decision` stands.
    pub(super) fn under(self, dag: &mut Dag, decision: Id, stated: Id) -> Id {
        let errno = if let Rule::Never(errno) = self.rule { errno } else { EPERM };
        let refused = dag.at_least_as_strict(stated, Action::Errno(errno));
        match self.rule {
            Rule::Never(_) => refused,
            Rule::IfMasked { arg, checks } => any_of(dag, Word::low(arg), checks, refused, decision),
            Rule::UnlessMasked { arg, checks } => any_of(dag, Word::low(arg), checks, decision, refused),
            Rule::IfBits { arg, bits } => dag.test(Test::masked(Word::low(arg), bits, 0), decision, refused),
            Rule::Socket => socket(dag, self.ports, decision, refused),
        }
    }
}

fn any_of(dag: &mut Dag, word: Word, checks: &[(u32, u32)], yes: Id, no: Id) -> Id {
    checks.iter().rev().fold(no, |rest, (mask, value)| dag.test(Test::masked(word, *mask, *value), yes, rest))
}

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_TYPE_MASK: u32 = 0xf;
const NETLINK_ROUTE: u32 = 0;
const IPPROTO_ANY: u32 = 0;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_ICMPV6: u32 = 58;

/// UNIX; INET and INET6 as TCP, UDP and ping; netlink's routes. The rest (ALG, VSOCK, RDS, SCTP, MPTCP, raw …) is refused.
fn socket(dag: &mut Dag, ports: PortFilter, decision: Id, refused: Id) -> Id {
    let (family, kind, protocol) = (Word::low(0), Word::low(1), Word::low(2));
    let exactly = |word, values: &[u32], dag: &mut Dag, no| {
        values.iter().rev().fold(no, |rest, value| dag.test(Test::equal(word, *value), decision, rest))
    };
    let stream = exactly(protocol, &[IPPROTO_ANY, IPPROTO_TCP], dag, refused);
    let datagram = match ports {
        PortFilter::None => {
            exactly(protocol, &[IPPROTO_ANY, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6], dag, refused)
        }
        PortFilter::PortList => refused,
    };
    let netlink = exactly(protocol, &[NETLINK_ROUTE], dag, refused);
    let inet = dag.test(Test::masked(kind, SOCK_TYPE_MASK, SOCK_DGRAM), datagram, refused);
    let inet = dag.test(Test::masked(kind, SOCK_TYPE_MASK, SOCK_STREAM), stream, inet);
    let rest = dag.test(Test::equal(family, AF_NETLINK), netlink, refused);
    let rest = dag.test(Test::equal(family, AF_INET6), inet, rest);
    let rest = dag.test(Test::equal(family, AF_INET), inet, rest);
    dag.test(Test::equal(family, AF_UNIX), decision, rest)
}
