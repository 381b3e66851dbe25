//! Between the caller and the guest: bytes, signals, the size of the terminal, the status.
//!
//! What the guest says is judged in [`talk`], which touches nothing but memory; here are the descriptors.

pub mod talk;
mod terminal;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use jail_confine::refusal::printable;
use jail_wire::{PIECE, Spec, Stream, ToGuest};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, waitpid};

use self::talk::{Stage, Talk};
pub use self::terminal::{has_terminal, window};
use crate::Result;

/// A machine that is being started.
#[derive(Debug)]
pub struct Running {
    /// Our end of the channel.
    pub channel: OwnedFd,
    /// What QEMU and the guest's console say.
    pub said: OwnedFd,
    /// The process that ends with QEMU; to kill it ends the machine.
    pub process: Pid,
}

impl Running {
    /// Ends the machine.
    pub fn end(&self) {
        // SIGKILL, which nobody can block: the cell's first process and QEMU end with it.
        if jail_sys::process::kill(self.process.as_raw_nonzero().get(), 9).is_ok() {
            while let Err(Errno::INTR) = waitpid(Some(self.process), WaitOptions::empty()) {}
        }
    }
}

/// Whether a guest says anything before that time.
///
/// # Errors
/// If this process cannot wait.
pub fn first_word(running: &Running, until: Instant) -> Result<bool> {
    let left = until.saturating_duration_since(Instant::now());
    let timeout = rustix::time::Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    let mut fds = [PollFd::new(&running.channel, PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).map_err(|errno| format!("cannot wait for the machine: {errno}"))?;
    // One byte is enough: what it means is judged when it matters. The end of QEMU is none.
    let mut byte = [0_u8; 1];
    rustix::io::ioctl_fionbio(&running.channel, true)
        .map_err(|e| format!("cannot set up the channel: {e}"))?;
    Ok(matches!(rustix::io::read(&running.channel, &mut byte), Ok(1..)))
}

/// The last line that QEMU or the console said, of a machine that has ended.
#[must_use]
pub fn last_words(running: &Running) -> String {
    let mut said = [0_u8; LAST_WORDS];
    if rustix::io::ioctl_fionbio(&running.said, true).is_err() {
        return String::new();
    }
    let count = rustix::io::read(&running.said, &mut said).unwrap_or(0);
    let said = String::from_utf8_lossy(&said[..count]).into_owned();
    said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The command ended with this status.
    Status(u8),
    /// A signal to us ended it, or would have.
    Signal(i32),
    /// The machine did not come to running the command.
    NotStarted(String),
    /// The machine died under the command.
    Died(String),
}

/// How long an emulated guest may take until it speaks: a busy host starts many at once.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long a session may tidy up after it was told to end.
const GRACE: Duration = Duration::from_secs(5);
/// How much of what QEMU says is kept.
const LAST_WORDS: usize = 4096;
/// A pipe that can be written to takes this much without waiting (pipe(7), PIPE_BUF).
const BITE: usize = 4096;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;
const SIGWINCH: i32 = 28;

/// Runs the session to its end, and ends the machine. All signals must be blocked.
///
/// # Errors
/// If this process cannot wait for its descriptors; the machine is ended then too.
pub fn run(running: Running, spec: Spec) -> Result<End> {
    let with_terminal = spec.terminal.is_some();
    let raw = if with_terminal { terminal::Raw::set() } else { None };
    let mut relay = Relay::new(running, spec)?;
    let end = relay.pass_on();
    drop(raw);
    relay.running.end();
    end
}

struct Relay {
    running: Running,
    talk: Talk,
    signals: SignalFd,
    with_terminal: bool,
    /// Whether standard input is still read.
    reads_input: bool,
    said: Vec<u8>,
    until: Option<Instant>,
    ending: Option<i32>,
    channel_closed: bool,
}

/// What a wait has found.
#[derive(Debug, Default)]
struct Ready {
    channel: bool,
    said: bool,
    input: bool,
    outputs: [bool; 2],
}

impl Relay {
    fn new(running: Running, spec: Spec) -> Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&SigSet::all(), flags)
            .map_err(|e| format!("cannot wait for signals: {e}"))?;
        for fd in [&running.channel, &running.said] {
            rustix::io::ioctl_fionbio(fd, true).map_err(|e| format!("cannot set up the channel: {e}"))?;
        }
        let until = Some(Instant::now() + PATIENCE);
        Ok(Self {
            running,
            with_terminal: spec.terminal.is_some(),
            talk: Talk::new(spec),
            signals,
            reads_input: true,
            said: Vec::new(),
            until,
            ending: None,
            channel_closed: false,
        })
    }

    fn pass_on(&mut self) -> Result<End> {
        loop {
            if let Some(end) = self.end() {
                return Ok(end);
            }
            let ready = self.wait()?;
            if let Some(end) = self.take_signals() {
                return Ok(end);
            }
            if ready.said {
                self.listen();
            }
            if ready.input {
                self.read_input();
            }
            if ready.channel {
                if let Err(nonsense) = self.read_channel() {
                    return Ok(self
                        .over(&format!("the guest speaks nonsense: {}", printable(nonsense.0.as_bytes()))));
                }
            }
            for (index, ready) in ready.outputs.iter().enumerate() {
                if *ready {
                    self.write_output(index);
                }
            }
            self.talk.acknowledge();
            self.write_channel();
        }
    }

    /// Whether it is over.
    fn end(&mut self) -> Option<End> {
        match self.talk.stage() {
            Stage::Ended(status) if self.talk.all_passed() => return Some(End::Status(*status)),
            Stage::Failed(why) => {
                let why = format!("the guest could not run the command: {}", printable(why.as_bytes()));
                return Some(self.over(&why));
            }
            // It speaks; from here on only its end or ours ends it.
            Stage::Running if self.ending.is_none() => self.until = None,
            _ => {}
        }
        if self.channel_closed && !matches!(self.talk.stage(), Stage::Ended(_)) {
            self.listen();
            return Some(self.over("the machine ended by itself"));
        }
        if self.until.is_some_and(|until| Instant::now() >= until) {
            if let Some(signal) = self.ending {
                return Some(End::Signal(signal));
            }
            let patience = PATIENCE.as_secs();
            return Some(self.over(&format!("the guest did not answer within {patience} s")));
        }
        None
    }

    fn over(&self, why: &str) -> End {
        let said = String::from_utf8_lossy(&self.said).into_owned();
        // A kernel's panic is followed by lines that say less.
        let lines = || said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
        let last = lines().find(|line| line.contains("Kernel panic")).or_else(|| lines().next());
        let why = match last {
            Some(line) => format!("{why}; its last words: {}", printable(line.as_bytes())),
            None => why.to_owned(),
        };
        match self.talk.stage() {
            Stage::Running | Stage::Ended(_) => End::Died(why),
            _ => End::NotStarted(why),
        }
    }

    fn wait(&self) -> Result<Ready> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let mut whose = vec![0];
        let mut add = |fd: BorrowedFd<'static>, flags, who| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            whose.push(who);
        };
        if self.reads_input && self.talk.room() > 0 {
            add(rustix::stdio::stdin(), PollFlags::IN, 3);
        }
        for (index, fd) in [rustix::stdio::stdout(), rustix::stdio::stderr()].into_iter().enumerate() {
            if !self.talk.waiting(index).is_empty() {
                add(fd, PollFlags::OUT, 4 + index);
            }
        }
        if !self.channel_closed {
            let writing = if self.talk.to_say().is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(&self.running.channel, PollFlags::IN | writing));
            whose.push(1);
        }
        fds.push(PollFd::new(&self.running.said, PollFlags::IN));
        whose.push(2);
        let timeout = self.until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(format!("cannot wait for the machine: {errno}")),
        }
        let mut ready = Ready::default();
        for (fd, who) in fds.iter().zip(whose) {
            if fd.revents().is_empty() {
                continue;
            }
            match who {
                1 => ready.channel = true,
                2 => ready.said = true,
                3 => ready.input = true,
                4 => ready.outputs[0] = true,
                5 => ready.outputs[1] = true,
                _ => {}
            }
        }
        Ok(ready)
    }

    fn take_signals(&mut self) -> Option<End> {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            match signal {
                SIGCHLD => {}
                SIGWINCH => {
                    if let (true, Some(window)) = (self.with_terminal, window()) {
                        self.talk.say(&ToGuest::Resize(window));
                    }
                }
                SIGHUP | SIGINT | SIGQUIT | SIGTERM if !matches!(self.talk.stage(), Stage::Running) => {
                    return Some(End::Signal(signal));
                }
                _ => {
                    self.talk.say(&ToGuest::Signal(u8::try_from(signal).unwrap_or(0)));
                    if matches!(signal, SIGHUP | SIGTERM) && self.ending.is_none() {
                        // A guest that does not listen does not keep us.
                        self.ending = Some(signal);
                        self.until = Some(Instant::now() + GRACE);
                    }
                }
            }
        }
        None
    }

    /// Keeps the last of what QEMU and the console say.
    fn listen(&mut self) {
        let mut buffer = [0_u8; LAST_WORDS];
        while let Ok(count @ 1..) = rustix::io::read(&self.running.said, &mut buffer) {
            self.said.extend_from_slice(&buffer[..count]);
            let excess = self.said.len().saturating_sub(LAST_WORDS);
            self.said.drain(..excess);
            if count < buffer.len() {
                return;
            }
        }
    }

    fn read_input(&mut self) {
        let mut buffer = [0_u8; PIECE];
        let room = self.talk.room();
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer[..room]) {
            Ok(count @ 1..) => self.talk.send_input(&buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Its end; a terminal that we are in the background of gives EIO.
            Ok(_) | Err(_) => {
                self.reads_input = false;
                self.talk.say(&ToGuest::End);
            }
        }
    }

    fn read_channel(&mut self) -> std::result::Result<(), jail_wire::Nonsense> {
        let mut buffer = [0_u8; 64 << 10];
        match rustix::io::read(&self.running.channel, &mut buffer) {
            Ok(count @ 1..) => self.talk.hear(&buffer[..count])?,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(_) | Err(_) => self.channel_closed = true,
        }
        if self.talk.input_is_closed() {
            self.reads_input = false;
        }
        Ok(())
    }

    fn write_channel(&mut self) {
        while !self.talk.to_say().is_empty() && !self.channel_closed {
            match rustix::io::write(&self.running.channel, self.talk.to_say()) {
                Ok(count) => self.talk.said(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.channel_closed = true,
            }
        }
    }

    fn write_output(&mut self, index: usize) {
        let fd = if index == 0 { rustix::stdio::stdout() } else { rustix::stdio::stderr() };
        let waiting = self.talk.waiting(index);
        let bite = &waiting[..waiting.len().min(BITE)];
        match rustix::io::write(fd.as_fd(), bite) {
            Ok(count) => self.talk.passed(index, count),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // Nobody reads it: the command gets SIGPIPE, as it would without a machine between.
            Err(_) => self.talk.close(if index == 0 { Stream::Output } else { Stream::Errors }),
        }
    }
}
