//! Landlock on top of the mounts: what may be read, written and executed inside the cell, and what may be reached by
//! sockets and signals.
//!
//! Rules are opened below the finished root, after the last mount, since a rule on an inode under a mount does not
//! match what is mounted over it (rulings 4). Whatever this kernel's ABI lacks is returned, for the log.

use std::os::fd::AsFd;

use jail_sys::landlock::{self, Ruleset, fs, scope, tcp};
use jail_sys::process::leak;
use rustix::fs::{CWD, FileType, Mode, OFlags, openat2};
use rustix::io::Errno;

use crate::admission::BELOW;
use crate::cell::blueprint::Privilege;
use crate::commands::reach;
use crate::policy::Policy;
use crate::policy::values::{Home, Isolation, Network, Root, Seccomp};
use crate::programs;
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};

/// The rules, ready to be put in force.
pub(crate) struct Fence {
    ruleset: Option<Ruleset>,
}

/// A place of the cell and what may be done there.
struct Place {
    path: Vec<u8>,
    rights: u64,
    /// Whether it may be missing.
    optional: bool,
}

const READ: u64 = fs::EXECUTE | fs::READ_FILE | fs::READ_DIR;
/// For /dev: use what is there.
const USE: u64 = fs::READ_FILE | fs::READ_DIR | fs::WRITE_FILE | fs::TRUNCATE | fs::IOCTL_DEV;

impl Fence {
    /// Opens what the rules name, in the cell and with privilege still at hand.
    ///
    /// # Errors
    /// A port list on a kernel that cannot enforce it (Linux 6.7 is needed), or a rule that cannot be made.
    pub(crate) fn prepare(
        policy: &Policy,
        home: &[u8],
        uid: u32,
        privilege: Privilege,
        program: &[u8],
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let abi = landlock::version().or_refuse(What::Host, || {
            "tell whether this kernel has Landlock: something around this host denies the question (a container's \
             seccomp filter must pass landlock_create_ruleset, landlock_add_rule and landlock_restrict_self; for \
             systemd-nspawn that is SystemCallFilter= or --system-call-filter=)"
                .into()
        })?;
        if !policy.commands.is_empty() && abi == 0 {
            return Err(Refusal::new(
                What::Host,
                "commands needs Landlock (Linux 5.13, with landlock among the kernel's lsm=), or a helper of a listed \
                 program could start any other",
            ));
        }
        let ports = matches!(policy.network, Network::Ports { .. });
        if ports && abi < 4 {
            return Err(Refusal::new(
                What::Host,
                "network = { connect, bind } needs Landlock's TCP rules (Linux 6.7, with landlock among the kernel's \
                 lsm=); use \"none\" or \"host\" here",
            ));
        }
        if abi == 0 {
            notes.push(
                "this kernel has no Landlock: file modes and mounts alone protect the cell's files"
                    .to_owned(),
            );
            return Ok(Self { ruleset: None });
        }
        let known = fs::known(abi);
        let scoped = scopes(policy, abi, notes);
        let handled_net = if ports { tcp::BIND | tcp::CONNECT } else { 0 };
        let ruleset = Ruleset::new(known, handled_net, scoped)
            .or_refuse(What::Host, || "make the Landlock rules".into())?;
        let places = places(policy, home, uid, known);
        let places = match policy.isolation {
            Isolation::Chroot => of_chroot(places, policy.home, home)?,
            _ => places,
        };
        for place in places {
            allow(&ruleset, &place)?;
        }
        if !policy.commands.is_empty() || policy.seccomp == Seccomp::Strict {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open("/", flags, Mode::empty())
                .or_refuse(What::Host, || "open the root of the cell".into())?;
            if !policy.commands.is_empty() {
                reach::allow(&ruleset, &root, policy, home, privilege, notes)?;
            } else if let Some(only) = programs::find(&root, program, []) {
                // Its filter knows the pointers of one execve, not what they point to by then (rulings 14).
                ruleset
                    .allow_path(only.file.as_fd(), fs::EXECUTE | fs::READ_FILE)
                    .or_refuse(What::Host, || format!("allow '{}' by Landlock", printable(program)))?;
            }
        }
        allow_ports(&ruleset, &policy.network)?;
        Ok(Self { ruleset: Some(ruleset) })
    }

    /// Puts the rules in force. Needs no_new_privs.
    ///
    /// # Errors
    /// If the kernel refuses, which is never passed over.
    pub(crate) fn enforce(self) -> Result<()> {
        match self.ruleset {
            None => Ok(()),
            Some(ruleset) => ruleset.restrict_self().or_refuse(What::Host, || "put Landlock in force".into()),
        }
    }
}

/// Abstract sockets are named in the network namespace: where that is the host's, only Landlock keeps them apart.
fn scopes(policy: &Policy, abi: u32, notes: &mut Vec<String>) -> u64 {
    let shares_network = matches!(policy.network, Network::Host | Network::Ports { .. });
    // Without a pid namespace processes of the same user outside can be named (rulings 5).
    let shares_pids = policy.isolation == Isolation::Chroot;
    if !shares_network && !shares_pids {
        return 0;
    }
    if abi < 6 {
        notes.push(
            "abstract sockets of the host can be reached from the session: this kernel's Landlock cannot scope them \
             (Linux 6.12 can)"
                .to_owned(),
        );
        return 0;
    }
    if shares_pids { scope::ABSTRACT_SOCKETS | scope::SIGNALS } else { scope::ABSTRACT_SOCKETS }
}

