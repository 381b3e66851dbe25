//! A jail's state outside the jail: the lock, the manifest and entry.toml, in `/var/lib/jailwright/NAME/`.
//!
//! Two runs on one jail must not meet, so whoever changes a jail holds the lock; the lock file names its holder. The manifest
//! is replaced by rename, never written in place.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jail_accounts::convention::jail_name;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::text;

/// Where the state of root's jails lies.
pub const ROOT_BASE: &str = "/var/lib/jailwright";

/// The directory that holds the state of this caller's jails.
///
/// # Errors
/// An ordinary user without a home.
pub fn base() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(ROOT_BASE));
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|dir| dir.join("jailwright"))
        .ok_or_else(|| {
            Error::failed("neither XDG_STATE_HOME nor HOME says where to keep the jail's manifest")
                .hint("set HOME to your home directory")
        })
}

/// The state directory of one jail.
#[derive(Debug, Clone)]
pub struct State {
    dir: PathBuf,
    name: String,
}

/// The lock on a jail; let go when dropped, or when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A manifest that is written but not yet in force.
#[derive(Debug)]
pub struct Staged {
    temporary: PathBuf,
    file: PathBuf,
    content: File,
}

impl State {
    /// The state of the jail with this canonical path, below `base`.
    #[must_use]
    pub fn of_jail(base: &Path, jail: &Path) -> Self {
        let name = jail_name(jail.as_os_str().as_bytes());
        Self { dir: base.join(&name), name }
    }

    /// A state directory given as such, for jails that are kept elsewhere.
    #[must_use]
    pub fn at(dir: &Path, name: &str) -> Self {
        Self { dir: dir.to_path_buf(), name: name.to_owned() }
    }

    /// The state of another jail of the same caller.
    #[must_use]
    pub fn of_other(&self, jail: &Path) -> Self {
        Self::of_jail(self.dir.parent().unwrap_or(&self.dir), jail)
    }

    /// Where it is written down which generation of a base is current.
    #[must_use]
    pub fn base_path(&self) -> PathBuf {
        self.dir.join("base.toml")
    }

    /// What those who use a generation of a base hold locked.
    #[must_use]
    pub fn generation_lock(&self, generation: &str) -> PathBuf {
        self.dir.join(format!("{generation}.lock"))
    }

    /// The jail's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the manifest lies.
    #[must_use]
    pub fn manifest_path(&self) -> PathBuf {
        self.dir.join("manifest.json")
    }

    /// Where entry.toml lies.
    #[must_use]
    pub fn entry_path(&self) -> PathBuf {
        self.dir.join("entry.toml")
    }

    /// Makes the directory (0755: jail-sh reads entry.toml in it as the user).
    ///
    /// # Errors
    /// It cannot be made, or is not safely ours.
    pub fn make(&self) -> Result<()> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.dir);
        made.map_err(|e| Error::io("make the directory", &self.dir, e))?;
        let stat = std::fs::symlink_metadata(&self.dir).map_err(|e| Error::io("stat", &self.dir, e))?;
        let me = rustix::process::geteuid().as_raw();
        if !stat.is_dir() || stat.uid() != me || stat.mode() & 0o022 != 0 {
            return Err(Error::refused(format!("{} is not ours alone", text::quote(&self.dir)))
                .hint("it must be a directory of the caller's that nobody else may write"));
        }
        Ok(())
    }

    /// Takes the jail's lock; if another run holds it, says who and waits.
    ///
    /// # Errors
    /// The lock file cannot be opened.
    pub fn lock(&self, waiting: &mut dyn FnMut(&str)) -> Result<Lock> {
        let path = self.dir.join("lock");
        let io = |e: std::io::Error| Error::io("lock", &path, e);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|e| io(e.into()))?;
        let mut file = File::from(fd);
        if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(io)?;
            waiting(holder.trim());
            loop {
                match flock(file.as_fd(), FlockOperation::LockExclusive) {
                    Err(rustix::io::Errno::INTR) => {}
                    other => break other.map_err(|e| io(e.into()))?,
                }
            }
        }
        // Only for people to read: who holds it.
        let who = std::env::args_os().next().unwrap_or_default();
        let program = Path::new(&who).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let holder = format!("{program} (pid {})\n", std::process::id());
        file.set_len(0).map_err(io)?;
        std::os::unix::fs::FileExt::write_all_at(&file, holder.as_bytes(), 0).map_err(io)?;
        Ok(Lock { _file: file })
    }

    /// Reads the manifest; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read or is damaged.
    pub fn manifest(&self) -> Result<Option<Manifest>> {
        let path = self.manifest_path();
        match std::fs::read(&path) {
            Ok(bytes) => Manifest::parse(&path, &bytes).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// The jail's directory if it follows this host: of a manifest no more is read than that.
    ///
    /// # Errors
    /// The manifest cannot be read or is damaged.
    pub fn follower(&self) -> Result<Option<PathBuf>> {
        let path = self.manifest_path();
        match std::fs::read(&path) {
            Ok(bytes) => Manifest::follower(&path, &bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path, error)),
        }
    }

    /// Writes the manifest under a temporary name.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn stage(&self, manifest: &Manifest) -> Result<Staged> {
        self.stage_bytes(self.manifest_path(), &manifest.to_json()?, 0o600)
    }

    /// Writes a file of the state under a temporary name.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn stage_bytes(&self, file: PathBuf, bytes: &[u8], mode: u32) -> Result<Staged> {
        let mut temporary = file.clone().into_os_string();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let io = |e: std::io::Error| Error::io("write", &temporary, e);
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let mut content = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io)?;
        content.write_all(bytes).map_err(io)?;
        rustix::fs::fchmod(&content, Mode::from_raw_mode(mode)).map_err(|e| io(e.into()))?;
        Ok(Staged { temporary, file, content })
    }
}

impl Staged {
    /// Makes the content durable where no syncfs of the jail's file system did.
    ///
    /// # Errors
    /// It could not be written to disk.
    pub fn sync_unless_on(&self, device: u64) -> Result<()> {
        let io = |e: std::io::Error| Error::io("write to disk", &self.temporary, e);
        if self.content.metadata().map_err(io)?.dev() != device {
            self.content.sync_all().map_err(io)?;
        }
        Ok(())
    }

    /// Puts it in force.
    ///
    /// # Errors
    /// The rename failed.
    pub fn commit(self) -> Result<()> {
        std::fs::rename(&self.temporary, &self.file).map_err(|e| Error::io("write", &self.file, e))
    }
}
