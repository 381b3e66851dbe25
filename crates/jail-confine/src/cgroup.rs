//! Limits by control groups, version 1 and 2, written straight into cgroupfs; or by systemd, where the tree is its own.
//!
//! Limits sit on one group per uid, so that they hold for all of a user's logins together; each cell is a child of it
//! (rulings 17). Nobody with privilege stays behind to remove a group when its cell ends, so every entry sweeps.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, mkdirat, openat, statfs, unlinkat};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::policy::Policy;
use crate::policy::values::{Limit, Limits};
use crate::refusal::{OrRefuse, Refusal, Result, What};
use crate::scope::{self, Owner, Request};

/// Below each hierarchy.
const OURS: &str = "jailwright";
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// The period that shares of processors are counted in, in microseconds.
const PERIOD: u64 = 100_000;
/// How many groups one entry tries to clear away; the rest is left to the next.
const SWEEP_AT_MOST: usize = 32;

/// What a controller is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpus",
            Self::Pids => "processes",
        }
    }
}

/// Which of cgroupfs's two forms a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// The groups of one cell, one in each hierarchy that limits something, opened for moving processes in.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    procs: Vec<OwnedFd>,
    /// Held while a new group is still empty, so that nobody sweeps it away.
    fresh: Option<OwnedFd>,
    /// What systemd is asked for by the first process, where it owns the tree.
    scope: Option<Scope>,
    /// Whether the number of processes is limited here.
    pub(crate) limits_processes: bool,
}

/// A scope that may have to be made.
#[derive(Debug)]
struct Scope {
    request: Request,
    need: Need,
}

/// What becomes of an entry that gets no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Somebody wrote a limit that it is to hold.
    Required,
    /// It would keep the cell apart from the login, no more.
    Wished,
}

