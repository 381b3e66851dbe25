//! A host that remembers what was asked of it.
//!
//! A plan follows from its questions and the host's answers. If every path that was looked at still is what it was, the
//! answers are the same and so is the plan: that is how a second run knows in three milliseconds that there is nothing to do.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::host::{Host, HostFile, Stat};
use crate::manifest::{Inputs, PathText, Stamp};

/// What was looked at: paths, and directories whose names were listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Paths, with their state; a directory's times do not count here.
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    pub paths: Inputs,
    /// Listed directories, with their state.
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    pub listed: Inputs,
}

/// The host as it answered: each question is put to it once, so that one plan rests on one state of things.
pub struct Recording<'h> {
    host: &'h dyn Host,
    stats: RefCell<HashMap<PathBuf, std::result::Result<Stat, Refusal>>>,
    links: RefCell<HashMap<PathBuf, PathBuf>>,
    listed: RefCell<HashMap<PathBuf, Listing>>,
    /// What is there and could not be read: whatever the plan made of that, the next run must ask again.
    unread: RefCell<HashSet<PathBuf>>,
    opened: RefCell<HashMap<PathBuf, (OwnedFd, Stat)>>,
    may_be_kept_open: usize,
}

/// As many files stay open at most, and never more than an eighth of what this process may have open.
const KEPT_OPEN: u64 = 256;

fn may_be_kept_open() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    usize::try_from(limit.map_or(KEPT_OPEN, |limit| KEPT_OPEN.min(limit / 8))).unwrap_or_default()
}

/// Files that planning read and left open, each with its state then: copying one goes on where resolving it ended.
#[derive(Debug, Default)]
pub struct Opened(Mutex<HashMap<PathBuf, (OwnedFd, Stat)>>);

impl Opened {
    /// Takes one out.
    pub(crate) fn take(&self, path: &Path) -> Option<(OwnedFd, Stat)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(path)
    }
}

/// An open file whose failing reads are remembered, and which is kept open when it was read.
struct Watched<'r> {
    file: Option<Box<dyn HostFile + 'r>>,
    path: PathBuf,
    known: Option<Stat>,
    unread: &'r RefCell<HashSet<PathBuf>>,
    opened: &'r RefCell<HashMap<PathBuf, (OwnedFd, Stat)>>,
    most: usize,
}

impl HostFile for Watched<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(file) = &self.file else { return Ok(0) };
        file.read_at(buf, offset).inspect_err(|_| {
            self.unread.borrow_mut().insert(self.path.clone());
        })
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let Some(known) = self.known.filter(Stat::is_file) else { return };
        let mut opened = self.opened.borrow_mut();
        if opened.len() < self.most {
            if let Some(fd) = self.file.take().and_then(HostFile::into_fd) {
                opened.insert(std::mem::take(&mut self.path), (fd, known));
            }
        }
    }
}

/// A listed directory: its state before, and the names in it.
struct Listing {
    stamp: Option<Stamp>,
    names: Vec<OsString>,
}

/// An error that can be given again.
type Refusal = (io::ErrorKind, Option<i32>);

fn refusal(error: &io::Error) -> Refusal {
    (error.kind(), error.raw_os_error())
}

fn again((kind, code): Refusal) -> io::Error {
    code.map_or_else(|| io::Error::from(kind), io::Error::from_raw_os_error)
}

impl<'h> Recording<'h> {
    /// Nothing asked yet.
    #[must_use]
    pub fn new(host: &'h dyn Host) -> Self {
        Self {
            host,
            stats: RefCell::default(),
            links: RefCell::default(),
            listed: RefCell::default(),
            unread: RefCell::default(),
            opened: RefCell::default(),
            may_be_kept_open: may_be_kept_open(),
        }
    }

    /// What was asked, and what is still open.
    #[must_use]
    pub fn into_parts(self) -> (Seen, Opened) {
        let opened = Opened(Mutex::new(self.opened.take()));
        (self.into_seen(), opened)
    }

    /// What was asked.
    #[must_use]
    pub fn into_seen(self) -> Seen {
        let paths = self.stats.into_inner();
        let listed = self.listed.into_inner();
        let unread = self.unread.into_inner();
        let answer = |path: &PathBuf, stat: std::result::Result<Stat, Refusal>| {
            stat.ok().filter(|_| !unread.contains(path)).as_ref().map(state)
        };
        Seen {
            paths: paths
                .into_iter()
                .map(|(path, stat)| {
                    let answer = answer(&path, stat);
                    (PathText(path), answer)
                })
                .collect(),
            listed: listed.into_iter().map(|(path, listing)| (PathText(path), listing.stamp)).collect(),
        }
    }

    fn remember_unread(&self, path: &Path) {
        self.unread.borrow_mut().insert(path.to_path_buf());
    }
}

