//! Learning from a run: which system calls a program makes, a profile that lists just those, and which files it opens.
//!
//! The program runs under a filter that asks about every call; we let pass what the floor allows and write it down. The
//! floor judges by numbers in registers alone, so nothing can change between our look and the kernel's.
//! Calls of the floor are refused while learning too, and the profile names them only in a comment (rulings 25).
//!
//! Order: the child calls [`listener_number`], tells the parent by a pipe, loads [`ask_about_everything`] and goes
//! on to exec; from its next call on it waits. The parent takes the listener by [`take_listener`] and runs [`record`].
//! In an entry ([`start`]) that parent is a process of the cell with nobody's rights: it sees the program by the same
//! numbers and names as the program sees itself, and what it gets to know goes out by one descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{Duration, Instant};

use jail_sys::notify;
use jail_sys::process::{self, Cloned, leak};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, PidfdFlags, PidfdGetfdFlags, WaitOptions, pidfd_getfd, pidfd_open,
    set_dumpable_behavior, waitpid,
};

use crate::confined::{self, Identity};
use crate::enter::REFUSED;
use crate::filter::kernel_version;
use crate::refusal::{OrRefuse, Refusal, Result, What};
use crate::seccomp::{
    Action, Arch, Builtin, Error, Name, Program, SeccompData, Settings, Source, ask_about_everything, compile,
};
use crate::session::{self, Failure, Session};

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
pub fn floor(kernel: (u32, u32)) -> std::result::Result<Program, Error> {
    let off = Source::Builtin(Builtin::Off).profile()?;
    Ok(compile(&Settings::plain(&off, kernel))?.0)
}

/// Answers calls until no process under the filter is left.
///
/// # Errors
/// Those of poll(2) and ioctl(2) on the listener.
pub fn record(listener: &OwnedFd, floor: &Program) -> io::Result<Record> {
    record_while(listener, floor, || true)
}

