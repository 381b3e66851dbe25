//! The process that stays outside: it passes signals in and the exit status out, with the user's rights only.

use std::convert::Infallible;
use std::os::fd::AsFd;

use jail_sys::process::{self, Taken};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, getppid, set_child_subreaper, wait as wait_any};
use rustix::termios::tcsetpgrp;

use crate::cell::Cell;
use crate::confined::{self, Identity};
use crate::enter::REFUSED;
use crate::invocation::{Terminal, standard};
use crate::refusal::{OrRefuse, Result, What};
use crate::seccomp::{Supervisor, supervisor};

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SIGCHLD: i32 = 17;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;
/// How long a session may tidy up after a hang-up before its cell ends.
const GRACE_SECONDS: u32 = 3;

/// Whose end the session does not outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tie {
    /// Who started us; when that is gone the session has lost its connection. `None` inside: it is in an outer pid
    /// namespace, and only the kernel can tell of its end.
    To(Option<Pid>),
    /// Nobody's: a daemon, or a session that its caller may leave.
    None,
}

impl Tie {
    /// Whether the parent of that time is gone.
    fn is_cut(self) -> bool {
        matches!(self, Self::To(Some(parent)) if getppid() != Some(parent))
    }
}

/// What the waiter watches.
pub(crate) struct Watch {
    pub(crate) child: Pid,
    pub(crate) terminal: Terminal,
    pub(crate) identity: Identity,
    pub(crate) tie: Tie,
    pub(crate) orphans: Orphans,
}

/// What becomes of processes that the session leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orphans {
    /// The kernel ends them with the first process of their pid namespace.
    EndWithTheCell,
    /// There is no such namespace: they fall to the waiter, which ends them.
    AreEnded,
}

/// Waits for the session to end, and ends with its exit status as a shell gives it: 128 + n for a signal.
///
/// # Errors
/// If the rights cannot be given up; the session is killed then.
pub(crate) fn wait(watch: &Watch, cell: Option<&Cell>) -> Result<Infallible> {
    if let Err(refusal) = give_up(watch) {
        // Not one moment with rights longer than needed: the cell dies with us.
        process::kill(watch.child.as_raw_nonzero().get(), SIGKILL)
            .or_refuse(What::Host, || "end the session".into())?;
        return Err(refusal);
    }
    if release(watch, cell).is_err() {
        // Nobody is left to be told, and destructors would close descriptors that are closed already.
        if process::kill(watch.child.as_raw_nonzero().get(), SIGKILL).is_err() {
            // It has ended meanwhile.
        }
        process::exit_now(REFUSED);
    }
    let status = watch_child(watch);
    end_orphans(watch.orphans);
    give_terminal_back(watch.terminal);
    // No destructors: they would close descriptors that are closed already.
    process::exit_now(status.unwrap_or(REFUSED))
}

fn give_up(watch: &Watch) -> Result<()> {
    if watch.orphans == Orphans::AreEnded {
        let doing = || "take charge of what the session leaves behind".to_owned();
        set_child_subreaper(Some(rustix::process::getpid())).or_refuse(What::Host, doing)?;
        // Nothing of the host is kept busy by a process that only waits.
        rustix::process::chdir("/").or_refuse(What::Host, doing)?;
    }
    confined::give_up_rights(&watch.identity, &[])?;
    rustix::thread::set_name(c"jail-waiter").or_refuse(What::Host, || "name the waiter".into())?;
    if watch.tie != Tie::None {
        // sshd's process for this connection is our parent. After the change of uid, which would clear it.
        confined::die_with_parent(SIGHUP)?;
    }
    Ok(())
}

/// The last that it could be seen or told by, and the last of the kernel that it does not need.
fn release(watch: &Watch, cell: Option<&Cell>) -> Result<()> {
    release_descriptors(watch.terminal, cell)?;
    let filter = supervisor(match watch.orphans {
        Orphans::AreEnded => Supervisor::WaiterOfChroot,
        Orphans::EndWithTheCell => Supervisor::Waiter,
    });
    filter.load(filter.flags()).or_refuse(What::Host, || "load the waiter's seccomp filter".into())
}

/// The pipes of a session must close when its last process closes them, not when the waiter ends; nothing of the host
/// stays open in a process that lives as long as the session. The cell's lifeline is kept, and the terminal only
/// where it has to be given back.
///
/// Closed, not redirected: there is no /dev/null of the host's any more, and nothing is opened from here on.
fn release_descriptors(terminal: Terminal, cell: Option<&Cell>) -> Result<()> {
    let mut kept: Vec<_> = cell.map(Cell::lifeline).into_iter().collect();
    if let Terminal::Theirs { fd, .. } = terminal {
        kept.push(standard(fd));
    }
    process::close_from_but(0, &kept).or_refuse(What::Host, || "let go of all descriptors".into())
}

