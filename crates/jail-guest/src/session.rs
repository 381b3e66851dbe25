//! The session: what the host says, as an admission and an entry of jail-confine.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use jail_confine::admission::{Account, AccountFiles, Admission, HomeSource, Homes, Inside, Jail, identity};
use jail_confine::cell::blueprint::Privilege;
use jail_confine::enter::{self, Bond, Entry, Report};
use jail_confine::invocation::{self, Call, Terminal};
use jail_confine::log::Log;
use jail_confine::policy::values::{Isolation, Network, Root, Session as Sharing};
use jail_confine::policy::{Origin, Policy, text};
use jail_sys::process::{self, Cloned};
use jail_sys::tty;
use jail_wire::{Home, Program, Spec, Window};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::Result;
use crate::{home, machine, network};

/// A running session, seen from the relay.
pub(crate) struct Session {
    /// The process to wait for and to signal.
    pub(crate) pid: Pid,
    /// Standard input of the command.
    pub(crate) input: OwnedFd,
    /// Standard output.
    pub(crate) output: OwnedFd,
    /// Standard error, unless there is a terminal.
    pub(crate) errors: Option<OwnedFd>,
    /// Whether input and output are one terminal.
    pub(crate) has_terminal: bool,
}

/// The three descriptors of the command, and our ends of them.
struct Ends {
    theirs: [OwnedFd; 3],
    session: (OwnedFd, OwnedFd, Option<OwnedFd>),
}

/// Starts the session.
pub(crate) fn start(spec: &Spec) -> Result<Session> {
    let ends = if let Some(window) = spec.terminal { terminal(window)? } else { pipes()? };
    let cloned = process::clone(0).map_err(|errno| format!("cannot start the session: {errno}"))?;
    match cloned {
        Cloned::Child => {
            // Closed with all others in a moment.
            std::mem::forget(ends.session);
            let why = become_session(ends.theirs, spec);
            eprintln!("jail-run: {why}");
            process::exit_now(enter::REFUSED)
        }
        Cloned::Parent { pid, .. } => {
            let (input, output, errors) = ends.session;
            for fd in [Some(&input), Some(&output), errors.as_ref()].into_iter().flatten() {
                rustix::io::ioctl_fionbio(fd, true)
                    .map_err(|errno| format!("cannot make a pipe non-blocking: {errno}"))?;
            }
            Ok(Session { pid, input, output, errors, has_terminal: spec.terminal.is_some() })
        }
    }
}

fn pipes() -> Result<Ends> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|errno| format!("cannot make a pipe: {errno}"));
    let (input, output, errors) = (pipe()?, pipe()?, pipe()?);
    Ok(Ends { theirs: [input.0, output.1, errors.1], session: (input.1, output.0, Some(errors.0)) })
}

fn terminal(window: Window) -> Result<Ends> {
    let doing = |errno| format!("cannot make a terminal: {errno}");
    let ours =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).map_err(doing)?;
    rustix::pty::unlockpt(&ours).map_err(doing)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).map_err(doing)?;
    resize(&ours, window);
    let again = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(doing);
    let session = (again(&ours)?, ours, None);
    Ok(Ends { theirs: [again(&theirs)?, again(&theirs)?, theirs], session })
}

/// Gives the terminal a size; its foreground hears of it.
pub(crate) fn resize(terminal: &OwnedFd, window: Window) {
    let size = Winsize { ws_row: window.rows, ws_col: window.columns, ws_xpixel: 0, ws_ypixel: 0 };
    if tcsetwinsize(terminal, size).is_err() {
        // It has been hung up.
    }
}

