//! The user's home, which the host serves: the kernel's questions go to the host by a port of their own, its answers come
//! back (FUSE). This only carries them; it knows nothing of what they say but where one ends.

use std::os::fd::{AsRawFd, OwnedFd};

use jail_sys::process::{self, Cloned};
use jail_wire::{HOME_PORT, LONGEST_HOME_DATA, LONGEST_HOME_REQUEST};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::Result;
use crate::channel::wait_for;
use crate::machine;

/// Where it is mounted; the cell takes it from there.
pub(crate) const HOME: &str = "/home";

/// Mounts the home. Its questions are answered from now on, by a process of its own.
pub(crate) fn start() -> Result<()> {
    let port = machine::open_port(HOME_PORT)?;
    let doing = |errno| format!("cannot mount the home: {errno}");
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let kernel = rustix::fs::open("/dev/fuse", flags, Mode::empty()).map_err(doing)?;
    machine::directory(HOME)?;
    // Modes and owners are the host's, and the kernel here checks them; the host does so as well, as the user.
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={LONGEST_HOME_DATA}",
        kernel.as_raw_fd()
    );
    let options = std::ffi::CString::new(options).map_err(|_| "a number with a zero in it".to_owned())?;
    mount("home", HOME, "fuse", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .map_err(doing)?;
    match process::clone(0).map_err(doing)? {
        Cloned::Parent { .. } => Ok(()),
        Cloned::Child => {
            let carried =
                Carrier { kernel, port, question: Vec::new(), sent: 0, answers: Vec::new() }.carry();
            if let Err(why) = carried {
                eprintln!("jail-guest: the home is gone: {why}");
            }
            process::exit_now(1)
        }
    }
}

struct Carrier {
    kernel: OwnedFd,
    port: OwnedFd,
    /// The question on its way to the host.
    question: Vec<u8>,
    /// How much of it has gone.
    sent: usize,
    /// What has come from the host and is no whole answer yet.
    answers: Vec<u8>,
}

impl Carrier {
    /// One question after the other goes out, answers come in whenever they come: neither waits for the other.
    fn carry(mut self) -> Result<()> {
        loop {
            let sending = self.sent < self.question.len();
            let port = if sending { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let kernel = if sending { PollFlags::empty() } else { PollFlags::IN };
            let mut fds = [PollFd::new(&self.port, port), PollFd::new(&self.kernel, kernel)];
            wait_for(&mut fds)?;
            if fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR)) {
                return Err("it has been unmounted".to_owned());
            }
            self.hear()?;
            if !sending {
                self.ask()?;
            }
            self.send()?;
        }
    }

    fn ask(&mut self) -> Result<()> {
        self.question.resize(LONGEST_HOME_REQUEST, 0);
        self.sent = 0;
        match rustix::io::read(&self.kernel, &mut self.question) {
            Ok(count) => self.question.truncate(count),
            // ENOENT: whoever asked has been interrupted meanwhile (fuse(4)).
            Err(Errno::AGAIN | Errno::INTR | Errno::NOENT) => self.question.clear(),
            Err(errno) => return Err(format!("the kernel asks no more: {errno}")),
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        while let Some(rest @ [_, ..]) = self.question.get(self.sent..) {
            match rustix::io::write(&self.port, rest) {
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(format!("the host does not hear: {errno}")),
            }
        }
        Ok(())
    }

    fn hear(&mut self) -> Result<()> {
        let mut buffer = [0_u8; 32 << 10];
        match rustix::io::read(&self.port, &mut buffer) {
            Ok(0) => return Err("the host serves it no more".to_owned()),
            Ok(count) => self.answers.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(errno) => return Err(format!("the host does not speak: {errno}")),
        }
        let mut used = 0;
        while let Some((length, rest)) =
            self.answers.get(used..).and_then(|rest| Some((rest.first_chunk::<4>()?, rest)))
        {
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
            if length < 16 {
                return Err("the host speaks nonsense".to_owned());
            }
            let Some(answer) = rest.get(..length) else { break };
            match rustix::io::retry_on_intr(|| rustix::io::write(&self.kernel, answer)) {
                // ENOENT: the question has been withdrawn.
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(format!("the kernel does not take an answer: {errno}")),
            }
            used = used.saturating_add(length);
        }
        self.answers.drain(..used);
        Ok(())
    }
}
