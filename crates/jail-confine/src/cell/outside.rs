//! `network = "private"`: a network namespace of the cell's own with a way out, made by pasta (Debian's package passt).
//!
//! pasta opens the connections of the cell from the host's side, with the user's rights and no others. For that the
//! namespace belongs to a user namespace of the user's, in which nobody of the cell is, and pasta is told to forward
//! nothing inwards and nothing to the host's own loopback (rulings 11).
//!
//! A keeper stays with it: a process of the user's, outside the cell, that holds one end of a pipe whose other end only
//! the cell's first process has. So pasta ends with the cell, however that ends.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use jail_sys::process::{self, Cloned, Exec, leak, namespaces};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, access};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, waitpid};

use super::blueprint::Privilege;
use crate::cgroup::Groups;
use crate::confined::{self, Identity};
use crate::deadline::poll_until;
use crate::refusal::{OrRefuse, Refusal, Result, What};
use crate::waiter;

const PASTA: &str = "/usr/bin/pasta";
/// What pasta makes the cell's network device by.
const TUN: &str = "/dev/net/tun";
/// No address of the host's stands for the host itself; no port is forwarded, in or out.
const OPTIONS: [&str; 12] = [
    "pasta",
    "--config-net",
    "--quiet",
    "--no-map-gw",
    "-t",
    "none",
    "-u",
    "none",
    "-T",
    "none",
    "-U",
    "none",
];

/// How long pasta may take. It is waited for under the cell's lock: without an end a hung one would keep every login of
/// the user waiting.
const PATIENCE: Duration = Duration::from_secs(10);
/// The keeper, which may be stopped by its own user, has so much longer to say what became of it.
const OF_THE_KEEPER: Duration = Duration::from_secs(15);
const SIGKILL: i32 = 9;

/// Whether the program and its device are there, for a refusal before anything is made.
///
/// # Errors
/// If one is not, with what brings it.
pub(crate) fn must_be_there() -> Result<()> {
    access(PASTA, rustix::fs::Access::EXEC_OK).map_err(|errno| {
        Refusal::new(
            What::Host,
            format!("network = \"private\" needs '{PASTA}': {errno}; on Debian it is in the package passt (apt install passt)"),
        )
    })?;
    access(TUN, rustix::fs::Access::EXISTS).map_err(|errno| {
        Refusal::new(
            What::Host,
            format!("network = \"private\" needs '{TUN}': {errno}; modprobe tun makes it"),
        )
    })
}

/// A network with a way out.
#[derive(Debug)]
pub(crate) struct WayOut {
    /// The namespace.
    pub(crate) namespace: OwnedFd,
    /// While this is open somewhere the way is.
    pub(crate) line: OwnedFd,
    /// The keeper and pasta, which belong into the cell's control groups.
    pub(crate) processes: Vec<u32>,
}

impl WayOut {
    /// Makes it, and waits until it stands.
    ///
    /// # Errors
    /// What the kernel would not give; pasta's own words, if it ends with a complaint; that it took too long.
    pub(crate) fn make(privilege: Privilege, uid: u32, gid: u32, groups: &Groups) -> Result<Self> {
        let identity = match privilege {
            Privilege::Root => Identity::Change { uid, gid, groups: Vec::new() },
            Privilege::UserNamespace => Identity::Keep,
        };
        let doing = || "make the cell's network".to_owned();
        let holder = Holder::start(&identity)?;
        holder.map(uid, gid)?;
        let path = format!("/proc/{}/ns/net", holder.pid);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open(path, flags, Mode::empty()).or_refuse(What::Host, doing)?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_refuse(What::Host, doing);
        let ((alive, line), (said, say)) = (pipe()?, pipe()?);
        match process::clone(0).or_refuse(What::Host, doing)? {
            Cloned::Child => {
                // Held by the keeper itself, the line would never end.
                drop(line);
                keep(&identity, holder.pid, alive, say, groups)
            }
            Cloned::Parent { pid: keeper, .. } => {
                drop((alive, say));
                let heard = hear(&said);
                if heard.is_err() && process::kill(keeper.as_raw_nonzero().get(), SIGKILL).is_err() {
                    // It has ended, with what it started.
                }
                let keeper = keeper.as_raw_nonzero().get();
                let processes = [keeper].into_iter().chain(waiter::children_of(keeper));
                let processes = processes.filter_map(|pid| u32::try_from(pid).ok()).collect();
                heard.map(|()| Self { namespace, line, processes })
            }
        }
    }
}

