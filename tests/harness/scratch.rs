//! The scratch host: this machine with every place that a test writes to replaced by memory.
//!
//! `unshare` gives the suite its own mount, pid, network, ipc, uts and cgroup namespaces; over /etc, /var and
//! /usr/local lie overlays, /home, /srv, /run, /tmp, /dev and /var/lib/jailwright are tmpfs. Processes, mounts,
//! accounts, sockets and files end with the last process of the suite, also when it is killed.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use rustix::fs::{Mode, makedev, mknodat};
use rustix::mount::{MountFlags, mount, mount_bind};

use crate::command::Run;
use crate::product::{self, Product};
use crate::runner::lock;
use crate::sshd::Sshd;
use crate::syslog::Syslog;

/// The administrator's policy.
pub const POLICY: &str = "/etc/jailwright/jail-sh.toml";

/// Says to a suite that it is inside, and which uids are its own.
const INSIDE: &str = "JAILWRIGHT_SCRATCH";

/// Whether this program already runs in a scratch host.
#[must_use]
pub fn is_inside() -> bool {
    // Process 1's child: a variable alone, set by hand, must not make a suite believe it may write to /etc.
    std::env::var_os(INSIDE).is_some() && rustix::process::getppid().is_some_and(|pid| pid.is_init())
}

/// Runs this very program again, in namespaces of its own, and gives back its exit code.
#[must_use]
pub fn run_this_program_inside() -> ExitCode {
    let cgroups = cgroup::Parents::make();
    let exe = std::env::current_exe().expect("this program's path");
    // --pdeathsig and --kill-child: when the outer program dies, by whatever, all of it goes. dash is PID 1: it reaps.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "sh", "-c", &cgroups.enter_line()])
        .args(["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"])
        .args(["--mount-proc", "--net", "--ipc", "--uts", "--cgroup"])
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(exe)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, std::process::id().to_string())
        .stdin(Stdio::null())
        .status()
        .expect("run unshare");
    drop(cgroups);
    ExitCode::from(u8::try_from(status.code().unwrap_or(101)).unwrap_or(101))
}

/// The scratch host, and what has been started in it.
pub struct Scratch {
    product: OnceLock<Product>,
    sshd: OnceLock<Sshd>,
    syslog: Syslog,
    policy: Mutex<()>,
    jails: Mutex<BTreeMap<String, PathBuf>>,
    first_uid: u32,
    next_uid: AtomicU32,
    next_name: AtomicU32,
    mounts: String,
}

impl Scratch {
    /// Covers the machine's directories. Runs once, before any thread.
    pub(crate) fn set_up() -> Scratch {
        assert!(is_inside(), "only inside the namespaces");
        // Ours stay reachable, wherever the checkout lies.
        let kept = [product::checkout(), product::target_dir()];
        tmpfs("/run", "755");
        for (i, path) in kept.iter().enumerate() {
            let by = PathBuf::from(format!("/run/kept/{i}"));
            std::fs::create_dir_all(&by).expect("mkdir");
            mount_bind(path, &by).expect("keep the checkout");
        }
        std::fs::create_dir_all("/run/sshd").expect("mkdir");
        let covered = ["/etc", "/var", "/usr/local", "/home", "/srv", "/tmp", "/dev/shm"];
        overlay("/etc");
        overlay("/var");
        overlay("/usr/local");
        tmpfs("/home", "755");
        tmpfs("/srv", "755");
        tmpfs("/tmp", "1777");
        std::fs::create_dir_all("/var/lib/jailwright").expect("mkdir");
        tmpfs("/var/lib/jailwright", "755");
        small_dev();
        for (i, path) in kept.iter().enumerate() {
            if covered.iter().any(|dir| path.starts_with(dir)) {
                std::fs::create_dir_all(path).expect("mkdir");
                mount_bind(format!("/run/kept/{i}"), path).expect("bring the checkout back");
            }
        }
        cgroup::show_own();
        Run::sh("ip link set lo up; hostname scratch").run().ok();
        let outer: u32 = std::env::var(INSIDE).ok().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        // Far above any real account, and another range for each run: RLIMIT_NPROC and keyrings count by uid, machine-wide.
        let first_uid = 1_000_000 + (outer % 100_000) * 200;
        Scratch {
            product: OnceLock::new(),
            sshd: OnceLock::new(),
            syslog: Syslog::listen(),
            policy: Mutex::new(()),
            jails: Mutex::new(BTreeMap::new()),
            first_uid,
            next_uid: AtomicU32::new(first_uid),
            next_name: AtomicU32::new(1),
            mounts: mount_table(),
        }
    }

    /// The product, installed by `make install` at the first call.
    pub fn product(&self) -> &Product {
        self.product.get_or_init(Product::install)
    }

