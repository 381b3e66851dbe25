//! Running cells: where they are written down, how a login finds its own, and how the last one out is told.
//!
//! `/run/jailwright/cells/UID-NAME/` holds, root's alone:
//! - `lock`: a joiner holds it shared from before it enters the namespaces until its program is executed; whoever
//!   makes or ends a cell holds it exclusively. So nobody joins a cell that is about to end.
//! - `state`: boot id, pid and start time of the first process, and what the cell was made from. The first process
//!   keeps a lock on it for life: locked means alive, whatever else is written there (rulings 8).
//! - `line`: a FIFO that every waiter keeps open for writing; the first process reads its end of file when the last
//!   waiter is gone.

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use jail_accounts::convention::fnv1a_64;
use jail_sys::process::leak;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RawDir, flock, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::blueprint::Blueprint;
use super::{Cell, Lasting};
use crate::admission::{Admission, Homes, read_all};
use crate::cgroup::Groups;
use crate::policy::Policy;
use crate::policy::values::{Network, Stale};
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};

/// Where running cells are written down.
pub const RUN_DIRECTORY: &str = "/run/jailwright";

/// How many old cells' directories one entry looks at; the rest is left to the next.
const SWEEP_AT_MOST: usize = 16;

/// How often a login looks again when cells come and go under its hands.
const TRIES: usize = 100;

/// Behind the name of a cell that made room for a newer one; its first process's pid and start time follow.
pub(super) const SET_ASIDE: &str = ".old-";

/// Behind the name of a cell's jail where its uid has several homes there; a digest of the cell's home follows.
const OF_A_HOME: &str = ".home-";

/// What is written down about a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The kernel's id of this boot: pids of another are nobody.
    pub boot: String,
    /// The first process, as the host numbers it.
    pub pid: i32,
    /// When it started, in clock ticks since boot (proc(5), stat field 22).
    pub started: u64,
    /// Whether it has a network namespace of its own.
    pub own_network: bool,
    /// A digest of the policy and the jail that it was made from.
    pub made_from: u64,
}

/// `/run/jailwright`, made if it is not there.
///
/// # Errors
/// If it cannot be made, or others could write to it.
pub fn open_run() -> Result<OwnedFd> {
    let doing = || format!("open '{RUN_DIRECTORY}'");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(RUN_DIRECTORY, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            match rustix::fs::mkdir(RUN_DIRECTORY, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).or_refuse(What::Host, || format!("make '{RUN_DIRECTORY}'")),
            }
            rustix::fs::open(RUN_DIRECTORY, flags, Mode::empty())
        }
        other => other,
    };
    let run = opened.or_refuse(What::Host, doing)?;
    let stat = rustix::fs::fstat(&run).or_refuse(What::Host, doing)?;
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        return Err(Refusal::new(
            What::Host,
            format!(
                "'{RUN_DIRECTORY}' is not root's alone (uid {}, mode {:04o})",
                stat.st_uid,
                stat.st_mode & 0o7777
            ),
        ));
    }
    Ok(run)
}

/// Where a user's cell in a jail is written down.
#[must_use]
pub fn cell_name(admission: &Admission) -> String {
    format!("{}-{}", admission.account.uid, cell_key(admission))
}

/// What a user's cells are told apart by: the jail, and the home where the uid has several in it.
#[must_use]
pub fn cell_key(admission: &Admission) -> String {
    let jail = &admission.jail.name;
    match admission.homes {
        Homes::One => jail.clone(),
        Homes::Several => format!("{jail}{OF_A_HOME}{:016x}", fnv1a_64(&admission.home)),
    }
}

/// Whose cell a directory's name says it is, and of which jail: as [`cell_name`] made it, or as it was set aside under.
#[must_use]
pub fn parse_cell_name(name: &str) -> Option<(u32, &str)> {
    let (uid, jail) = name.split_once('-')?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let jail = match jail.rsplit_once(SET_ASIDE) {
        Some((jail, process)) if process.split('-').all(is_number) => jail,
        _ => jail,
    };
    let is_digest = |part: &str| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let jail = match jail.rsplit_once(OF_A_HOME) {
        Some((jail, digest)) if is_digest(digest) => jail,
        _ => jail,
    };
    Some((uid.parse().ok()?, jail))
}