/// A process that has the two namespaces until pasta and the cell have them.
struct Holder {
    pid: Pid,
    /// It ends when this is closed.
    _line: OwnedFd,
}

impl Holder {
    fn start(identity: &Identity) -> Result<Self> {
        let doing = || "make the namespaces of the cell's network".to_owned();
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_refuse(What::Host, doing);
        let ((wait, line), (said, say)) = (pipe()?, pipe()?);
        match process::clone(0).or_refuse(What::Host, doing)? {
            Cloned::Child => {
                let made = hold(identity, &[wait.as_fd(), say.as_fd()]);
                let byte = match made {
                    Ok(()) => [b'+', 0],
                    Err(errno) => [b'-', u8::try_from(errno.raw_os_error()).unwrap_or(0)],
                };
                if rustix::io::write(&say, &byte).is_ok() {
                    while matches!(rustix::io::read(&wait, &mut [0_u8; 1]), Err(Errno::INTR)) {}
                }
                process::exit_now(0)
            }
            Cloned::Parent { pid, .. } => {
                drop((wait, say));
                let mut byte = [0_u8; 2];
                let told = read_until(&said, &mut byte, Instant::now() + PATIENCE);
                match (told.or_refuse(What::Host, doing)?, byte) {
                    (2, [b'+', _]) => Ok(Self { pid, _line: line }),
                    (2, [_, errno]) => {
                        let errno = Errno::from_raw_os_error(errno.into());
                        let why = crate::rootless::forbidden_by();
                        Err(errno).or_refuse(What::Host, || format!("{}; {why}", doing()))
                    }
                    _ => Err(Refusal::new(
                        What::Host,
                        "the process that holds the cell's network died at once",
                    )),
                }
            }
        }
    }

    /// Written by us, since it may not be looked into by its own user's other processes before it holds nothing.
    fn map(&self, uid: u32, gid: u32) -> Result<()> {
        for (file, text) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{uid} {uid} 1")),
            ("gid_map", format!("{gid} {gid} 1")),
        ] {
            let path = format!("/proc/{}/{file}", self.pid);
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(&path, flags, Mode::empty());
            opened
                .and_then(|opened| rustix::io::write(&opened, text.as_bytes()))
                .or_refuse(What::Host, || format!("write '{path}'"))?;
        }
        Ok(())
    }
}

