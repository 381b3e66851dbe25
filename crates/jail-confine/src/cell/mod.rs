//! The third stage: a cell, one set of namespaces in which a session's processes live.
//!
//! A cell is made with its first process only; every login, also the one that had it made, then joins in the same
//! way, by that process's pidfd (rulings 6).

pub mod age;
pub mod blueprint;
pub mod discard;
mod init;
mod layers;
mod logging;
pub(crate) mod outside;
pub mod registry;
pub(crate) mod root;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use jail_sys::process::{self, Cloned, leak};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open, set_dumpable_behavior};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use self::blueprint::{Below, Blueprint, Privilege, copy};
use self::init::{Lines, READY, live};
use crate::cgroup::Groups;
use crate::invocation::{Terminal, standard};
use crate::refusal::{OrRefuse, Refusal, Result, What};

/// A running cell, seen from the waiter.
#[derive(Debug)]
pub struct Cell {
    /// Refers to the first process.
    init: OwnedFd,
    /// The first process, as the host numbers it.
    pub init_pid: Pid,
    /// Closed by the first process when nobody can look into it any more. `None` for a cell found running.
    ready: Option<OwnedFd>,
    /// While this end of the pipe is open somewhere, the cell lives. Kept open for the waiter's life.
    lifeline: OwnedFd,
    namespaces: u64,
    privilege: Privilege,
    /// The mount namespace, where this process is in it already.
    mounts: Option<OwnedFd>,
}

/// How long a cell lasts.
#[derive(Debug)]
pub(crate) enum Lasting {
    /// As long as the one login that it was made for.
    OneLogin,
    /// Until no process and no waiter is left.
    WhileUsed {
        /// Held exclusively by whoever makes or ends a cell.
        lock: BorrowedFd<'static>,
        /// Kept locked for life: locked means alive.
        state: BorrowedFd<'static>,
    },
}

impl Cell {
    /// Makes a cell for one login.
    ///
    /// # Errors
    /// As [`Cell::begin`] and [`Unfinished::finish`].
    pub(crate) fn for_one_login(blueprint: Blueprint, groups: &mut Groups) -> Result<Self> {
        let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .or_refuse(What::Host, || "make a pipe for the cell".into())?;
        Self::begin(blueprint, groups, Lasting::OneLogin, pipe)?.finish(groups)
    }

    /// A cell that is running already. Its optional namespaces are those given.
    fn running(init: OwnedFd, pid: Pid, lifeline: OwnedFd, optional: u64) -> Self {
        Self {
            init,
            init_pid: pid,
            ready: None,
            lifeline,
            namespaces: optional,
            privilege: Privilege::Root,
            mounts: None,
        }
    }

    /// Starts the first process of a new cell, which builds the inside; the cell's network is made here meanwhile, since
    /// that takes the kernel as long as all the rest. `line` is the pipe that keeps the cell alive: what the first process
    /// reads, and what waiters hold.
    ///
    /// # Errors
    /// If the kernel would not give the namespaces.
    pub(crate) fn begin(
        blueprint: Blueprint,
        groups: &Groups,
        lasting: Lasting,
        line: (OwnedFd, OwnedFd),
    ) -> Result<Unfinished> {
        let (alive, lifeline) = line;
        let doing = || "make a pipe for the cell".to_owned();
        let (said, ready) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_refuse(What::Host, doing)?;
        let (namespaces, privilege) = (blueprint.namespaces, blueprint.privilege);
        let network = namespaces & process::namespaces::NET;
        let maker = match network {
            0 => None,
            _ => Some(this_process().or_refuse(What::Host, || "take hold of this process".into())?),
        };
        let (made, mounts) = match privilege {
            Privilege::Root => (namespaces & !network, None),
            Privilege::UserNamespace => {
                let doing = || format!("make the namespaces of the cell{}", hint(privilege));
                if let Some(way) = &blueprint.way_out {
                    // Whoever forwards for the cell lives in the mounts that we have now, and stays outside.
                    process::unshare(process::namespaces::MOUNT).or_refuse(What::Host, doing)?;
                    move_into_link_name_space(way.namespace.as_fd(), Some(LinkNameSpaceType::Network))
                        .or_refuse(What::Host, || "join the cell's network".into())?;
                }
                let mounts = move_ahead(namespaces & !network).or_refuse(What::Host, doing)?;
                (0, Some(mounts))
            }
        };
        let cloned = process::clone(made)
            .or_refuse(What::Host, || format!("make the namespaces of the cell{}", hint(privilege)))?;
        match cloned {
            Cloned::Child => {
                leak(said);
                // Held by the cell itself, it would never end.
                drop(lifeline);
                live(blueprint, groups, lasting, Lines { lifeline: alive, ready, maker })
            }
            Cloned::Parent { pid, pidfd } => {
                drop((alive, ready));
                maker.map(leak);
                if network != 0 {
                    make_network(&lifeline, privilege)?;
                }
                // The first process may have joined one rather than be given it.
                let optional = if blueprint.own_network { process::namespaces::NET } else { 0 };
                Ok(Unfinished(Self {
                    init: pidfd,
                    init_pid: pid,
                    ready: Some(said),
                    lifeline,
                    namespaces: optional,
                    privilege,
                    mounts,
                }))
            }
        }
    }