/// As [`record`], and as long as `go_on` says so; it is asked some times a second.
fn record_while(listener: &OwnedFd, floor: &Program, mut go_on: impl FnMut() -> bool) -> io::Result<Record> {
    const PATIENCE: Duration = Duration::from_millis(50);
    let mut record = Record::default();
    let mut asked = Instant::now();
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
        let polled = poll(&mut fds, Some(&patience));
        if asked.elapsed() >= PATIENCE {
            asked = Instant::now();
            if !go_on() {
                return Ok(record);
            }
        }
        match polled {
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

/// The child's way of saying where its listener will be.
#[derive(Debug)]
pub(crate) struct Recorder {
    ask: Program,
    line: OwnedFd,
}

impl Recorder {
    /// Puts this process under a filter that asks about every call, all to come included. The recorder reads its memory, so
    /// it must be dumpable from here on, which exec would make it in a moment anyway.
    pub(crate) fn hand_over(&self) -> Result<()> {
        let doing = || "have the calls of the command recorded".to_owned();
        set_dumpable_behavior(DumpableBehavior::Dumpable).or_refuse(What::Host, doing)?;
        let number = listener_number().or_refuse(What::Host, doing)?;
        rustix::io::write(&self.line, &number.to_ne_bytes()).or_refuse(What::Host, doing)?;
        // From here on each call waits for an answer, a close as well; exec closes it.
        self.ask.load_with_listener().map(leak).map(drop).or_refuse(What::Host, doing)
    }
}

/// Starts the user's program in a child, records what it does, and ends with its exit status. Returns, in either process,
/// only what kept the program from starting.
pub(crate) fn start(session: &Session<'_>, notebook: BorrowedFd<'_>, notes: &mut Vec<String>) -> Failure {
    let doing = || "start the command to learn from".to_owned();
    let begun = (|| {
        let (heard, line) = pipe_with(PipeFlags::CLOEXEC).or_refuse(What::Host, doing)?;
        let ask = ask_about_everything().map_err(|why| Refusal::new(What::Host, why.to_string()))?;
        Ok((heard, Recorder { ask, line }, process::clone(0).or_refuse(What::Host, doing)?))
    })();
    let (heard, recorder, cloned) = match begun {
        Ok(begun) => begun,
        Err(refusal) => return Failure::Refused(refusal),
    };
    match cloned {
        Cloned::Child => {
            drop(heard);
            let failure = session::start(&Session { recorder: Some(&recorder), ..*session }, notes);
            if rustix::io::write(&recorder.line, b"-").is_err() {
                // Then what is learnt of a command that did not run is this sentence's own few calls.
            }
            failure
        }
        Cloned::Parent { pid, .. } => {
            drop(recorder);
            match watch(pid, &heard, notebook) {
                Ok(status) => process::exit_now(status),
                Err(refusal) => Failure::Refused(refusal),
            }
        }
    }
}

/// Records until the command has ended; gives its exit status as a shell does.
fn watch(child: Pid, heard: &OwnedFd, notebook: BorrowedFd<'_>) -> Result<i32> {
    let doing = || "record what the command does".to_owned();
    confined::give_up_rights(&Identity::Keep, &[])?;
    let mut number = [0; 4];
    let told = rustix::io::retry_on_intr(|| rustix::io::read(heard, &mut number));
    let mut ended = None;
    if told == Ok(number.len()) {
        let listener = take_listener(child, i32::from_ne_bytes(number)).or_refuse(What::Host, doing)?;
        let floor = floor(kernel_version()).map_err(|why| Refusal::new(What::Host, why.to_string()))?;
        let record = record_while(&listener, &floor, || {
            pass_signals_on(child);
            // The cell ends with the command, whatever it leaves behind.
            ended = end_of(child, WaitOptions::NOHANG);
            ended.is_none()
        })
        .or_refuse(What::Host, doing)?;
        // Closed by exec, or written to once more: a command that did not run has taught nothing.
        let told = rustix::io::retry_on_intr(|| rustix::io::read(heard, &mut number));
        let mut text = if told == Ok(0) { record.to_lines() } else { Vec::new() };
        while !text.is_empty() {
            let written = rustix::io::write(notebook, &text).or_refuse(What::Host, doing)?;
            text.drain(..written);
        }
    }
    // It has told why, if it never came to run the command.
    Ok(ended.or_else(|| end_of(child, WaitOptions::empty())).unwrap_or(REFUSED))
}

/// Signals for the command are sent to us: we are what its waiter has started.
fn pass_signals_on(child: Pid) {
    while let Some(signal) = process::take_signal() {
        if signal != SIGCHLD && process::kill(child.as_raw_nonzero().get(), signal).is_err() {
            // It has ended meanwhile.
        }
    }
}

const SIGCHLD: i32 = 17;

fn end_of(child: Pid, options: WaitOptions) -> Option<i32> {
    let news = rustix::io::retry_on_intr(|| waitpid(Some(child), options)).ok()?;
    let (_, status) = news?;
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| signal.saturating_add(128)))
}

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// What every program needs, even if the run had no use for it: to start, to end, and to come back from a signal.
const ALWAYS: [&str; 5] = ["execve", "exit", "exit_group", "restart_syscall", "rt_sigreturn"];

impl Record {
    /// For whoever is outside the cell, who reads it by [`Record::of_lines`]: an item after the other, each with a NUL behind.
    fn to_lines(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let mut add = |parts: [&[u8]; 2]| {
            text.extend_from_slice(&parts.concat());
            text.push(0);
        };
        self.made.iter().for_each(|name| add([b"made ", name.as_str().as_bytes()]));
        self.refused.iter().for_each(|name| add([b"refused ", name.as_str().as_bytes()]));
        self.unknown.keys().for_each(|number| add([b"unknown ", number.to_string().as_bytes()]));
        self.files.iter().for_each(|file| add([b"file ", file.as_bytes()]));
        text
    }

    /// Reads what the recorder has written. What it does not understand it leaves out: the command may have killed it.
    #[must_use]
    pub fn of_lines(text: &[u8]) -> Self {
        let mut record = Self::default();
        for item in text.split(|byte| *byte == 0) {
            let Some(at) = item.iter().position(|byte| *byte == b' ') else { continue };
            let (kind, value) = item.split_at(at);
            let value = value.get(1..).unwrap_or_default();
            let word = std::str::from_utf8(value).unwrap_or_default();
            match kind {
                b"made" => record.made.extend(Name::find(word)),
                b"refused" => record.refused.extend(Name::find(word)),
                b"unknown" => record.unknown.extend(word.parse().ok().map(|number: u32| (number, 1))),
                b"file" => {
                    record.files.insert(OsString::from_vec(value.to_vec()));
                }
                _ => {}
            }
        }
        record
    }

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