/// A directory's times change with every file that comes and goes in it; what was asked of it was what it is.
fn state(stat: &Stat) -> Stamp {
    if stat.is_dir() { Stamp(stat.ino, u64::from(stat.mode), 0, 0, 0, 0) } else { Stamp::from(stat) }
}

impl Seen {
    /// Whether nothing was asked, or nothing was remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Whether the host would answer every question as it did.
    #[must_use]
    pub fn still_true(&self, host: &dyn Host) -> bool {
        let same =
            |path: &PathText, old: &Option<Stamp>| host.lstat(&path.0).ok().as_ref().map(state) == *old;
        let listed =
            |path: &PathText, old: &Option<Stamp>| host.stat(&path.0).ok().as_ref().map(Stamp::from) == *old;
        self.paths.iter().all(|(path, old)| same(path, old))
            && self.listed.iter().all(|(path, old)| listed(path, old))
    }
}

impl Host for Recording<'_> {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        if let Some(known) = self.stats.borrow().get(path) {
            return known.map_err(again);
        }
        let answer = self.host.lstat(path);
        let kept = answer.as_ref().map(|stat| *stat).map_err(refusal);
        self.stats.borrow_mut().insert(path.to_path_buf(), kept);
        answer
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        if let Some(known) = self.links.borrow().get(path) {
            return Ok(known.clone());
        }
        let unread = |_: &io::Error| self.remember_unread(path);
        let target = self.host.read_link(path).inspect_err(unread)?;
        self.links.borrow_mut().insert(path.to_path_buf(), target.clone());
        Ok(target)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        if let Some(known) = self.listed.borrow().get(path) {
            return Ok(known.names.clone());
        }
        let stamp = self.stat(path).ok().as_ref().map(Stamp::from);
        let unread = |_: &io::Error| self.remember_unread(path);
        let names = self.host.read_dir(path).inspect_err(unread)?;
        self.listed.borrow_mut().insert(path.to_path_buf(), Listing { stamp, names: names.clone() });
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn HostFile + '_>> {
        // Its state is part of what the plan rests on, whoever reads it next.
        let known = match self.lstat(path) {
            Ok(stat) => Some(stat),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let unread = |_: &io::Error| self.remember_unread(path);
        let file = match &known {
            Some(known) => self.host.open_known(path, known),
            None => self.host.open(path),
        };
        let (file, path) = (Some(file.inspect_err(unread)?), path.to_path_buf());
        let most = self.may_be_kept_open;
        Ok(Box::new(Watched { file, path, known, unread: &self.unread, opened: &self.opened, most }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RealHost;
    use crate::jailroot::{JailRoot, Meta, Privilege};

    /// What planning left open serves the copying only as long as it is what was looked at.
    #[test]
    fn a_file_that_changed_since_it_was_planned_is_copied_as_it_is_now() {
        let dir = tempfile::tempdir().expect("scratch");
        let (same, written, gone) =
            (dir.path().join("same"), dir.path().join("written"), dir.path().join("gone"));
        for path in [&same, &written, &gone] {
            std::fs::write(path, "old").expect("written");
        }
        let host = RealHost::system();
        let recording = Recording::new(&host);
        for path in [&same, &written, &gone] {
            assert_eq!(recording.read(path, 10).expect("read"), b"old");
        }
        let (_, opened) = recording.into_parts();
        assert_eq!(opened.0.lock().expect("whole").len(), 3, "all are open");
        std::fs::write(&written, "newer").expect("written");
        std::fs::write(dir.path().join("another"), "new").expect("written");
        std::fs::rename(dir.path().join("another"), &gone).expect("renamed");

        let jail = JailRoot::find_or_make(&dir.path().join("jail")).expect("made");
        let meta = Meta {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            mode: 0o644,
        };
        for (path, content) in [(&same, "old"), (&written, "newer")] {
            let inner = Path::new("/").join(path.file_name().expect("a name"));
            let copied = jail.copy_file(&inner, path, &opened, meta, Privilege::Drop).expect("copied");
            assert_eq!(std::fs::read_to_string(jail.outside(&inner)).expect("there"), content);
            let now = host.lstat(path).expect("there");
            assert_eq!(copied.source.map(|stat| (stat.ino, stat.ctime)), Some((now.ino, now.ctime)));
        }
        // Renamed away, it is what was planned still, but its ctime says that it moved: what lies there now is copied.
        jail.copy_file(Path::new("/gone"), &gone, &opened, meta, Privilege::Drop).expect("copied");
        assert_eq!(std::fs::read_to_string(jail.outside(Path::new("/gone"))).expect("there"), "new");
        assert!(opened.take(&gone).is_none(), "each is taken once");
    }
}
