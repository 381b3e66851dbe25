//! The first stage: what the caller handed over, made harmless.
//!
//! A set-uid program starts in a world that its caller has furnished: descriptors, signals, limits, environment,
//! argv. Nothing is looked up and nothing is parsed beyond argv before that world has been put in order.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use jail_sys::process::{self, leak};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Pid, getgroups, getpid, getppid, getuid, set_dumpable_behavior, umask,
};
use rustix::termios::{isatty, tcgetpgrp, tcgetsid};
use rustix::thread::{Gid, Uid};

use crate::refusal::{OrRefuse, Refusal, Result, What};

/// What the caller wants to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Whether the inner shell is to be a login shell (argv0 began with `-`, or `-l`).
    pub login: bool,
    /// The argument of `-c`, as sshd, su and scp pass it. Never interpreted here.
    pub command: Option<OsString>,
    /// Root asks what would hold for this user (`--explain USER`).
    pub explain: Option<OsString>,
}

/// The caller's world after [`sanitize`].
#[derive(Debug)]
pub struct Invocation {
    /// What to run.
    pub call: Call,
    /// The caller's real uid.
    pub uid: u32,
    /// The caller's real gid.
    pub gid: u32,
    /// The caller's supplementary groups, which sshd or su has set.
    pub groups: Vec<u32>,
    /// The caller's environment, untouched and not in force any more for anything we do.
    pub environment: Vec<(OsString, OsString)>,
    /// The terminal, if there is one.
    pub terminal: Terminal,
    /// Who started us: sshd's process for this connection, su, a cron daemon.
    pub parent: Option<Pid>,
}

/// Where this process stands towards its terminal (credentials(7), "session").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// There is none.
    None,
    /// We lead the session that it controls, as under sshd and login: it can be handed on.
    Ours {
        /// The descriptor it is open on, 0 to 2.
        fd: i32,
    },
    /// It controls somebody else's session, as under su: it stays theirs, and must be given back as it was.
    Theirs {
        /// The descriptor it is open on, 0 to 2.
        fd: i32,
        /// The process group in the foreground, if that was ours.
        foreground: Option<Pid>,
    },
    /// It is open, but controls no session of ours, as under `su -c`: it has a name inside and no more.
    Merely {
        /// The descriptor it is open on, 0 to 2.
        fd: i32,
    },
}

impl Terminal {
    /// The descriptor that the terminal is open on.
    #[must_use]
    pub const fn fd(self) -> Option<i32> {
        match self {
            Self::None => None,
            Self::Ours { fd } | Self::Theirs { fd, .. } | Self::Merely { fd } => Some(fd),
        }
    }

    /// Looks at the standard descriptors for the terminal that controls this session.
    #[must_use]
    pub fn find() -> Self {
        let session = process::session();
        if session.is_none() {
            return Self::None;
        }
        for fd in 0..=2 {
            let borrowed = standard(fd);
            if !isatty(borrowed) || tcgetsid(borrowed).ok() != session {
                continue;
            }
            if session == Some(getpid()) {
                return Self::Ours { fd };
            }
            let group = rustix::process::getpgrp();
            let foreground = tcgetpgrp(borrowed).ok().filter(|foreground| *foreground == group);
            return Self::Theirs { fd, foreground };
        }
        (0..=2).find(|fd| isatty(standard(*fd))).map_or(Self::None, |fd| Self::Merely { fd })
    }
}

/// Standard input, output or error by number; [`sanitize`] has made sure that they are open.
#[must_use]
pub fn standard(fd: i32) -> BorrowedFd<'static> {
    match fd {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}

/// Puts the caller's world in order and reads argv.
///
/// # Errors
/// A call that is neither a login nor `-c COMMAND`, or a world that cannot be put in order.
// Its frame must be gone while the waiter waits: see release_unused_stack.
#[inline(never)]
pub fn sanitize() -> Result<Invocation> {
    // Before anything that may take time, a directory's answer above all: whoever has ended by then is not there to be
    // asked for, and the login would be tied to the process that took us in.
    let parent = getppid();
    // Nobody with the caller's uid may look into this process or its children before exec
    // (CVE-2016-8659, CVE-2026-41163: a dumpable helper of a set-uid sandbox).
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .or_refuse(What::Host, || "become undumpable".into())?;
    tidy_up()?;
    block_signals()?;

    let environment = std::env::vars_os().collect();
    let call = read_arguments(std::env::args_os())?;
    let groups = getgroups().or_refuse(What::Host, || "read the caller's groups".into())?;
    Ok(Invocation {
        call,
        uid: getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        environment,
        terminal: Terminal::find(),
        parent,
    })
}

/// The part of [`sanitize`] that a program without set-uid needs as well: what it inherits must not reach the cell.
///
/// # Errors
/// If the kernel will not.
pub fn tidy_up() -> Result<()> {
    // Leaked descriptors of directories are a way out (CVE-2024-21626); their numbers have no upper end.
    process::close_from(3).or_refuse(What::Host, || "close inherited descriptors".into())?;
    tidy_up_but_descriptors()
}

