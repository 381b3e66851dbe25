//! `discard = "disk"`: the layer for a root's changes lies on disk, for cells that change more than memory holds.
//!
//! `/var/lib/jailwright/.discard/` is root's alone and has, for each such cell, a directory and a lock file beside it. The
//! cell's first process keeps the lock for life. Nobody with privilege stays behind to remove the directory when the cell
//! ends (rulings 8), so whoever makes the next cell, and `jail-list --sweep`, remove those that nobody locks, whatever
//! ended their cell.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use jail_sys::mount::{Reach, attributes, set_attributes};
use rustix::fs::{
    AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, mkdirat, openat, renameat_with,
    unlinkat,
};
use rustix::io::Errno;

use super::blueprint::{Below, copy};
use crate::admission::STATE_DIRECTORY;
use crate::refusal::{OrRefuse, Refusal, Result, What, printable};
use crate::trusted::{self, Trust};

/// Below the state's directory; no jail's name begins so.
const DIRECTORY: &str = ".discard";
const LOCK: &str = ".lock";
const TRIES: u32 = 100;
/// How many files of dead layers one entry removes; the rest is left to the next.
pub(crate) const SWEEP_AT_MOST: usize = 2_000;

/// A place on disk for the changes of one cell.
#[derive(Debug)]
pub(crate) struct Layer {
    /// A copy of the mount that it lies on, rooted at it.
    pub(crate) tree: OwnedFd,
    /// Locked for as long as it is open somewhere.
    pub(crate) hold: OwnedFd,
}