fn places(policy: &Policy, home: &[u8], uid: u32, known: u64) -> Vec<Place> {
    let place = |path: &[u8], rights: u64, optional| Place { path: path.to_vec(), rights, optional };
    // Under a list of commands programs have rights one by one (commands/reach.rs), and nothing else any to execute.
    let listed = !policy.commands.is_empty();
    let one_by_one = listed || policy.seccomp == Seccomp::Strict;
    let no_program = |rights: u64| if one_by_one { rights & !fs::EXECUTE } else { rights };
    let known = no_program(known);
    let root = match (policy.root, listed) {
        (_, true) => fs::READ_DIR,
        (Root::ReadOnly, false) => no_program(READ),
        (Root::Writable | Root::Discard, false) => known,
    };
    let mut places = vec![
        place(b"/", root, false),
        place(b"/dev", USE, false),
        place(b"/dev/shm", known, false),
        place(b"/tmp", known, false),
        place(b"/var/tmp", known, false),
        place(b"/run/screen", known, false),
        place(b"/run/lock", known, false),
        place(format!("/run/user/{uid}").as_bytes(), known, false),
        place(home, known, false),
    ];
    if listed {
        for shown in [&b"/proc"[..], b"/run"] {
            places.push(place(shown, no_program(READ), false));
        }
    }
    for bind in &policy.bind {
        let rights = if bind.read_only { no_program(READ) } else { known };
        places.push(place(bind.to.0.as_bytes(), rights, false));
    }
    places
}

/// The places of a root that no mounts were made for: what a cell would bring is there if the jail has it, and the homes of
/// others have no rights, which takes a rule for each directory beside the way to one's own.
fn of_chroot(mut places: Vec<Place>, homes: Home, home: &[u8]) -> Result<Vec<Place>> {
    // A home that is the root has the rights of the root, which stand first.
    let mut roots = 0;
    places.retain(|place| {
        roots += usize::from(place.path == b"/");
        place.path != b"/" || roots == 1
    });
    for place in places.iter_mut().filter(|place| place.path != b"/" && place.path != home) {
        place.optional = true;
    }
    let parent = home.iter().rposition(|b| *b == b'/').and_then(|at| home.get(..at)).unwrap_or_default();
    let Some(root) = places.iter_mut().find(|place| place.path == b"/") else { return Ok(places) };
    if homes == Home::All || parent.is_empty() {
        return Ok(places);
    }
    let rights = root.rights;
    // Names can be listed everywhere; files are reached by the rules below it.
    root.rights &= fs::READ_DIR;
    let mut way = Vec::new();
    for part in parent.split(|b| *b == b'/').skip(1) {
        for path in beside(&way, part)? {
            places.push(Place { path, rights, optional: true });
        }
        way = [&way, b"/".as_slice(), part].concat();
    }
    Ok(places)
}

/// What lies in `directory` beside `name`, but links, which lead to what has rules of its own.
fn beside(directory: &[u8], name: &[u8]) -> Result<Vec<Vec<u8>>> {
    let doing = || format!("list '{}/' of the jail", printable(directory));
    let relative = directory.strip_prefix(b"/").filter(|path| !path.is_empty()).unwrap_or(b".");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let listed = openat2(CWD, relative, flags, Mode::empty(), BELOW).or_refuse(What::Jail, doing)?;
    let mut paths = Vec::new();
    for entry in rustix::fs::Dir::new(listed).or_refuse(What::Jail, doing)? {
        let entry = entry.or_refuse(What::Jail, doing)?;
        let found = entry.file_name().to_bytes();
        if [b".".as_slice(), b"..", name].contains(&found) || entry.file_type() == FileType::Symlink {
            continue;
        }
        paths.push([directory, b"/", found].concat());
    }
    Ok(paths)
}

/// The working directory is the cell's root: setns(2) or chroot(2) has put it there.
fn allow(ruleset: &Ruleset, place: &Place) -> Result<()> {
    let doing = || format!("allow '{}' by Landlock", printable(&place.path));
    let relative = match place.path.strip_prefix(b"/") {
        Some(b"") | None => b".",
        Some(relative) => relative,
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match openat2(CWD, relative, flags, Mode::empty(), BELOW) {
        // Closed by exec, with the others.
        Ok(fd) => leak(fd),
        Err(Errno::NOENT) if place.optional => return Ok(()),
        Err(errno) => return Err(errno).or_refuse(What::Host, doing),
    };
    match ruleset.allow_path(fd, place.rights) {
        // A bound file cannot have the rights of a directory.
        Err(Errno::INVAL) => ruleset.allow_path(fd, place.rights & fs::OF_FILES),
        other => other,
    }
    .or_refuse(What::Host, doing)
}

fn allow_ports(ruleset: &Ruleset, network: &Network) -> Result<()> {
    let Network::Ports { connect, bind } = network else { return Ok(()) };
    let lists = [(connect, tcp::CONNECT), (bind, tcp::BIND)];
    for (ports, access) in lists {
        for port in ports {
            ruleset
                .allow_port(*port, access)
                .or_refuse(What::Host, || format!("allow port {port} by Landlock"))?;
        }
    }
    Ok(())
}
