//! Accounts that are not in /etc/passwd: LDAP, SSSD, NIS. The host's own `getent` is asked, in a process of its own.
//!
//! This program has no name service module in it and loads none: what a directory's client does with the network, with
//! its configuration and its caches happens in a process that is root's alone (rulings 2). The caller can neither trace
//! nor signal that one, nor has he any say in its environment, directory, descriptors or limits. A process with the
//! caller's uid would be open to every other process of his, which could put an answer of its own into its mouth.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use jail_sys::process::{self, Cloned, Exec};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Signal, WaitOptions, pidfd_send_signal, setsid, waitpid};

use crate::deadline::poll_until;
use crate::refusal::{OrRefuse, Refusal, Result, What};
use crate::rlimit::raise;
use crate::trusted::{Top, Trust};

/// Where `getent` may lie; nobody's PATH is asked.
const GETENT: [&str; 2] = ["/usr/bin/getent", "/bin/getent"];
/// How long a directory may take. sshd's LoginGraceTime is longer than two such waits.
const PATIENCE: Duration = Duration::from_secs(10);
/// A longer answer is no answer: one account, or the groups of one account with all their members.
const LONGEST: usize = 4 << 20;
/// What `getent` says with its status: everything was found, or some key was not.
const FOUND: i32 = 0;
const NOT_FOUND: i32 = 2;

/// Lines of `getent DATABASE KEY…`; those that are not found are left out.
///
/// # Errors
/// If there is no `getent`, or it fails, hangs or does not stop to talk.
pub(crate) fn ask(database: &str, keys: &[Vec<u8>]) -> Result<Vec<u8>> {
    let program = find()?;
    let doing = || format!("ask the host's directory for {database}");
    let c_string = |bytes: &[u8]| CString::new(bytes).or_refuse(What::Call, doing);
    let mut argv = vec![c_string(b"getent")?, c_string(b"--")?, c_string(database.as_bytes())?];
    for key in keys {
        argv.push(c_string(key)?);
    }
    let exec = Exec::new(c_string(program.as_bytes())?, argv, Vec::new());
    let (reading, writing) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).or_refuse(What::Host, doing)?;
    match process::clone(0).or_refuse(What::Host, doing)? {
        Cloned::Child => {
            drop(reading);
            match alone(&writing) {
                Ok(()) => process::exit_now(if exec.run() == Errno::NOENT { 127 } else { 126 }),
                Err(_) => process::exit_now(125),
            }
        }
        Cloned::Parent { pid, pidfd } => {
            drop(writing);
            let end = Instant::now().checked_add(PATIENCE);
            let answer =
                read_until(&reading, end).and_then(|answer| wait_until(&pidfd, end).map(|()| answer));
            if answer.is_err() && pidfd_send_signal(&pidfd, Signal::KILL).is_err() {
                // It has ended on its own meanwhile.
            }
            let status = status_of(pid)?;
            let answer = answer.map_err(|why| {
                Refusal::new(
                    What::Host,
                    format!("'{program} {database}' {why}; is the directory service up?"),
                )
            })?;
            match status {
                Some(FOUND | NOT_FOUND) => Ok(answer),
                Some(other) => Err(Refusal::new(
                    What::Host,
                    format!("'{program} {database}' ended with status {other}; is the directory service up?"),
                )),
                None => Err(Refusal::new(What::Host, format!("'{program} {database}' was killed"))),
            }
        }
    }
}

/// The program that is believed must be root's, and so must be everything above it.
fn find() -> Result<&'static str> {
    let root = Top::root(Trust::Root).map_err(|why| Refusal::new(What::Host, why.to_string()))?;
    for path in GETENT {
        match root.open_file(Path::new(path.trim_start_matches('/'))) {
            Ok(_) => return Ok(path),
            // /bin is a link where /usr is merged; then it was looked for in /usr/bin already.
            Err(why) if why.is_missing() => {}
            Err(why) => return Err(Refusal::new(What::Host, format!("getent: {why}"))),
        }
    }
    Err(Refusal::new(
        What::Host,
        "the account is not in /etc/passwd, and the host has no getent to ask for it",
    ))
}

/// In the child: nothing of the caller's is left but the process tree.
fn alone(writing: &OwnedFd) -> std::result::Result<(), Errno> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    process::move_descriptor(null.as_fd(), 0)?;
    process::move_descriptor(writing.as_fd(), 1)?;
    process::move_descriptor(null.as_fd(), 2)?;
    process::close_from(3)?;
    rustix::process::chdir("/")?;
    // Away from the caller's terminal and its keys.
    setsid()?;
    NEEDS.iter().try_for_each(|(resource, least)| raise(*resource, *least))?;
    process::block_all_signals(false)
}

/// What a directory's client may need. The caller's limits come along through set-uid; a client that he keeps short would
/// find nothing, and so hide a group that the policy is strict with.
const NEEDS: [(Resource, u64); 5] = [
    (Resource::As, 4 << 30),
    (Resource::Data, 4 << 30),
    (Resource::Stack, 8 << 20),
    (Resource::Nofile, 256),
    (Resource::Cpu, 60),
];

fn read_until(reading: &OwnedFd, end: Option<Instant>) -> std::result::Result<Vec<u8>, String> {
    let mut answer = Vec::new();
    let mut chunk = [0_u8; 4096];
    loop {
        wait_until(reading, end)?;
        match rustix::io::retry_on_intr(|| rustix::io::read(reading, &mut chunk)) {
            Ok(0) => return Ok(answer),
            Ok(length) => answer.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(errno) => return Err(format!("cannot be heard: {errno}")),
        }
        if answer.len() > LONGEST {
            return Err("does not stop talking".to_owned());
        }
    }
}

/// Waits until there is something to read, or for a pidfd until the process has ended.
fn wait_until(fd: &OwnedFd, end: Option<Instant>) -> std::result::Result<(), String> {
    let mut line = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
    match poll_until(&mut line, end.unwrap_or_else(Instant::now)) {
        Ok(0) => Err(format!("gave no answer in {} seconds", PATIENCE.as_secs())),
        Ok(_) => Ok(()),
        Err(errno) => Err(format!("cannot be heard: {errno}")),
    }
}

/// The exit status; `None` if a signal ended it.
fn status_of(pid: Pid) -> Result<Option<i32>> {
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status.exit_status()),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).or_refuse(What::Host, || "wait for getent".into()),
        }
    }
}