impl Layer {
    /// Makes an empty one.
    ///
    /// # Errors
    /// If the state's directory is not root's alone, or is full.
    pub(crate) fn make(uid: u32) -> Result<Self> {
        let doing = || format!("make a layer for the cell's changes below '{STATE_DIRECTORY}/{DIRECTORY}'");
        let layers = open_layers(Missing::IsMade)?.ok_or_else(|| Refusal::new(What::Host, doing()))?;
        for number in 0..TRIES {
            let name = format!("{uid}-{}-{number}", std::process::id());
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let hold = match openat(&layers, format!("{name}{LOCK}"), flags, Mode::from_raw_mode(0o600)) {
                // Left by a process that had our number.
                Err(Errno::EXIST) => continue,
                other => other.or_refuse(What::Host, doing)?,
            };
            flock(&hold, FlockOperation::LockExclusive).or_refuse(What::Host, doing)?;
            if fstat(&hold).or_refuse(What::Host, doing)?.st_nlink == 0 {
                // Somebody swept it before we had the lock.
                continue;
            }
            mkdirat(&layers, &name, Mode::from_raw_mode(0o700)).or_refuse(What::Host, doing)?;
            let directory = open_directory(&layers, &name).or_refuse(What::Host, doing)?;
            let tree = copy(directory.as_fd(), Below::Left).or_refuse(What::Host, doing)?;
            let set = attributes::NO_SUID | attributes::NO_DEV;
            set_attributes(tree.as_fd(), set, 0, Reach::Single).or_refuse(What::Host, doing)?;
            return Ok(Self { tree, hold });
        }
        Err(Refusal::new(What::Host, format!("cannot {}: {TRIES} names are taken", doing())))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsMade,
    IsFine,
}

fn open_layers(missing: Missing) -> Result<Option<OwnedFd>> {
    let doing = || format!("open '{STATE_DIRECTORY}/{DIRECTORY}'");
    let state = match trusted::open_directory(Path::new(STATE_DIRECTORY), Trust::Root) {
        Ok((state, _)) => state,
        Err(why) if why.is_missing() && missing == Missing::IsFine => return Ok(None),
        Err(why) => return Err(Refusal::new(What::Host, format!("cannot {}: {why}", doing()))),
    };
    match (open_directory(&state, DIRECTORY), missing) {
        (Err(Errno::NOENT), Missing::IsFine) => Ok(None),
        (Err(Errno::NOENT), Missing::IsMade) => {
            match mkdirat(&state, DIRECTORY, Mode::from_raw_mode(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno).or_refuse(What::Host, doing),
            }
            open_directory(&state, DIRECTORY).map(Some).or_refuse(What::Host, doing)
        }
        (other, _) => other.map(Some).or_refuse(What::Host, doing),
    }
}

fn open_directory(parent: &OwnedFd, name: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes layers that no cell holds, at most so many of their files.
///
/// # Errors
/// If they cannot be listed or removed.
pub fn sweep(most: usize) -> Result<()> {
    let Some(layers) = open_layers(Missing::IsFine)? else { return Ok(()) };
    let doing = || format!("clear '{STATE_DIRECTORY}/{DIRECTORY}'");
    let mut left = most;
    for name in names(&layers).or_refuse(What::Host, doing)? {
        let Some(layer) = name.strip_suffix(LOCK.as_bytes()) else { continue };
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(lock) = openat(&layers, name.as_slice(), flags, Mode::empty()) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        remove(&layers, layer, &mut left)
            .or_refuse(What::Host, || format!("remove the layer '{}'", printable(layer)))?;
        if left == 0 {
            return Ok(());
        }
        // Last, so that a sweep that dies leaves the name that leads to the rest.
        match unlinkat(&layers, name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).or_refuse(What::Host, doing),
        }
    }
    Ok(())
}

/// Everything below a layer and itself. Its cell is gone and with it whoever could change anything here.
///
/// What a user made is as deep as he liked: so no directory is descended into. What is in one goes up to the layer's own
/// top under a new name, until there is nothing left to move.
fn remove(layers: &OwnedFd, name: &[u8], left: &mut usize) -> std::result::Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match openat(layers, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let mut number = 0_u64;
    loop {
        let entries = names(&top)?;
        if entries.is_empty() {
            return unlinkat(layers, name, AtFlags::REMOVEDIR);
        }
        for entry in entries {
            if *left == 0 {
                return Ok(());
            }
            *left = left.saturating_sub(1);
            match unlinkat(&top, entry.as_slice(), AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                other => {
                    other?;
                    continue;
                }
            }
            let directory = openat(&top, entry.as_slice(), flags, Mode::empty())?;
            for below in names(&directory)? {
                match unlinkat(&directory, below.as_slice(), AtFlags::empty()) {
                    Err(Errno::ISDIR) => raise(&directory, &below, &top, &mut number)?,
                    other => other?,
                }
                *left = left.saturating_sub(1);
            }
            unlinkat(&top, entry.as_slice(), AtFlags::REMOVEDIR)?;
        }
    }
}

/// Gives a directory a free name at the top.
fn raise(from: &OwnedFd, name: &[u8], top: &OwnedFd, number: &mut u64) -> std::result::Result<(), Errno> {
    loop {
        *number = number.wrapping_add(1);
        let free = format!(".{number}");
        match renameat_with(from, name, top, free.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
    }
}

fn names(directory: &OwnedFd) -> std::result::Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top() -> (std::path::PathBuf, OwnedFd) {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("jailwright-discard-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("mkdir");
        let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("open");
        (path, fd)
    }

    /// Deeper than a path may be long, with names that are ours as well, and a link out of it.
    #[test]
    fn what_a_user_made_is_removed_however_deep_and_nothing_beside_it() {
        let (path, layers) = top();
        std::fs::write(path.join("beside"), "kept").expect("write");
        mkdirat(&layers, "layer", Mode::from_raw_mode(0o700)).expect("mkdir");
        let mut at = open_directory(&layers, "layer").expect("open");
        for _ in 0..3000 {
            mkdirat(&at, ".1", Mode::from_raw_mode(0o700)).expect("mkdir");
            rustix::fs::symlinkat("../beside", &at, "link").expect("symlink");
            at = open_directory(&at, ".1").expect("open");
        }
        drop(at);
        let mut left = usize::MAX;
        remove(&layers, b"layer", &mut left).expect("removed");
        assert_eq!(std::fs::read_to_string(path.join("beside")).expect("there"), "kept");
        assert!(!path.join("layer").exists());
        remove(&layers, b"layer", &mut left).expect("nothing to remove is fine");
        std::fs::remove_dir_all(&path).expect("rm");
    }

    #[test]
    fn a_bounded_sweep_goes_on_where_it_stopped() {
        let (path, layers) = top();
        let made = path.join("layer/a/b");
        std::fs::create_dir_all(&made).expect("mkdir");
        for number in 0..100 {
            std::fs::write(made.join(number.to_string()), "").expect("write");
        }
        for _ in 0..50 {
            let mut left = 10;
            remove(&layers, b"layer", &mut left).expect("removed");
        }
        assert!(!path.join("layer").exists());
        std::fs::remove_dir_all(&path).expect("rm");
    }
}
