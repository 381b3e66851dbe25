//! Learning from a run: which system calls a program makes, a profile that lists just those, and which files it opens.
//!
//! The program runs under a filter that asks about every call; we let pass what the floor allows and write it down. The
//! floor judges by numbers in registers alone, so nothing can change between our look and the kernel's.
//! Calls of the floor are refused while learning too, and the profile names them only in a comment (rulings 25).
//!
//! Order: the child calls [`listener_number`], tells the parent by a pipe, loads [`seccomp::ask_about_everything`] and goes
//! on to exec; from its next call on it waits. The parent takes the listener by [`take_listener`] and runs [`record`].

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use jail_sys::notify;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::seccomp::{Action, Arch, Builtin, Error, Name, Program, SeccompData, Settings, Source, compile};

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Calls that were let pass.
    pub made: BTreeSet<Name>,
    /// Calls that the floor refused, wholly or with some arguments.
    pub refused: BTreeSet<Name>,
    /// Numbers that no table of ours has, and how often; they got ENOSYS.
    pub unknown: BTreeMap<u32, u64>,
    /// Files and programs that were there when the run opened or started them, as the run named them, made absolute. A
    /// help for writing a section, not evidence: the program may change a name while we read it.
    pub files: BTreeSet<OsString>,
}

/// The number that the next descriptor of this process will get: the listener's, if nothing is opened in between.
///
/// # Errors
/// `EMFILE`.
pub fn listener_number() -> io::Result<RawFd> {
    let (probe, _other) = rustix::pipe::pipe()?;
    Ok(probe.as_raw_fd())
}

/// Takes the listener out of a child that has announced its number and is about to load the filter.
///
/// # Errors
/// `EPERM` if the child may not be looked into, `ETIMEDOUT` if it never loads the filter.
pub fn take_listener(child: Pid, number: RawFd) -> io::Result<OwnedFd> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => return Ok(fd),
            Err(rustix::io::Errno::BADF) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(rustix::io::Errno::BADF) => return Err(io::Error::from(io::ErrorKind::TimedOut)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The floor alone, as the judge of every call.
///
/// # Errors
/// None for the built-in profile.
pub fn floor(kernel: (u32, u32)) -> Result<Program, Error> {
    let off = Source::Builtin(Builtin::Off).profile()?;
    Ok(compile(&Settings::plain(&off, kernel))?.0)
}

/// Answers calls until no process under the filter is left.
///
/// # Errors
/// Those of poll(2) and ioctl(2) on the listener.
pub fn record(listener: &OwnedFd, floor: &Program) -> io::Result<Record> {
    let mut record = Record::default();
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [ready] = fds;
        if ready.revents().contains(PollFlags::IN) {
            match notify::receive(listener.as_fd()) {
                Ok(call) => gone_is_fine(answer(listener, floor, &call, &mut record))?,
                Err(error) => gone_is_fine(Err(error))?,
            }
        } else if ready.revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(record);
        }
    }
}

/// A caller that died or was interrupted while it waited needs no answer.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::Interrupted =>
        {
            Ok(())
        }
        other => other,
    }
}

fn answer(listener: &OwnedFd, floor: &Program, call: &notify::Call, record: &mut Record) -> io::Result<()> {
    let data = SeccompData { nr: call.nr, arch: call.arch, instruction_pointer: 0, args: call.args };
    let Some(name) = Name::of_number(Arch::NATIVE, call.nr) else {
        *record.unknown.entry(call.nr).or_default() += 1;
        return notify::refuse(listener.as_fd(), call, ENOSYS);
    };
    match floor.simulate(&data) {
        Action::Allow | Action::Log => {
            record.made.insert(name);
            record.files.extend(file_of(call, name));
            notify::let_pass(listener.as_fd(), call)
        }
        Action::Errno(errno) => {
            record.refused.insert(name);
            notify::refuse(listener.as_fd(), call, errno)
        }
        _ => {
            record.refused.insert(name);
            notify::refuse(listener.as_fd(), call, EPERM)
        }
    }
}

/// The file that a call opens or starts, if it exists.
fn file_of(call: &notify::Call, name: Name) -> Option<OsString> {
    let [first, second, ..] = call.args;
    let (directory, pointer) = match name.as_str() {
        "open" | "creat" | "execve" => (None, first),
        "openat" | "openat2" | "execveat" => (Some(first), second),
        _ => return None,
    };
    let path = text_at(call.pid, pointer)?;
    let path = if path.starts_with(b"/") { path } else { [base(call.pid, directory)?, path].join(&b'/') };
    let seen = [format!("/proc/{}/root", call.pid).as_bytes(), &path].concat();
    rustix::fs::lstat(&*seen).ok()?;
    Some(OsString::from_vec(path))
}

/// Where a relative name of a process starts: its working directory, or a descriptor.
fn base(pid: u32, directory: Option<u64>) -> Option<Vec<u8>> {
    // The kernel uses the low 32 bits, of which AT_FDCWD is a negative number.
    let fd = directory.and_then(|d| u32::try_from(d & 0xffff_ffff).ok()).filter(|fd| *fd <= i32::MAX as u32);
    let link = match fd {
        Some(fd) => format!("/proc/{pid}/fd/{fd}"),
        None => format!("/proc/{pid}/cwd"),
    };
    Some(rustix::fs::readlink(link, Vec::new()).ok()?.into_bytes())
}

/// A string in another process's memory.
fn text_at(pid: u32, pointer: u64) -> Option<Vec<u8>> {
    let memory =
        rustix::fs::open(format!("/proc/{pid}/mem"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = vec![0; 4096];
    let read = rustix::io::pread(&memory, &mut text, pointer).ok()?;
    text.truncate(read);
    let end = text.iter().position(|byte| *byte == 0)?;
    text.truncate(end);
    (!text.is_empty()).then_some(text)
}

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// What every program needs, even if the run had no use for it: to start, to end, and to come back from a signal.
const ALWAYS: [&str; 5] = ["execve", "exit", "exit_group", "restart_syscall", "rt_sigreturn"];

impl Record {
    /// The profile: Docker's format, one allow-list. Arguments are not recorded: the floor keeps what matters of them.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut names: BTreeSet<&str> = self.made.iter().map(|name| name.as_str()).collect();
        names.extend(ALWAYS);
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let refused: Vec<&str> = self.refused.iter().map(|name| name.as_str()).collect();
        let comment = if refused.is_empty() {
            "learnt from a run".to_owned()
        } else {
            format!("learnt from a run; the floor refused, wholly or in part: {}", refused.join(", "))
        };
        let clone3 = "{ \"names\": [\"clone3\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 38 }";
        format!(
            "{{\n\t\"defaultAction\": \"SCMP_ACT_ERRNO\",\n\t\"defaultErrnoRet\": 1,\n\
             \t\"archMap\": [{{ \"architecture\": \"{arch}\", \"subArchitectures\": [] }}],\n\t\"syscalls\": [\n\
             \t\t{{\n\t\t\t\"comment\": \"{comment}\",\n\t\t\t\"names\": [\n\t\t\t\t{names}\n\t\t\t],\n\
             \t\t\t\"action\": \"SCMP_ACT_ALLOW\"\n\t\t}},\n\t\t{clone3}\n\t]\n}}\n",
            arch = Arch::NATIVE.token(),
            names = quoted.join(",\n\t\t\t\t"),
        )
    }
}
