//! The cell's first process: builds the inside, gives up every right, and waits for the end.
//!
//! It reaps by having SIGCHLD ignored (the kernel then keeps no zombies, waitpid(2)), so that while a session lasts
//! it does nothing but pass on what programs log. When it exits the kernel kills whatever is left in its pid namespace.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jail_sys::process::{self, leak};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
};

use super::blueprint::{Blueprint, Privilege};
use super::logging::{HostLog, Relay};
use super::{Lasting, root};
use crate::cgroup::Groups;
use crate::confined;
use crate::seccomp::{Supervisor, supervisor};

/// What the first process holds on to.
pub(crate) struct Lines {
    /// Closed by the kernel when the waiter outside is gone.
    pub(crate) lifeline: OwnedFd,
    /// Where it says that the cell is ready, or why not.
    pub(crate) ready: OwnedFd,
    /// The waiter, if it makes the cell's network while the inside is built.
    pub(crate) maker: Option<OwnedFd>,
}

/// What is written when all went well; anything else is a reason.
pub(crate) const READY: u8 = b'+';

/// The life of the first process.
pub(crate) fn live(mut blueprint: Blueprint, groups: &Groups, lasting: Lasting, lines: Lines) -> ! {
    let Lines { lifeline, ready, maker } = lines;
    let maker = maker.map(leak);
    let mut ready = std::fs::File::from(ready);
    let log = blueprint.log.take();
    let (said, relay) = match prepare(&blueprint, groups, log, maker.map(|maker| (maker, lifeline.as_fd()))) {
        Ok(relay) => (ready.write_all(&[READY]), relay),
        Err(why) => (ready.write_all(why.as_bytes()), None),
    };
    leak(ready.into());
    let way_out = blueprint.way_out.take().map(|way| way.line);
    let hold = std::mem::take(&mut blueprint.holds).into_iter().chain(way_out).map(leak).collect();
    // Closed with everything else.
    std::mem::forget(blueprint);
    if said.is_ok() {
        wait_for_the_end(lifeline, lasting, hold, relay);
    }
    process::exit_now(0)
}

// Its frame must be gone while this process waits: see release_unused_stack.
#[inline(never)]
fn prepare(
    blueprint: &Blueprint,
    groups: &Groups,
    log: Option<HostLog>,
    network: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
) -> Result<Option<Relay>, String> {
    // The limits hold for this process and all below it; seen from inside, the group is the root of all groups.
    let others = blueprint.way_out.as_ref().map_or(&[][..], |way| &way.processes);
    groups.begin(others).map_err(|why| format!("cannot enter the cell's control groups: {why}"))?;
    if blueprint.privilege == Privilege::Root {
        process::unshare(process::namespaces::CGROUP)
            .map_err(|errno| format!("cannot hide the host's control groups: {errno}"))?;
    }
    if let Some(way) = &blueprint.way_out {
        let kind = LinkNameSpaceType::Network;
        move_into_link_name_space(way.namespace.as_fd(), Some(kind))
            .map_err(|errno| format!("cannot join the cell's network: {errno}"))?;
    }
    // Away from the session and the terminal of whoever logged in.
    rustix::process::setsid().map_err(|errno| format!("cannot start a session: {errno}"))?;
    process::reap_automatically().map_err(|errno| format!("ignore the ends of children: {errno}"))?;
    root::build(blueprint).map_err(|why| why.to_string())?;
    if let Some((maker, told)) = network {
        join_network(maker, told)?;
    }
    let relay = log
        .map(HostLog::serve)
        .transpose()
        .map_err(|errno| format!("cannot serve /dev/log inside the cell: {errno}"))?;
    rustix::thread::set_name(c"jail-init")
        .map_err(|errno| format!("cannot name the first process: {errno}"))?;
    // It needs no right for anything it does from here on.
    let account = match blueprint.privilege {
        Privilege::Root => {
            confined::Identity::Change { uid: blueprint.uid, gid: blueprint.gid, groups: Vec::new() }
        }
        Privilege::UserNamespace => confined::Identity::Keep,
    };
    confined::give_up_rights(&account, &[]).map_err(|why| why.why)?;
    Ok(relay)
}

/// Joins the network that the waiter has made meanwhile: whoever comes later finds it by this process.
fn join_network(maker: BorrowedFd<'_>, told: BorrowedFd<'_>) -> Result<(), String> {
    let mut byte = [0_u8; 1];
    let heard = rustix::io::retry_on_intr(|| rustix::io::read(told, &mut byte))
        .map_err(|errno| format!("cannot hear of the cell's network: {errno}"))?;
    if heard == 0 {
        return Err("the waiter ended while the cell was built".to_owned());
    }
    move_into_thread_name_spaces(maker, ThreadNameSpaceType::NETWORK)
        .map_err(|errno| format!("cannot join the cell's network: {errno}"))
}

