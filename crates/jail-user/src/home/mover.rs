//! Moving a home between two places, in stages that lie on disk.
//!
//! Same file system: one rename. Otherwise, with `N` the uid:
//! 1. the copy grows in `NEW/home` (`.jailwright-N.new`, root's, 0700, beside its place), and is compared;
//! 2. `NEW/verified` says that it was; the copy is renamed to its place;
//! 3. (the account is switched over)
//! 4. the old home is renamed to `OLD/home` (`.jailwright-N.old`, root's, 0700, beside it): nobody finds it any more;
//! 5. what was changed after `OLD/mark` was made is not in the copy: then OLD is kept and said so; else it is removed.
//!
//! Whatever stage a killed run had reached, the same call goes on from there.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Timespec};
use rustix::io::Errno;

use super::copy::{self, CopyError};
use super::verify::{self, Totals, Verdict};
use super::{Place, remove};
use crate::dir;
use crate::trouble::{Trouble, cannot, quoted};

pub(super) const NEW: &str = "new";
const OLD: &str = "old";

/// How often a home that changes under the copy is copied again.
const ROUNDS: usize = 3;

/// A move of one user's home.
#[derive(Debug)]
pub struct Mover<'a> {
    /// Where it is.
    pub from: &'a Place,
    /// Where it is to be.
    pub to: &'a Place,
    /// Whose it is.
    pub uid: u32,
}

/// How a move ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Finished {
    /// The old place is empty.
    Clean,
    /// Something was changed after it was copied; the old home is kept.
    Kept {
        /// Where.
        at: PathBuf,
        /// What was changed, in it.
        changed: PathBuf,
    },
}