/// [`tidy_up`] for a program that has closed what it inherited, all but what its caller means it to keep.
///
/// # Errors
/// If the kernel will not.
pub fn tidy_up_but_descriptors() -> Result<()> {
    // An own file opened as descriptor 2 would receive the error messages.
    open_standard_descriptors().or_refuse(What::Host, || "open the standard descriptors".into())?;
    reset_signals().or_refuse(What::Host, || "reset signals".into())?;
    umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// Blocks every signal; the waiter takes them one by one, the user's program starts with none blocked.
///
/// # Errors
/// None that Linux documents.
pub fn block_signals() -> Result<()> {
    process::block_all_signals(true).or_refuse(What::Host, || "block signals".into())
}

/// Becomes root entirely: files that the entry makes must not belong to the caller's group, and the caller must not
/// be able to signal a process of his real uid half-way.
///
/// # Errors
/// If this program is not set-uid root, or its caller is root and has no jail to go to.
pub fn become_root(invocation: &Invocation) -> Result<()> {
    if invocation.uid == 0 {
        return Err(Refusal::new(
            What::Account,
            "the caller is root, whom no jail holds; start it as the jailed user: su - USER",
        ));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Refusal::new(
            What::Host,
            "jail-sh does not run as root: its file must belong to root with mode 4755, \
             on a file system mounted without nosuid",
        ));
    }
    let doing = || "take root's identity".to_owned();
    rustix::thread::set_thread_groups(&[]).or_refuse(What::Host, doing)?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).or_refuse(What::Host, doing)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).or_refuse(What::Host, doing)?;
    // A change of credentials may set the flag back (prctl(2), PR_SET_DUMPABLE).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).or_refuse(What::Host, || "become undumpable".into())
}

fn open_standard_descriptors() -> std::result::Result<(), Errno> {
    for fd in 0..=2 {
        match rustix::fs::fstat(standard(fd)) {
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                // A directory of the host's, kept open: no stream, and a way out (CVE-2024-21626). What has no type is an
                // object of the kernel's without a file: a ring whose calls no filter sees, a hold on a process outside.
                FileType::Directory | FileType::Unknown => process::close(fd)?,
                _ => continue,
            },
            Err(Errno::BADF) => {}
            Err(errno) => return Err(errno),
        }
        // The lowest free number is this one; it stays open for the life of the process.
        let null = rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty())?;
        if leak(null).as_raw_fd() != fd {
            return Err(Errno::BADF);
        }
    }
    Ok(())
}

/// An ignored signal stays ignored over exec: a lost SIGCHLD loses the exit status, and Rust's runtime ignores SIGPIPE.
fn reset_signals() -> std::result::Result<(), Errno> {
    let mut status = [0_u8; 4096];
    let file = rustix::fs::open("/proc/self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let length = rustix::io::read(&file, &mut status)?;
    let ignored = ignored_signals(status.get(..length).unwrap_or_default()).ok_or(Errno::PROTO)?;
    for signal in (1..=64).filter(|signal| ignored & (1_u64 << (signal - 1)) != 0) {
        process::default_signal(signal)?;
    }
    Ok(())
}

/// The mask of ignored signals, bit 0 for signal 1 (proc(5)).
fn ignored_signals(status: &[u8]) -> Option<u64> {
    let line = status.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"SigIgn:\t"))?;
    u64::from_str_radix(std::str::from_utf8(line).ok()?.trim(), 16).ok()
}

/// Reads argv: a login or `-c COMMAND`.
///
/// # Errors
/// Any other call.
pub fn read_arguments(arguments: impl Iterator<Item = OsString>) -> Result<Call> {
    let mut arguments = arguments;
    // An empty argv is how CVE-2021-4034 began; Linux 5.18 and later put an empty string there.
    let Some(argv0) = arguments.next() else {
        return Err(Refusal::new(What::Call, "called without even a program name"));
    };
    let mut call = Call { login: argv0.as_bytes().starts_with(b"-"), command: None, explain: None };
    while let Some(argument) = arguments.next() {
        match argument.as_bytes() {
            b"-l" | b"--login" => call.login = true,
            b"--explain" => {
                let Some(user) = arguments.next() else {
                    return Err(Refusal::new(What::Call, "--explain is not followed by a user's name"));
                };
                call.explain = Some(user);
            }
            b"-c" => {
                let Some(command) = arguments.next() else {
                    return Err(Refusal::new(What::Call, "-c is not followed by a command"));
                };
                if arguments.next().is_some() {
                    return Err(Refusal::new(What::Call, "arguments follow the command of -c"));
                }
                call.command = Some(command);
            }
            other => {
                return Err(Refusal::new(
                    What::Call,
                    format!("unknown argument '{}'", crate::refusal::printable(other)),
                ));
            }
        }
    }
    Ok(call)
}

/// The value of a variable in the caller's environment.
#[must_use]
pub fn variable<'a>(environment: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
}

/// A command as bytes, for the log.
#[must_use]
pub fn command_bytes(call: &Call) -> Vec<u8> {
    call.command.clone().map(OsString::into_vec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &[&str]) -> Result<Call> {
        read_arguments(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_calls_of_sshd_su_and_login() {
        let login = Call { login: true, command: None, explain: None };
        assert_eq!(call(&["-jail-sh"]).ok(), Some(login.clone()));
        assert_eq!(call(&["-su"]).ok(), Some(login));
        assert_eq!(
            call(&["jail-sh", "-c", "scp -t x"]).ok(),
            Some(Call { login: false, command: Some("scp -t x".into()), explain: None })
        );
        assert_eq!(
            call(&["-su", "-c", "id"]).ok(),
            Some(Call { login: true, command: Some("id".into()), explain: None })
        );
        assert_eq!(call(&["jail-sh"]).ok(), Some(Call { login: false, command: None, explain: None }));
    }

    #[test]
    fn the_mask_of_ignored_signals() {
        assert_eq!(
            ignored_signals(b"SigBlk:\t0000000000000000\nSigIgn:\t0000000180001000\nX:\n"),
            Some(0x1_8000_1000)
        );
        assert_eq!(ignored_signals(b"nothing"), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in
            [&[][..], &["jail-sh", "-c"], &["jail-sh", "-c", "a", "b"], &["jail-sh", "-i"], &["x", "f"]]
        {
            assert!(call(bad).is_err(), "{bad:?}");
        }
    }
}
