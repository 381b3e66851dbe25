//! The channel to the host: frames in, frames out, never a wait in the middle of one.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jail_wire::{Decoder, LONGEST_FROM_HOST, ToGuest, ToHost};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::Result;

/// Both directions of the port.
pub(crate) struct Channel {
    port: OwnedFd,
    decoder: Decoder,
    out: Vec<u8>,
    sent: usize,
}

impl Channel {
    pub(crate) fn new(port: OwnedFd) -> Self {
        Self { port, decoder: Decoder::new(LONGEST_FROM_HOST), out: Vec::new(), sent: 0 }
    }

    /// For poll(2), with what to wait for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let writing = if self.has_output() { PollFlags::OUT } else { PollFlags::empty() };
        (self.port.as_fd(), PollFlags::IN | writing)
    }

    fn has_output(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Puts a word into the queue.
    pub(crate) fn say(&mut self, word: &ToHost) {
        word.write(&mut self.out);
    }

    /// Writes what the port takes.
    pub(crate) fn write(&mut self) -> Result<()> {
        while let Some(rest @ [_, ..]) = self.out.get(self.sent..) {
            match rustix::io::write(&self.port, rest) {
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(format!("cannot write to the channel: {errno}")),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Writes all of it.
    pub(crate) fn flush(&mut self) -> Result<()> {
        loop {
            self.write()?;
            if !self.has_output() {
                return Ok(());
            }
            let mut fds = [PollFd::new(&self.port, PollFlags::OUT)];
            wait_for(&mut fds)?;
        }
    }

    /// Reads what is there; [`Channel::heard`] hands it out.
    pub(crate) fn read(&mut self) -> Result<()> {
        let mut buffer = [0_u8; 32 << 10];
        match rustix::io::read(&self.port, &mut buffer) {
            Ok(0) => Err("the host has closed the channel".to_owned()),
            Ok(count) => {
                self.decoder.feed(buffer.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(format!("cannot read from the channel: {errno}")),
        }
    }

    /// The next word that has been read.
    pub(crate) fn heard(&mut self) -> Result<Option<ToGuest>> {
        match self.decoder.next_frame() {
            Ok(Some((kind, payload))) => {
                ToGuest::read(kind, payload).map(Some).map_err(|nonsense| nonsense.to_string())
            }
            Ok(None) => Ok(None),
            Err(nonsense) => Err(nonsense.to_string()),
        }
    }

    /// Writes what is queued and waits for a word.
    pub(crate) fn wait(&mut self) -> Result<Option<ToGuest>> {
        self.flush()?;
        if let Some(word) = self.heard()? {
            return Ok(Some(word));
        }
        let mut fds = [PollFd::new(&self.port, PollFlags::IN)];
        wait_for(&mut fds)?;
        self.read()?;
        self.heard()
    }
}

/// Waits as long as it takes.
pub(crate) fn wait_for(fds: &mut [PollFd<'_>]) -> Result<()> {
    match poll(fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(format!("cannot wait: {errno}")),
    }
}