/// With the user's rights only, and nothing but its two lines open; then it may be looked into, as pasta does.
fn hold(identity: &Identity, lines: &[BorrowedFd<'_>]) -> std::result::Result<(), Errno> {
    process::close_from_but(0, lines)?;
    confined::give_up_rights(identity, &[]).map_err(|_| Errno::PERM)?;
    process::unshare(namespaces::USER | namespaces::NET)?;
    set_dumpable_behavior(DumpableBehavior::Dumpable)
}

/// What pasta or the keeper said until it closed its end: nothing but a mark where all went well.
fn hear(said: &OwnedFd) -> Result<()> {
    let mut words = Vec::new();
    let end = Instant::now() + OF_THE_KEEPER;
    loop {
        let mut some = [0_u8; 512];
        let read = read_until(said, &mut some, end);
        match read.or_refuse(What::Host, || "hear from pasta".into())? {
            0 => break,
            length => words.extend_from_slice(some.get(..length).unwrap_or_default()),
        }
    }
    match words.last() {
        Some(b'+') => Ok(()),
        _ => {
            let text = String::from_utf8_lossy(&words).trim_end_matches(['-', '\n']).replace('\n', "; ");
            Err(Refusal::new(What::Host, format!("pasta made no network for the cell: {text}")))
        }
    }
}

/// read(2), but `ETIMEDOUT` when nothing has come by then.
fn read_until(from: &OwnedFd, to: &mut [u8], end: Instant) -> std::result::Result<usize, Errno> {
    match poll_until(&mut [PollFd::new(from, PollFlags::IN)], end)? {
        0 => Err(Errno::TIMEDOUT),
        _ => rustix::io::retry_on_intr(|| rustix::io::read(from, &mut *to)),
    }
}

/// The keeper: starts pasta, says whether it stands, and ends it when the cell is gone.
///
/// With pasta it is in the cell's control groups: what ends with a login (logind's KillUserProcesses) does not end the
/// network of the user's other logins, and what the network costs is the user's.
fn keep(identity: &Identity, holder: Pid, alive: OwnedFd, say: OwnedFd, groups: &Groups) -> ! {
    let (alive, say) = (leak(alive), leak(say));
    let status = groups.enter().and_then(|()| stand(identity, holder, alive, say));
    let mark: &[u8] = match status {
        Ok(0) => b"+",
        Err(Errno::TIMEDOUT) => b"it did not say within 10 seconds that its network stands, and was ended-",
        _ => b"-",
    };
    let stands = status == Ok(0);
    if !stands {
        // Before it is told: nothing is left of it when the login is refused.
        waiter::end_children();
    }
    let told = rustix::io::write(say, mark).is_ok() && process::close_from_but(0, &[alive]).is_ok();
    if told && stands {
        process::release_unused_stack();
        while matches!(rustix::io::read(alive, &mut [0_u8; 1]), Err(Errno::INTR) | Ok(1..)) {}
    }
    waiter::end_children();
    process::exit_now(0)
}

/// pasta goes into the background when its network stands, and falls to us then. `ETIMEDOUT` if it does neither that nor
/// end; so it is too when the login that waits for it is gone.
fn stand(
    identity: &Identity,
    holder: Pid,
    alive: BorrowedFd<'_>,
    say: BorrowedFd<'static>,
) -> std::result::Result<i32, Errno> {
    process::close_from_but(0, &[alive, say])?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    rustix::thread::set_name(c"jail-network")?;
    confined::give_up_rights(identity, &[]).map_err(|_| Errno::PERM)?;
    let holder = holder.to_string();
    let arguments = OPTIONS.into_iter().chain([holder.as_str()]);
    let argv = arguments.map(|word| CString::new(word).map_err(|_| Errno::INVAL));
    let argv = argv.collect::<std::result::Result<Vec<_>, _>>()?;
    let path = CString::new(PASTA).map_err(|_| Errno::INVAL)?;
    let exec = Exec::new(path, argv, vec![c"PATH=/usr/bin:/bin".to_owned()]);
    match process::clone(0)? {
        Cloned::Child => {
            // It may well get the number that it shall have, so exec must not close it.
            let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).map(leak);
            let ready = null.and_then(|null| {
                process::move_descriptor(null, 0)?;
                process::move_descriptor(say, 1)?;
                process::move_descriptor(say, 2)?;
                confined::die_with_parent(SIGKILL).map_err(|_| Errno::PERM)?;
                process::block_all_signals(false)
            });
            if ready.is_ok() && process::close_from(3).is_ok() {
                let _errno = exec.run();
            }
            process::exit_now(127)
        }
        Cloned::Parent { pid, pidfd } => {
            let mut lines =
                [PollFd::new(&pidfd, PollFlags::IN), PollFd::from_borrowed_fd(alive, PollFlags::empty())];
            poll_until(&mut lines, Instant::now() + PATIENCE)?;
            match rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::NOHANG))? {
                Some((_, status)) => Ok(status.exit_status().unwrap_or(1)),
                None => Err(Errno::TIMEDOUT),
            }
        }
    }
}
