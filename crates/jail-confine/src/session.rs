//! The user's process, from its first breath inside the cell to exec.

use jail_sys::process::{self, Exec};
use jail_sys::tty;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cell::blueprint::Privilege;
use crate::cgroup::Groups;
use crate::confined::{self, Identity};
use crate::invocation::{Terminal, standard};
use crate::landlock::Fence;
use crate::learn::Recorder;
use crate::policy::Policy;
use crate::policy::values::Limit;
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};
use crate::seccomp::Program;

/// All that the user's process needs; nothing is decided in it.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) policy: &'a Policy,
    /// The control groups that hold the cell's limits.
    pub(crate) groups_of_cell: &'a Groups,
    pub(crate) privilege: Privilege,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'a [u32],
    pub(crate) home: &'a [u8],
    /// Where it starts, as seen inside.
    pub(crate) directory: &'a [u8],
    pub(crate) terminal: Terminal,
    pub(crate) filter: &'a Program,
    pub(crate) program: &'a Exec,
    /// Whoever records what the program does, if somebody does.
    pub(crate) recorder: Option<&'a Recorder>,
}

/// Confines this process and becomes the user's program. Returns only what went wrong.
// Its frame must be gone while the waiter waits: see release_unused_stack.
#[inline(never)]
pub(crate) fn start(session: &Session<'_>, notes: &mut Vec<String>) -> Failure {
    match confine(session, notes) {
        Err(refusal) => Failure::Refused(refusal),
        Ok(()) => Failure::Exec(session.program.run()),
    }
}

/// Why the user's program did not start.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Confinement was not complete.
    Refused(Refusal),
    /// It was, but the program could not be executed.
    Exec(jail_sys::Errno),
}

fn confine(session: &Session<'_>, notes: &mut Vec<String>) -> Result<()> {
    // First, while we may still take a terminal from another session of the same user (TIOCSCTTY wants CAP_SYS_ADMIN).
    take_terminal(session)?;
    session.groups_of_cell.enter().or_refuse(What::Host, || "enter the cell's control groups".into())?;
    set_limits(session.policy, session.groups_of_cell.limits_processes)?;
    let fence = Fence::prepare(
        session.policy,
        session.home,
        session.uid,
        session.privilege,
        session.program.path().to_bytes(),
        notes,
    )?;
    let identity = match session.privilege {
        Privilege::Root => {
            Identity::Change { uid: session.uid, gid: session.gid, groups: session.groups.to_vec() }
        }
        Privilege::UserNamespace => Identity::Keep,
    };
    confined::give_up_rights(&identity, &session.policy.capabilities)?;
    // As the user: a directory that he may not enter is no place to start in.
    rustix::process::chdir(session.directory)
        .or_refuse(What::Home, || format!("change to '{}' inside the jail", printable(session.directory)))?;
    rustix::process::umask(Mode::from_raw_mode(session.policy.umask.0));
    fence.enforce()?;
    process::block_all_signals(false).or_refuse(What::Host, || "unblock signals".into())?;
    if let Some(recorder) = session.recorder {
        return recorder.hand_over();
    }
    // Last: the profile may forbid any of the calls above.
    session.filter.load(session.filter.flags()).or_refuse(What::Host, || "load the seccomp filter".into())
}

fn take_terminal(session: &Session<'_>) -> Result<()> {
    match (session.terminal, session.privilege) {
        // We led the session: the shell inside leads one of its own, and gets the hang-up when the line drops.
        (Terminal::Ours { fd }, Privilege::Root) => {
            rustix::process::setsid().or_refuse(What::Host, || "start a session".into())?;
            tty::take(standard(fd), tty::Theft::Steal)
                .or_refuse(What::Host, || "take over the terminal".into())
        }
        // Never taken from a session that is not ours: root's shell would lose it.
        (Terminal::Ours { .. } | Terminal::Theirs { .. }, _) => Ok(()),
        (Terminal::None | Terminal::Merely { .. }, _) => {
            rustix::process::setsid().map(drop).or_refuse(What::Host, || "start a session".into())
        }
    }
}

/// Limits of single processes, and that of all the user's processes where no control group counts them.
fn set_limits(policy: &Policy, processes_are_limited: bool) -> Result<()> {
    let lower = |resource: Resource, to: u64| {
        let now = getrlimit(resource);
        let bound = now.maximum.map_or(to, |maximum| maximum.min(to));
        setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) })
    };
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .or_refuse(What::Host, || "switch core dumps off".into())?;
    if let (Limit::At(count), false) = (policy.processes, processes_are_limited) {
        lower(Resource::Nproc, count.0).or_refuse(What::Host, || "limit the processes".into())?;
    }
    if let Limit::At(count) = policy.open_files {
        lower(Resource::Nofile, count.0).or_refuse(What::Host, || "limit the open files".into())?;
    }
    Ok(())
}
