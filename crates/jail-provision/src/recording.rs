//! A host that remembers what was asked of it.
//!
//! A plan follows from its questions and the host's answers. If every path that was looked at still is what it was, the
//! answers are the same and so is the plan: that is how a second run knows in three milliseconds that there is nothing to do.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

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
}

/// An open file whose failing reads are remembered.
struct Watched<'r> {
    file: Box<dyn HostFile + 'r>,
    path: PathBuf,
    unread: &'r RefCell<HashSet<PathBuf>>,
}

impl HostFile for Watched<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset).inspect_err(|_| {
            self.unread.borrow_mut().insert(self.path.clone());
        })
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
        }
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
        if let Err(error) = self.lstat(path) {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
        }
        let unread = |_: &io::Error| self.remember_unread(path);
        let file = self.host.open(path).inspect_err(unread)?;
        Ok(Box::new(Watched { file, path: path.to_path_buf(), unread: &self.unread }))
    }
}