    /// Moves this process into the cell (its children, for the pid namespace). Returns the terminal's name inside;
    /// `terminal` is what [`copy_terminal`] gave.
    ///
    /// # Errors
    /// If the cell has ended, or the kernel will not let us in.
    pub fn join(&self, terminal: Option<&OwnedFd>) -> Result<Option<Vec<u8>>> {
        let doing = || "join the cell".to_owned();
        if let Some(mounts) = &self.mounts {
            // The first process has joined our network by now; from here on nobody looks in.
            set_dumpable_behavior(DumpableBehavior::NotDumpable).or_refuse(What::Host, doing)?;
            // We are in it, but this puts us at its new root, wherever we were.
            move_into_thread_name_spaces(mounts.as_fd(), ThreadNameSpaceType::MOUNT)
                .or_refuse(What::Host, doing)?;
        } else {
            let mut types = ThreadNameSpaceType::MOUNT
                | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
                | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
                | ThreadNameSpaceType::CONTROL_GROUP
                | ThreadNameSpaceType::PROCESS_ID;
            if self.namespaces & process::namespaces::NET != 0 {
                types |= ThreadNameSpaceType::NETWORK;
            }
            move_into_thread_name_spaces(self.init.as_fd(), types).or_refuse(What::Host, doing)?;
        }
        terminal.map(name_terminal).transpose()
    }

    /// While this is open somewhere the cell lives.
    pub(crate) fn lifeline(&self) -> BorrowedFd<'_> {
        self.lifeline.as_fd()
    }

    /// Whether somebody else made it.
    pub(crate) const fn was_running(&self) -> bool {
        self.ready.is_none()
    }

    /// The privilege it was made with.
    #[must_use]
    pub const fn privilege(&self) -> Privilege {
        self.privilege
    }
}

/// A cell whose first process is at work yet.
#[derive(Debug)]
pub(crate) struct Unfinished(Cell);

impl Unfinished {
    /// The first process, as the host numbers it.
    pub(crate) const fn init_pid(&self) -> Pid {
        self.0.init_pid
    }

    /// Waits until the inside is built.
    ///
    /// # Errors
    /// Whatever the kernel would not give, in the first process's words.
    pub(crate) fn finish(self, groups: &mut Groups) -> Result<Cell> {
        let Self(cell) = self;
        if let Some(said) = &cell.ready {
            hear(said)?;
        }
        groups.settled();
        Ok(cell)
    }
}

/// A detached copy of the mount of the terminal, to be given a name inside. It is taken while the mount still belongs to
/// this namespace: binding its descriptor after setns gives EINVAL (rulings 7).
///
/// # Errors
/// If the kernel will not copy it.
pub(crate) fn copy_terminal(terminal: Terminal, privilege: Privilege) -> Result<Option<OwnedFd>> {
    let pts = match terminal.fd() {
        None => None,
        Some(fd) => match privilege {
            Privilege::Root => Some(copy(standard(fd), Below::Left)),
            Privilege::UserNamespace => found_here(standard(fd)).map(|pts| copy(pts.as_fd(), Below::Left)),
        },
    };
    pts.transpose().or_refuse(What::Host, || "copy the mount of the terminal".into())
}

/// Without root this process moves into the namespaces before it makes the first process, which is born in them: joining
/// that one by its pidfd would want it dumpable, as its memory belongs to the user namespace it was executed in. The
/// mount namespace is the one that came with the user namespace; the first process builds the inside in it, and its
/// pivot_root(2) moves this process along. Gives back a hold on it.
///
/// From here on this process opens nothing by name until it has joined.
fn move_ahead(namespaces: u64) -> std::result::Result<OwnedFd, Errno> {
    let mounts = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let rest = namespaces & !process::namespaces::MOUNT;
    process::unshare(rest | process::namespaces::CGROUP)?;
    Ok(mounts)
}

