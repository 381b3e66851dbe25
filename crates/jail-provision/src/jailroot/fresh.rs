//! A new jail is made in a directory that nobody else can enter, and moved into place when it is whole.
//!
//! Where others may look, a file needs a temporary name and a mode that keeps them out until it is done. In here none of that
//! is needed, which saves a third of the system calls of a provisioning: a file gets its own name and mode at once. What
//! holds for every jail holds here too: a run that dies leaves nothing at any path of the jail (or whole top directories), and what it
//! leaves under the one name below, the next run removes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{JailRoot, TEMPORARY, retry};
use crate::apply::Records;
use crate::error::{Error, Result};
use crate::host::Host as _;
use crate::manifest::{Record, Stamp, What};
use crate::takedown;

/// Where a new jail is made, below the jail itself.
pub(super) fn name() -> String {
    format!("{TEMPORARY}new")
}

/// A new jail that is being made; dropped before it is settled, it is gone again.
#[derive(Debug)]
pub struct Fresh<'j> {
    jail: &'j JailRoot,
    inside: JailRoot,
    settled: bool,
}

impl JailRoot {
    /// Whether this very process made the jail's directory, so that nothing is in it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Begins a jail in a directory of its own.
    ///
    /// # Errors
    /// That directory cannot be made.
    pub fn begin_fresh(&self) -> Result<Fresh<'_>> {
        let name = name();
        let fd = self.doing("make the directory", Path::new(&name), || {
            retry(|| fs::mkdirat(&self.fd, &name, Mode::RWXU))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(retry(|| fs::openat(&self.fd, &name, flags, Mode::empty()))?)
        })?;
        // Messages name the paths that it is all made for.
        let inside = Self { private: true, ..Self::at(fd, self.path.clone()) };
        Ok(Fresh { jail: self, inside, settled: false })
    }
}

impl Fresh<'_> {
    /// What to make the jail's paths in.
    #[must_use]
    pub fn inside(&self) -> &JailRoot {
        &self.inside
    }

    /// Moves all of it into place, and answers the records as they are then.
    ///
    /// # Errors
    /// Something stands there meanwhile, or a system call failed.
    pub fn settle(mut self, mut records: Records) -> Result<Records> {
        let mut moved = BTreeSet::new();
        for (path, record) in records.iter().filter(|(path, _)| path.0.parent() == Some(Path::new("/"))) {
            let Some(name) = path.0.file_name() else { continue };
            self.jail.doing("put in place", &path.0, || self.move_out(name, record))?;
            moved.extend(record.stamp.map(|Stamp(inode, ..)| inode));
        }
        // With its own name changed the time of a file's last change, for all other names that it has, too.
        for (path, record) in &mut records {
            if record.stamp.is_some_and(|Stamp(inode, ..)| moved.contains(&inode)) {
                let stat = self.jail.lstat(&path.0);
                let stat = stat.map_err(|e| Error::io("stat", &self.jail.outside(&path.0), e))?;
                record.stamp = Some(Stamp::from(&stat));
            }
        }
        self.jail.doing("remove", Path::new(&name()), || {
            Ok(retry(|| fs::unlinkat(&self.jail.fd, name(), AtFlags::REMOVEDIR))?)
        })?;
        self.settled = true;
        Ok(records)
    }

    fn move_out(&self, name: &OsStr, record: &Record) -> std::io::Result<()> {
        let (from, to) = (&self.inside.fd, &self.jail.fd);
        let rename = || match retry(|| fs::renameat_with(from, name, to, name, RenameFlags::NOREPLACE)) {
            // A file system without that flag: the directory was empty, and nobody else may write to it.
            Err(Errno::INVAL) => retry(|| fs::renameat(from, name, to, name)),
            other => other,
        };
        match rename() {
            // Without root, a directory gets another one above it only if its owner may write to it (/proc is 0555).
            Err(Errno::ACCESS) if record.what == What::Directory && record.mode & 0o200 == 0 => {
                let chmod = |dir: &OwnedFd, mode: u32| {
                    retry(|| fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty()))
                };
                chmod(from, record.mode | 0o200)?;
                rename()?;
                Ok(chmod(to, record.mode)?)
            }
            other => Ok(other?),
        }
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if !self.settled {
            // Best effort: the next run removes it as well.
            remove(self.jail).unwrap_or_default();
        }
    }
}

/// Removes what a run left that died while it made a new jail.
pub(super) fn remove(jail: &JailRoot) -> Result<()> {
    takedown::remove_tree(&jail.path.join(name()))
}
