//! The locks that `usermod` takes: a POSIX record lock on `.pwd.lock` (lckpwdf), then a link-lock for each file.
//!
//! flock(2), which most crates use, would not exclude it: the two kinds of lock do not see each other.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid};

/// How long `lckpwdf` waits before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(15);

const RETRY: Duration = Duration::from_millis(50);

/// The account files of one `/etc`, locked until dropped.
#[derive(Debug)]
pub struct AccountsLock {
    etc: OwnedFd,
    links: Vec<&'static str>,
    _pwd_lock: OwnedFd,
}

/// Why the account files could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another program is editing the account files.
    #[error("the account files are locked by {holder} (waited {waited} s for '{file}')")]
    Held {
        /// Who holds it, as far as it can be told.
        holder: String,
        /// The lock file.
        file: String,
        /// How long we waited.
        waited: u64,
    },
    /// The lock file itself could not be used.
    #[error("cannot lock the account files at '{file}': {source}")]
    Io {
        /// The lock file.
        file: String,
        /// What the kernel said.
        source: Errno,
    },
}

impl AccountsLock {
    /// Locks passwd, group and gshadow below that directory (`/etc`), waiting at most `patience`.
    pub fn take(etc: BorrowedFd<'_>, patience: Duration) -> Result<Self, LockError> {
        let deadline = Instant::now() + patience;
        let io = |file: &str| {
            let file = file.to_owned();
            move |source| LockError::Io { file, source }
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::openat(etc, ".pwd.lock", flags, Mode::from_raw_mode(0o600))
            .map_err(io(".pwd.lock"))?;
        wait_for_record_lock(&lock, deadline, patience)?;
        let etc =
            etc.try_clone_to_owned().map_err(|_| LockError::Io { file: ".".into(), source: Errno::MFILE })?;
        let mut held = Self { etc, links: Vec::new(), _pwd_lock: lock };
        for file in ["passwd.lock", "group.lock", "gshadow.lock"] {
            wait_for_link_lock(held.etc.as_fd(), file, deadline, patience)?;
            held.links.push(file);
        }
        Ok(held)
    }
}

impl Drop for AccountsLock {
    fn drop(&mut self) {
        for file in self.links.drain(..).rev() {
            // Nothing more can be done about a failure here; the next taker finds our dead pid in it and clears it.
            release(self.etc.as_fd(), file).unwrap_or(());
        }
    }
}

fn wait_for_record_lock(lock: &OwnedFd, deadline: Instant, patience: Duration) -> Result<(), LockError> {
    loop {
        match rustix::fs::fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::AGAIN | Errno::ACCESS | Errno::INTR) => {}
            Err(source) => return Err(LockError::Io { file: ".pwd.lock".into(), source }),
        }
        if Instant::now() >= deadline {
            let query = Flock::from(FlockType::WriteLock);
            let pid = rustix::process::fcntl_getlk(lock, &query).ok().flatten().and_then(|held| held.pid);
            return Err(LockError::Held {
                holder: describe(pid),
                file: ".pwd.lock".into(),
                waited: patience.as_secs(),
            });
        }
        std::thread::sleep(RETRY);
    }
}

/// shadow's way: a file of our own with our pid, linked to the lock's name, which fails if that exists.
fn wait_for_link_lock(
    etc: BorrowedFd<'_>,
    file: &'static str,
    deadline: Instant,
    patience: Duration,
) -> Result<(), LockError> {
    let io = |source| LockError::Io { file: file.to_owned(), source };
    let mine = format!("{file}.{}", std::process::id());
    loop {
        match try_link_lock(etc, file, &mine).map_err(io)? {
            LinkLock::Taken => return Ok(()),
            LinkLock::Stale => remove(etc, file).map_err(io)?,
            LinkLock::Held(pid) if Instant::now() >= deadline => {
                return Err(LockError::Held {
                    holder: describe(Some(pid)),
                    file: file.to_owned(),
                    waited: patience.as_secs(),
                });
            }
            LinkLock::Held(_) => std::thread::sleep(RETRY),
        }
    }
}