fn this_process() -> std::result::Result<OwnedFd, Errno> {
    pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
}

/// Moves this process into a new network, and tells the first process that it can join it there.
fn make_network(lifeline: &OwnedFd, privilege: Privilege) -> Result<()> {
    process::unshare(process::namespaces::NET)
        .or_refuse(What::Host, || format!("make the network of the cell{}", hint(privilege)))?;
    match rustix::io::write(lifeline, &[READY]) {
        // A first process that has ended has said why, which is heard next.
        Ok(_) | Err(Errno::PIPE) => {}
        Err(errno) => {
            return Err(errno).or_refuse(What::Host, || "tell the cell that its network is made".into());
        }
    }
    jail_sys::net::bring_loopback_up().or_refuse(What::Host, || "bring up the loopback interface".into())
}

/// What a failed clone most often means without root.
const fn hint(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::Root => "",
        Privilege::UserNamespace => " inside a user namespace",
    }
}

fn hear(said: &OwnedFd) -> Result<()> {
    let mut words = [0_u8; 1024];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(said, &mut words))
        .or_refuse(What::Host, || "hear from the cell".into())?;
    match words.get(..length).unwrap_or_default() {
        [READY] => Ok(()),
        [] => Err(Refusal::new(What::Host, "the first process of the cell died while building it")),
        why => Err(Refusal::new(What::Host, String::from_utf8_lossy(why).into_owned())),
    }
}

/// Puts the terminal directly into /dev under a name of its own, where ttyname(3) finds it.
fn name_terminal(pts: &OwnedFd) -> Result<Vec<u8>> {
    name_in_dev(pts, "ttyj", root::remove_dead_terminal)
}

/// Gives the agent of a login a name in the cell that was joined.
///
/// # Errors
/// If /dev is full or the kernel will not.
pub(crate) fn name_agent(socket: &OwnedFd) -> Result<Vec<u8>> {
    name_in_dev(socket, "agentj", root::remove_dead_socket)
}

/// Hides a directory of the cell that was joined behind an empty one.
pub(crate) fn cover(place: BorrowedFd<'_>) -> std::result::Result<(), Errno> {
    root::cover(place)
}

/// Mounts something of one login's on a name of its own in /dev; the names of those that are gone are used again.
fn name_in_dev(
    what: &OwnedFd,
    prefix: &str,
    remove_dead: fn(BorrowedFd<'_>, &str) -> bool,
) -> Result<Vec<u8>> {
    let doing = || "give what the login brings a name in the cell".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dev = rustix::fs::open("/dev", flags, Mode::empty()).or_refuse(What::Host, doing)?;
    for number in 0..10_000_u32 {
        let name = format!("{prefix}{number}");
        let made = match root::empty_file(dev.as_fd(), &name) {
            Err(Errno::EXIST) if remove_dead(dev.as_fd(), &name) => root::empty_file(dev.as_fd(), &name),
            other => other,
        };
        match made {
            Ok(()) => {
                root::attach_below(what.as_fd(), dev.as_fd(), &name).or_refuse(What::Host, doing)?;
                return Ok(format!("/dev/{name}").into_bytes());
            }
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).or_refuse(What::Host, doing),
        }
    }
    Err(Refusal::new(What::Host, format!("10,000 names like '{prefix}0' are in use in this cell already")))
}

/// The terminal by its name. Without root we are in a mount namespace of our own by now, and a descriptor from before leads to
/// a mount that is not this namespace's to copy; the file of that name is the same one, or none is. Without it the terminal
/// serves all the same, but has no name inside.
fn found_here(terminal: BorrowedFd<'_>) -> Option<OwnedFd> {
    let link = format!("/proc/self/fd/{}", terminal.as_raw_fd());
    let name = rustix::fs::readlinkat(CWD, link, Vec::new()).ok()?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let here = rustix::fs::openat(CWD, name, flags, Mode::empty()).ok()?;
    let (held, found) = (rustix::fs::fstat(terminal).ok()?, rustix::fs::fstat(&here).ok()?);
    let same = (held.st_dev, held.st_ino, held.st_rdev) == (found.st_dev, found.st_ino, found.st_rdev);
    same.then_some(here)
}
