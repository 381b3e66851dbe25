//! Telling others that a command has started: a supervisor by a descriptor, scripts by a pid file, and whoever started
//! it into the background.
//!
//! Everything is opened before the cell is entered, since no name of the host means anything afterwards.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::refusal::{OrRefuse, Result, What, printable};

/// Who is told, and whether the command is let go of.
#[derive(Debug)]
pub struct Announcement {
    /// Gets the pid of this process in a line, and is closed.
    pub ready: Option<OwnedFd>,
    /// Gets the same, whole or not at all.
    pub pid_file: Option<PidFile>,
    /// The process that started us and waits for a byte; with it the command lives on without a terminal.
    pub launcher: Option<OwnedFd>,
}

/// A file to be, in a directory held by descriptor.
#[derive(Debug)]
pub struct PidFile {
    /// Where.
    pub directory: OwnedFd,
    /// Its name there.
    pub name: OsString,
}

/// The pipe by which exec is heard: it closes then, and says a byte if it comes to nothing.
pub(crate) struct Exec {
    hear: OwnedFd,
    say: OwnedFd,
}

impl Announcement {
    /// Whether the command goes on without those who started it.
    #[must_use]
    pub const fn detaches(&self) -> bool {
        self.launcher.is_some()
    }

    /// Tells everybody.
    ///
    /// # Errors
    /// If somebody cannot be told.
    pub(crate) fn make(&self) -> Result<()> {
        let pid = format!("{}\n", std::process::id());
        if let Some(file) = &self.pid_file {
            file.write(pid.as_bytes()).or_refuse(What::Host, || {
                format!("write the pid file '{}'", printable(file.name.as_bytes()))
            })?;
        }
        if let Some(ready) = &self.ready {
            rustix::io::write(ready, pid.as_bytes())
                .or_refuse(What::Host, || "write to the descriptor of --ready-fd".into())?;
        }
        if let Some(launcher) = &self.launcher {
            rustix::io::write(launcher, b"+")
                .or_refuse(What::Host, || "tell that the command runs".into())?;
        }
        Ok(())
    }
}

impl PidFile {
    fn write(&self, text: &[u8]) -> std::result::Result<(), Errno> {
        let mut temporary = OsString::from(".");
        temporary.push(&self.name);
        temporary.push(format!(".{}", std::process::id()));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, &temporary, flags, Mode::from_raw_mode(0o644))?;
        let written = rustix::io::write(&file, text)
            .and_then(|_| renameat(&self.directory, &temporary, &self.directory, &self.name));
        if written.is_err() && unlinkat(&self.directory, &temporary, rustix::fs::AtFlags::empty()).is_err() {
            // The first failure is the one to tell of.
        }
        written
    }
}

impl Exec {
    pub(crate) fn listen() -> Result<Self> {
        let (hear, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .or_refuse(What::Host, || "make a pipe to hear of the command's start".into())?;
        Ok(Self { hear, say })
    }

    /// In the command's process: it will not start.
    pub(crate) fn failed(&self) {
        if rustix::io::write(&self.say, b"-").is_err() {
            // Then the exit status says it.
        }
    }

    /// In the waiter: whether it has started.
    pub(crate) fn heard(self) -> Result<Start> {
        drop(self.say);
        let mut byte = [0_u8; 1];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.hear, &mut byte))
            .or_refuse(What::Host, || "hear of the command's start".into())?
        {
            0 => Ok(Start::Made),
            _ => Ok(Start::Failed),
        }
    }
}

/// What became of exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// The command runs.
    Made,
    /// It does not; its process has said why.
    Failed,
}

/// Puts the cell's /dev/null in the place of every standard descriptor that is a terminal, and of standard input.
pub(crate) fn let_go_of_terminal() -> Result<()> {
    let doing = || "let go of the terminal".to_owned();
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .or_refuse(What::Host, doing)?;
    let is_terminal = |fd: i32| rustix::termios::isatty(crate::invocation::standard(fd));
    rustix::stdio::dup2_stdin(&null).or_refuse(What::Host, doing)?;
    if is_terminal(1) {
        rustix::stdio::dup2_stdout(&null).or_refuse(What::Host, doing)?;
    }
    if is_terminal(2) {
        rustix::stdio::dup2_stderr(&null).or_refuse(What::Host, doing)?;
    }
    Ok(())
}
