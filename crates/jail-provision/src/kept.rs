//! Virtual machines that are kept between runs (`jail-run --vm --keep NAME`): each a disk, and a note of what it was made for.
//!
//! They lie beside the state of the caller's jails. A disk is written by its guest alone, and so is never mounted or looked
//! into on the host: it is made, handed to QEMU as bytes, measured and removed.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::state::State;
use crate::{takedown, text};

/// The directory below the state of jails; no jail's name begins with a dot.
const DIRECTORY: &str = ".machines";
const DISK: &str = "disk.img";
const NOTE: &str = "machine.json";
/// Where e2fsprogs puts it.
const MKE2FS: [&str; 3] = ["/usr/sbin/mke2fs", "/sbin/mke2fs", "/usr/bin/mke2fs"];

/// A machine by its name.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
    name: String,
}

/// What is known of a machine besides its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The jail, for people to read.
    pub jail: String,
    /// Which state of the jail's tree the disk lies over.
    pub tree: String,
    /// The guest's memory in bytes, at its last run.
    pub memory: u64,
    /// The process beside the machine, at its last run.
    pub pid: u32,
}

/// What is told of a machine.
#[derive(Debug)]
pub struct Told {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub note: Note,
    /// Bytes that its disk may have.
    pub size: u64,
    /// Bytes that its disk takes on the host's.
    pub used: u64,
    /// Whether it runs.
    pub running: bool,
}

impl Kept {
    /// The machine of this name below the state of the caller's jails.
    ///
    /// # Errors
    /// A name that is none: letters, digits, `.`, `_` and `-`, 64 at most, and no dot in front.
    pub fn named(base: &Path, name: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(plain) {
            return Err(Error::usage(format!("{} is no name for a machine", text::quote(Path::new(name))))
                .hint("letters, digits, '.', '_' and '-', 64 at most, and no dot in front"));
        }
        Ok(Self { dir: base.join(DIRECTORY).join(name), name: name.to_owned() })
    }

    /// Its disk, made if there is none, and locked: a machine runs once at a time. The lock lives as long as the descriptor
    /// or a copy of it.
    ///
    /// # Errors
    /// A disk that is in use or cannot be made.
    pub fn disk(&self, size: u64) -> Result<OwnedFd> {
        let path = self.dir.join(DISK);
        if !path.exists() {
            self.make(&path, size)?;
        }
        self.lock_patiently(&path)
    }