/// Joins the user's running cell, or makes one. The lock that keeps it from ending meanwhile comes with it.
///
/// # Errors
/// A cell that the policy says is too old to be joined, or one that cannot be made.
pub(crate) fn find_or_create(
    admission: &Admission,
    run: &OwnedFd,
    groups: &mut Groups,
    draw: impl FnOnce(&Groups) -> Result<Blueprint>,
) -> Result<(Cell, OwnedFd)> {
    let name = cell_name(admission);
    let cells = directory(run, "cells")?;
    let made_from = digest(admission);
    let came = now();
    for _ in 0..TRIES {
        let place = directory(&cells, &name)?;
        // Another user's entry, which sweeps, may have found it empty and removed it meanwhile.
        let Some(lock) = open_lock(&place)? else { continue };
        flock(&lock, FlockOperation::LockShared).or_refuse(What::Host, || "lock the cell".into())?;
        if let Some(state) = alive(&place)? {
            match judge(&state, made_from, &admission.policy)? {
                Fit::Join => match join(&place, &state)? {
                    Some(cell) => return Ok((cell, lock)),
                    // It was killed after we looked.
                    None => continue,
                },
                Fit::SetAside => {
                    set_aside(&cells, &name, &place, &lock, &state)?;
                    continue;
                }
            }
        }
        // Waiting for the exclusive lock, not trying: 200 logins at once make one cell and then join it. The shared one is
        // given up meanwhile (flock(2): the conversion is not atomic), so two that do this do not wait for each other.
        flock(&lock, FlockOperation::LockExclusive).or_refuse(What::Host, || "lock the cell".into())?;
        if alive(&place)?.is_some() || !is_current(&cells, &name, &place)? {
            continue;
        }
        if sweep_but(&cells, Some(&name), SWEEP_AT_MOST).is_err() {
            // Whatever is in the way there is in nobody's way here.
        }
        let network = &admission.policy.network;
        if *network == Network::Private && failed_since(&lock) >= Some(came) {
            return Err(Refusal::new(
                What::Host,
                "another login of this user has just waited in vain for the cell's private network",
            ));
        }
        let blueprint = draw(groups).inspect_err(|_| {
            if *network == Network::Private {
                write_failure(&lock);
            }
        })?;
        let cell = create(&place, groups, blueprint, made_from)?;
        flock(&lock, FlockOperation::LockShared).or_refuse(What::Host, || "lock the cell".into())?;
        return Ok((cell, lock));
    }
    Err(Refusal::new(
        What::Host,
        format!("the cell '{name}' came and went {TRIES} times while this login looked for it"),
    ))
}

/// Those who waited for the lock while a network could not be made would wait as long again, one after the other. So when
/// that was is left in the lock's file.
fn write_failure(lock: &OwnedFd) {
    if rustix::io::pwrite(lock, &now().to_ne_bytes(), 0).is_err() {
        // Then each waits for itself.
    }
}

fn failed_since(lock: &OwnedFd) -> Option<i64> {
    let mut bytes = [0_u8; 8];
    matches!(rustix::io::pread(lock, &mut bytes, 0), Ok(8)).then(|| i64::from_ne_bytes(bytes))
}

/// Nanoseconds since boot.
fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

fn directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..TRIES {
        match openat(parent, name, flags, Mode::empty()) {
            Ok(directory) => return Ok(directory),
            // Not there, or swept away between the two calls.
            Err(Errno::NOENT) => match mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(errno)
                        .or_refuse(What::Host, || format!("make '{name}' below '{RUN_DIRECTORY}'"));
                }
            },
            Err(errno) => {
                return Err(errno).or_refuse(What::Host, || format!("open '{name}' below '{RUN_DIRECTORY}'"));
            }
        }
    }
    Err(Refusal::new(
        What::Host,
        format!("'{name}' below '{RUN_DIRECTORY}' is removed as fast as it is made"),
    ))
}