    /// The jail that all tests share which ask for these sections; made at the first call.
    pub(crate) fn shared_jail(&self, sections: &[&str]) -> PathBuf {
        self.shared_jail_at(&format!("/srv/{}", sections.join("-")), sections)
    }

    /// As [`Scratch::shared_jail`], for tests that share one among themselves.
    pub fn shared_jail_at(&self, at: &str, sections: &[&str]) -> PathBuf {
        let mut jails = lock(&self.jails);
        jails.entry(at.to_owned()).or_insert_with(|| self.jail(at, sections)).clone()
    }

    /// A name for a directory or an object of this run that no other test has.
    pub fn unique(&self, what: &str) -> String {
        format!("{what}-{}", self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    /// sshd with Debian's usual settings, started at the first call.
    pub fn sshd(&self) -> &Sshd {
        self.sshd.get_or_init(|| Sshd::start(""))
    }

    /// What was logged.
    pub fn syslog(&self) -> &Syslog {
        &self.syslog
    }

    /// Runs a line of the developer's in the scratch host, with an attacker's account made: `$user` is its name,
    /// `$ssh` logs in as it.
    pub(crate) fn shell(&self, line: &str) -> ExitCode {
        let user = self.attacker();
        let ssh = format!("ssh -F {} {}", self.sshd().client_config().display(), user.at_host());
        let status = Command::new("bash")
            .args(["-c", line])
            .env("user", &user.name)
            .env("ssh", ssh)
            .status()
            .expect("run bash");
        let log = self.syslog.with("");
        eprintln!("--- log\n{}", log.join("\n"));
        ExitCode::from(u8::try_from(status.code().unwrap_or(101)).unwrap_or(101))
    }

    /// Adds a table (`[user.NAME]` and its lines) to the administrator's policy, in one rename as an editor does.
    /// Lines for a table that is there already join it, save keys that it has.
    pub fn add_policy(&self, table: &str) {
        let _one_at_a_time = lock(&self.policy);
        self.product();
        let old = std::fs::read_to_string(POLICY).unwrap_or_default();
        std::fs::write(format!("{POLICY}.new"), joined(&old, table)).expect("write");
        std::fs::rename(format!("{POLICY}.new"), POLICY).expect("rename");
    }

    /// What the tests left on the scratch host that an entry should have taken with it: mounts, processes.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let processes = || -> Vec<String> {
            (self.first_uid..self.next_uid.load(Ordering::Relaxed))
                .flat_map(crate::user::processes_of)
                .map(|(pid, command)| format!("process {pid}: {command}"))
                .collect()
        };
        let end = std::time::Instant::now() + std::time::Duration::from_secs(15);
        while !processes().is_empty() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        let now = mount_table();
        let mounts =
            now.lines().filter(|line| !self.mounts.contains(line)).map(|line| format!("mount: {line}"));
        mounts.chain(processes()).collect()
    }

    /// A uid that nobody else has.
    pub(crate) fn new_uid(&self) -> u32 {
        let uid = self.next_uid.fetch_add(1, Ordering::Relaxed);
        assert!(uid < self.first_uid + 200, "a suite has 200 users at most");
        uid
    }
}

fn joined(old: &str, table: &str) -> String {
    let Some((header, lines)) = table.split_once('\n') else { return format!("{old}\n{table}") };
    let Some(at) = old.find(&format!("{header}\n")).filter(|_| header.starts_with('[')) else {
        return format!("{old}\n{table}");
    };
    let (before, rest) = old.split_at(at + header.len() + 1);
    let has =
        |key: &str| rest.lines().take_while(|line| !line.starts_with('[')).any(|line| line.starts_with(key));
    let new: String = lines
        .lines()
        .filter(|line| line.split('=').next().is_some_and(|key| !has(key)))
        .map(|line| format!("{line}\n"))
        .collect();
    format!("{before}{new}{rest}")
}

fn mount_table() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table")
}

fn tmpfs(at: &str, mode: &str) {
    let options = std::ffi::CString::new(format!("mode={mode}")).expect("no NUL");
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), &*options)
        .unwrap_or_else(|e| panic!("tmpfs on {at}: {e}"));
}

/// The machine's directory below, memory above.
fn overlay(at: &str) {
    let above = format!("/run/above{at}");
    for part in ["upper", "work"] {
        std::fs::create_dir_all(Path::new(&above).join(part)).expect("mkdir");
    }
    let options =
        std::ffi::CString::new(format!("lowerdir={at},upperdir={above}/upper,workdir={above}/work"))
            .expect("no NUL");
    mount("overlay", at, "overlay", MountFlags::empty(), &*options)
        .unwrap_or_else(|e| panic!("overlay on {at}: {e}"));
}