fn watch_child(watch: &Watch) -> Result<i32> {
    process::release_unused_stack();
    let child = watch.child.as_raw_nonzero().get();
    // The parent may have gone before we asked to be told.
    if watch.tie.is_cut() {
        hang_up(watch.terminal, child);
    }
    loop {
        let taken = match process::wait_signal() {
            Ok(taken) => taken,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).or_refuse(What::Host, || "wait for the session".into()),
        };
        match taken.signal {
            SIGCHLD => {
                if let Some(status) = reap(watch)? {
                    return Ok(status);
                }
            }
            SIGHUP if watch.tie.is_cut() => hang_up(watch.terminal, child),
            signal => forward(watch, child, Taken { signal, ..taken }),
        }
    }
}

/// The connection is gone: tell the session, give it a moment, end the cell.
///
/// A session that leads its own terminal has heard it from the kernel. Not a second time: bash takes two hang-ups for a
/// reason to die at once, without passing the first on to its jobs.
fn hang_up(terminal: Terminal, child: i32) {
    let leads = matches!(terminal, Terminal::Ours { .. });
    // The whole group: a shell without a terminal does not pass it on.
    if !leads && process::kill(-child, SIGHUP).is_err() && process::kill(child, SIGHUP).is_err() {
        // It has ended meanwhile, and the loop hears of that; or it is still root's and on its way to the user's program,
        // where it may not be told (kill(2), EPERM), and the moment has to do.
    }
    process::alarm(GRACE_SECONDS);
}

fn forward(watch: &Watch, child: i32, taken: Taken) {
    const SIGALRM: i32 = 14;
    if taken.signal == SIGALRM && taken.from_kernel {
        end_orphans(watch.orphans);
        process::exit_now(128 + SIGHUP);
    }
    // A key of a terminal that the session shares with us has reached it already.
    if taken.from_kernel && matches!(watch.terminal, Terminal::Theirs { .. }) {
        return;
    }
    if process::kill(child, taken.signal).is_err() {
        // It has ended meanwhile; the loop hears of that.
    }
}

/// Takes the child's news. `Some` is its end.
fn reap(watch: &Watch) -> Result<Option<i32>> {
    loop {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
        // Any child: the session may lead a process group of its own.
        let news = match wait_any(options) {
            Ok(None) => return Ok(None),
            Ok(Some(news)) => news,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).or_refuse(What::Host, || "wait for the session".into()),
        };
        let (pid, status) = news;
        if pid != watch.child {
            // The cell's first process; its end is the session's end too, which we are told next.
            continue;
        }
        if let Some(status) = end_of(status) {
            return Ok(Some(status));
        }
        if status.stopped() && matches!(watch.terminal, Terminal::Theirs { .. }) {
            stop_too(watch);
        }
    }
}

fn end_of(status: WaitStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| signal.saturating_add(128)))
}

/// `suspend` in a shell under su stops the shell; the caller's shell has to see us stop as well.
fn stop_too(watch: &Watch) {
    give_terminal_back(watch.terminal);
    if process::kill(0, SIGSTOP).is_err()
        || process::kill(watch.child.as_raw_nonzero().get(), SIGCONT).is_err()
    {
        // Then it stays stopped, and a later SIGCONT is forwarded.
    }
}

/// Ends whatever the session has left, and what that leaves in turn, until nobody is there. Its own children are all that
/// a process may be sure of by number: nobody else takes their ends.
fn end_orphans(orphans: Orphans) {
    if orphans == Orphans::AreEnded {
        end_children();
    }
}

/// Ends every child of this process, and whatever falls to it meanwhile.
pub(crate) fn end_children() {
    for _ in 0..ROUNDS {
        let children = children_of(rustix::process::getpid().as_raw_nonzero().get());
        for child in &children {
            if process::kill(*child, SIGKILL).is_err() {
                // It has ended already.
            }
        }
        while let Ok(Some(_)) = wait_any(WaitOptions::NOHANG) {}
        if children.is_empty() {
            return;
        }
        process::sleep_milliseconds(2);
    }
}

/// How often what is left is looked at: a fork bomb within its limit of processes ends well before.
const ROUNDS: u32 = 2000;

/// The children of a process of one thread (proc(5), `/proc/PID/task/TID/children`), as many as a page has room for.
pub(crate) fn children_of(pid: i32) -> Vec<i32> {
    let mut text = [0_u8; 4096];
    let path = format!("/proc/{pid}/task/{pid}/children");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    // openat(2) by name: it is what the waiter's filter lets through, where open(2) is a call of its own.
    let length = rustix::fs::openat(rustix::fs::CWD, path, flags, rustix::fs::Mode::empty())
        .and_then(|file| rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut text)))
        .unwrap_or(0);
    let whole = text.get(..length).unwrap_or_default();
    // The last number may be cut short; each that is whole has a blank behind it.
    let words = whole.split_inclusive(|byte| *byte == b' ').filter_map(|word| word.strip_suffix(b" "));
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok()).collect()
}

/// The shell inside has made its own process group the foreground one; ours must be again, or the caller's shell
/// stops at its next read (bubblewrap issue 744).
fn give_terminal_back(terminal: Terminal) {
    if let Terminal::Theirs { fd, foreground: Some(group) } = terminal {
        // All signals are blocked, SIGTTOU among them.
        if tcsetpgrp(standard(fd).as_fd(), group).is_err() {
            // The terminal has been hung up.
        }
    }
}
