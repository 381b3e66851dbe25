//! What an account was before it was jailed, and how far a change has come: `accounts.json`, root's alone.
//!
//! It is written before anything is done, so that the next run can finish or undo what a killed one left.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use jail_accounts::replace::{self, Fresh};
use jail_accounts::{passwd, placement, table};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::dir;
use crate::text::Text;
use crate::trouble::{Trouble, cannot, quoted};

const FILE: &str = "accounts.json";

/// How far a change has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Being put into the jail; until passwd says so, it can be undone.
    Adding,
    /// In the jail.
    Jailed,
    /// Being taken out; can only be finished.
    Releasing,
    /// Being deleted, account and all; can only be finished. The home stays.
    Removing,
    /// The same, and the home goes too.
    Purging,
}

/// What became of the home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "was")]
pub enum Home {
    /// It was in the jail already.
    Kept,
    /// A new one was made from the skeleton; the old one stays on the host.
    Made,
    /// It was moved from there, and goes back there.
    Moved {
        /// Where it was on the host.
        from: Text,
    },
    /// It stays on the host and the cell mounts it.
    Bound,
}

/// The account's line in the jail's passwd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailLine {
    /// As it was; `None` if there was none.
    pub before: Option<Text>,
    /// As we wrote it, without its ending.
    pub after: Text,
}

/// A group in the jail's group file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailGroup {
    /// Its name.
    pub name: Text,
    /// Its number.
    pub gid: u32,
    /// Whether we added the line.
    pub made: bool,
    /// Whether we added the user to its members.
    pub joined: bool,
}

/// systemd's manager of the user, which would run the jailed home's units outside of the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserManager {
    /// Whether we masked it (it may have been masked before).
    pub masked: bool,
    /// Whether the user lingered.
    pub lingered: bool,
}

/// One account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The login name.
    pub user: Text,
    /// Its number, which must stay the same for a release.
    pub uid: u32,
    /// How far the change has come.
    pub phase: Phase,
    /// The host's passwd line, ending and all.
    pub line_before: Text,
    /// What we made of it.
    pub line_after: Text,
    /// The home as the jailed user sees it.
    pub inner_home: Text,
    /// What became of the home.
    pub home: Home,
    /// The jail's passwd.
    pub jail_line: JailLine,
    /// The jail's groups that this account needed.
    pub jail_groups: Vec<JailGroup>,
    /// Whether we put the account into the host's group `jailed`.
    pub joined_jailed: bool,
    /// What was done about systemd; `None` where there is none.
    pub user_manager: Option<UserManager>,
    /// The jail that the account comes from, until it has left that one for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Box<Origin>>,
}

/// Where an account was before `--move-to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// That jail.
    pub jail: Text,
    /// What it was there.
    pub record: Record,
}

impl Record {
    /// The record as it is once the account has left the jail it came from: a release must go by what it was before
    /// it was in any jail.
    #[must_use]
    pub fn settled(mut self) -> Self {
        if let Some(origin) = self.origin.take() {
            let old = origin.record;
            self.line_before = old.line_before;
            self.home = old.home;
            self.joined_jailed |= old.joined_jailed;
            self.user_manager = old.user_manager.or(self.user_manager);
        }
        self
    }

    /// What passwd said of the account before it was jailed.
    #[must_use]
    pub fn entry_before(&self) -> Option<passwd::Entry<'_>> {
        passwd::parse(table::strip_newline(&self.line_before.0))
    }

    /// What passwd says of it in the jail.
    #[must_use]
    pub fn entry_after(&self) -> Option<passwd::Entry<'_>> {
        passwd::parse(table::strip_newline(&self.line_after.0))
    }

    /// The account's line in our own file of who is in which jail, without its ending.
    #[must_use]
    pub fn placement(&self, jail: &Path) -> Vec<u8> {
        let jail = jail.as_os_str().as_bytes();
        placement::line(&placement::Entry { name: &self.user.0, jail, home: &self.inner_home.0 })
    }
}

/// The file as it is on disk.
#[derive(Debug, Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    jail: Text,
    accounts: Vec<Record>,
}

/// The records of one jail, and the lock that keeps other runs out.
#[derive(Debug)]
pub struct Records {
    dir: OwnedFd,
    path: PathBuf,
    jail: PathBuf,
    /// The accounts, in the order in which they came.
    pub accounts: Vec<Record>,
    _lock: Option<OwnedFd>,
}

impl Records {
    /// Reads a jail's records without locking: for showing.
    pub fn read(state: &Path, jail: &Path, name: &str) -> Result<Vec<Record>, Trouble> {
        let path = state.join(name);
        match rustix::fs::open(&path, dir::DIRECTORY, Mode::empty()) {
            Ok(open) => load(open.as_fd(), &path, jail),
            Err(Errno::NOENT) => Ok(Vec::new()),
            Err(errno) => Err(cannot("open", &path)(errno)),
        }
    }