/// `None` if the directory has been removed: no file can be made in it any more.
fn open_lock(place: &OwnedFd) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(place, "lock", flags, Mode::from_raw_mode(0o600)) {
        Ok(lock) => Ok(Some(lock)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).or_refuse(What::Host, || "open the cell's lock".into()),
    }
}

/// Gives a running cell another name, so that its own is free. It keeps its open files.
///
/// Under the exclusive lock, and only if the name is still this cell's: of two logins that find it too old, the second
/// would else set the first one's new cell aside.
fn set_aside(cells: &OwnedFd, name: &str, place: &OwnedFd, lock: &OwnedFd, state: &State) -> Result<()> {
    flock(lock, FlockOperation::LockExclusive).or_refuse(What::Host, || "lock the old cell".into())?;
    if !is_current(cells, name, place)? {
        return Ok(());
    }
    let aside = format!("{name}{SET_ASIDE}{}-{}", state.pid, state.started);
    renameat(cells, name, cells, aside.as_str())
        .or_refuse(What::Host, || format!("set the old cell '{name}' aside"))
}

/// Whether the directory we hold is still the one of that name: a sweep may have removed it before we had the lock.
fn is_current(cells: &OwnedFd, name: &str, place: &OwnedFd) -> Result<bool> {
    let held = rustix::fs::fstat(place).or_refuse(What::Host, || "look at the cell's directory".into())?;
    match rustix::fs::statat(cells, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).or_refuse(What::Host, || "look at the cell's directory".into()),
    }
}

/// The state of a living cell; `None` for a dead one.
///
/// # Errors
/// If the directory cannot be read.
pub fn alive(place: &OwnedFd) -> Result<Option<State>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(place, "state", flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).or_refuse(What::Host, || "open the cell's state".into()),
    };
    if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
        // Nobody keeps it locked: the first process is gone, or the state is of before a reboot.
        return Ok(None);
    }
    let bytes = read_all(&file).or_refuse(What::Host, || "read the cell's state".into())?;
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Option<State> {
    let text = std::str::from_utf8(bytes).ok()?;
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some(State {
        boot: value("boot")?.to_owned(),
        pid: value("pid")?.parse().ok()?,
        started: value("started")?.parse().ok()?,
        own_network: value("own_network")?.parse().ok()?,
        made_from: value("made_from")?.parse().ok()?,
    })
}

enum Fit {
    Join,
    SetAside,
}

fn judge(state: &State, made_from: u64, policy: &Policy) -> Result<Fit> {
    if state.made_from == made_from {
        return Ok(Fit::Join);
    }
    match policy.stale {
        // A list of commands holds only where nothing that the user can write is executable, which the old cell's
        // mounts may be.
        Stale::Join if !policy.commands.is_empty() => Ok(Fit::SetAside),
        Stale::Join => Ok(Fit::Join),
        Stale::New => Ok(Fit::SetAside),
        Stale::Refuse => Err(Refusal::new(
            What::Policy,
            format!(
                "the running cell (first process {}) was made under another policy or jail and stale = \"refuse\"; \
                 it ends when its last process does",
                state.pid
            ),
        )),
    }
}