enum LinkLock {
    Taken,
    /// Its owner is dead. Removing it is safe: only holders of .pwd.lock get here.
    Stale,
    Held(Pid),
}

fn try_link_lock(etc: BorrowedFd<'_>, file: &str, mine: &str) -> rustix::io::Result<LinkLock> {
    remove(etc, mine)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let own = rustix::fs::openat(etc, mine, flags, Mode::from_raw_mode(0o600))?;
    // shadow writes the pid and a NUL.
    let text = format!("{}\0", std::process::id());
    let linked = rustix::io::write(&own, text.as_bytes())
        .and_then(|_| rustix::fs::linkat(etc, mine, etc, file, AtFlags::empty()));
    let removed = remove(etc, mine);
    match linked {
        Ok(()) if removed.is_err() => {
            // Not told of, it would stay behind with the pid of a process that lives, and stop even ourselves.
            release(etc, file)?;
            removed.map(|()| LinkLock::Taken)
        }
        Ok(()) => Ok(LinkLock::Taken),
        Err(Errno::EXIST) => removed.and_then(|()| holder_of(etc, file)),
        Err(errno) => Err(errno),
    }
}

/// Above the highest process number that Linux gives (`PID_MAX_LIMIT`, proc(5)).
const NOBODYS_PID: &[u8] = b"4194305\0";

/// Gives a link-lock up. One that cannot be removed gets a number that no process has: with that of one that lives, whoever
/// gets .pwd.lock next would wait for us while we may be waiting for that, and one that is empty stops shadow for ever.
fn release(etc: BorrowedFd<'_>, file: &str) -> rustix::io::Result<()> {
    remove(etc, file).or_else(|_| {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = rustix::fs::openat(etc, file, flags, Mode::empty())?;
        rustix::io::write(&lock, NOBODYS_PID).map(drop)
    })
}

/// That it is not there any more is what is asked.
fn remove(etc: BorrowedFd<'_>, file: &str) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(etc, file, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn holder_of(etc: BorrowedFd<'_>, file: &str) -> rustix::io::Result<LinkLock> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let held = match rustix::fs::openat(etc, file, flags, Mode::empty()) {
        Ok(held) => held,
        Err(Errno::NOENT) => return Ok(LinkLock::Stale),
        Err(errno) => return Err(errno),
    };
    let mut text = [0u8; 32];
    let length = rustix::io::read(&held, &mut text)?;
    let digits: Vec<u8> = text.iter().copied().take(length).take_while(u8::is_ascii_digit).collect();
    let pid = std::str::from_utf8(&digits).ok().and_then(|t| t.parse().ok()).and_then(Pid::from_raw);
    // A lock without a pid in it is what a full disk leaves; shadow would refuse to work until somebody removes it.
    let Some(pid) = pid else { return Ok(LinkLock::Stale) };
    // Our own, from a try that failed half-way: whoever gets here does not hold this file's lock.
    if pid == rustix::process::getpid() {
        return Ok(LinkLock::Stale);
    }
    match rustix::process::test_kill_process(pid) {
        Err(Errno::SRCH) => Ok(LinkLock::Stale),
        _ => Ok(LinkLock::Held(pid)),
    }
}

/// `usermod (process 123)`, as well as it can be known.
fn describe(pid: Option<Pid>) -> String {
    let Some(pid) = pid else { return "another program".to_owned() };
    let number = pid.as_raw_nonzero();
    let mut name = [0u8; 64];
    let comm = format!("/proc/{number}/comm");
    let length =
        rustix::fs::open(OsStr::from_bytes(comm.as_bytes()), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::read(&file, &mut name))
            .unwrap_or(0);
    let name: Vec<u8> = name.iter().copied().take(length).take_while(|b| *b != b'\n').collect();
    match String::from_utf8_lossy(&name) {
        known if known.is_empty() => format!("process {number}"),
        known => format!("{} (process {number})", known.escape_debug()),
    }
}
