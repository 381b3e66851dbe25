//! The attempts by name. Each is what an attacker's first line of code would be; the tests say what must come of it.

use crate::sys::{Answer, attempt, call, int80, path};

/// An attempt with its argument (empty if none was given).
type Attempt = fn(&str) -> Answer;

/// The attempt of this name.
pub(crate) fn find(name: &str) -> Option<Attempt> {
    ATTEMPTS.iter().find(|(its, _)| *its == name).map(|(_, run)| *run)
}

const CLONE_NEWUSER: usize = libc::CLONE_NEWUSER as usize;
const HERE: usize = libc::AT_FDCWD as usize;
const NOBODY: usize = usize::MAX;
/// Not mapped: a call that gets as far as reading its argument answers EFAULT.
const WILD: usize = 8;

#[rustfmt::skip]
const ATTEMPTS: &[(&str, Attempt)] = &[
    // Mounts and roots.
    ("mount_tmpfs", |_| attempt(libc::SYS_mount, &[path("x"), path("/tmp"), path("tmpfs"), 0, 0])),
    ("mount_proc", |_| attempt(libc::SYS_mount, &[path("x"), path("/tmp"), path("proc"), 0, 0])),
    ("mount_bind_root", |_| attempt(libc::SYS_mount, &[path("/"), path("/tmp"), 0, libc::MS_BIND as usize, 0])),
    ("remount_root", |_| attempt(libc::SYS_mount, &[0, path("/"), 0, (libc::MS_REMOUNT | libc::MS_BIND) as usize, 0])),
    ("umount_root", |_| attempt(libc::SYS_umount2, &[path("/"), libc::MNT_DETACH as usize])),
    ("umount_proc", |_| attempt(libc::SYS_umount2, &[path("/proc"), libc::MNT_DETACH as usize])),
    ("pivot_root", |_| attempt(libc::SYS_pivot_root, &[path("."), path(".")])),
    ("chroot", |_| attempt(libc::SYS_chroot, &[path("/tmp")])),
    ("chroot_escape", chroot_escape),
    ("fsopen", |_| attempt(libc::SYS_fsopen, &[path("tmpfs"), 0])),
    ("fspick", |_| attempt(libc::SYS_fspick, &[HERE, path("/"), 0])),
    ("fsconfig", |_| attempt(libc::SYS_fsconfig, &[NOBODY, 6, 0, 0, 0])),
    ("fsmount", |_| attempt(libc::SYS_fsmount, &[NOBODY, 0, 0])),
    ("open_tree", |_| attempt(libc::SYS_open_tree, &[HERE, path("/"), 1])),
    ("move_mount", |_| attempt(libc::SYS_move_mount, &[HERE, path("/proc"), HERE, path("/tmp"), 0])),
    ("mount_setattr", |_| attempt(libc::SYS_mount_setattr, &[HERE, path("/"), 0, WILD, 32])),
    ("open_by_handle_at", |_| attempt(libc::SYS_open_by_handle_at, &[HERE, WILD, 0])),
    ("quotactl", |_| attempt(libc::SYS_quotactl, &[0x8000_0200, path("/dev/vda"), 0, WILD])),
    // Namespaces.
    ("unshare_user", |_| attempt(libc::SYS_unshare, &[CLONE_NEWUSER])),
    ("unshare_mount", |_| attempt(libc::SYS_unshare, &[libc::CLONE_NEWNS as usize])),
    ("unshare_pid", |_| attempt(libc::SYS_unshare, &[libc::CLONE_NEWPID as usize])),
    ("unshare_net", |_| attempt(libc::SYS_unshare, &[libc::CLONE_NEWNET as usize])),
    ("unshare_time", |_| attempt(libc::SYS_unshare, &[0x80])),
    ("clone_newuser", |_| attempt(libc::SYS_clone, &[CLONE_NEWUSER | libc::SIGCHLD as usize, 0, 0, 0, 0])),
    ("clone3_newuser", clone3_newuser),
    ("setns_init_mount", |_| setns("/proc/1/ns/mnt")),
    ("setns_init_user", |_| setns("/proc/1/ns/user")),
    ("setns_by_pidfd", setns_by_pidfd),
    // Kernel surface that a shell account has no use for.
    ("bpf", |_| attempt(libc::SYS_bpf, &[0, WILD, 72])),
    ("perf_event_open", |_| attempt(libc::SYS_perf_event_open, &[WILD, 0, NOBODY, NOBODY, 0])),
    ("io_uring_setup", |_| io_uring_setup()),
    ("io_uring_enter", |_| attempt(libc::SYS_io_uring_enter, &[NOBODY, 0, 0, 0, 0, 0])),
    ("io_uring_register", |_| attempt(libc::SYS_io_uring_register, &[NOBODY, 0, 0, 0])),
    ("userfaultfd", |_| attempt(libc::SYS_userfaultfd, &[1])),
    ("keyctl_join", |_| attempt(libc::SYS_keyctl, &[1, 0])),
    ("keyctl_describe_user", |_| attempt(libc::SYS_keyctl, &[6, (-4_isize) as usize, 0, 0])),
    ("add_key", |_| attempt(libc::SYS_add_key, &[path("user"), path("k"), path("v"), 1, (-4_isize) as usize])),
    ("request_key", |_| attempt(libc::SYS_request_key, &[path("user"), path("k"), 0, 0])),
    ("fanotify_init", |_| attempt(libc::SYS_fanotify_init, &[0x200, 0])),
    ("vmsplice", |_| vmsplice()),
    ("modify_ldt", |_| attempt(libc::SYS_modify_ldt, &[1, WILD, 16])),
    ("iopl", |_| attempt(libc::SYS_iopl, &[3])),
    ("ioperm", |_| attempt(libc::SYS_ioperm, &[0x70, 1, 1])),
    ("kcmp", |_| attempt(libc::SYS_kcmp, &[1, 1, 0, 0, 0])),
    ("kexec_load", |_| attempt(libc::SYS_kexec_load, &[0, 0, 0, 0])),
    ("init_module", |_| attempt(libc::SYS_init_module, &[WILD, 8, path("")])),
    ("finit_module", |_| attempt(libc::SYS_finit_module, &[NOBODY, path(""), 0])),
    ("delete_module", |_| attempt(libc::SYS_delete_module, &[path("x"), 0])),
    ("swapon", |_| attempt(libc::SYS_swapon, &[path("/tmp/x"), 0])),
    ("acct", |_| attempt(libc::SYS_acct, &[path("/tmp/x")])),
    ("syslog", |_| attempt(libc::SYS_syslog, &[3, WILD, 64])),
    ("reboot", |_| attempt(libc::SYS_reboot, &[0xfee1_dead, 672_274_793, 0, 0])),
    ("settimeofday", |_| attempt(libc::SYS_settimeofday, &[WILD, 0])),
    ("clock_settime", |_| attempt(libc::SYS_clock_settime, &[0, WILD])),
    ("sethostname", |_| attempt(libc::SYS_sethostname, &[path("owned"), 5])),
    ("setdomainname", |_| attempt(libc::SYS_setdomainname, &[path("owned"), 5])),
    ("lookup_dcookie", |_| attempt(libc::SYS_lookup_dcookie, &[0, WILD, 8])),
    ("uselib", |_| attempt(libc::SYS_uselib, &[path("/tmp/x")])),
    ("personality_exec", |_| attempt(libc::SYS_personality, &[0x0040_0000])),
    ("personality_norandom", |_| attempt(libc::SYS_personality, &[0x0004_0000])),
    ("move_pages", |_| attempt(libc::SYS_move_pages, &[0, 0, 0, 0, 0, 0])),
    ("process_madvise", |_| attempt(libc::SYS_process_madvise, &[NOBODY, 0, 0, 4, 0])),
    ("pidfd_getfd", |_| pidfd_getfd()),
    ("syscall_600", |_| attempt(600, &[])),
    ("syscall_4095", |_| attempt(4095, &[])),
    // The other system call tables.
    ("i386_getpid", |_| int80(20, 0)),
    ("i386_socketcall", |_| int80(102, 1)),
    ("i386_mount", |_| int80(21, 0)),
    ("x32_getpid", |_| attempt(0x4000_0000 + 39, &[])),
    ("x32_mount", |_| attempt(0x4000_0000 + 165, &[])),
    // Terminals.
    ("tiocsti", |_| ioctl(0, 0x5412, path("\n"))),
    ("tiocsti_high_bits", |_| ioctl(NOBODY, 0x1_0000_5412, path("\n"))),
    ("tioclinux", |_| ioctl(NOBODY, 0x541c, path("\x02"))),
    ("tioclinux_high_bits", |_| ioctl(NOBODY, 0x1_0000_541c, path("\x02"))),
    ("tiocsetd", |_| ioctl(NOBODY, 0x5423, (&raw const LINE_DISCIPLINE).addr())),
    ("tioccons", |_| ioctl(NOBODY, 0x541d, 0)),
    // Credentials and capabilities.
    ("setuid_0", |_| attempt(libc::SYS_setuid, &[0])),
    ("setresuid_0", |_| attempt(libc::SYS_setresuid, &[0, 0, 0])),
    ("setgid_0", |_| attempt(libc::SYS_setgid, &[0])),
    ("setgroups_0", |_| attempt(libc::SYS_setgroups, &[1, (&raw const ROOT_GROUP).addr()])),
    ("setfsuid_0", |_| setfsuid()),
    ("capset_all", |_| capset_all()),
    ("ambient_raise", |_| attempt(libc::SYS_prctl, &[47, 2, 21, 0, 0])),
    ("securebits_0", |_| attempt(libc::SYS_prctl, &[28, 0])),
    ("no_new_privs_off", |_| attempt(libc::SYS_prctl, &[38, 0, 0, 0, 0])),
    ("mknod_null", |_| mknod("/tmp/probe-null", libc::S_IFCHR, libc::makedev(1, 3))),
    ("mknod_disk", |_| mknod("/tmp/probe-disk", libc::S_IFBLK, libc::makedev(254, 0))),
    // Other processes, by the pid in the argument.
    ("kill", |pid| attempt(libc::SYS_kill, &[number(pid), 0])),
    ("kill_all", |_| attempt(libc::SYS_kill, &[1, libc::SIGKILL as usize])),
    ("ptrace", |pid| attempt(libc::SYS_ptrace, &[16, number(pid), 0, 0])),
    ("ptrace_seize", |pid| attempt(libc::SYS_ptrace, &[0x4206, number(pid), 0, 0])),
    ("process_vm_readv", process_vm_readv),
    ("pidfd_open", |pid| attempt(libc::SYS_pidfd_open, &[number(pid), 0])),
    ("setpriority", |pid| attempt(libc::SYS_setpriority, &[0, number(pid), 19])),
    ("prlimit", |pid| attempt(libc::SYS_prlimit64, &[number(pid), 7, 0, 0])),
    // Objects of the host's IPC, by the key or name in the argument.
    ("shmget", |key| attempt(libc::SYS_shmget, &[number(key), 1, 0])),
    ("semget", |key| attempt(libc::SYS_semget, &[number(key), 1, 0])),
    ("msgget", |key| attempt(libc::SYS_msgget, &[number(key), 0])),
    ("mq_open", |name| attempt(libc::SYS_mq_open, &[path(name), 0, 0, 0])),
    ("connect_abstract", connect_abstract),
    // Sockets.
    ("socket_unix", |_| socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    ("socket_tcp", |_| socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
    ("socket_udp", |_| socket(libc::AF_INET, libc::SOCK_DGRAM, 0)),
    ("socket_route", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)),
    ("socket_audit", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 9)),
    ("socket_netfilter", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 12)),
    ("socket_xfrm", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, 6)),
    ("socket_raw", |_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    ("socket_packet", |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)),
    ("socket_alg", |_| socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    ("socket_vsock", |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    ("socket_rds", |_| socket(21, libc::SOCK_SEQPACKET, 0)),
    ("socket_tipc", |_| socket(30, libc::SOCK_STREAM, 0)),
    ("socket_can", |_| socket(29, libc::SOCK_RAW, 1)),
    ("socket_bluetooth", |_| socket(31, libc::SOCK_RAW, 1)),
    ("socket_nfc", |_| socket(39, libc::SOCK_SEQPACKET, 0)),
    ("socket_xdp", |_| socket(44, libc::SOCK_RAW, 0)),
    ("socket_smc", |_| socket(43, libc::SOCK_STREAM, 0)),
    ("socket_key", |_| socket(15, libc::SOCK_RAW, 2)),
    ("socket_x25", |_| socket(9, libc::SOCK_SEQPACKET, 0)),
    ("socket_sctp", |_| socket(libc::AF_INET, libc::SOCK_STREAM, 132)),
    ("socket_mptcp", |_| socket(libc::AF_INET, libc::SOCK_STREAM, 262)),
    ("unix_oob", |_| unix_oob()),
    ("connect_tcp", connect_tcp),
    ("connect_tcp_fastopen", connect_tcp_fastopen),
    ("bind_tcp", bind_tcp),
    ("send_udp", send_udp),
    ("listen_unbound", |_| listen_unbound()),
    // Files.
    ("write", |name| write(name)),
    ("exec", exec),
    ("read", |name| std::fs::read(name).map(|bytes| format!("{} bytes", bytes.len())).map_err(number_of)),
    ("connect_unix", |name| std::os::unix::net::UnixStream::connect(name).map(|_| String::new()).map_err(number_of)),
    ("link", link),
    ("inode", inode),
    ("fds", |_| descriptors()),
    ("euid", |_| attempt(libc::SYS_geteuid, &[])),
    ("map_wx", |_| attempt(libc::SYS_mmap, &[0, 4096, 7, 0x22, NOBODY, 0])),
];

static ROOT_GROUP: u32 = 0;
/// N_HDLC, the one of CVE-2017-2636.
static LINE_DISCIPLINE: u32 = 13;

fn number(text: &str) -> usize {
    let digits = text.trim_start_matches("0x");
    let radix = if digits.len() == text.len() { 10 } else { 16 };
    usize::from_str_radix(digits, radix).unwrap_or_else(|_| panic!("'{text}' is no number"))
}

fn number_of(error: std::io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

fn ioctl(fd: usize, request: usize, argument: usize) -> Answer {
    attempt(libc::SYS_ioctl, &[fd, request, argument])
}

fn socket(family: i32, kind: i32, protocol: i32) -> Answer {
    attempt(libc::SYS_socket, &[family as usize, kind as usize, protocol as usize])
}

fn mknod(at: &str, kind: u32, device: u64) -> Answer {
    attempt(libc::SYS_mknodat, &[HERE, path(at), (kind | 0o666) as usize, device as usize])
}

/// The classic: an open directory above a new root, then up and out.
fn chroot_escape(_: &str) -> Answer {
    drop(std::fs::create_dir("/tmp/probe-root"));
    call(libc::SYS_chroot, &[path("/tmp/probe-root")])?;
    for _ in 0..64 {
        call(libc::SYS_chdir, &[path("..")])?;
    }
    attempt(libc::SYS_chroot, &[path(".")])
}

/// `struct clone_args`, as far as its first version goes.
#[repr(C)]
#[derive(Default)]
struct CloneArgs([u64; 8]);

fn clone3_newuser(_: &str) -> Answer {
    let mut args = CloneArgs::default();
    args.0[0] = CLONE_NEWUSER as u64;
    args.0[4] = libc::SIGCHLD as u64;
    attempt(libc::SYS_clone3, &[(&raw const args).addr(), 64])
}

fn setns(name: &str) -> Answer {
    let fd = call(libc::SYS_openat, &[HERE, path(name), 0, 0])?;
    attempt(libc::SYS_setns, &[fd as usize, 0])
}

fn setns_by_pidfd(pid: &str) -> Answer {
    let fd = call(libc::SYS_pidfd_open, &[number(pid), 0])?;
    attempt(libc::SYS_setns, &[fd as usize, libc::CLONE_NEWNS as usize])
}

fn process_vm_readv(pid: &str) -> Answer {
    let byte = [0_u8; 1];
    let block = [byte.as_ptr().addr(), 1];
    let at = block.as_ptr().addr();
    attempt(libc::SYS_process_vm_readv, &[number(pid), at, 1, at, 1, 0])
}

fn pidfd_getfd() -> Answer {
    let fd = call(libc::SYS_pidfd_open, &[1, 0])?;
    attempt(libc::SYS_pidfd_getfd, &[fd as usize, 0, 0])
}

fn io_uring_setup() -> Answer {
    let parameters = [0_u64; 15];
    attempt(libc::SYS_io_uring_setup, &[4, parameters.as_ptr().addr()])
}

fn vmsplice() -> Answer {
    let mut ends = [0_i32; 2];
    call(libc::SYS_pipe2, &[ends.as_mut_ptr().addr(), 0])?;
    let page = [0_u8; 64];
    let block = [page.as_ptr().addr(), page.len()];
    attempt(libc::SYS_vmsplice, &[ends[1] as usize, block.as_ptr().addr(), 1, 0])
}

/// setfsuid never says no: a second call tells what is.
fn setfsuid() -> Answer {
    call(libc::SYS_setfsuid, &[0])?;
    let now = call(libc::SYS_setfsuid, &[NOBODY])?;
    if now == 0 { Ok("fsuid is 0".to_owned()) } else { Err(libc::EPERM) }
}

fn capset_all() -> Answer {
    let header = [0x2008_0522_u32, 0];
    let data = [u32::MAX; 6];
    attempt(libc::SYS_capset, &[header.as_ptr().addr(), data.as_ptr().addr()])
}

fn connect_abstract(name: &str) -> Answer {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let address = SocketAddr::from_abstract_name(name).map_err(number_of)?;
    UnixStream::connect_addr(&address).map(|_| String::new()).map_err(number_of)
}

/// Out-of-band bytes on a local socket: CVE-2025-38236.
fn unix_oob() -> Answer {
    let mut ends = [0_i32; 2];
    call(
        libc::SYS_socketpair,
        &[libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, ends.as_mut_ptr().addr()],
    )?;
    attempt(libc::SYS_sendto, &[ends[0] as usize, path("x"), 1, libc::MSG_OOB as usize, 0, 0])
}

fn connect_tcp(address: &str) -> Answer {
    std::net::TcpStream::connect(address).map(|_| String::new()).map_err(number_of)
}

fn bind_tcp(address: &str) -> Answer {
    std::net::TcpListener::bind(address).map(|_| String::new()).map_err(number_of)
}

fn send_udp(address: &str) -> Answer {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(number_of)?;
    socket.send_to(b"x", address).map(|_| String::new()).map_err(number_of)
}

/// A socket that listens without an address gets a port of the kernel's choice.
fn listen_unbound() -> Answer {
    let fd = call(libc::SYS_socket, &[libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0])?;
    attempt(libc::SYS_listen, &[fd as usize, 1])
}

/// TCP Fast Open connects from sendto: a filter that looks at connect(2) alone misses it.
fn connect_tcp_fastopen(port: &str) -> Answer {
    let fd = call(libc::SYS_socket, &[libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0])?;
    let port = u16::try_from(number(port)).expect("a port").to_be_bytes();
    let address = [2, 0, port[0], port[1], 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0_u8];
    attempt(
        libc::SYS_sendto,
        &[fd as usize, path("x"), 1, libc::MSG_FASTOPEN as usize, address.as_ptr().addr(), address.len()],
    )
}

fn write(name: &str) -> Answer {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(name).map_err(number_of)?;
    file.write_all(b"probe\n").map(|()| String::new()).map_err(number_of)
}

fn exec(program: &str) -> Answer {
    use std::os::unix::process::CommandExt;
    Err(number_of(std::process::Command::new(program).exec()))
}

/// `link:OLD>NEW`
fn link(names: &str) -> Answer {
    let (old, new) = names.split_once('>').expect("OLD>NEW");
    std::fs::hard_link(old, new).map(|()| String::new()).map_err(number_of)
}

/// Device and inode, to compare with the host's.
fn inode(name: &str) -> Answer {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(name).map(|m| format!("{}:{}", m.dev(), m.ino())).map_err(number_of)
}

/// The open descriptors above the standard three, each with what it is.
fn descriptors() -> Answer {
    let mut found = Vec::new();
    for fd in 3..4096_usize {
        if call(libc::SYS_fcntl, &[fd, libc::F_GETFD as usize]).is_ok() {
            let to = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
            found.push(format!("{fd}={}", to.display()));
        }
    }
    Ok(found.join(" "))
}