/// Takes hold of the first process. The pidfd refers to whoever has the pid now; the start time says that it is the
/// one that was written down (CVE-2022-31214 was a join without such a check). `None` if it is gone.
fn join(place: &OwnedFd, state: &State) -> Result<Option<Cell>> {
    let doing = || format!("take hold of the cell's first process {}", state.pid);
    let pid =
        Pid::from_raw(state.pid).ok_or_else(|| Refusal::new(What::Host, "the cell's state holds no pid"))?;
    let init = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(init) => init,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(errno).or_refuse(What::Host, doing),
    };
    if start_time(state.pid) != Some(state.started) || boot_id() != state.boot {
        if alive(place)?.is_none() {
            return Ok(None);
        }
        return Err(Refusal::new(
            What::Host,
            format!("process {} is not the cell's first process", state.pid),
        ));
    }
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let line = match openat(place, "line", flags, Mode::empty()) {
        Ok(line) => line,
        // Nobody reads it any more.
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno).or_refuse(What::Host, doing),
    };
    let namespaces = if state.own_network { jail_sys::process::namespaces::NET } else { 0 };
    Ok(Some(Cell::running(init, pid, line, namespaces)))
}

fn create(place: &OwnedFd, groups: &mut Groups, blueprint: Blueprint, made_from: u64) -> Result<Cell> {
    let doing = || format!("write down the cell below '{RUN_DIRECTORY}'");
    for name in ["state", "line"] {
        match unlinkat(place, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).or_refuse(What::Host, doing),
        }
    }
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(place, "line", fifo, Mode::from_raw_mode(0o600), 0).or_refuse(What::Host, doing)?;
    // The reading end first, or opening the other would wait for it.
    let nonblock = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let reading =
        openat(place, "line", OFlags::RDONLY | nonblock, Mode::empty()).or_refuse(What::Host, doing)?;
    let writing =
        openat(place, "line", OFlags::WRONLY | nonblock, Mode::empty()).or_refuse(What::Host, doing)?;
    rustix::fs::fcntl_setfl(&reading, OFlags::empty()).or_refuse(What::Host, doing)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let state = openat(place, "state", flags, Mode::from_raw_mode(0o600)).or_refuse(What::Host, doing)?;
    // Held by this open file description, which the first process inherits and we close.
    flock(&state, FlockOperation::LockExclusive).or_refuse(What::Host, doing)?;
    // Both are the first process's to keep; our own copies are closed with all else that the waiter does not need.
    let state = leak(state);
    let own_network = blueprint.own_network;
    // Whoever holds the lock of a directory keeps it from being removed.
    let Some(lock) = open_lock(place)? else {
        return Err(Refusal::new(
            What::Host,
            "the cell's directory was removed under its lock; this is a defect",
        ));
    };
    let lasting = Lasting::WhileUsed { lock: leak(lock), state };
    let cell = Cell::begin(blueprint, groups, lasting, (reading, writing))?;
    // While the inside is built: nobody reads it before he has the lock that we hold.
    let pid = cell.init_pid().as_raw_nonzero().get();
    let started = start_time(pid)
        .ok_or_else(|| Refusal::new(What::Host, "the first process of the cell ended at once"))?;
    let mut text = String::new();
    write!(
        text,
        "boot={}\npid={pid}\nstarted={started}\nown_network={own_network}\nmade_from={made_from}\n",
        boot_id()
    )
    .or_refuse(What::Host, doing)?;
    rustix::io::write(state, text.as_bytes()).or_refuse(What::Host, doing)?;
    cell.finish(groups)
}

fn boot_id() -> String {
    let bytes = read_proc("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// A short file of /proc, which the kernel gives whole to one read(2).
fn read_proc(path: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0_u8; 1024];
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut bytes)).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

/// Field 22 of /proc/PID/stat; the name before it is in parentheses and may hold anything.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = read_proc(&format!("/proc/{pid}/stat"))?;
    let after = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(after.checked_add(2)?..)?).ok()?;
    rest.split(' ').nth(19)?.parse().ok()
}

/// Tells whether a cell was made from the same policy and jail. Not a secret-keeper: root wrote both.
pub(super) fn digest(admission: &Admission) -> u64 {
    let mut all = Vec::new();
    let mut add = |bytes: &[u8]| {
        all.extend_from_slice(bytes);
        all.push(0);
    };
    for (key, value, _) in admission.policy.rows() {
        add(key.as_bytes());
        add(value.as_bytes());
    }
    add(&admission.home);
    add(&admission.jail.identity.0.to_ne_bytes());
    add(&admission.jail.identity.1.to_ne_bytes());
    if let Some(base) = &admission.jail.base {
        add(base.path.as_os_str().as_bytes());
        add(base.generation.as_bytes());
    }
    fnv1a_64(&all)
}