impl Mover<'_> {
    /// Stages 1 and 2: afterwards the home is in its new place. The old one, if it had to be copied, is still whole.
    ///
    /// Says what was copied and compared; `None` if a rename was enough.
    pub fn bring(&self) -> Result<Option<Totals>, Trouble> {
        let there = self.to.stat()?.is_some();
        match (self.from.stat()?.is_some(), there) {
            (false, true) => Ok(None),
            (true, true) if self.is_verified()? => {
                // A killed run's copy, which nobody has used yet; the original may have changed since.
                self.put_back_in_stage("home")?;
                self.copy()
            }
            (true, true) => Err(Trouble::unsafe_to(format!(
                "{} is there already, so the home {} cannot be moved there",
                quoted(self.to.path().as_os_str()),
                quoted(self.from.path().as_os_str())
            ))
            .hint("move one of the two away, or leave out -m to use the one that is there")),
            (false, false) => Err(Trouble::failed(format!(
                "the home {} is not there",
                quoted(self.from.path().as_os_str())
            ))),
            (true, false) => self.rename_or_copy(),
        }
    }

    fn rename_or_copy(&self) -> Result<Option<Totals>, Trouble> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(
            &self.from.parent,
            &self.from.name,
            &self.to.parent,
            &self.to.name,
            flags,
        ) {
            Ok(()) => self.make_durable().map(|()| None),
            Err(Errno::XDEV) => self.copy(),
            Err(errno) => Err(cannot("move", self.from.path())(errno)),
        }
    }

    fn copy(&self) -> Result<Option<Totals>, Trouble> {
        let stage = open_stage(self.to, self.uid, NEW)?;
        remove::tree(stage.as_fd(), "verified".as_ref()).map_err(cannot("write to", self.to.path()))?;
        let totals = self.copy_until_same(&stage)?;
        rustix::fs::syncfs(&stage).map_err(cannot("write to", self.to.path()))?;
        mark(&stage, "verified").map_err(cannot("write to", self.to.path()))?;
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&stage, "home", &self.to.parent, &self.to.name, flags)
            .map_err(cannot("move the copied home to", self.to.path()))?;
        self.make_durable().map(|()| Some(totals))
    }

    fn copy_until_same(&self, stage: &OwnedFd) -> Result<Totals, Trouble> {
        let mut difference = String::new();
        for _ in 0..ROUNDS {
            let old = open_stage(self.from, self.uid, OLD)?;
            // What is changed in the tick of the clock in which the mark is made would look older than it.
            std::thread::sleep(Duration::from_millis(20));
            mark(&old, "mark").map_err(cannot("write beside", self.from.path()))?;
            match self.copy_once(stage) {
                Ok(Verdict::Same(totals)) => return Ok(totals),
                Ok(Verdict::Differs(what)) => difference = what,
                Err(error @ CopyError::Changing(_)) => difference = error.to_string(),
                Err(CopyError::Io(path, errno)) => {
                    let what = self.from.path().join(path);
                    return Err(cannot::<Errno>("copy", what)(errno)
                        .hint("nothing was changed; the account is as it was"));
                }
            }
        }
        Err(Trouble::failed(format!(
            "the home {} is being written to: {difference}",
            quoted(self.from.path().as_os_str())
        ))
        .hint("stop what writes there and try again; the account is as it was"))
    }

    fn copy_once(&self, stage: &OwnedFd) -> Result<Verdict, CopyError> {
        let io = |errno| CopyError::Io(PathBuf::new(), errno);
        let source = || {
            dir::open_single(self.from.parent.as_fd(), &self.from.name, OFlags::RDONLY | OFlags::DIRECTORY)
        };
        for name in ["home", "links"] {
            match rustix::fs::mkdirat(stage, name, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(io(errno)),
            }
        }
        let open = |name| rustix::fs::openat(stage, name, dir::DIRECTORY, Mode::empty());
        let (copy, links) = (open("home").map_err(io)?, open("links").map_err(io)?);
        copy::tree(source().map_err(io)?, &copy, links.as_fd(), None)?;
        verify::trees(source().map_err(io)?, copy)
    }

    /// Undoes `bring`, as long as the account was not switched over. With `keep_copy`, what was copied stays in its
    /// stage for the next run to go on from.
    pub fn take_back(&self, keep_copy: bool) -> Result<(), Trouble> {
        let (here, there) = (self.from.stat()?.is_some(), self.to.stat()?.is_some());
        if there && !here {
            let flags = RenameFlags::NOREPLACE;
            rustix::fs::renameat_with(
                &self.to.parent,
                &self.to.name,
                &self.from.parent,
                &self.from.name,
                flags,
            )
            .map_err(cannot("move back", self.to.path()))?;
        } else if there && self.is_verified()? {
            // Ours: out of sight first, then removed.
            self.put_back_in_stage(if keep_copy { "home" } else { "discarded" })?;
        }
        if keep_copy {
            return self.make_durable();
        }
        drop_stage(self.to, self.uid, NEW)?;
        drop_stage(self.from, self.uid, OLD)?;
        self.make_durable()
    }

    fn put_back_in_stage(&self, name: &str) -> Result<(), Trouble> {
        let stage = open_stage(self.to, self.uid, NEW)?;
        remove::tree(stage.as_fd(), name.as_ref())
            .and_then(|()| rustix::fs::renameat(&self.to.parent, &self.to.name, &stage, name))
            .map_err(cannot("remove", self.to.path()))
    }

    /// Stages 4 and 5, once the account is switched over.
    pub fn finish(&self) -> Result<Finished, Trouble> {
        if !stage_exists(self.to, self.uid, NEW)? && !stage_exists(self.from, self.uid, OLD)? {
            return Ok(Finished::Clean);
        }
        // Only what is in its new place is cleared away at the old one.
        if self.to.stat()?.is_none() {
            return Err(Trouble::failed(format!(
                "the home {} is not in its new place {}",
                quoted(self.from.path().as_os_str()),
                quoted(self.to.path().as_os_str())
            )));
        }
        let old = open_stage(self.from, self.uid, OLD)?;
        if self.from.stat()?.is_some() && dir::kind_at(old.as_fd(), "home".as_ref()).is_none() {
            let flags = RenameFlags::NOREPLACE;
            rustix::fs::renameat_with(&self.from.parent, &self.from.name, &old, "home", flags)
                .map_err(cannot("set aside", self.from.path()))?;
        }
        if dir::kind_at(old.as_fd(), "checked".as_ref()).is_none() {
            if let Some(changed) = self.changed_after_copy(&old)? {
                drop_stage(self.to, self.uid, NEW)?;
                return self.keep_old(changed);
            }
            mark(&old, "checked").map_err(cannot("write beside", self.from.path()))?;
        }
        drop_stage(self.from, self.uid, OLD)?;
        drop_stage(self.to, self.uid, NEW)?;
        Ok(Finished::Clean)
    }

    fn changed_after_copy(&self, old: &OwnedFd) -> Result<Option<PathBuf>, Trouble> {
        let top = match rustix::fs::openat(old, "home", dir::DIRECTORY, Mode::empty()) {
            Ok(top) => top,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(cannot("open", self.from.path())(errno)),
        };
        let Some(mark) =
            dir::stat_at(old.as_fd(), "mark".as_ref()).map_err(cannot("look at", self.from.path()))?
        else {
            return Ok(Some(PathBuf::new()));
        };
        let moment = Timespec {
            tv_sec: mark.st_ctime,
            tv_nsec: i64::try_from(mark.st_ctime_nsec).unwrap_or_default(),
        };
        verify::changed_since(top, moment).map_err(|error| {
            Trouble::failed(format!("cannot look through {}: {error}", quoted(self.from.path().as_os_str())))
        })
    }

    fn keep_old(&self, changed: PathBuf) -> Result<Finished, Trouble> {
        let stage = stage_name(self.uid, OLD);
        for number in 1..=1000 {
            let kept = OsString::from(format!("{}.{number}", stage_name(self.uid, "kept").to_string_lossy()));
            let flags = RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.from.parent, &stage, &self.from.parent, &kept, flags) {
                Ok(()) => {
                    return Ok(Finished::Kept { at: self.from.parent_path.join(kept).join("home"), changed });
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(cannot("keep", self.from.path())(errno)),
            }
        }
        Err(Trouble::failed(format!(
            "too many old homes are kept beside {}",
            quoted(self.from.path().as_os_str())
        )))
    }

    fn is_verified(&self) -> Result<bool, Trouble> {
        Ok(stage_exists(self.to, self.uid, NEW)?
            && dir::kind_at(open_stage(self.to, self.uid, NEW)?.as_fd(), "verified".as_ref()).is_some())
    }

    fn make_durable(&self) -> Result<(), Trouble> {
        rustix::fs::fsync(&self.to.parent)
            .and_then(|()| rustix::fs::fsync(&self.from.parent))
            .map_err(cannot("make durable", self.to.path()))
    }
}