fn wait_for_the_end(
    lifeline: OwnedFd,
    lasting: Lasting,
    hold: Vec<BorrowedFd<'static>>,
    mut relay: Option<Relay>,
) {
    let others: Vec<_> = hold.into_iter().chain(relay.as_ref().map(Relay::socket)).collect();
    let (end, kept) = match lasting {
        Lasting::OneLogin => (End::WithItsLogin, keep_only([leak(lifeline)], &others)),
        Lasting::WhileUsed { lock, state } => {
            (End::WithItsLastUser, keep_only([leak(lifeline), lock, state], &others))
        }
    };
    if kept.is_err() {
        return;
    }
    // The last of its rights: what lines of untrusted programs could make of it has no more of the kernel than this.
    let filter = supervisor(Supervisor::FirstProcess);
    if filter.load(filter.flags()).is_err() {
        return;
    }
    drop(filter);
    process::release_unused_stack();
    loop {
        if let Some(relay) = &mut relay {
            log_until_told(relay);
        }
        let mut byte = [0_u8; 1];
        match rustix::io::read(LIFELINE, &mut byte) {
            // A byte tells of nothing; nobody sends one here.
            Err(Errno::INTR) | Ok(1..) => {}
            Err(_) => return,
            Ok(0) if end == End::WithItsLogin || nobody_is_left() => return,
            Ok(0) => match &mut relay {
                Some(relay) => log_for_a_while(relay),
                None => process::sleep_milliseconds(POLL_MILLISECONDS.into()),
            },
        }
    }
}

/// What ends the cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Its one waiter is gone.
    WithItsLogin,
    /// No process and no waiter is left.
    WithItsLastUser,
}

/// Passes on lines until the lifeline has something to say.
fn log_until_told(relay: &mut Relay) {
    loop {
        let mut lines = [
            PollFd::from_borrowed_fd(LIFELINE, PollFlags::IN),
            PollFd::from_borrowed_fd(relay.socket(), PollFlags::IN),
        ];
        match poll(&mut lines, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        let [told, logged] = lines.map(|line| !line.revents().is_empty());
        if logged {
            relay.pass_on();
        }
        if told {
            return;
        }
    }
}

/// As long as a cell without a waiter sleeps between two looks, or until a line comes.
fn log_for_a_while(relay: &mut Relay) {
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(POLL_MILLISECONDS) * 1_000_000 };
    let mut line = [PollFd::from_borrowed_fd(relay.socket(), PollFlags::IN)];
    match poll(&mut line, Some(&patience)) {
        Ok(0) => {}
        Ok(_) => relay.pass_on(),
        Err(_) => process::sleep_milliseconds(POLL_MILLISECONDS.into()),
    }
}

const LIFELINE: BorrowedFd<'static> = rustix::stdio::stdin();
/// How often a cell without a waiter looks whether a process is left in it: nothing tells it.
const POLL_MILLISECONDS: u32 = 500;

/// Puts the descriptors given at 0, 1, 2, leaves the hold on a base and the log's socket where they are, and closes all
/// others: nothing else of the host stays open in a process of the cell (they cannot be looked at or taken from outside
/// this process, which is undumpable and has nobody's rights).
fn keep_only<const N: usize>(
    kept: [BorrowedFd<'static>; N],
    others: &[BorrowedFd<'static>],
) -> Result<(), Errno> {
    for (number, fd) in (0_i32..).zip(kept) {
        process::move_descriptor(fd, number)?;
    }
    process::close_from_but(u32::try_from(N).map_err(|_| Errno::INVAL)?, others)
}

/// No process in the cell, no waiter on the line, and the lock that keeps new ones out (rulings 6).
fn nobody_is_left() -> bool {
    let lock = rustix::stdio::stdout();
    if !matches!(process::kill(-1, 0), Err(Errno::SRCH)) {
        return false;
    }
    if flock(lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        return false;
    }
    // Somebody may have come between the look and the lock.
    let mut line = [PollFd::from_borrowed_fd(LIFELINE, PollFlags::empty())];
    let nobody_waits = poll(&mut line, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
        && line.iter().any(|line| line.revents().contains(PollFlags::HUP));
    if nobody_waits && matches!(process::kill(-1, 0), Err(Errno::SRCH)) {
        return true;
    }
    if flock(lock, FlockOperation::Unlock).is_err() {
        return true;
    }
    false
}