impl Groups {
    /// Makes the groups of a cell with the policy's limits on their parent.
    ///
    /// # Errors
    /// A limit that an administrator wrote and that no controller here can hold, unless the policy says best-effort.
    pub(crate) fn prepare(
        policy: &Policy,
        uid: u32,
        cell: &str,
        run: &OwnedFd,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let wanted = wanted(policy);
        if scope::owner() == Owner::Systemd {
            return Self::by_systemd(policy, wanted, uid, cell, notes);
        }
        if wanted.is_empty() {
            // What others left is everybody's to clear; without this file there never was anything.
            if let Ok(lock) = openat(run, "groups.lock", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
                sweep(&lock, uid);
            }
            return Ok(Self::default());
        }
        let fresh = openat(
            run,
            "groups.lock",
            OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .or_refuse(What::Host, || "open '/run/jailwright/groups.lock'".into())?;
        sweep(&fresh, uid);
        flock(&fresh, FlockOperation::LockShared).or_refuse(What::Host, || "lock the groups".into())?;
        let mut groups = Self { fresh: Some(fresh), ..Self::default() };
        for (controller, value) in wanted {
            match groups.limit(controller, value, uid, cell) {
                Ok(()) => groups.limits_processes |= controller == Controller::Pids,
                Err(why) => cannot_limit(policy, controller, &why, notes)?,
            }
        }
        Ok(groups)
    }

    /// Every cell is a scope there, also one without limits: what ends with a login is not to end with it.
    fn by_systemd(
        policy: &Policy,
        wanted: Vec<(Controller, u64)>,
        uid: u32,
        cell: &str,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let mut groups = Self::default();
        // A policy that was laxer yesterday has left its limits on the slice.
        let mut limits = vec![
            ("MemoryMax", scope::INFINITY),
            ("MemorySwapMax", scope::INFINITY),
            ("CPUQuotaPerSecUSec", scope::INFINITY),
            ("TasksMax", scope::INFINITY),
        ];
        let mut need = Need::Wished;
        for (controller, value) in wanted {
            if let Err(why) = hierarchy(controller) {
                cannot_limit(policy, controller, &why, notes)?;
                continue;
            }
            if policy.limits == Limits::Required {
                need = Need::Required;
                groups.limits_processes |= controller == Controller::Pids;
            }
            for (name, limit) in &mut limits {
                match (controller, *name) {
                    (Controller::Memory, "MemoryMax") | (Controller::Pids, "TasksMax") => *limit = value,
                    // Else the session's share of swap is all of it.
                    (Controller::Memory, "MemorySwapMax") => *limit = 0,
                    (Controller::Cpu, "CPUQuotaPerSecUSec") => {
                        *limit = value.saturating_mul(1_000_000 / PERIOD)
                    }
                    _ => {}
                }
            }
        }
        let request = Request { uid, cell: cell.to_owned(), limits };
        groups.scope = Some(Scope { request, need });
        Ok(groups)
    }

    /// Has systemd make the scope, with the calling process and these others in it; where there is none to make, moves the
    /// calling process into the groups that are there.
    ///
    /// # Errors
    /// What kept it from being made, if it is to hold a limit.
    pub(crate) fn begin(&self, others: &[u32]) -> std::result::Result<(), String> {
        let Some(scope) = &self.scope else { return self.enter().map_err(|errno| errno.to_string()) };
        match (scope.request.make(others), scope.need) {
            (Err(why), Need::Required) => Err(why),
            (Ok(()) | Err(_), _) => Ok(()),
        }
    }

    /// Takes hold of the scope that a cell's first process is in, for the processes that join it.
    pub(crate) fn follow(&mut self, first: Pid, notes: &mut Vec<String>) {
        if self.scope.is_none() {
            return;
        }
        match scope::of_process(first) {
            Some(procs) => self.procs.push(procs),
            None => notes.push(
                "the cell is no scope of systemd's: where logind ends what a login leaves, it ends with this one"
                    .to_owned(),
            ),
        }
    }

    /// An ordinary user has no groups to put limits on: the number of processes is limited by the rlimit, which counts
    /// within the user namespace; memory and processors cannot be.
    ///
    /// # Errors
    /// If such a limit was asked for and the policy does not say best-effort.
    pub(crate) fn none_without_root(policy: &Policy, notes: &mut Vec<String>) -> Result<Self> {
        for (controller, _) in wanted(policy) {
            if controller != Controller::Pids {
                let why = "an ordinary user may not make control groups; start it as root with --user, \
                           or under systemd-run --user --scope";
                cannot_limit(policy, controller, why, notes)?;
            }
        }
        Ok(Self::default())
    }

    fn limit(
        &mut self,
        controller: Controller,
        value: u64,
        uid: u32,
        cell: &str,
    ) -> std::result::Result<(), String> {
        let (root, version) = hierarchy(controller)?;
        let ours = child(&root, OURS)?;
        let user = child(&ours, &uid.to_string())?;
        if version == Version::Two {
            // Controllers are handed down one level at a time (cgroups(7)).
            let enable = format!("+{}", controller.name());
            for directory in [&root, &ours, &user] {
                write(directory, "cgroup.subtree_control", &enable)?;
            }
        }
        set(&user, controller, version, value)?;
        let cell = child(&user, cell)?;
        let procs = openat(&cell, "cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| format!("cannot open cgroup.procs: {errno}"))?;
        // In version 2 all controllers share one tree.
        if version == Version::One || self.procs.is_empty() {
            self.procs.push(procs);
        }
        Ok(())
    }

    /// Moves the calling process in. Needs the privilege that opened the groups, not a name.
    ///
    /// # Errors
    /// `ENODEV` if the group was removed meanwhile.
    pub(crate) fn enter(&self) -> std::result::Result<(), Errno> {
        for procs in &self.procs {
            rustix::io::write(procs, b"0")?;
        }
        Ok(())
    }

    /// Lets others sweep again: there is somebody in the groups now.
    pub(crate) fn settled(&mut self) {
        self.fresh = None;
    }
}

fn wanted(policy: &Policy) -> Vec<(Controller, u64)> {
    let mut wanted = Vec::new();
    if let Limit::At(size) = policy.memory {
        wanted.push((Controller::Memory, size.0));
    }
    if let Limit::At(cpus) = policy.cpus {
        wanted.push((Controller::Cpu, u64::from(cpus.0).saturating_mul(PERIOD) / 1000));
    }
    // The built-in number is left to the rlimit: moving a process into a group waits for all processors to have passed
    // through the scheduler, 5 to 25 ms of a login that takes 7 without.
    if let (Limit::At(count), true) = (policy.processes, policy.origin("processes").is_written()) {
        wanted.push((Controller::Pids, count.0));
    }
    wanted
}

fn cannot_limit(policy: &Policy, controller: Controller, why: &str, notes: &mut Vec<String>) -> Result<()> {
    let key = controller.key();
    if policy.origin(key).is_written() && policy.limits == Limits::Required {
        return Err(Refusal::new(
            What::Host,
            format!(
                "{key} (from {}) cannot be limited on this host: {why}; \
                 limits = \"best-effort\" lets sessions start without",
                policy.origin(key)
            ),
        ));
    }
    if policy.origin(key).is_written() {
        notes.push(format!("{key} is not limited: {why}"));
    }
    Ok(())
}

/// The root of the hierarchy that has a controller.
fn hierarchy(controller: Controller) -> std::result::Result<(OwnedFd, Version), String> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = Path::new("/sys/fs/cgroup");
    let is_version_2 =
        |path: &Path| statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type).is_ok_and(|t| t == CGROUP2_MAGIC));
    let unified = [base.to_path_buf(), base.join("unified")].into_iter().find(|path| is_version_2(path));
    if let Some(path) = unified {
        let root = openat(CWD, &path, directory, Mode::empty())
            .map_err(|e| format!("cannot open '{}': {e}", path.display()))?;
        if has_controller(&root, controller) {
            return Ok((root, Version::Two));
        }
    }
    // Version 1 mounts cpu and cpuacct together and links both names.
    let path = base.join(controller.name());
    match openat(CWD, &path, directory, Mode::empty()) {
        Ok(root) if openat(&root, "cgroup.procs", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_ok() => {
            Ok((root, Version::One))
        }
        _ => Err(format!("no cgroup hierarchy here has the controller '{}'", controller.name())),
    }
}