    /// The records of all jails, each with its jail.
    pub fn accounts_of_all(state: &Path) -> Result<Vec<(Record, PathBuf)>, Trouble> {
        let mut found = Vec::new();
        let listing = match std::fs::read_dir(state) {
            Ok(listing) => listing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(cannot("read", state)(error)),
        };
        for entry in listing.flatten() {
            // A jail's directory without accounts, or a file of another part.
            let Ok(open) = rustix::fs::open(entry.path(), dir::DIRECTORY, Mode::empty()) else { continue };
            if let Some(on_disk) = parse(open.as_fd(), &entry.path())? {
                let jail = on_disk.jail.as_path().to_owned();
                found.extend(on_disk.accounts.into_iter().map(|record| (record, jail.clone())));
            }
        }
        Ok(found)
    }

    /// Makes the jail's state directory if need be, waits for other runs on this jail and reads its records.
    pub fn lock(state: &Path, jail: &Path, name: &str) -> Result<Self, Trouble> {
        Self::lock_if(state, jail, name, Patience::Wait)?
            .ok_or_else(|| Trouble::failed(format!("the records of {} are locked", quoted(jail.as_os_str()))))
    }

    /// The same; `None` if another run has them and `patience` is short.
    pub fn lock_if(
        state: &Path,
        jail: &Path,
        name: &str,
        patience: Patience,
    ) -> Result<Option<Self>, Trouble> {
        let parent = state.parent().unwrap_or(Path::new("/"));
        let base = dir::open_trusted(parent)?;
        let below = state.strip_prefix(parent).unwrap_or(state).join(name);
        let path = parent.join(&below);
        let open = dir::open_trusted_below(base.as_fd(), parent, &below, true)?
            .ok_or_else(|| Trouble::failed(format!("cannot make {}", quoted(path.as_os_str()))))?;
        let Some(lock) = take_lock(open.as_fd(), &path, patience)? else { return Ok(None) };
        let accounts = load(open.as_fd(), &path, jail)?;
        Ok(Some(Self { dir: open, path, jail: jail.to_owned(), accounts, _lock: Some(lock) }))
    }

    /// The record of an account.
    #[must_use]
    pub fn get(&self, user: &[u8]) -> Option<&Record> {
        self.accounts.iter().find(|record| record.user.0 == user)
    }

    /// Writes the records, durably.
    pub fn save(&self) -> Result<(), Trouble> {
        let on_disk = OnDisk { version: 1, jail: self.jail.clone().into(), accounts: self.accounts.clone() };
        let mut bytes = serde_json::to_vec_pretty(&on_disk).map_err(cannot("write", self.path.join(FILE)))?;
        bytes.push(b'\n');
        replace::replace(self.dir.as_fd(), FILE, &bytes, None, Fresh { mode: 0o600 })
            .map_err(|error| Trouble::failed(format!("{error} in {}", quoted(self.path.as_os_str()))))
    }
}

fn parse(open: BorrowedFd<'_>, path: &Path) -> Result<Option<OnDisk>, Trouble> {
    let file = path.join(FILE);
    let Some(original) = replace::read(open, FILE).map_err(cannot("read", &file))? else { return Ok(None) };
    serde_json::from_slice(&original.bytes).map(Some).map_err(cannot("understand", &file))
}

fn load(open: BorrowedFd<'_>, path: &Path, jail: &Path) -> Result<Vec<Record>, Trouble> {
    let Some(on_disk) = parse(open, path)? else { return Ok(Vec::new()) };
    let file = path.join(FILE);
    if on_disk.version != 1 || on_disk.jail.as_path() != jail {
        return Err(Trouble::unsafe_to(format!(
            "{} is about another jail, {}",
            quoted(file.as_os_str()),
            quoted(on_disk.jail.as_os_str())
        )));
    }
    Ok(on_disk.accounts)
}

/// Whether to wait for another run's lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// A whole move may lie between, so there is no deadline.
    Wait,
    /// Who holds one jail's lock may only try for another's, or two runs could wait for each other.
    Try,
}

/// One run at a time per jail.
fn take_lock(open: BorrowedFd<'_>, path: &Path, patience: Patience) -> Result<Option<OwnedFd>, Trouble> {
    let path = path.join("accounts.lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::openat(open, "accounts.lock", flags, Mode::from_raw_mode(0o600))
        .map_err(cannot("open", &path))?;
    loop {
        let operation = match patience {
            Patience::Wait => FlockOperation::LockExclusive,
            Patience::Try => FlockOperation::NonBlockingLockExclusive,
        };
        match rustix::fs::flock(&lock, operation) {
            Ok(()) => return Ok(Some(lock)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(cannot("lock", &path)(errno)),
        }
    }
}
