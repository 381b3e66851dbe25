//! Between the channel and the command: bytes, signals, the size of the terminal, the status.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jail_wire::{Sink, Source, Stream, ToGuest, ToHost};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, wait};

use crate::Result;
use crate::channel::{Channel, wait_for};
use crate::session::{Session, resize};

/// An output of the command.
struct Output {
    stream: Stream,
    fd: Option<OwnedFd>,
    source: Source,
}

struct Relay<'a> {
    channel: &'a mut Channel,
    pid: Pid,
    has_terminal: bool,
    input: Option<OwnedFd>,
    sink: Sink,
    /// No more input will come.
    ending: bool,
    outputs: Vec<Output>,
    status: Option<u8>,
}

/// Passes everything on until the command has ended and its last words are said. Returns its status.
pub(crate) fn run(channel: &mut Channel, session: Session) -> Result<u8> {
    let mut outputs =
        vec![Output { stream: Stream::Output, fd: Some(session.output), source: Source::new() }];
    if let Some(errors) = session.errors {
        outputs.push(Output { stream: Stream::Errors, fd: Some(errors), source: Source::new() });
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    let deaths = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|errno| format!("cannot wait for signals: {errno}"))?;
    let mut relay = Relay {
        channel,
        pid: session.pid,
        has_terminal: session.has_terminal,
        input: Some(session.input),
        sink: Sink::default(),
        ending: false,
        outputs,
        status: None,
    };
    relay.reap()?;
    loop {
        if let Some(status) = relay.status {
            if relay.drained()? {
                return Ok(status);
            }
        }
        relay.turn(&deaths)?;
    }
}

impl Relay<'_> {
    /// Waits for something to do, and does it.
    fn turn(&mut self, deaths: &SignalFd) -> Result<()> {
        let wanted = |fd: &Option<OwnedFd>, when: bool| fd.is_some() && when;
        let writes = wanted(&self.input, !self.sink.waiting().is_empty());
        let mut ready = {
            let (port, interest) = self.channel.interest();
            let mut fds = vec![PollFd::from_borrowed_fd(port, interest), PollFd::new(deaths, PollFlags::IN)];
            if let (Some(input), true) = (&self.input, writes) {
                fds.push(PollFd::new(input, PollFlags::OUT));
            }
            for output in self.outputs.iter().filter(|output| output.source.room() > 0) {
                if let Some(fd) = &output.fd {
                    fds.push(PollFd::new(fd, PollFlags::IN));
                }
            }
            wait_for(&mut fds)?;
            fds.iter().map(PollFd::revents).collect::<Vec<_>>().into_iter()
        };
        let port = ready.next().unwrap_or(PollFlags::empty());
        if port.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.channel.read()?;
            while let Some(word) = self.channel.heard()? {
                self.obey(word)?;
            }
        }
        while let Ok(Some(_)) = deaths.read_signal() {}
        self.reap()?;
        self.write_input();
        for index in 0..self.outputs.len() {
            self.read_output(index)?;
        }
        if let Some(count) = self.sink.owes() {
            self.channel.say(&ToHost::Taken(count));
        }
        self.channel.write()
    }

    fn obey(&mut self, word: ToGuest) -> Result<()> {
        match word {
            ToGuest::Start(_) => return Err("the host starts a second session".to_owned()),
            ToGuest::Data(bytes) => self.sink.accept(&bytes).map_err(|nonsense| nonsense.to_string())?,
            ToGuest::End => self.ending = true,
            ToGuest::Taken(stream, count) => {
                if let Some(output) = self.outputs.iter_mut().find(|output| output.stream == stream) {
                    output.source.taken(count).map_err(|nonsense| nonsense.to_string())?;
                }
            }
            // The command gets SIGPIPE at its next write, as it would outside.
            ToGuest::Closed(stream) => {
                if let Some(output) = self.outputs.iter_mut().find(|output| output.stream == stream) {
                    output.fd = None;
                }
            }
            ToGuest::Resize(window) => {
                if let (true, Some(terminal)) = (self.has_terminal, &self.input) {
                    resize(terminal, window);
                }
            }
            ToGuest::Signal(signal) => {
                if jail_sys::process::kill(self.pid.as_raw_nonzero().get(), signal.into()).is_err() {
                    // It has ended meanwhile.
                }
            }
        }
        Ok(())
    }

    fn write_input(&mut self) {
        let Some(input) = &self.input else { return };
        while !self.sink.waiting().is_empty() {
            match rustix::io::write(input, self.sink.waiting()) {
                Ok(count) => self.sink.passed(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.channel.say(&ToHost::Closed);
                    self.sink.close();
                    self.input = None;
                    return;
                }
            }
        }
        // A terminal has no end of input but the one that is typed.
        if self.ending && !self.has_terminal {
            self.input = None;
        }
    }

    fn read_output(&mut self, index: usize) -> Result<()> {
        let Some(output) = self.outputs.get_mut(index) else { return Ok(()) };
        let mut buffer = [0_u8; jail_wire::PIECE];
        while let (Some(fd), room @ 1..) = (&output.fd, output.source.room()) {
            let space = buffer.get_mut(..room).unwrap_or_default();
            match rustix::io::read(fd, space) {
                Ok(count @ 1..) => {
                    let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                    output.source.sent(count);
                    self.channel.say(&ToHost::Data(output.stream, bytes));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                // Its last writer is gone; a terminal says so with EIO.
                Ok(_) | Err(_) => output.fd = None,
            }
        }
        Ok(())
    }

    /// Whether all that the command wrote before it ended has been sent. What a process that it left behind writes later
    /// is nobody's any more: its cell ends with it.
    fn drained(&mut self) -> Result<bool> {
        let mut all = true;
        for index in 0..self.outputs.len() {
            self.read_output(index)?;
            if let Some(Output { fd: Some(fd), source, .. }) = self.outputs.get(index) {
                // Either empty, or full windows that wait for the host.
                all &= source.room() > 0 && nothing_to_read(fd.as_fd());
            }
        }
        self.channel.write()?;
        Ok(all)
    }

    fn reap(&mut self) -> Result<()> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.pid => {
                    let status = status
                        .exit_status()
                        .or_else(|| status.terminating_signal().map(|signal| signal.saturating_add(128)));
                    self.status =
                        status.map(|status| u8::try_from(status & 0xff).unwrap_or(u8::MAX)).or(self.status);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(Errno::CHILD) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(format!("cannot wait for the session: {errno}")),
            }
        }
    }
}

fn nothing_to_read(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let soon = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&soon)).is_ok_and(|count| count == 0)
        || fds.iter().all(|fd| !fd.revents().contains(PollFlags::IN))
}