fn has_controller(root: &OwnedFd, controller: Controller) -> bool {
    let mut text = [0_u8; 512];
    let Ok(fd) = openat(root, "cgroup.controllers", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let length = rustix::io::read(&fd, &mut text).unwrap_or(0);
    text.get(..length)
        .unwrap_or_default()
        .split(u8::is_ascii_whitespace)
        .any(|word| word == controller.name().as_bytes())
}

fn child(parent: &OwnedFd, name: &str) -> std::result::Result<OwnedFd, String> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(format!("cannot make the group '{name}': {errno}")),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
        .map_err(|errno| format!("cannot open the group '{name}': {errno}"))
}

fn write(group: &OwnedFd, file: &str, value: &str) -> std::result::Result<(), String> {
    openat(group, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|fd| rustix::io::write(&fd, value.as_bytes()))
        .map(drop)
        .map_err(|errno| format!("cannot write '{value}' to {file}: {errno}"))
}

fn set(
    group: &OwnedFd,
    controller: Controller,
    version: Version,
    value: u64,
) -> std::result::Result<(), String> {
    let number = value.to_string();
    match (controller, version) {
        (Controller::Pids, _) => write(group, "pids.max", &number),
        (Controller::Memory, Version::Two) => {
            write(group, "memory.max", &number)?;
            // Otherwise the limit is on memory alone, and the session's share of swap is all of it.
            optional(write(group, "memory.swap.max", "0"))
        }
        (Controller::Memory, Version::One) => {
            // Memory and swap together may never be less than memory: the order depends on which way it goes.
            if write(group, "memory.limit_in_bytes", &number).is_err() {
                optional(write(group, "memory.memsw.limit_in_bytes", &number))?;
                write(group, "memory.limit_in_bytes", &number)?;
            }
            optional(write(group, "memory.memsw.limit_in_bytes", &number))
        }
        (Controller::Cpu, Version::Two) => write(group, "cpu.max", &format!("{number} {PERIOD}")),
        (Controller::Cpu, Version::One) => {
            write(group, "cpu.cfs_period_us", &PERIOD.to_string())?;
            write(group, "cpu.cfs_quota_us", &number)
        }
    }
}

/// Swap accounting may be switched off in the kernel; then there is no such file.
fn optional(result: std::result::Result<(), String>) -> std::result::Result<(), String> {
    match result {
        Err(why) if why.ends_with(&Errno::NOENT.to_string()) => Ok(()),
        other => other,
    }
}

/// Removes groups that are empty: all of this user's, and a few of others'. A group with somebody in it stays (EBUSY).
fn sweep(lock: &OwnedFd, uid: u32) {
    if flock(lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    let own = uid.to_string();
    for controller in [Controller::Pids, Controller::Memory, Controller::Cpu] {
        let Ok((root, _)) = hierarchy(controller) else { continue };
        let Ok(ours) =
            openat(&root, OURS, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        else {
            continue;
        };
        let mut left = SWEEP_AT_MOST;
        sweep_user(&ours, &own, &mut left);
        for user in names(&ours) {
            if left == 0 {
                break;
            }
            sweep_user(&ours, &user, &mut left);
        }
    }
}

fn sweep_user(ours: &OwnedFd, user: &str, left: &mut usize) {
    let Ok(group) = openat(ours, user, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    for cell in names(&group) {
        if *left == 0 {
            return;
        }
        *left = left.saturating_sub(1);
        if unlinkat(&group, cell.as_str(), AtFlags::REMOVEDIR).is_err() {
            // Somebody is in there.
            continue;
        }
    }
    if unlinkat(ours, user, AtFlags::REMOVEDIR).is_err() {
        // It has cells left.
    }
}

/// The subdirectories of a group.
fn names(group: &OwnedFd) -> Vec<String> {
    let Ok(entries) = Dir::read_from(group.as_fd()) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type() == rustix::fs::FileType::Directory)
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name != "." && name != "..")
        .collect()
}

/// Removes every empty group of ours; for `jail-list --sweep`.
///
/// # Errors
/// If the lock cannot be had.
pub fn sweep_all(run: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let lock = openat(run, "groups.lock", flags, Mode::from_raw_mode(0o600))
        .or_refuse(What::Host, || "open '/run/jailwright/groups.lock'".into())?;
    sweep(&lock, u32::MAX);
    Ok(())
}