    /// Whoever lists the machines holds the lock for a moment, and so does a QEMU whose machine has just ended.
    fn lock_patiently(&self, path: &Path) -> Result<OwnedFd> {
        for _ in 0..100 {
            if let Ok(disk) = self.lock(path) {
                return Ok(disk);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        self.lock(path)
    }

    fn lock(&self, path: &Path) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let disk =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io("open the disk", path, e))?;
        flock(disk.as_fd(), FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            Errno::WOULDBLOCK => {
                let who = self.note().map_or_else(String::new, |note| format!(" (pid {})", note.pid));
                Error::failed(format!("the machine '{}' runs already{who}", self.name))
                    .hint("wait for its end, end it, or keep another under another name")
            }
            errno => Error::io("lock the disk", path, errno),
        })?;
        Ok(disk)
    }

    /// By another name first: what lies under the disk's own name is whole.
    fn make(&self, path: &Path, size: u64) -> Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
            .map_err(|e| Error::io("make the directory", &self.dir, e))?;
        let Some(program) = MKE2FS.into_iter().find(|program| Path::new(program).exists()) else {
            return Err(Error::failed("a machine that is kept needs mke2fs to make its disk")
                .hint("Debian: apt-get install e2fsprogs"));
        };
        let new = self.dir.join(format!("new-{}", std::process::id()));
        let made = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|file| file.set_len(size))
            .map_err(|e| Error::io("make the disk", &new, e))
            .and_then(|()| {
                // Nothing is written but what a file system is: the rest is a hole, and stays one as long as it can.
                let words =
                    ["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
                let out = std::process::Command::new(program).args(words).arg(&new).env_clear().output();
                match out {
                    Ok(out) if out.status.success() => Ok(()),
                    Ok(out) => {
                        let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
                        Err(Error::failed(format!("cannot make the disk {}: {said}", text::quote(&new))))
                    }
                    Err(error) => Err(Error::io("run", Path::new(program), error)),
                }
            })
            .and_then(|()| match renameat_with(CWD, &new, CWD, path, RenameFlags::NOREPLACE) {
                // Another first run was quicker, and may be at work on its disk: that is the machine's.
                Err(Errno::EXIST) => Ok(()),
                other => other.map_err(|e| Error::io("make the disk", path, e)),
            });
        std::fs::remove_file(&new).unwrap_or_default();
        made
    }

    /// Puts it back as it was made: the next run makes its disk anew.
    ///
    /// # Errors
    /// No such machine, or one that runs.
    pub fn reset(&self) -> Result<()> {
        let path = self.dir.join(DISK);
        if !path.exists() {
            return Err(Error::failed(format!("there is no machine '{}'", self.name))
                .hint("jail-list shows those that are kept"));
        }
        let _lock = self.lock_patiently(&path)?;
        // With whatever a run left that was killed.
        takedown::remove_tree(&self.dir)
    }

    /// What is known of it; `None` before its first run.
    #[must_use]
    pub fn note(&self) -> Option<Note> {
        let bytes = std::fs::read(self.dir.join(NOTE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Writes down what is known.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, note: &Note) -> Result<()> {
        let bytes = serde_json::to_vec(note).map_err(|e| Error::failed(e.to_string()))?;
        // Under the disk's lock, so that nobody else writes under the same temporary name.
        State::at(&self.dir, &self.name).stage_bytes(self.dir.join(NOTE), &bytes, 0o600)?.commit()
    }
}

/// The machines that are kept below the state of the caller's jails.
///
/// # Errors
/// A directory that cannot be read.
pub fn all(base: &Path) -> Result<Vec<Told>> {
    let dir = base.join(DIRECTORY);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", &dir, error)),
    };
    let mut told = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", &dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(kept) = Kept::named(base, &name) else { continue };
        let path = kept.dir.join(DISK);
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        let unknown = Note { jail: "?".to_owned(), tree: String::new(), memory: 0, pid: 0 };
        told.push(Told {
            running: kept.lock(&path).is_err(),
            note: kept.note().unwrap_or(unknown),
            name,
            size: meta.len(),
            used: meta.blocks().saturating_mul(512),
        });
    }
    told.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_name() {
        let base = Path::new("/nowhere");
        for bad in ["", ".", "..", ".x", "a/b", "a b", "\n", &"x".repeat(65)] {
            assert!(Kept::named(base, bad).is_err(), "{bad:?}");
        }
        assert!(Kept::named(base, "web-1.old_x").is_ok());
    }

    #[test]
    fn a_disk_that_is_there_by_now_is_not_replaced() {
        let dir = tempfile::tempdir().expect("scratch");
        let kept = Kept::named(dir.path(), "m").expect("a name");
        if !MKE2FS.iter().any(|program| Path::new(program).exists()) {
            eprintln!("skipped because mke2fs is not installed");
            return;
        }
        let path = dir.path().join(".machines/m/disk.img");
        let first = kept.disk(64 << 20).expect("made");
        // Another first run, which saw no disk a moment ago.
        kept.make(&path, 64 << 20).expect("there is one");
        let ino = |stat: rustix::fs::Stat| stat.st_ino;
        let at = std::fs::metadata(&path).expect("there").ino();
        assert_eq!(ino(rustix::fs::fstat(&first).expect("stat")), at, "the first run's disk was replaced");
        assert_eq!(std::fs::read_dir(dir.path().join(".machines/m")).expect("listed").count(), 1);
    }

    #[test]
    fn a_disk_is_made_once_locked_listed_and_put_back() {
        let dir = tempfile::tempdir().expect("scratch");
        let kept = Kept::named(dir.path(), "m").expect("a name");
        if !MKE2FS.iter().any(|program| Path::new(program).exists()) {
            eprintln!("skipped because mke2fs is not installed");
            return;
        }
        assert!(kept.reset().expect_err("not there").message.contains("no machine 'm'"));
        let disk = kept.disk(64 << 20).expect("made");
        let note = Note { jail: "/j".into(), tree: "t".into(), memory: 1, pid: 7 };
        kept.write(&note).expect("written");
        for refused in [kept.disk(64 << 20).map(drop), kept.reset()] {
            let error = refused.expect_err("it runs");
            assert!(error.message.contains("runs already (pid 7)"), "{error}");
        }
        let told = all(dir.path()).expect("listed");
        assert!(told[0].running && told[0].note == note && told[0].size == 64 << 20, "{told:?}");
        assert!(told[0].used < 16 << 20, "a hole for the most part: {}", told[0].used);
        drop(disk);
        assert!(!all(dir.path()).expect("listed")[0].running);
        let inode = |path: &Path| std::fs::metadata(path).expect("there").ino();
        let before = inode(&dir.path().join(".machines/m/disk.img"));
        drop(kept.disk(64 << 20).expect("found"));
        assert_eq!(inode(&dir.path().join(".machines/m/disk.img")), before);
        // What runs left that were killed in the middle.
        std::fs::write(dir.path().join(".machines/m/new-7"), "").expect("written");
        kept.reset().expect("put back");
        assert!(all(dir.path()).expect("listed").is_empty());
    }
}
