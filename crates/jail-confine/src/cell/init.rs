//! The cell's first process: builds the inside, gives up every right, and waits for the end.
//!
//! It reaps by having SIGCHLD ignored (the kernel then keeps no zombies, waitpid(2)), so that while a session lasts
//! it does nothing at all. When it exits the kernel kills whatever is left in its pid namespace.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use jail_sys::process;
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::blueprint::{Blueprint, Privilege};
use super::root;
use crate::confined;

/// What the first process holds on to.
pub(crate) struct Lines {
    /// Closed by the kernel when the waiter outside is gone.
    pub(crate) lifeline: OwnedFd,
    /// Where it says that the cell is ready, or why not.
    pub(crate) ready: OwnedFd,
}

/// What is written when all went well; anything else is a reason.
pub(crate) const READY: u8 = b'+';

/// The life of the first process.
pub(crate) fn live(blueprint: Blueprint, lines: Lines) -> ! {
    let Lines { lifeline, ready } = lines;
    let mut ready = std::fs::File::from(ready);
    let said = match prepare(&blueprint) {
        Ok(()) => ready.write_all(&[READY]),
        Err(why) => ready.write_all(why.as_bytes()),
    };
    let joined = said.is_ok() && close_the_door(blueprint.privilege, &lifeline);
    drop(ready);
    drop(blueprint);
    if joined {
        wait_for_the_end(lifeline);
    }
    process::exit_now(0)
}

/// In a user namespace the waiter may join a process only while that is dumpable (its memory belongs to the user
/// namespace it was executed in); so this one stays so until then, which is before anybody else is inside.
fn close_the_door(privilege: Privilege, lifeline: &OwnedFd) -> bool {
    if privilege == Privilege::Root {
        return true;
    }
    let mut byte = [0_u8; 1];
    let told = rustix::io::retry_on_intr(|| rustix::io::read(lifeline, &mut byte));
    matches!(told, Ok(1)) && set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok()
}

fn prepare(blueprint: &Blueprint) -> Result<(), String> {
    // Away from the session and the terminal of whoever logged in.
    rustix::process::setsid().map_err(|errno| format!("cannot start a session: {errno}"))?;
    root::build(blueprint).map_err(|why| why.to_string())?;
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
    if blueprint.privilege == Privilege::UserNamespace {
        set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(|errno| format!("open the door: {errno}"))?;
    }
    Ok(())
}

fn wait_for_the_end(lifeline: OwnedFd) {
    // Descriptor 0 for the lifeline and nothing else: nothing of the host stays open in a process of the cell.
    if rustix::stdio::dup2_stdin(&lifeline).is_err() || process::close_from(1).is_err() {
        return;
    }
    std::mem::forget(lifeline);
    let mut byte = [0_u8; 1];
    loop {
        match rustix::io::read(rustix::stdio::stdin().as_fd(), &mut byte) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return,
            // Nobody writes to it.
            Ok(_) => {}
        }
    }
}