/// A /dev of our own: /dev/log, terminals and shared memory of a test are not the machine's.
fn small_dev() {
    tmpfs("/dev", "755");
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let path = format!("/dev/{name}");
        mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::CharacterDevice,
            Mode::empty(),
            makedev(major, minor),
        )
        .expect("mknod");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    }
    // What pasta makes network devices by.
    std::fs::create_dir("/dev/net").expect("mkdir");
    let tun = makedev(10, 200);
    mknodat(rustix::fs::CWD, "/dev/net/tun", rustix::fs::FileType::CharacterDevice, Mode::empty(), tun)
        .expect("mknod");
    std::fs::set_permissions("/dev/net/tun", std::fs::Permissions::from_mode(0o666)).expect("chmod");
    for (name, to) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(to, format!("/dev/{name}")).expect("symlink");
    }
    std::fs::create_dir("/dev/pts").expect("mkdir");
    mount("devpts", "/dev/pts", "devpts", MountFlags::empty(), c"newinstance,ptmxmode=0666,mode=620,gid=5")
        .expect("devpts");
    std::fs::create_dir("/dev/shm").expect("mkdir");
    tmpfs("/dev/shm", "1777");
    std::fs::create_dir("/dev/mqueue").expect("mkdir");
    mount("mqueue", "/dev/mqueue", "mqueue", MountFlags::empty(), None).expect("mqueue");
}

/// Cgroups of a run: children of its own in every hierarchy, so that what the product makes there goes with it.
mod cgroup {
    use super::{MountFlags, Path, PathBuf, mount};
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    const ROOT: &str = "/sys/fs/cgroup";

    /// The run's cgroups, and the janitor that removes them when this program has ended, however it ended.
    pub(super) struct Parents {
        made: Vec<PathBuf>,
        janitor: Option<Child>,
    }

    impl Parents {
        pub(super) fn make() -> Parents {
            let name = format!("jailwright-test-{}", std::process::id());
            let made: Vec<PathBuf> = hierarchies()
                .into_iter()
                .map(|dir| dir.join(&name))
                .filter(|dir| std::fs::create_dir(dir).is_ok())
                .collect();
            // It reads until our end of the pipe is gone, then waits for the last process and removes what is left.
            let script = "cat >/dev/null; for try in 1 2 3 4 5 6 7 8 9 10; do left=; for d; do [ -d \"$d\" ] || continue; \
                          find \"$d\" -depth -type d -exec rmdir {} + 2>/dev/null; [ ! -d \"$d\" ] || left=1; done; \
                          [ -n \"$left\" ] || exit 0; sleep 0.2; done";
            let janitor = Command::new("setsid")
                .args(["sh", "-c", script, "sh"])
                .args(&made)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok();
            Parents { made, janitor }
        }

        /// A line for sh that goes into these cgroups and then becomes the program in its arguments.
        pub(super) fn enter_line(&self) -> String {
            let mut line = String::new();
            for dir in &self.made {
                line.push_str(&format!("echo $$ >'{}/cgroup.procs' 2>/dev/null; ", dir.display()));
            }
            line.push_str("exec \"$0\" \"$@\"");
            line
        }
    }

    impl Drop for Parents {
        fn drop(&mut self) {
            if let Some(mut janitor) = self.janitor.take() {
                drop(janitor.stdin.take().map(|mut pipe| pipe.flush()));
                drop(janitor.wait());
            }
        }
    }

    /// Each mounted hierarchy: v1's one a controller, v2's one.
    fn hierarchies() -> Vec<PathBuf> {
        mounts().into_iter().map(|(path, _, _)| path).collect()
    }

    fn mounts() -> Vec<(PathBuf, String, String)> {
        let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
                let is_cgroup = matches!(kind, "cgroup" | "cgroup2") && path.starts_with(ROOT);
                is_cgroup.then(|| (PathBuf::from(path), kind.to_owned(), options.to_owned()))
            })
            .collect()
    }

    /// Inside: shows only our own part of each hierarchy, at the usual place.
    pub(super) fn show_own() {
        let all = mounts();
        let single_v2 = all.iter().any(|(path, _, _)| path == Path::new(ROOT));
        if single_v2 {
            mount("cgroup2", ROOT, "cgroup2", MountFlags::empty(), None).expect("cgroup2");
            return;
        }
        if all.is_empty() {
            return;
        }
        mount("tmpfs", ROOT, "tmpfs", MountFlags::empty(), c"mode=755").expect("tmpfs for cgroups");
        for (path, kind, options) in all {
            std::fs::create_dir_all(&path).expect("mkdir");
            let controllers: Vec<&str> = options
                .split(',')
                .filter(|o| !matches!(*o, "rw" | "ro" | "nosuid" | "nodev" | "noexec" | "relatime"))
                .collect();
            let data = std::ffi::CString::new(controllers.join(",")).expect("no NUL");
            let data = if kind == "cgroup" { Some(&*data) } else { None };
            if let Err(error) = mount(&*kind, &path, &*kind, MountFlags::empty(), data) {
                eprintln!("scratch host: no {kind} at {}: {error}", path.display());
            }
        }
    }
}
