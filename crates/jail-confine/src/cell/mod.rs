//! The third stage: a cell, one set of namespaces in which a session's processes live.
//!
//! A cell is made with its first process only; every login, also the one that had it made, then joins in the same
//! way, by that process's pidfd (rulings 6).

pub mod blueprint;
mod init;
mod root;

use std::os::fd::{AsFd, OwnedFd};

use jail_sys::process::{self, Cloned};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, set_dumpable_behavior};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use self::blueprint::{Below, Blueprint, Privilege, copy};
use self::init::{Lines, READY, live};
use crate::invocation::{Terminal, standard};
use crate::refusal::{OrRefuse, Refusal, Result, What};

/// A running cell, seen from the waiter.
#[derive(Debug)]
pub struct Cell {
    /// Refers to the first process.
    init: OwnedFd,
    /// The first process, as the host numbers it.
    pub init_pid: Pid,
    /// Closed by the first process when nobody can look into it any more.
    ready: OwnedFd,
    /// While this end of the pipe is open somewhere, the cell lives. Kept open for the waiter's life.
    lifeline: OwnedFd,
    namespaces: u64,
    privilege: Privilege,
}

impl Cell {
    /// Makes a cell and waits until its inside is built.
    ///
    /// # Errors
    /// Whatever the kernel would not give, in the first process's words.
    pub fn create(blueprint: Blueprint) -> Result<Self> {
        let doing = || "make a pipe for the cell".to_owned();
        let cloexec = rustix::pipe::PipeFlags::CLOEXEC;
        let (alive, lifeline) = rustix::pipe::pipe_with(cloexec).or_refuse(What::Host, doing)?;
        let (said, ready) = rustix::pipe::pipe_with(cloexec).or_refuse(What::Host, doing)?;
        let (namespaces, privilege) = (blueprint.namespaces, blueprint.privilege);
        let cloned = process::clone(namespaces)
            .or_refuse(What::Host, || format!("make the namespaces of the cell{}", hint(privilege)))?;
        match cloned {
            Cloned::Child => {
                drop((said, lifeline));
                live(blueprint, Lines { lifeline: alive, ready })
            }
            Cloned::Parent { pid, pidfd } => {
                drop((alive, ready));
                hear(&said)?;
                Ok(Self { init: pidfd, init_pid: pid, ready: said, lifeline, namespaces, privilege })
            }
        }
    }

    /// Moves this process into the cell (its children, for the pid namespace). Returns the terminal's name inside.
    ///
    /// The terminal's mount is copied while it still belongs to this namespace: binding its descriptor after setns
    /// gives EINVAL (rulings 7).
    ///
    /// # Errors
    /// If the cell has ended, or the kernel will not let us in.
    pub fn join(&self, terminal: Terminal) -> Result<Option<Vec<u8>>> {
        let pts = match terminal.fd() {
            None => None,
            Some(fd) => Some(
                copy(standard(fd), Below::Left)
                    .or_refuse(What::Host, || "copy the mount of the terminal".into())?,
            ),
        };
        let mut types = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP
            | ThreadNameSpaceType::PROCESS_ID;
        if self.namespaces & process::namespaces::NET != 0 {
            types |= ThreadNameSpaceType::NETWORK;
        }
        move_into_thread_name_spaces(self.init.as_fd(), types)
            .or_refuse(What::Host, || "join the cell".into())?;
        self.close_the_door()?;
        pts.map(|pts| name_terminal(&pts)).transpose()
    }

    /// See [`init`]: without root the first process has stayed dumpable for us, and so have we.
    fn close_the_door(&self) -> Result<()> {
        if self.privilege == Privilege::Root {
            return Ok(());
        }
        let doing = || "close the cell behind us".to_owned();
        set_dumpable_behavior(DumpableBehavior::NotDumpable).or_refuse(What::Host, doing)?;
        rustix::io::write(&self.lifeline, &[READY]).or_refuse(What::Host, doing)?;
        let mut byte = [0_u8; 1];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.ready, &mut byte)).or_refuse(What::Host, doing)? {
            0 => Ok(()),
            _ => Err(Refusal::new(What::Host, "the first process of the cell speaks out of turn")),
        }
    }

    /// Keeps the cell alive until this process ends, whatever else is closed.
    pub(crate) fn keep_alive(self) {
        std::mem::forget(self.lifeline);
    }

    /// The privilege it was made with.
    #[must_use]
    pub const fn privilege(&self) -> Privilege {
        self.privilege
    }
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
    let doing = || "name the terminal inside the cell".to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dev = rustix::fs::open("/dev", flags, Mode::empty()).or_refuse(What::Host, doing)?;
    for number in 0..10_000_u32 {
        let name = format!("ttyj{number}");
        match root::empty_file(dev.as_fd(), &name) {
            Ok(()) => {
                root::attach_below(pts.as_fd(), dev.as_fd(), &name).or_refuse(What::Host, doing)?;
                return Ok(format!("/dev/{name}").into_bytes());
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => return Err(errno).or_refuse(What::Host, doing),
        }
    }
    Err(Refusal::new(What::Host, "10,000 terminals are open in this cell already"))
}