/// A cell as `jail-list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The name of its directory, `UID-NAME`.
    pub name: String,
    /// What is written down.
    pub state: State,
}

/// Living cells among the first `most`; the directories of dead ones are removed.
///
/// # Errors
/// If they cannot be read.
pub fn sweep(run: &OwnedFd, most: usize) -> Result<Vec<Running>> {
    sweep_but(&directory(run, "cells")?, None, most)
}

/// As [`sweep`], leaving out one name. `cells` is read from where its descriptor stands.
fn sweep_but(cells: &OwnedFd, except: Option<&str>, most: usize) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    let mut buffer = Vec::with_capacity(2048);
    let mut entries = RawDir::new(cells, buffer.spare_capacity_mut());
    let mut looked_at = 0;
    while let Some(entry) = entries.next() {
        let entry = entry.or_refuse(What::Host, || "list the cells".into())?;
        let name = printable(entry.file_name().to_bytes());
        if name == "." || name == ".." || Some(name.as_str()) == except {
            continue;
        }
        if looked_at == most {
            break;
        }
        looked_at += 1;
        let Some(place) = existing(cells, &name)? else { continue };
        match alive(&place)? {
            Some(state) => running.push(Running { name, state }),
            None => remove_dead(cells, &name, &place),
        }
    }
    Ok(running)
}

/// A cell's directory, unless somebody has just removed it.
fn existing(cells: &OwnedFd, name: &str) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(cells, name, flags, Mode::empty()) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).or_refuse(What::Host, || format!("open '{name}' below '{RUN_DIRECTORY}'")),
    }
}

/// Whoever finds the name gone makes it again; see [`is_current`].
fn remove_dead(cells: &OwnedFd, name: &str, place: &OwnedFd) {
    let Ok(Some(lock)) = open_lock(place) else { return };
    if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() || !matches!(alive(place), Ok(None)) {
        return;
    }
    for file in ["state", "line", "lock"] {
        if unlinkat(place, file, AtFlags::empty()).is_err() {
            // Not there.
        }
    }
    if unlinkat(cells, name, AtFlags::REMOVEDIR).is_err() {
        // Somebody has begun to use it again.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_read_as_written() {
        let text = b"boot=abc\npid=12\nstarted=345\nown_network=true\nmade_from=6\n";
        let state = State { boot: "abc".to_owned(), pid: 12, started: 345, own_network: true, made_from: 6 };
        assert_eq!(parse(text), Some(state));
        assert_eq!(parse(b"boot=abc\npid=12\n"), None);
        assert_eq!(parse(b"\xff"), None);
    }

    #[test]
    fn the_name_of_a_cell_set_aside_still_tells_its_jail() {
        assert_eq!(parse_cell_name("1000-home-jail"), Some((1000, "home-jail")));
        assert_eq!(parse_cell_name(&format!("1000-home-jail{SET_ASIDE}4711-99")), Some((1000, "home-jail")));
        assert_eq!(parse_cell_name("1000-home-jail.old-4711-"), Some((1000, "home-jail.old-4711-")));
        let of_a_home = "1000-home-jail.home-0123456789abcdef";
        assert_eq!(parse_cell_name(of_a_home), Some((1000, "home-jail")));
        assert_eq!(parse_cell_name(&format!("{of_a_home}{SET_ASIDE}4711-99")), Some((1000, "home-jail")));
        assert_eq!(parse_cell_name("1000-home-jail.home-dave"), Some((1000, "home-jail.home-dave")));
    }

    #[test]
    fn the_start_time_of_a_process_with_an_odd_name() {
        assert!(start_time(std::process::id().try_into().expect("pid")).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(-1), None);
    }
}