fn stage_name(uid: u32, which: &str) -> OsString {
    OsString::from(format!(".jailwright-{uid}.{which}"))
}

fn stage_exists(place: &Place, uid: u32, which: &str) -> Result<bool, Trouble> {
    dir::stat_at(place.parent.as_fd(), &stage_name(uid, which))
        .map(|found| found.is_some())
        .map_err(cannot("look at", place.path()))
}

/// Opens a stage, making it if need be; it must be a directory of root's alone.
pub(super) fn open_stage(place: &Place, uid: u32, which: &str) -> Result<OwnedFd, Trouble> {
    let name = stage_name(uid, which);
    let path = place.parent_path.join(&name);
    match rustix::fs::mkdirat(&place.parent, &name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(cannot("make", &path)(errno)),
    }
    let stage = dir::open_single(place.parent.as_fd(), &name, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(cannot("open", &path))?;
    let stat = rustix::fs::fstat(&stage).map_err(cannot("look at", &path))?;
    if stat.st_uid != 0 || stat.st_mode & 0o077 != 0 {
        return Err(
            Trouble::unsafe_to(format!("{} is not root's alone", quoted(path.as_os_str()))).hint("remove it")
        );
    }
    Ok(stage)
}

/// Removes a stage and what is left in it. `verified` goes first, since it promises a whole copy; `checked` goes last,
/// since it says that the rest may go.
pub(super) fn drop_stage(place: &Place, uid: u32, which: &str) -> Result<(), Trouble> {
    if !stage_exists(place, uid, which)? {
        return Ok(());
    }
    let path = place.parent_path.join(stage_name(uid, which));
    let stage = open_stage(place, uid, which)?;
    for name in ["verified", "discarded", "home", "links"] {
        remove::tree(stage.as_fd(), name.as_ref()).map_err(cannot("remove", path.join(name)))?;
    }
    remove::tree(place.parent.as_fd(), &stage_name(uid, which)).map_err(cannot("remove", &path))
}

/// Makes an empty file, new even if it was there.
fn mark(stage: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(stage, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(stage, name, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::fsync(&file).and_then(|()| rustix::fs::fsync(stage))
}
