//! A forwarded ssh agent: brought into the cell by descriptor, or kept out of it (rulings 13).
//!
//! `SSH_AUTH_SOCK` is the caller's word. It is looked up with the caller's file rights and no link is followed, and it
//! must be a socket of his own in a directory that nobody else may enter: what anybody could have told sshd to make.
//! Inside, it gets a name in /dev like the terminal, so that every login of a shared cell has its own agent.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use jail_sys::fsuid::with_file_rights_of;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use crate::cell::blueprint::{Below, Privilege, copy};
use crate::invocation::variable;
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};

/// The first agent of a new cell gets this name.
pub(crate) const PLACEHOLDER: &[u8] = b"/dev/agentj0";

/// Part of the path of an agent's socket since OpenSSH 10.1.
const IN_A_HOME: &[u8] = b"/.ssh/agent/";

/// A detached copy of the mount of the caller's agent socket, to be given a name inside. `None` without an agent, or
/// with a word for one that is not believed, which is noted: a login without its agent is still a login.
///
/// # Errors
/// If the kernel will not copy the mount, or not give our rights back.
pub(crate) fn find(
    environment: &[(OsString, OsString)],
    uid: u32,
    privilege: Privilege,
    notes: &mut Vec<String>,
) -> Result<Option<OwnedFd>> {
    let Some(path) = variable(environment, "SSH_AUTH_SOCK").map(OsStrExt::as_bytes) else { return Ok(None) };
    let opened = match privilege {
        Privilege::Root => with_file_rights_of(uid, || open(path, uid))
            .or_refuse(What::Host, || "look for the agent with the caller's rights".into())?,
        Privilege::UserNamespace => open(path, uid),
    };
    match opened {
        Ok(socket) => copy(socket.as_fd(), Below::Left)
            .map(Some)
            .or_refuse(What::Host, || "copy the mount of the agent's socket".into()),
        Err(why) => {
            notes.push(format!("the agent '{}' is left outside: {why}", printable(path)));
            Ok(None)
        }
    }
}

fn open(path: &[u8], uid: u32) -> std::result::Result<OwnedFd, String> {
    let slash = path.iter().rposition(|b| *b == b'/').ok_or("it is no absolute path")?;
    let (directory, name) = (path.get(..slash).unwrap_or_default(), path.get(slash.saturating_add(1)..));
    let name = name.filter(|name| !matches!(*name, b"" | b"." | b"..")).ok_or("it is no file's name")?;
    if !directory.starts_with(b"/") {
        return Err("it is no absolute path below a directory".to_owned());
    }
    let said = |errno: Errno| errno.to_string();
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let directory =
        openat2(CWD, directory, flags | OFlags::DIRECTORY, Mode::empty(), resolve).map_err(said)?;
    let stat = fstat(&directory).map_err(said)?;
    if stat.st_uid != uid || stat.st_mode & 0o077 != 0 {
        return Err("its directory is not the caller's alone".to_owned());
    }
    let socket =
        openat2(&directory, name, flags, Mode::empty(), resolve | ResolveFlags::BENEATH).map_err(said)?;
    let stat = fstat(&socket).map_err(said)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket || stat.st_uid != uid {
        return Err("it is no socket of the caller's".to_owned());
    }
    Ok(socket)
}

/// Hides `~/.ssh/agent` of the cell just joined, where OpenSSH 10.1 and later put the sockets of forwarded agents.
///
/// sshd makes the socket before we are started, so what a session left running could use it in between. That no agent
/// is forwarded at all is for sshd to say (the drop-in's `DisableForwarding yes`).
///
/// # Errors
/// If it is there and cannot be hidden.
pub(crate) fn cover(home: &[u8], environment: &[(OsString, OsString)]) -> Result<()> {
    let doing = || "hide the agents in the home".to_owned();
    let path = [home.strip_prefix(b"/").unwrap_or(home), b"/.ssh/agent"].concat();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // The working directory is the root of the namespace just joined (setns(2)).
    let place = match openat2(CWD, path, flags, Mode::empty(), crate::admission::BELOW) {
        Ok(place) => place,
        // A link leads wherever the user wants, and no mount follows one. sshd follows it.
        Err(Errno::LOOP) if is_in_a_home(environment) => {
            return Err(Refusal::new(
                What::Home,
                "an agent is forwarded to '~/.ssh/agent', which the policy keeps out (agent = false), and a link on the way \
                 there keeps it from being hidden; make '~/.ssh' and '~/.ssh/agent' directories, or log in with ssh -a",
            ));
        }
        // Not there, or not what sshd makes.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(errno) => return Err(errno).or_refuse(What::Home, doing),
    };
    if is_mount(&place).or_refuse(What::Home, doing)? {
        // An earlier login has hidden it.
        return Ok(());
    }
    crate::cell::cover(place.as_fd()).or_refuse(What::Home, doing)
}

/// Whether this login brings an agent that lies where OpenSSH 10.1 puts it.
fn is_in_a_home(environment: &[(OsString, OsString)]) -> bool {
    variable(environment, "SSH_AUTH_SOCK")
        .is_some_and(|path| path.as_bytes().windows(IN_A_HOME.len()).any(|part| part == IN_A_HOME))
}

fn is_mount(place: &OwnedFd) -> std::result::Result<bool, Errno> {
    let found = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}