/// In the new process. Returns only why it did not come to running the command.
fn become_session(theirs: [OwnedFd; 3], spec: &Spec) -> String {
    if let Err(errno) = take_places(theirs, spec.terminal.is_some()) {
        return format!("cannot set up the session: {errno}");
    }
    // A signal that we ignore would stay ignored: SIGPIPE, for one.
    if let Err(refusal) = invocation::tidy_up_but_descriptors() {
        return refusal.why;
    }
    // After everything else was closed: it holds the jail by a descriptor.
    let admission = match admit(spec) {
        Ok(admission) => admission,
        Err(why) => return why,
    };
    let pairs = |list: &[(Vec<u8>, Vec<u8>)]| -> Vec<(OsString, OsString)> {
        let string = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
        list.iter().map(|(name, value)| (string(name), string(value))).collect()
    };
    let (environment, set) = (pairs(&spec.environment), pairs(&spec.set));
    let call;
    let words: Vec<OsString>;
    let program = match &spec.program {
        Program::Shell { login, command } => {
            call = Call { login: *login, command: command.clone().map(OsString::from_vec), explain: None };
            enter::Program::Shell(&call)
        }
        Program::Command(command) => {
            words = command.iter().map(|word| OsString::from_vec(word.clone())).collect();
            enter::Program::Command(&words)
        }
    };
    let entry = Entry {
        privilege: Privilege::Root,
        terminal: Terminal::find(),
        directory: spec.directory.clone(),
        program,
        environment: &environment,
        set: &set,
        report: Report::Tool,
        announcement: None,
        bond: Bond::AsUsual,
        notebook: None,
    };
    match enter::enter(&admission, &entry, &Log::silent("jail-guest")) {
        Ok(status) => process::exit_now(status),
        Err(refusal) => refusal.why,
    }
}

/// The command's descriptors become 0, 1 and 2, all others close, and its terminal is its own.
fn take_places(theirs: [OwnedFd; 3], has_terminal: bool) -> std::result::Result<(), rustix::io::Errno> {
    for (number, fd) in (0..).zip(&theirs) {
        process::move_descriptor(fd.as_fd(), number)?;
    }
    std::mem::forget(theirs);
    process::close_from(3)?;
    if has_terminal {
        rustix::process::setsid()?;
        tty::take(rustix::stdio::stdin(), tty::Theft::Refuse)?;
    }
    Ok(())
}

fn admit(spec: &Spec) -> Result<Admission> {
    let layer = text::read(&spec.policy).map_err(|error| error.to_string())?;
    let mut policy = Policy::default();
    // What cannot be had here is no refusal: the machine itself is the limit of memory and processors.
    policy.apply(&layer, &Origin::BuiltIn);
    policy.isolation = Isolation::Namespaces;
    policy.session = Sharing::Private;
    let mut root = machine::JAIL;
    if spec.home_from == Home::Kept {
        // What is changed lasts: on the machine's own disk, which is one more layer below.
        policy.root = Root::Writable;
        root = machine::CHANGED;
    }
    if policy.network != Network::None {
        network::start()?;
        // The machine's, which is QEMU's, which is what the policy says.
        policy.network = Network::Host;
    }
    let directory = machine::open(root)?;
    let stat = rustix::fs::fstat(&directory).map_err(|errno| format!("cannot look at the jail: {errno}"))?;
    Ok(Admission {
        account: Account {
            name: spec.user.clone(),
            uid: spec.uid,
            gid: spec.gid,
            groups: spec.groups.clone(),
        },
        jail: Jail {
            path: PathBuf::from(root),
            name: "jail".to_owned(),
            identity: identity(&stat),
            directory,
            base: None,
        },
        home: spec.home.clone(),
        home_source: match spec.home_from {
            Home::Empty => HomeSource::Empty,
            Home::Served => HomeSource::Host(machine::open(home::HOME)?),
            Home::Kept => HomeSource::Host(machine::open(machine::KEPT_HOME)?),
        },
        policy,
        shell: spec.shell.clone(),
        brought: spec.brought.clone(),
        profile: spec.profile.clone(),
        inside: Inside::Unknown,
        account_files: spec
            .accounts
            .as_ref()
            .map(|files| AccountFiles { passwd: files.passwd.clone(), group: files.group.clone() }),
        tty_group: None,
        notes: Vec::new(),
        homes: Homes::One,
        host_root: None,
    })
}
